"""Starts the child process that writes an export, and passes on what it writes."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import suppress

import structlog

from services.chassis import telemetry
from services.gateway.errors import ExportFailed, ExportsCrowded
from services.gateway.export_order import ExportOrder

EXPORTS_MAX = 2  # At once: each takes a processor.
PART_BYTES = 256 * 1024
FIRST_SECONDS_MAX = 60.0  # Of a workbook nothing can be sent before its end.
END_SECONDS_MAX = 5.0
WORDS_BYTES_MAX = 4_000

log = structlog.get_logger()


class Exports:
    """So many at once; who comes then is told to come back. A client that leaves ends its child."""

    def __init__(self) -> None:
        self._open = 0

    async def start(self, order: ExportOrder) -> AsyncIterator[bytes]:
        """The file, in parts, when its first part is there: what fails before is an error of the
        request. Raises ExportsCrowded and ExportFailed."""
        if self._open >= EXPORTS_MAX:
            raise ExportsCrowded(f"{EXPORTS_MAX} exports are being made here; come back in a while")
        self._open += 1
        telemetry.EXPORTS.set(self._open)
        child = None
        try:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "services.gateway.exporter"),
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                limit=PART_BYTES,
            )
            first = await _first_part(child, order)
        except BaseException:
            await self._end(child)
            raise
        return self._parts(child, first)

    async def _parts(self, child: Process, first: bytes) -> AsyncIterator[bytes]:
        assert child.stdout is not None
        try:
            part = first
            while part:
                yield part
                part = await child.stdout.read(PART_BYTES)
            if (
                await child.wait() != 0
            ):  # Cut off: the connection breaks, so that nobody believes it.
                raise ExportFailed(await _last_words(child))
        finally:
            await self._end(child)

    async def _end(self, child: Process | None) -> None:
        self._open -= 1
        telemetry.EXPORTS.set(self._open)
        if child is not None and child.returncode is None:
            with suppress(ProcessLookupError):
                child.kill()
            async with asyncio.timeout(END_SECONDS_MAX):
                await child.wait()


async def _first_part(child: Process, order: ExportOrder) -> bytes:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(order.model_dump_json().encode())
    child.stdin.close()
    async with asyncio.timeout(FIRST_SECONDS_MAX):
        part = await child.stdout.read(PART_BYTES)
        if not part and await child.wait() != 0:
            raise ExportFailed(await _last_words(child))
    return part


async def _last_words(child: Process) -> str:
    assert child.stderr is not None
    said = (await child.stderr.read(WORDS_BYTES_MAX)).decode(errors="replace").strip()
    log.error("export_failed", code=child.returncode, said=said)
    return "the process that writes the file has failed; its log says why"
