"""Reads the gene list as fast as it is answered, from a process and a loop of its own.

`python -m benchmarks.gene_list HOST PORT SECONDS` reads until that time is over or standard input
ends, then prints what it saw as one JSON object.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import uvloop

from benchmarks.figures import Latencies, summarise

PROJECT = Path(__file__).resolve().parent.parent
CONCURRENCY = 4
PAGE_SIZE = 20
TARGET = f"/api/genes?page[number]=1&page[size]={PAGE_SIZE}"
# The first answers open connections to the database and fill pools: they are not counted.
WARM_UP_ANSWERS = 200
REQUEST_SECONDS_MAX = 5.0
RECONNECT_SECONDS = 0.05
READING_SECONDS_MAX = 120.0
FINISH_SECONDS_MAX = 10.0


class Reading:
    """A reader that works in its own process until it is told to finish."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child

    async def finish(self) -> Latencies:
        """Stop it now, or wait for its own end; raises RuntimeError when it saw nothing."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        return await self.result(FINISH_SECONDS_MAX)

    async def result(self, seconds_max: float) -> Latencies:
        async with asyncio.timeout(seconds_max):
            assert self._child.stdout is not None
            said = await self._child.stdout.read()
            code = await self._child.wait()
        if code != 0:
            raise RuntimeError(f"the reader of the gene list ended with {code}; it has said why")
        return Latencies(**orjson.loads(said))


@asynccontextmanager
async def reading(url: str, seconds: float = READING_SECONDS_MAX) -> AsyncIterator[Reading]:
    """Starts reading at once; whatever happens, nobody reads any more afterwards."""
    address = urlsplit(url)
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "benchmarks.gene_list", str(address.hostname), str(address.port), str(seconds)),
        cwd=PROJECT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Reading(child)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


class _Reader:
    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        # Brackets in a query are sent as they are: httptools and every browser's API take them.
        self._request = (
            f"GET {TARGET} HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: */*\r\n\r\n".encode()
        )
        self._latencies: list[float] = []
        self._failed = 0
        self._warmed_up = 0
        self._counted_from = time.perf_counter()

    async def read(self, seconds: float) -> Latencies:
        """Raises RuntimeError when nothing was answered as it should be."""
        connections = [asyncio.create_task(self._keep_reading()) for _ in range(CONCURRENCY)]
        await _until_told(seconds)
        ended = time.perf_counter()
        for connection in connections:
            connection.cancel()
        await asyncio.wait(connections)
        for connection in connections:
            if not connection.cancelled():
                await connection  # It ended by an error that nobody foresaw.
        if not self._latencies:
            raise RuntimeError(f"{TARGET}: no page of genes was answered, {self._failed} failed")
        return summarise(self._latencies, self._failed, ended - self._counted_from)

    async def _keep_reading(self) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection(*self._address)
                try:
                    while True:
                        await self._ask(reader, writer)
                finally:
                    writer.close()
            except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
                self._failed += 1
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request; raises ValueError when the answer is no page of genes."""
        async with asyncio.timeout(REQUEST_SECONDS_MAX):
            began = time.perf_counter()
            writer.write(self._request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            status, _, rest = head.partition(b"\r\n")
            length = int(rest.partition(b"content-length:")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
            took = time.perf_counter() - began
        if b" 200 " not in status or body.count(b'"type":"genes"') != PAGE_SIZE:
            raise ValueError(status)
        if self._warmed_up < WARM_UP_ANSWERS:
            self._warmed_up += 1
            self._counted_from = time.perf_counter()
        else:
            self._latencies.append(took)


async def _until_told(seconds: float) -> None:
    """Until standard input ends, which it also does when whoever started this one dies."""
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    standard_input = sys.stdin.fileno()

    def hear() -> None:
        loop.remove_reader(standard_input)
        told.set()

    loop.add_reader(standard_input, hear)
    try:
        async with asyncio.timeout(seconds):
            await told.wait()
    except TimeoutError:
        loop.remove_reader(standard_input)


def main() -> None:
    host, port, seconds = sys.argv[1:]
    seen = uvloop.run(_Reader(host, int(port)).read(float(seconds)))
    sys.stdout.buffer.write(orjson.dumps(asdict(seen)))


if __name__ == "__main__":
    main()
