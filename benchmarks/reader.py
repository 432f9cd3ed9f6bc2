"""Reads answers of a gateway at a pace or without a pause, from a process and a loop of its own.

`python -m benchmarks.reader URL [READING]` reads until its time is over or standard input ends,
then prints what it saw as one JSON object. READING is one with the members of `Reading`.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import cycle

import orjson
import uvloop

from benchmarks.child import Child, run_module
from benchmarks.connection import BROKEN, Connection, connect, request, until_told
from benchmarks.figures import Latencies, summarise

PAGE_SIZE = 20
GENE_LIST = f"/api/genes?page[number]=1&page[size]={PAGE_SIZE}"
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

    def __init__(self, child: Child, reading: Reading) -> None:
        self._child = child
        self._reading = reading

    async def finish(self) -> Latencies:
        """Stop it now; raises RuntimeError when it saw nothing."""
        return Latencies(**await self._child.finish(FINISH_SECONDS_MAX))

    async def result(self) -> Latencies:
        """Wait for its own end; raises RuntimeError when it saw nothing."""
        return Latencies(**await self._child.result(START_SECONDS_MAX + self._reading.seconds))


@asynccontextmanager
async def reading(url: str, what: Reading) -> AsyncIterator[Reader]:
    """Starts reading at once; whatever happens, nobody reads any more afterwards."""
    async with run_module("benchmarks.reader", url, orjson.dumps(what).decode()) as child:
        yield Reader(child, what)


async def read(url: str, what: Reading) -> Latencies:
    """Read for the whole of its time."""
    async with reading(url, what) as reader:
        return await reader.result()


class _Work:
    def __init__(self, url: str, what: Reading) -> None:
        self._url = url
        self._requests = cycle([request(url, target) for target in what.targets])
        self._what = what
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
        await until_told(self._what.seconds)
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
                async with connect(self._url) as connection:
                    while True:
                        late = time.perf_counter() - due
                        if late < 0:
                            await asyncio.sleep(-late)
                        # Who waited for an answer past the time of the next request asks late: its
                        # user waits from when it was due.
                        await self._ask(connection, due if period and late > 0 else None)
                        due += period
            except BROKEN:
                self._failed += 1
                await asyncio.sleep(RECONNECT_SECONDS)
                due = max(due, time.perf_counter())

    async def _ask(self, connection: Connection, began: float | None) -> None:
        """Raises ValueError when the answer is not what was asked for."""
        began = began or time.perf_counter()
        status, body = await connection.ask(next(self._requests))
        took = time.perf_counter() - began
        if status != 200 or body.count(b'"type":"genes"') < self._what.genes_min:
            raise ValueError(status)
        if self._warmed_up < self._what.warm_up:
            self._warmed_up += 1
            self._counted_from = time.perf_counter()
        else:
            self._latencies.append(took)


def main() -> None:
    url, *given = sys.argv[1:]
    what = Reading(**orjson.loads(given[0])) if given else Reading()
    seen = uvloop.run(_Work(url, what).read())
    sys.stdout.buffer.write(orjson.dumps(asdict(seen)))


if __name__ == "__main__":
    main()
