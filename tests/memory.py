"""Where the session's cluster keeps its files: each test has a database of its own, several hundred
files that live for a second, and a disk's file system may take longer to find room for those than
the test takes."""

import shutil
import tempfile
from pathlib import Path

MEMORY = Path("/dev/shm")  # noqa: S108  # A file system in memory, where there is one.
# For two sessions at once: each has the server's programs, its databases and their log.
FREE_BYTES_MIN = 8 * 1024**3


def choose_state_folder(otherwise: Path) -> Path:
    """In memory where there is ample room, else the given one."""
    if not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < FREE_BYTES_MIN:
        return otherwise
    return Path(tempfile.mkdtemp(prefix="annobus-tests-", dir=MEMORY)) / "state"
