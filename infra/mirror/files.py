"""Files as an upstream serves them: with validators, 304, and gzip that is prepared once."""

import gzip
import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path
from typing import IO

import orjson
from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response

CHUNK_BYTES = 1 << 20
GZIP_LEVEL = 6
MADE = {"X-Synthetic": "true"}  # Goes with every answer that was made up.

MISSING = "not installed; it is in requirements/demo.txt, or give a folder with --data."


class UnusableData(Exception):
    """What the mirror was given cannot be served; the text says what would be accepted."""


@dataclass(frozen=True)
class ServedFile:
    path: Path
    gzip_path: Path
    size_bytes: int
    gzip_size_bytes: int
    sha256: str
    last_modified: datetime
    media_type: str
    synthetic: bool


@dataclass(frozen=True)
class Offer:
    """What one upstream's mirror serves (`files` by path below its base) and where it is from.

    It is synthetic when anything of it is; of files only those that were made up say so.
    """

    origin: str
    release: str
    synthetic: bool
    rows: int
    licence: str
    citation: str
    files: Mapping[str, ServedFile]
    counts: Mapping[str, int]


def write_whole(target: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Leaves `target` complete or as it was, whatever happens to this process in between."""
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}."
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=prefix, delete=False) as file:
        temporary = Path(file.name)
        try:
            write(file)
            file.flush()
            temporary.replace(target)
        except BaseException:
            temporary.unlink()
            raise


def write_bytes(target: Path, content: bytes) -> None:
    def write(file: IO[bytes]) -> None:
        file.write(content)

    write_whole(target, write)


def publish(
    path: Path, cache: Path, last_modified: datetime, media_type: str, *, synthetic: bool = False
) -> ServedFile:
    """Hashes and compresses `path` once; later calls find the result while the file is the same.

    "The same" means size and date, as in any web server; the ETag is of the contents.
    """
    status = path.stat()
    key = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    note = cache / "published" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    if (sha256 := _published(note)) is None:
        sha256 = _compress(path, cache)
        write_bytes(note, orjson.dumps({"sha256": sha256}))
    gzip_path = _gzip_path(cache, sha256)
    return ServedFile(
        path,
        gzip_path,
        status.st_size,
        gzip_path.stat().st_size,
        sha256,
        last_modified.astimezone(UTC).replace(microsecond=0),
        media_type,
        synthetic,
    )


def unpacked(packed: Path, cache: Path) -> Path:
    """Where a gzip file of a folder lies unpacked; unpacks it when it is another than before."""
    status = packed.stat()
    target = cache / "folder" / f"{status.st_size}-{status.st_mtime_ns}-{packed.stem}"
    if not target.exists():
        unpack(packed, target)
    return target


def unpack(source: Path, target: Path) -> None:
    """Writes the gzip file `source` unpacked to `target`, with the date of `source`."""

    def write(file: IO[bytes]) -> None:
        with gzip.open(source) as packed:
            while chunk := packed.read(CHUNK_BYTES):
                file.write(chunk)

    try:
        write_whole(target, write)
    except (EOFError, gzip.BadGzipFile) as error:
        raise UnusableData(f"{source} is not a complete gzip file ({error}).") from error
    status = source.stat()
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def answer(file: ServedFile, headers: Headers) -> Response:
    """The file, packed if the client takes gzip, or 304 if it has the file already."""
    packed = _takes_gzip(headers.get("accept-encoding", ""))
    validators = {
        "ETag": f'"{file.sha256[:32]}{"-gzip" if packed else ""}"',
        "Last-Modified": format_datetime(file.last_modified, usegmt=True),
        "Vary": "Accept-Encoding",
    }
    if _is_known(file, headers):
        return Response(status_code=304, headers=validators)
    if packed:
        validators["Content-Encoding"] = "gzip"
    path = file.gzip_path if packed else file.path
    return FileResponse(path, headers=validators, media_type=file.media_type)


def _is_known(file: ServedFile, headers: Headers) -> bool:
    if (known := headers.get("if-none-match")) is not None:
        # Either encoding will do: both say that the client has these contents.
        own = {file.sha256[:32], f"{file.sha256[:32]}-gzip", "*"}
        return any(tag.strip().removeprefix("W/").strip('"') in own for tag in known.split(","))
    if (since := headers.get("if-modified-since")) is not None:
        try:
            return file.last_modified <= parsedate_to_datetime(since)
        except (ValueError, TypeError):
            # RFC 9110: a date that cannot be read, or has no zone, is ignored.
            return False
    return False


def _takes_gzip(accepted: str) -> bool:
    for choice in accepted.lower().split(","):
        coding, _, weight = choice.partition(";")
        if coding.strip() == "gzip":
            return weight.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False


def _published(note: Path) -> str | None:
    if not note.exists():
        return None
    sha256: str = orjson.loads(note.read_bytes())["sha256"]
    return sha256 if _gzip_path(note.parent.parent, sha256).exists() else None


def _gzip_path(cache: Path, sha256: str) -> Path:
    return cache / "published" / f"{sha256}.gz"


def _compress(path: Path, cache: Path) -> str:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()

    def write(file: IO[bytes]) -> None:
        # No name and no date inside, so that the packed bytes are the same wherever they are made.
        with (
            path.open("rb") as source,
            gzip.GzipFile("", "wb", GZIP_LEVEL, fileobj=file, mtime=0) as packed,
        ):
            while chunk := source.read(CHUNK_BYTES):
                packed.write(chunk)

    write_whole(_gzip_path(cache, sha256), write)
    return sha256
