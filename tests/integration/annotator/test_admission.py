"""When an upstream is called, over all workers together; each has a pool of connections."""

import asyncio
from contextlib import AsyncExitStack

from tests.integration.annotator.counting_server import (
    CountingServer,
    call_for,
    counting_server,
    worker,
)
from tests.system import Database

PER_SECOND = 10.0
SECONDS = 12.0
WORKERS = 4


async def asked_by_all(
    database: Database, name: str, answer_seconds: float, callers: int
) -> CountingServer:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(counting_server(answer_seconds))
        workers = [
            await stack.enter_async_context(worker(database, server, PER_SECOND, name))
            for _ in range(WORKERS)
        ]
        await call_for(workers, SECONDS, callers)
        return server


async def test_all_workers_together_keep_the_limit_and_use_it(database: Database) -> None:
    """Of an upstream that is fast, and of one so slow that no worker alone could use the limit."""
    for server in await asyncio.gather(
        asked_by_all(database, "fast", answer_seconds=0.0, callers=1),
        asked_by_all(database, "slow", answer_seconds=0.6, callers=3),
    ):
        assert server.most_within(1.0) <= 11
        last = server.arrivals[-1]
        of_ten_seconds = [
            count
            for at, count in zip(server.arrivals, server.counts(10.0), strict=True)
            if at + 10.0 <= last
        ]
        assert min(of_ten_seconds) >= 90
        assert max(of_ten_seconds) <= 105
