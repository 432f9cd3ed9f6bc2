"""Where a start would end in the middle of something, it is refused in one sentence."""

import os
import shutil
import tempfile
from errno import ENOSPC
from pathlib import Path
from types import SimpleNamespace

import pytest

from services.cli import room
from services.cli.errors import CommandFailed


def test_a_folder_with_room_is_left_as_it_is(tmp_path: Path) -> None:
    room.demand(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_no_file_is_refused() -> None:
    with pytest.raises(CommandFailed, match="/proc cannot be written") as refused:
        room.demand(Path("/proc/annobus"))
    assert "--state" in refused.value.advice


def test_a_full_disk_is_refused_by_its_free_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: object) -> None:
        raise OSError(ENOSPC, os.strerror(ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3 * 1024**2))
    with pytest.raises(CommandFailed, match="the disk is full: 3 MB are free") as refused:
        room.demand(tmp_path)
    assert "on another disk" in refused.value.advice
