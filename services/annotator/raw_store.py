"""What was fetched, compressed, each file under the SHA-256 of its bytes as they came."""

import asyncio
import io
import os
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from backports.zstd import ZstdCompressor, ZstdFile

from services.annotator import domain
from services.annotator.domain import READ_BYTES, ZSTD
from services.annotator.errors import RawStoreRefused
from services.annotator.settings import AnnotatorSettings

INCOMING = "incoming-"
INCOMING_SECONDS_MAX = 3_600.0  # Older ones belong to nobody: a download has a shorter deadline.


class RawStore(ABC):
    """Immutable files. A name that exists holds the whole content, or is not there."""

    def __init__(self, folder: Path) -> None:
        """`folder` is where downloads arrive."""
        self._folder = folder

    async def make_ready(self) -> None:
        """At the start: whether files can be kept. Raises RawStoreRefused, RawStoreUnavailable."""
        await asyncio.to_thread(self._make_ready)

    def _make_ready(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder, prefix=INCOMING):
                pass
        except OSError as error:
            raise RawStoreRefused(
                f"ANNOTATOR_RAW_FOLDER={self._folder} cannot be written: {error.strerror};"
                " accepted is a folder that can"
            ) from error
        self.sweep()

    def sweep(self) -> None:
        """Remove downloads that their process did not live to keep."""
        for left in self._folder.glob(f"{INCOMING}*"):
            with suppress(FileNotFoundError):  # Another annotator has kept it, or sweeps as well.
                if time.time() - left.stat().st_mtime > INCOMING_SECONDS_MAX:
                    shutil.rmtree(left) if left.is_dir() else left.unlink()

    @asynccontextmanager
    async def workspace(self) -> AsyncIterator[Path]:
        """A folder for downloads, gone at the end."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=INCOMING) as folder:
            yield Path(folder)

    async def keep(self, file: Path, sha256: bytes) -> None:
        """Take a complete file of the workspace into the store. Raises RawStoreUnavailable."""
        await asyncio.to_thread(self._keep, file, sha256)

    def _keep(self, file: Path, sha256: bytes) -> None:
        with file.open("rb") as content:
            self._write(content, sha256)
        file.unlink()

    async def keep_bytes(self, content: bytes, sha256: bytes) -> None:
        """Raises RawStoreUnavailable."""
        await asyncio.to_thread(self._keep_bytes, content, sha256)

    def _keep_bytes(self, content: bytes, sha256: bytes) -> None:
        if not self._holds(sha256):
            self._write(io.BytesIO(content), sha256)

    async def holds(self, *sha256s: bytes) -> bool:
        """Whether all of them are here. Raises RawStoreUnavailable."""
        return await asyncio.to_thread(lambda: all(map(self._holds, sha256s)))

    async def remove(self, sha256s: Sequence[bytes]) -> None:
        """Let go of files that nobody needs any more. Raises RawStoreUnavailable."""
        await asyncio.to_thread(self._remove, sha256s)

    async def sizes(self) -> dict[bytes, int]:
        """Every file there is, by its hash: the bytes that it takes. Raises RawStoreUnavailable."""
        return await asyncio.to_thread(lambda: dict(self._sizes()))

    @abstractmethod
    def open(self, sha256: bytes) -> io.BufferedReader:
        """A file's bytes as they came, a piece at a time. Blocks: for a thread or a child."""

    @abstractmethod
    def _write(self, content: BinaryIO, sha256: bytes) -> None: ...

    @abstractmethod
    def _holds(self, sha256: bytes) -> bool: ...

    @abstractmethod
    def _remove(self, sha256s: Sequence[bytes]) -> None: ...

    @abstractmethod
    def _sizes(self) -> Iterator[tuple[bytes, int]]: ...


class FolderStore(RawStore):
    """In the folder where downloads arrive: what is kept outlives a power failure."""

    def path(self, sha256: bytes) -> Path:
        return self._folder / _name(sha256)

    def open(self, sha256: bytes) -> io.BufferedReader:
        return domain.open_raw(self.path(sha256))

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

    def _holds(self, sha256: bytes) -> bool:
        return self.path(sha256).is_file()

    def _remove(self, sha256s: Sequence[bytes]) -> None:
        for sha256 in sha256s:
            self.path(sha256).unlink(missing_ok=True)

    def _sizes(self) -> Iterator[tuple[bytes, int]]:
        for path in self._folder.glob(f"??/*{ZSTD}"):
            with suppress(FileNotFoundError):  # Another annotator has let go of it.
                yield bytes.fromhex(path.stem), path.stat().st_size


class BucketStore(RawStore):
    """In a bucket, under the same names."""

    def __init__(self, settings: AnnotatorSettings) -> None:
        """Raises RawStoreRefused."""
        super().__init__(settings.raw_folder)
        # Here, so that whoever keeps files in a folder does not wait for it.
        from services.annotator.raw_bucket import Bucket  # noqa: PLC0415

        self._bucket = Bucket(settings)

    def _make_ready(self) -> None:
        super()._make_ready()
        self._bucket.check()

    def open(self, sha256: bytes) -> io.BufferedReader:
        return domain.unpacked(self._bucket.open(_name(sha256)))

    def _write(self, content: BinaryIO, sha256: bytes) -> None:
        self._bucket.put(_name(sha256), _packed(content))

    def _holds(self, sha256: bytes) -> bool:
        return self._bucket.holds(_name(sha256))

    def _remove(self, sha256s: Sequence[bytes]) -> None:
        self._bucket.remove([_name(sha256) for sha256 in sha256s])

    def _sizes(self) -> Iterator[tuple[bytes, int]]:
        for name, size in self._bucket.sizes():
            if name.endswith(ZSTD):
                yield bytes.fromhex(Path(name).stem), size


def raw_store_of(settings: AnnotatorSettings) -> RawStore:
    """The place that is set; nobody is asked yet. Raises RawStoreRefused."""
    return BucketStore(settings) if settings.raw_store else FolderStore(settings.raw_folder)


def _name(sha256: bytes) -> str:
    name = sha256.hex()
    return f"{name[:2]}/{name}{ZSTD}"


def _packed(content: BinaryIO) -> Iterator[bytes]:
    packer = ZstdCompressor()
    while piece := content.read(READ_BYTES):
        if packed := packer.compress(piece):
            yield packed
    yield packer.flush()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
