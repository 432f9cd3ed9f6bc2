"""An upstream on loopback that notes when it is called, and answers what a test wants."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from services.annotator.admission import Admission
from services.annotator.sources import UPSTREAMS
from services.annotator.upstream import Upstream
from tests.system import Database
from tests.waiting import until

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
BROKEN = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


def busy(retry_after: str) -> bytes:
    return (
        f"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nRetry-After: {retry_after}\r\n\r\n"
    ).encode()


@dataclass
class CountingServer:
    address: str = ""
    seconds: float = 0.0  # That an answer takes.
    answer: bytes = ANSWER
    arrivals: list[float] = field(default_factory=list)
    open_now: set[asyncio.Task[None] | None] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open_now.add(asyncio.current_task())
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.arrivals.append(time.monotonic())
                await asyncio.sleep(self.seconds)
                writer.write(self.answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # The client has gone.
        finally:
            writer.close()
            self.open_now.discard(asyncio.current_task())

    def most_within(self, seconds: float) -> int:
        """The greatest number of calls in any time so long."""
        return max(self.counts(seconds))

    def counts(self, seconds: float) -> list[int]:
        """How many calls came from each one on, within so long."""
        times = self.arrivals
        return [sum(at <= one <= at + seconds for one in times) for at in times]


@asynccontextmanager
async def counting_server(seconds: float = 0.0) -> AsyncIterator[CountingServer]:
    server = CountingServer(seconds=seconds)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.address = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listening.close()
        await until(lambda: not server.open_now, "the last answer")


@asynccontextmanager
async def worker(
    database: Database, server: CountingServer, per_second: float, name: str = "ensembl"
) -> AsyncIterator[Upstream]:
    """As one annotator has it: with a pool of connections of its own."""
    async with database.engine("annotator") as engine:
        declaration = replace(UPSTREAMS["ensembl"], name=name)
        upstream = Upstream(declaration, server.address, Admission(engine, name, per_second))
        try:
            yield upstream
        finally:
            await upstream.close()


async def call_for(workers: Sequence[Upstream], seconds: float, callers: int) -> None:
    """Each worker calls as often as it may, with so many callers."""

    async def call(upstream: Upstream) -> None:
        while True:
            await upstream.get("info")

    calls = [asyncio.create_task(call(one)) for one in workers for _ in range(callers)]
    await asyncio.sleep(seconds)
    for one in calls:
        one.cancel()
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(outcome, asyncio.CancelledError), outcome
