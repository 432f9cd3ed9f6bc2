"""Reads answers of a gateway at a pace or without a pause, from a process and a loop of its own.

`python -m benchmarks.reader URL [READING]` reads until its time is over or standard input ends, then
prints what it saw as one JSON object. READING is a JSON object with the members of `Reading`.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import uvloop

from benchmarks.figures import Latencies, summarise

PROJECT = Path(__file__).resolve().parent.parent
PAGE_SIZE = 20
GENE_LIST = f"/api/genes?page[number]=1&page[size]={PAGE_SIZE}"
REQUEST_SECONDS_MAX = 5.0
RECONNECT_SECONDS = 0.05
FINISH_SECONDS_MAX = 10.0
START_SECONDS_MAX = 15.0


@dataclass(frozen=True)
class Reading:
    """What is read, in turn. `per_second` of all connections together, None without a pause;
    an answer with fewer genes has failed; the first answers open connections to the database and
    fill pools and are not counted."""

    targets: Sequence[str] = (GENE_LIST,)
    seconds: float = 120.0
    connections: int = 4
    per_second: float | None = None
    genes_min: int = PAGE_SIZE
    warm_up: int = 200


class Reader:
    """Reads in its own process until it is told to finish."""

    def __init__(self, child: asyncio.subprocess.Process, reading: Reading) -> None:
        self._child = child
        self._reading = reading

    async def finish(self) -> Latencies:
        """Stop it now; raises RuntimeError when it saw nothing."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        return await self._result(FINISH_SECONDS_MAX)

    async def result(self) -> Latencies:
        """Wait for its own end; raises RuntimeError when it saw nothing."""
        return await self._result(START_SECONDS_MAX + self._reading.seconds)

    async def _result(self, seconds_max: float) -> Latencies:
        async with asyncio.timeout(seconds_max):
            assert self._child.stdout is not None
            said = await self._child.stdout.read()
            code = await self._child.wait()
        if code != 0:
            raise RuntimeError(f"a reader ended with {code}; it has said why")
        return Latencies(**orjson.loads(said))


@asynccontextmanager
async def reading(url: str, what: Reading) -> AsyncIterator[Reader]:
    """Starts reading at once; whatever happens, nobody reads any more afterwards."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.reader", url, orjson.dumps(what).decode()),
        cwd=PROJECT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Reader(child, what)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def read(url: str, what: Reading) -> Latencies:
    """Read for the whole of its time."""
    async with reading(url, what) as reader:
        return await reader.result()


class _Work:
    def __init__(self, url: str, what: Reading) -> None:
        address = urlsplit(url)
        self._address = (str(address.hostname), address.port)
        # Brackets in a query are sent as they are: httptools and every browser's API take them.
        self._requests = [
            f"GET {target} HTTP/1.1\r\nHost: {address.netloc}\r\nAccept: */*\r\n\r\n".encode()
            for target in what.targets
        ]
        self._what = what
        self._numbers = count()
        self._latencies: list[float] = []
        self._failed = 0
        self._warmed_up = 0
        self._counted_from = time.perf_counter()

    async def read(self) -> Latencies:
        """Raises RuntimeError when nothing was answered as it should be."""
        connections = [
            asyncio.create_task(self._keep_reading(number))
            for number in range(self._what.connections)
        ]
        await _until_told(self._what.seconds)
        ended = time.perf_counter()
        for connection in connections:
            connection.cancel()
        await asyncio.wait(connections)
        for connection in connections:
            if not connection.cancelled():
                await connection  # It ended by an error that nobody foresaw.
        if not self._latencies:
            first, failed = self._what.targets[0], self._failed
            raise RuntimeError(f"{first}: nothing was answered as it should be, {failed} failed")
        return summarise(self._latencies, self._failed, ended - self._counted_from)

    async def _keep_reading(self, number: int) -> None:
        period = self._what.connections / self._what.per_second if self._what.per_second else 0.0
        due = time.perf_counter() + number / self._what.connections * period
        while True:
            try:
                reader, writer = await asyncio.open_connection(*self._address)
                try:
                    while True:
                        late = time.perf_counter() - due
                        if late < 0:
                            await asyncio.sleep(-late)
                        # Who waited for an answer past the time of the next request asks late: its
                        # user waits from when it was due.
                        began = due if period and late > 0 else time.perf_counter()
                        await self._ask(reader, writer, began)
                        due += period
                finally:
                    writer.close()
            except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
                self._failed += 1
                await asyncio.sleep(RECONNECT_SECONDS)
                due = max(due, time.perf_counter())

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, began: float
    ) -> None:
        """One request; raises ValueError when the answer is not what was asked for."""
        async with asyncio.timeout(REQUEST_SECONDS_MAX):
            writer.write(self._requests[next(self._numbers) % len(self._requests)])
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            status, _, rest = head.partition(b"\r\n")
            length = int(rest.partition(b"content-length:")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
            took = time.perf_counter() - began
        if b" 200 " not in status or body.count(b'"type":"genes"') < self._what.genes_min:
            raise ValueError(status)
        if self._warmed_up < self._what.warm_up:
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
    url, *given = sys.argv[1:]
    what = Reading(**orjson.loads(given[0])) if given else Reading()
    seen = uvloop.run(_Work(url, what).read())
    sys.stdout.buffer.write(orjson.dumps(asdict(seen)))


if __name__ == "__main__":
    main()
