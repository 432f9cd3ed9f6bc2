"""The raw store's folder, which several annotators share."""

import os
import time
from pathlib import Path

import pytest

from services.annotator.raw_store import INCOMING, INCOMING_SECONDS_MAX, RawStore


def leave(path: Path, age_seconds: float) -> None:
    path.write_bytes(b"half of it")
    then = time.time() - age_seconds
    os.utime(path, (then, then))


def test_what_another_annotator_takes_away_meanwhile_does_not_end_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has kept its page, or sweeps as well, after this one has looked what there is."""
    old, new = tmp_path / f"{INCOMING}old", tmp_path / f"{INCOMING}new"
    leave(old, 2 * INCOMING_SECONDS_MAX)
    leave(new, 0)
    seen = [tmp_path / f"{INCOMING}kept", old, new]
    monkeypatch.setattr(Path, "glob", lambda *_: iter(seen))
    RawStore(tmp_path).sweep()
    assert list(tmp_path.iterdir()) == [new]
