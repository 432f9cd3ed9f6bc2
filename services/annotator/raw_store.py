"""What was fetched, compressed, each file under the SHA-256 of its bytes as they came."""

import asyncio
import io
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from backports.zstd import ZstdFile

from services.annotator.domain import READ_BYTES, ZSTD

INCOMING = "incoming-"
INCOMING_SECONDS_MAX = 3_600.0  # Older ones belong to nobody: a download has a shorter deadline.


class RawStore:
    """A folder of immutable files. A name that exists holds the whole content, or is not there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, sha256: bytes) -> Path:
        name = sha256.hex()
        return self._folder / name[:2] / f"{name}{ZSTD}"

    def holds(self, sha256: bytes) -> bool:
        return self.path(sha256).is_file()

    def sweep(self) -> None:
        """Remove downloads that their process did not live to keep."""
        for left in self._folder.glob(f"{INCOMING}*"):
            with suppress(FileNotFoundError):  # Another annotator has kept it, or sweeps as well.
                if time.time() - left.stat().st_mtime > INCOMING_SECONDS_MAX:
                    shutil.rmtree(left) if left.is_dir() else left.unlink()

    @asynccontextmanager
    async def workspace(self) -> AsyncIterator[Path]:
        """A folder for downloads on the same disk, gone at the end."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=INCOMING) as folder:
            yield Path(folder)

    async def keep(self, file: Path, sha256: bytes) -> None:
        """Take a complete file of the workspace into the store."""
        await asyncio.to_thread(self._keep, file, sha256)

    async def keep_bytes(self, content: bytes, sha256: bytes) -> None:
        await asyncio.to_thread(self._keep_bytes, content, sha256)

    def _keep_bytes(self, content: bytes, sha256: bytes) -> None:
        if self.holds(sha256):
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._write(io.BytesIO(content), sha256)

    def _keep(self, file: Path, sha256: bytes) -> None:
        with file.open("rb") as content:
            self._write(content, sha256)
        file.unlink()

    def _write(self, content: BinaryIO, sha256: bytes) -> None:
        target = self.path(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=INCOMING, delete=False) as file:
            with ZstdFile(file, "wb") as packed:
                shutil.copyfileobj(content, packed, READ_BYTES)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(target)
        _sync(target.parent)  # The name, too, must outlive a power failure.

    def remove(self, sha256: bytes) -> None:
        """Let go of a file that nobody needs any more."""
        self.path(sha256).unlink(missing_ok=True)

    def sizes(self) -> dict[bytes, int]:
        """Every file there is, by its hash: the bytes that it takes."""
        found = {}
        for path in self._folder.glob(f"??/*{ZSTD}"):
            with suppress(FileNotFoundError):  # Another annotator has let go of it.
                found[bytes.fromhex(path.stem)] = path.stat().st_size
        return found


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
