"""Settings: what production refuses, and where a failpoint leaves its mark."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.chassis.settings import SharedSettings

HIT_THREE_TIMES = """
from services.chassis.failpoints import Failpoints
from services.chassis.settings import SharedSettings
failpoints = Failpoints(SharedSettings())
for number in range(1, 4):
    failpoints.hit("here")
    print(number, flush=True)
"""


def test_production_refuses_failpoints(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="refused in production"):
        SharedSettings(failpoints={"after_claim": 1}, failpoints_folder=tmp_path)


def test_failpoints_need_a_folder_for_their_marks() -> None:
    with pytest.raises(ValidationError, match="ANNOBUS_FAILPOINTS_FOLDER"):
        SharedSettings(environment="test", failpoints={"after_claim": 1})


def test_a_failpoint_kills_at_its_hit_once_and_leaves_a_mark(tmp_path: Path) -> None:
    environment = {
        "ANNOBUS_ENVIRONMENT": "test",
        "ANNOBUS_FAILPOINTS": '{"here": 2}',
        "ANNOBUS_FAILPOINTS_FOLDER": str(tmp_path),
    }
    root = Path(__file__).resolve().parents[3]

    def run() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", HIT_THREE_TIMES],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    killed, spared = run(), run()
    assert (killed.returncode, killed.stdout.split()) == (-signal.SIGKILL, ["1"])
    assert (spared.returncode, spared.stdout.split()) == (0, ["1", "2", "3"])
    assert [mark.name for mark in tmp_path.iterdir()] == ["here"]


def test_a_topic_prefix_is_what_a_topic_name_may_begin_with() -> None:
    with pytest.raises(ValidationError, match="topic_prefix"):
        SharedSettings(topic_prefix="Not Allowed/")
