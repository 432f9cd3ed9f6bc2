"""Starts the child process that writes an export, and passes on what it writes."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import structlog

from services.chassis import telemetry
from services.gateway.errors import ExportFailed, ExportsCrowded
from services.gateway.export_order import ExportOrder

EXPORTS_MAX = 2  # At once: each takes a processor.
PART_BYTES = 256 * 1024
FIRST_SECONDS_MAX = 300.0  # Of a workbook nothing can be sent before its end.
END_SECONDS_MAX = 5.0
WORDS_BYTES_MAX = 4_000

log = structlog.get_logger()


class Exports:
    """So many at once; who comes then is told to come back."""

    def __init__(self) -> None:
        self._open = 0

    async def start(self, order: ExportOrder) -> "Export":
        """When the first part of the file is there: what fails before is an error of the request.
        Whoever gets an export ends it. Raises ExportsCrowded and ExportFailed."""
        if self._open >= EXPORTS_MAX:
            raise ExportsCrowded(f"{EXPORTS_MAX} exports are being made here; come back in a while")
        self._note(1)
        try:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "services.gateway.exporter"),
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                limit=PART_BYTES,
            )
        except BaseException:
            self._note(-1)
            raise
        export = Export(child, lambda: self._note(-1))
        try:
            await export.begin(order)
        except BaseException:
            await export.end()
            raise
        return export

    def _note(self, number: int) -> None:
        self._open += number
        telemetry.EXPORTS.set(self._open)


class Export:
    """A file that a child process writes; a client that leaves ends it."""

    def __init__(self, child: Process, on_end: Callable[[], None]) -> None:
        self._child = child
        self._on_end = on_end
        self._first = b""
        self._is_over = False

    async def begin(self, order: ExportOrder) -> None:
        self._first = await _first_part(self._child, order)

    async def parts(self) -> AsyncIterator[bytes]:
        assert self._child.stdout is not None
        part = self._first
        while part:
            yield part
            part = await self._child.stdout.read(PART_BYTES)
        if await self._child.wait() != 0:  # The connection breaks, so that nobody believes it.
            raise ExportFailed(await _last_words(self._child))

    async def end(self) -> None:
        """However far it is, and once, however often it is called."""
        if self._is_over:
            return
        self._is_over = True
        self._on_end()
        if self._child.returncode is None:
            with suppress(ProcessLookupError):
                self._child.kill()
            async with asyncio.timeout(END_SECONDS_MAX):
                await self._child.wait()


async def _first_part(child: Process, order: ExportOrder) -> bytes:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(order.model_dump_json().encode())
    child.stdin.close()
    try:
        async with asyncio.timeout(FIRST_SECONDS_MAX):
            part = await child.stdout.read(PART_BYTES)
            if not part and await child.wait() != 0:
                raise ExportFailed(await _last_words(child))
    except TimeoutError:
        raise ExportFailed(f"nothing was written within {FIRST_SECONDS_MAX:g} s") from None
    return part


async def _last_words(child: Process) -> str:
    assert child.stderr is not None
    said = (await child.stderr.read(WORDS_BYTES_MAX)).decode(errors="replace").strip()
    log.error("export_failed", code=child.returncode, said=said)
    return "the process that writes the file has failed; its log says why"
