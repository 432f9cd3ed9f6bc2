"""Reads an uploaded list in a child process, which cannot take more than its share of anything."""

import asyncio
import multiprocessing
import resource
from multiprocessing.connection import Connection
from typing import Literal, NamedTuple

from services.chassis.child import end_with_parent
from services.chassis.errors import field_error
from services.gateway import tables
from services.gateway.errors import UploadsCrowded, UploadUnreadable
from services.gateway.tables import Format, Listed
from services.gateway.workbooks import Unreadable

READINGS_MAX = 2  # At once in one gateway.
ROOM_SECONDS_MAX = 10.0
READING_SECONDS_MAX = 20  # Of a processor; a large workbook takes a few.
READING_BYTES_MAX = 1024 * 1024 * 1024  # Of addresses, of which a process uses a part.
_WAITED = 2 * READING_SECONDS_MAX  # For a child that has not got a processor to itself.

# A child is a fork of a process that has imported what it needs and holds nothing else. It starts
# with the first upload.
_template = multiprocessing.get_context("forkserver")
_template.set_forkserver_preload([__name__])


class Upload(NamedTuple):
    content: bytes
    form: Format
    column: str | None
    sheet: str | None


_Answer = tuple[Literal["listed"], Listed] | tuple[Literal["unreadable"], tuple[str, str, str]]


class Reader:
    def __init__(self) -> None:
        self._room = asyncio.Semaphore(READINGS_MAX)

    async def read(self, upload: Upload) -> Listed:
        """Raises UploadUnreadable and UploadsCrowded."""
        try:
            async with asyncio.timeout(ROOM_SECONDS_MAX):
                await self._room.acquire()
        except TimeoutError:
            raise UploadsCrowded(
                f"{READINGS_MAX} other uploads are read; try again in a few seconds"
            ) from None
        reading = asyncio.create_task(asyncio.to_thread(_have_read, upload))
        # Whoever leaves before the end leaves the room to its child until that has ended.
        reading.add_done_callback(lambda _: self._room.release())
        kind, said = await asyncio.shield(reading)
        if kind == "listed":
            assert isinstance(said, Listed)
            return said
        assert isinstance(said, tuple)
        what, value, accepted = said
        pointer = f"query {what}" if what in ("column", "sheet") else what
        error = field_error(pointer, value, accepted)
        raise UploadUnreadable(f"{what}: {error['value']}; accepted: {accepted}", [error])


def _have_read(upload: Upload) -> _Answer:
    """Blocks until the child has answered or ended."""
    ours, theirs = _template.Pipe()
    with ours:
        arguments = (theirs, READING_SECONDS_MAX)
        child = _template.Process(target=_main, args=arguments, name="upload", daemon=True)
        with theirs:
            child.start()
        try:
            ours.send(upload)
            if ours.poll(_WAITED):
                answer: _Answer = ours.recv()
                return answer
        except (EOFError, ConnectionError):
            pass  # It has ended, or was ended: there is no answer.
        finally:
            child.kill()
            child.join()
            child.close()
    accepted = f"what can be read in {READING_SECONDS_MAX} s and {READING_BYTES_MAX} bytes"
    return "unreadable", ("the file", "more than can be read", accepted)


def _main(line: Connection, seconds_max: int) -> None:
    end_with_parent()
    resource.setrlimit(resource.RLIMIT_AS, (READING_BYTES_MAX, READING_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds_max, seconds_max))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        line.send(("listed", tables.read(*line.recv())))
    except MemoryError:
        return
    except Unreadable as unreadable:
        said = (unreadable.what, unreadable.value, unreadable.accepted)
        line.send(("unreadable", said))
