"""The raw store's folder, which several annotators share."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from services.annotator.domain import open_raw
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


async def test_what_is_kept_is_small_and_comes_back_byte_for_byte(tmp_path: Path) -> None:
    store = RawStore(tmp_path / "raw")
    content = b"a table with many lines that are alike\n" * 10_000
    sha256 = hashlib.sha256(content).digest()
    async with store.workspace() as folder:
        (folder / "table").write_bytes(content)
        await store.keep(folder / "table", sha256)
        assert list(folder.iterdir()) == []
    await store.keep_bytes(content, sha256)  # Once more, by another way.
    await store.keep_bytes(b"{}", hashlib.sha256(b"{}").digest())

    assert store.holds(sha256)
    assert open_raw(store.path(sha256)).read() == content
    sizes = store.sizes()
    assert sizes.keys() == {sha256, hashlib.sha256(b"{}").digest()}
    assert sizes[sha256] < len(content) / 100
    store.remove(sha256)
    assert not store.holds(sha256)
    store.remove(sha256)
