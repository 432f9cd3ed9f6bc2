"""Whether a state folder can be written, and how much room there is for it."""

import os
import shutil
import tempfile
from errno import ENOSPC
from pathlib import Path

from infra.postgres import UNPRIVILEGED_PARENT
from services.cli.errors import CommandFailed

GIGABYTE = 1024**3
DISK_BYTES_MIN = GIGABYTE // 2  # With less, nothing is started: PostgreSQL and Kafka would fail.
WRITABLE = "Make it writable for yourself, or name another folder with --state"


def demand(folder: Path) -> None:
    """Raises CommandFailed where a start would end in the middle of something."""
    error = write_error(folder)
    if error is not None:
        raise CommandFailed(error, advice=WRITABLE)
    free, place = least_free(folder)
    if free < DISK_BYTES_MIN:
        raise CommandFailed(
            f"the disk is full: {free // 1024**2} MB are free at {place}, "
            f"{DISK_BYTES_MIN // 1024**2} MB are the least to start with",
            advice="Free some, or name a folder on another disk with --state",
        )


def write_error(folder: Path) -> str | None:
    """Tried, not asked: permissions say nothing of a file system that is mounted read-only."""
    existing = nearest(folder)
    try:
        with tempfile.TemporaryFile(dir=existing):
            return None
    except OSError as error:
        # A full disk is said by its free bytes.
        return f"{existing} cannot be written: {error.strerror}" if error.errno != ENOSPC else None


def least_free(folder: Path) -> tuple[int, Path]:
    """The free bytes where they are fewest, and the place: root's PostgreSQL lies elsewhere."""
    places = [nearest(folder), *([UNPRIVILEGED_PARENT] if os.geteuid() == 0 else [])]
    return min((shutil.disk_usage(place).free, place) for place in places)


def nearest(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())
