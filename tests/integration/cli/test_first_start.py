"""What a first start says on a machine that is not ready for it: a sentence, and no traceback."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.cluster import Cluster
from tests.integration.cli.conftest import Annobus

pytestmark = pytest.mark.embedded

NOBODY_LISTENS = "http://127.0.0.1:1"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "state"
    Cluster(tmp_path / "state", variables={}).remove()


@pytest.mark.parametrize("command", [("up",), ("demo", "--once")])
def test_a_folder_that_cannot_be_written_is_said(annobus: Annobus, command: tuple[str]) -> None:
    ended = annobus(*command, "--state", "/proc/annobus")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[0].startswith("error: /proc cannot be written")
    assert "Traceback" not in ended.stderr


def test_jars_that_cannot_be_fetched_are_one_sentence(
    annobus: Annobus, folder: Path, tmp_path: Path
) -> None:
    ended = annobus(
        *("up", "--state", str(folder)),
        XDG_CACHE_HOME=str(tmp_path / "cache"),
        HTTPS_PROXY=NOBODY_LISTENS,
        https_proxy=NOBODY_LISTENS,
    )
    assert ended.returncode == 1
    failure = ended.stderr.partition("error: ")[2].splitlines()
    assert len(failure) == 1
    assert failure[0].startswith("Kafka's jars could not be fetched (")
    assert "the download failed): a first start needs the internet" in failure[0]
    assert failure[0].endswith("kafka-jars.log")


def test_what_the_system_refuses_is_a_sentence_that_names_the_doctor(
    annobus: Annobus, folder: Path
) -> None:
    folder.mkdir()
    (folder / "kafka").write_text("a file where a folder should be")
    ended = annobus("up", "--state", str(folder))
    assert ended.returncode == 1
    failure = ended.stderr.partition("error: ")[2].splitlines()
    assert failure[0].startswith("[Errno 20] Not a directory")
    assert failure[1:] == ["→ Look for the cause: annobus doctor"]
