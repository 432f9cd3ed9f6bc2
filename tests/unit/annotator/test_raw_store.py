"""The raw store's folder, which several annotators share, and what its settings may say."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.annotator.errors import RawStoreRefused
from services.annotator.raw_store import (
    INCOMING,
    INCOMING_SECONDS_MAX,
    FolderStore,
    raw_store_of,
)
from services.annotator.settings import AnnotatorSettings
from tests.s3 import SECRET

BUCKET = {"raw_store": "s3://annobus/raw", "raw_s3_endpoint": "https://s3.example.org"}


def settings(**fields: str) -> AnnotatorSettings:
    return AnnotatorSettings.model_validate(
        {"database_url": "postgresql://", "raw_folder": "raw", **fields}
    )


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
    FolderStore(tmp_path).sweep()
    assert list(tmp_path.iterdir()) == [new]


async def test_a_folder_that_cannot_be_is_refused_with_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = FolderStore(tmp_path / "file" / "raw")
    with pytest.raises(RawStoreRefused, match=r"ANNOTATOR_RAW_FOLDER=.*/file/raw .*accepted is"):
        await store.make_ready()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("raw_store", "/var/lib/raw"),
        ("raw_store", "s3:/annobus"),
        ("raw_store", "s3://"),
        ("raw_store", "s3://Upper"),
        ("raw_store", "s3://annobus/two words"),
        ("raw_store", "gs://annobus/raw"),
        ("raw_s3_endpoint", "s3.example.org"),
        ("raw_s3_endpoint", "https://s3.example.org/a path"),
        ("raw_s3_access_key_id", "alone"),
    ],
)
def test_settings_that_are_no_place_are_refused_with_what_is_accepted(
    field: str, value: str
) -> None:
    with pytest.raises(RawStoreRefused) as refused:
        raw_store_of(settings(**BUCKET | {field: value}))
    said = str(refused.value)
    assert said.startswith(f"ANNOTATOR_{field.upper()}={value} ")
    assert "accepted" in said


@pytest.mark.parametrize("field", ["raw_store", "raw_s3_endpoint"])
def test_a_password_in_an_address_is_not_said(field: str) -> None:
    with pytest.raises(RawStoreRefused) as refused:
        raw_store_of(settings(**BUCKET | {field: f"https://key:{SECRET}@host"}))
    assert SECRET not in str(refused.value)


def test_who_keeps_files_in_a_folder_does_not_load_what_a_bucket_takes() -> None:
    subprocess.run(
        (
            sys.executable,
            "-c",
            "import sys, services.annotator.__main__; sys.exit('obstore' in sys.modules)",
        ),
        check=True,
    )
