"""Failpoints: armed while the process runs, fired once, by one process of its service."""

import signal
import subprocess
import sys
import time
from enum import StrEnum
from pathlib import Path

import pytest

from services.chassis import failpoints
from services.chassis.settings import SharedSettings
from tests.system import ROOT

HIT_THREE_TIMES = """
from enum import StrEnum
from services.chassis import failpoints
from services.chassis.settings import SharedSettings
class Failpoint(StrEnum):
    HERE = "here"
failpoints.switch_on(SharedSettings(), "some")
for number in range(1, 4):
    failpoints.hit(Failpoint.HERE)
    print(number, flush=True)
"""


class Failpoint(StrEnum):
    HERE = "here"
    THERE = "there"


def start(folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", HIT_THREE_TIMES],
        cwd=ROOT,
        env={"ANNOBUS_ENVIRONMENT": "test", "ANNOBUS_FAILPOINTS_FOLDER": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_failpoint_kills_at_its_hit_once_and_says_whom_and_when(tmp_path: Path) -> None:
    failpoints.arm(tmp_path, "some", Failpoint.HERE, 2, signal.SIGKILL)
    began = time.time()
    killed = start(tmp_path)
    assert killed.communicate()[0].split() == ["1"]
    assert killed.returncode == -signal.SIGKILL
    assert names(tmp_path) == ["some.here.fired"]
    pid, fired_at = (tmp_path / "some.here.fired").read_text().split()
    assert int(pid) == killed.pid
    assert began <= float(fired_at) <= time.time()

    spared = start(tmp_path)
    assert spared.communicate()[0].split() == ["1", "2", "3"]
    assert spared.returncode == 0


def test_processes_of_one_service_count_their_hits_together(tmp_path: Path) -> None:
    failpoints.arm(tmp_path, "some", Failpoint.HERE, 5, signal.SIGKILL)
    first, second = start(tmp_path), start(tmp_path)
    for process in (first, second):
        process.communicate()
    assert sorted([first.returncode, second.returncode]) == [-signal.SIGKILL, 0]
    assert names(tmp_path) == ["some.here.fired"]


def test_a_process_that_a_failpoint_froze_goes_on_when_it_is_woken(tmp_path: Path) -> None:
    failpoints.arm(tmp_path, "some", Failpoint.HERE, 1, signal.SIGSTOP)
    frozen = start(tmp_path)
    deadline = time.monotonic() + 20
    state = Path(f"/proc/{frozen.pid}/stat")
    while state.read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    frozen.send_signal(signal.SIGCONT)
    assert frozen.communicate()[0].split() == ["1", "2", "3"]


def test_a_point_fires_for_its_own_service_and_for_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failpoints, "_switch", failpoints._Switch())  # noqa: SLF001
    failpoints.arm(tmp_path, "other", Failpoint.HERE, 1, signal.SIGKILL)
    failpoints.arm(tmp_path, "some", Failpoint.THERE, 1, signal.SIGKILL)
    settings = SharedSettings(environment="test", failpoints_folder=tmp_path)
    failpoints.switch_on(settings, "some")
    failpoints.hit(Failpoint.HERE)
    assert names(tmp_path) == ["other.here", "some.there"]


def test_nothing_is_looked_at_without_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failpoints, "_look", pytest.fail)
    failpoints.hit(Failpoint.HERE)
