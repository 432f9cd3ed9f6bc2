"""A namespace of a million entries: forgetting it, and deleting what was forgotten meanwhile.

`python -m benchmarks.entries [COUNT]` measures it on a cluster of its own and prints it as one JSON
object; `COUNT` entries instead of a million.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import asyncpg
import orjson
import uvloop
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from benchmarks.figures import Latencies, percentile, summarise
from infra.addresses import OWNER_URL
from infra.cluster import Cluster
from infra.supervisor import Supervisor
from services.cache import namespaces
from services.cache.reclaimer import Reclaimer
from services.chassis import database
from services.chassis.settings import ServiceSettings
from services.cli.migrate import declare_sources, migrate_schemas
from services.gateway.store import entries

DATABASE = "annobus_entries"
NAMESPACE = "lists"
COUNT = 1_000_000
VALUE_BYTES = 200
READERS = 4
READ_PERIOD_SECONDS = 0.02  # Of each: who reads without a pause measures itself.
READ_SECONDS = 5.0
ROUNDS = 5  # Of invalidations, each of all entries.
MEASURE_SECONDS_MAX = 600.0


@dataclass(frozen=True)
class EntryFigures:
    """`invisible_ms`: from the order until no reader finds an entry."""

    entries: int
    invisible_ms: float
    invisible_max_ms: float
    reclaim_seconds: float
    transactions: int
    transaction_p50_ms: float
    transaction_p99_ms: float
    transaction_max_ms: float
    slowest_tenths_ms: Sequence[float]  # The p95 of each tenth of the walk.
    reads_idle: Latencies
    reads_meanwhile: Latencies


async def measure(cluster: Cluster, count: int = COUNT) -> EntryFigures:
    await cluster.create_database(DATABASE)
    addresses = cluster.environment(DATABASE)
    try:
        async with asyncio.timeout(MEASURE_SECONDS_MAX):
            await asyncio.to_thread(migrate_schemas, addresses[OWNER_URL])
            await declare_sources(addresses[OWNER_URL])
            owner = await asyncpg.connect(addresses[OWNER_URL])
            try:
                async with (
                    _engine(addresses["CACHE_DATABASE_URL"]) as cache,
                    _engine(addresses["GATEWAY_DATABASE_URL"]) as gateway,
                ):
                    return await _measure(
                        owner, cache, gateway, addresses["CACHE_DATABASE_URL"], count
                    )
            finally:
                await owner.close()
    finally:
        await cluster.drop_database(DATABASE)


@asynccontextmanager
async def _engine(url: str) -> AsyncIterator[AsyncEngine]:
    settings = ServiceSettings(database_url=url)  # type: ignore[arg-type]
    async with database.open_engine(settings, "benchmark") as engine:
        yield engine


async def _measure(
    owner: "asyncpg.Connection[asyncpg.Record]",
    cache: AsyncEngine,
    gateway: AsyncEngine,
    cache_url: str,
    count: int,
) -> EntryFigures:
    await owner.execute(
        "UPDATE cache.namespace SET entries_max = $1 WHERE namespace = $2", count, NAMESPACE
    )
    await owner.execute(
        """INSERT INTO cache.entry
           SELECT $1, 'entry ' || n, 0, ARRAY['key=entry ' || n, 'gene=HGNC:' || n],
               convert_to(rpad(n::text, $3, 'x'), 'UTF8'), $3, now(), now() + interval '1 day'
           FROM generate_series(1, $2) n""",
        *(NAMESPACE, count, VALUE_BYTES),
        timeout=MEASURE_SECONDS_MAX,
    )
    await owner.execute("VACUUM ANALYZE cache.entry", timeout=MEASURE_SECONDS_MAX)
    idle = await _read(gateway, count, asyncio.Event(), READ_SECONDS)

    invisible = []
    for _ in range(ROUNDS):
        await owner.execute(
            """UPDATE cache.namespace SET floor = 0 WHERE namespace = $1""", NAMESPACE
        )
        invisible.append(await _forget(cache, gateway))

    done = asyncio.Event()
    reading = asyncio.create_task(_read(gateway, count, done, MEASURE_SECONDS_MAX))
    began = time.perf_counter()
    async with _timed(cache_url) as (session, transactions):
        await Reclaimer(cache).reclaim(session)
    seconds = time.perf_counter() - began
    done.set()
    meanwhile = await reading
    left = await owner.fetchval("SELECT count(*) FROM cache.entry WHERE epoch = 0")
    if left:
        raise RuntimeError(f"{left} entries are still there")
    tenth = max(len(transactions) // 10, 1)
    return EntryFigures(
        entries=count,
        invisible_ms=median(invisible) * 1_000,
        invisible_max_ms=max(invisible) * 1_000,
        reclaim_seconds=seconds,
        transactions=len(transactions),
        transaction_p50_ms=percentile(transactions, 0.5) * 1_000,
        transaction_p99_ms=percentile(transactions, 0.99) * 1_000,
        transaction_max_ms=max(transactions) * 1_000,
        slowest_tenths_ms=[
            percentile(transactions[start : start + tenth], 0.95) * 1_000
            for start in range(0, len(transactions) - tenth + 1, tenth)
        ],
        reads_idle=idle,
        reads_meanwhile=meanwhile,
    )


async def _forget(cache: AsyncEngine, gateway: AsyncEngine) -> float:
    """Seconds until a gateway that asks again and again finds an entry no more."""
    async with gateway.connect() as connection:
        began = time.perf_counter()

        async def order() -> None:
            async with cache.begin() as tx:
                await namespaces.invalidate(tx, NAMESPACE)

        ordered = asyncio.create_task(order())
        while True:
            found = await entries.find_entry(connection, NAMESPACE, "entry 1")
            await connection.rollback()
            assert found is not None
            if found.entry_epoch is None:
                break
        seconds = time.perf_counter() - began
        await ordered
    return seconds


@asynccontextmanager
async def _timed(url: str) -> AsyncIterator[tuple[AsyncConnection, list[float]]]:
    """A session in autocommit, as the reclaimer has it, and the seconds of each of its statements
    from now on, until the answer is read."""
    seconds: list[float] = []
    began = 0.0

    def begin(*_: object) -> None:
        nonlocal began
        began = time.perf_counter()

    def end(*_: object) -> None:
        seconds.append(time.perf_counter() - began)

    settings = ServiceSettings(database_url=url)  # type: ignore[arg-type]
    async with database.open_session(settings, "benchmark-reclaimer") as session:
        event.listen(session.sync_connection, "before_cursor_execute", begin)
        event.listen(session.sync_connection, "after_cursor_execute", end)
        yield session, seconds


async def _read(
    gateway: AsyncEngine, count: int, done: asyncio.Event, seconds_max: float
) -> Latencies:
    """Entries one after the other, over some connections."""
    latencies: list[float] = []
    began = time.perf_counter()

    async def read(number: int) -> None:
        async with gateway.connect() as connection:
            while not done.is_set() and time.perf_counter() - began < seconds_max:
                number = (number * 7_919 + 13) % count
                asked = time.perf_counter()
                await entries.find_entry(connection, NAMESPACE, f"entry {number}")
                await connection.rollback()
                took = time.perf_counter() - asked
                latencies.append(took)
                await asyncio.sleep(max(READ_PERIOD_SECONDS - took, 0))

    async with asyncio.TaskGroup() as readers:
        for number in range(READERS):
            readers.create_task(read(number))
    return summarise(latencies, 0, time.perf_counter() - began)


async def _alone(count: int) -> EntryFigures:
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder) / "state", {})
        await cluster.prepare()
        try:
            async with Supervisor() as supervisor:
                await supervisor.add(*cluster.processes)
                return await measure(cluster, count)
        finally:
            cluster.close()
            cluster.remove()


if __name__ == "__main__":
    measured = uvloop.run(_alone(int(sys.argv[1]) if sys.argv[1:] else COUNT))
    sys.stdout.buffer.write(orjson.dumps(asdict(measured), option=orjson.OPT_INDENT_2) + b"\n")
