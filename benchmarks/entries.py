"""A million entries of a namespace: how soon two gateways forget them, and what the readers of one
notice while they are deleted.

`python -m benchmarks.entries [COUNT]` measures it on a system of its own, with the genes of HGNC,
and prints it as one JSON object; `COUNT` entries instead of a million.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import count as count_from
from pathlib import Path
from statistics import median

import asyncpg
import httpx2
import orjson
import uvloop

from benchmarks import gateways, owner, runs
from benchmarks.child import PROJECT
from benchmarks.connection import BROKEN, Connection, connect, request
from benchmarks.figures import percentile
from benchmarks.resources import find_value
from infra.addresses import OWNER_URL
from infra.cluster import Cluster
from services.cli.processes import Options
from services.cli.system import System

NAMESPACE = "resolutions"
COUNT = 1_000_000
VALUE_BYTES = 200
# Names that stay: an entry says which gene is meant, and each is asked for once, so that it is
# looked up among those that are deleted.
KEPT = 10_000
KEPT_EPOCH = 1_000_000  # Later than whatever is invalidated here.
INVALIDATIONS = 5
ROUNDS = 5  # Of reading, without and with somebody who deletes.
READ_SECONDS = 3.0
CONCURRENCY = 4
REQUESTS_PER_SECOND = 200.0  # Of both routes together: who reads without a pause measures itself.
PAGE = "/api/genes?page[number]=1&page[size]=20"
TRANSACTION_MS_MAX = 20.0
DUTY = "reclaimer"
DUTY_SECONDS_MAX = 10.0
POLL_SECONDS = 0.02
STATEMENT_SECONDS_MAX = 120.0
MEASURE_SECONDS_MAX = 180.0
FOLDER = "entries-"


@dataclass(frozen=True)
class Route:
    """The p95 of each round, without and with somebody who deletes, and the median of their
    ratios."""

    requests: int
    failed: int
    idle_p95_ms: Sequence[float]
    meanwhile_p95_ms: Sequence[float]

    @property
    def ratio(self) -> float:
        return median(b / a for a, b in zip(self.idle_p95_ms, self.meanwhile_p95_ms, strict=True))


@dataclass(frozen=True)
class EntryFigures:
    """From the order, and from its answer, until the last of two gateways answers anew; of each
    invalidation of all entries. `transactions` are those of the reclaimer, `long_transactions`
    those above TRANSACTION_MS_MAX, as the cache counts them."""

    entries: int
    from_order_ms: Sequence[float]
    from_answer_ms: Sequence[float]
    pages: Route
    names: Route
    reclaimed: int
    transactions: int
    long_transactions: int
    transaction_mean_ms: float

    @property
    def invisible_ms(self) -> float:
        return median(self.from_order_ms)

    @property
    def problems(self) -> list[str]:
        return [
            f"{what}: {route.failed} of {route.requests} requests failed"
            for what, route in (("pages", self.pages), ("names", self.names))
            if route.failed
        ]


async def measure(options: Options, system: System, count: int = COUNT) -> EntryFigures:
    """On a running system with genes; its entries are gone afterwards. Nobody else may ask its
    gateway meanwhile. Raises RuntimeError when there was nothing to measure."""
    environment = Cluster(options.state).environment()
    async with (
        asyncio.timeout(MEASURE_SECONDS_MAX),
        gateways.one_more(options, environment) as second,
        _connection(environment[OWNER_URL]) as database,
        _connection(environment["CACHE_DATABASE_URL"]) as cache,
    ):
        bench = _Bench(database, cache, (system.url, second), system.addresses["cache"], count)
        try:
            return await bench.measure()
        finally:
            await bench.clean_up()


@asynccontextmanager
async def _connection(url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(url, command_timeout=STATEMENT_SECONDS_MAX)
    try:
        yield connection
    finally:
        await connection.close()


@dataclass(frozen=True)
class _Transactions:
    """Of the reclaimer, since its cache started."""

    number: int
    short: int
    seconds: float


class _Bench:
    def __init__(
        self,
        database: "asyncpg.Connection[asyncpg.Record]",  # The owner's.
        cache: "asyncpg.Connection[asyncpg.Record]",  # Another cache's.
        gateways: tuple[str, str],
        cache_url: str,
        count: int,
    ) -> None:
        self._database = database
        self._cache = cache
        self._gateways = gateways
        self._cache_url = cache_url
        self._count = count
        self._names = (f"/api/genes/KEPT-{number % KEPT + 1}" for number in count_from())
        self._entries_max = 0

    async def measure(self) -> EntryFigures:
        await self._take_duty()
        await self._fill()
        forgotten = [await self._forget(number) for number in range(INVALIDATIONS)]
        before, gone_before = await self._transactions(), await self._reclaimed()
        pages, names = _Reads(), _Reads()
        for _ in range(ROUNDS):
            await self._read(pages, names, READ_SECONDS)
            await self._give_duty()
            await self._read(pages, names, READ_SECONDS)
            await self._take_duty()
        after, gone = await self._transactions(), await self._reclaimed() - gone_before
        transactions = after.number - before.number
        if not gone:
            raise RuntimeError("nothing was deleted: there was nothing to measure")
        return EntryFigures(
            entries=self._count,
            from_order_ms=[order * 1_000 for order, _ in forgotten],
            from_answer_ms=[answer * 1_000 for _, answer in forgotten],
            pages=pages.route(),
            names=names.route(),
            reclaimed=gone,
            transactions=transactions,
            long_transactions=transactions - (after.short - before.short),
            transaction_mean_ms=(after.seconds - before.seconds) / transactions * 1_000,
        )

    async def clean_up(self) -> None:
        """Whoever deletes goes on when this connection ends."""
        await self._database.execute("TRUNCATE cache.entry")
        if self._entries_max:
            await self._database.execute(
                "UPDATE cache.namespace SET entries_max = $2 WHERE namespace = $1",
                *(NAMESPACE, self._entries_max),
            )

    # ------------------------------------------------------------------------ what is there

    async def _fill(self) -> None:
        gene = await self._database.fetchval(
            "SELECT min(hgnc_id) FROM annotator.gene WHERE status = 'approved'"
        )
        if gene is None:
            raise RuntimeError("there are no genes: annobus runs start --all")
        self._meant = orjson.dumps(gene)
        self._entries_max = await self._database.fetchval(
            """UPDATE cache.namespace new SET entries_max = 2 * $2 FROM cache.namespace old
               WHERE new.namespace = $1 AND old.namespace = $1 RETURNING old.entries_max""",
            *(NAMESPACE, self._count),
        )
        await self._database.execute("TRUNCATE cache.entry")
        await self._put("entry ", self._count, 0, b"".rjust(VALUE_BYTES, b"x"))
        await self._put("KEPT-", KEPT, KEPT_EPOCH, self._meant)
        await self._database.execute("VACUUM ANALYZE cache.entry")

    async def _put(self, name: str, number: int, epoch: int, value: bytes) -> None:
        await self._database.execute(
            """INSERT INTO cache.entry
               SELECT $1, key, $4, ARRAY['key=' || key, 'gene=HGNC:' || n], value,
                   octet_length(value), now(), now() + interval '1 day'
               FROM generate_series(1, $3) n,
                   LATERAL (VALUES ($2 || n, $5::bytea)) each (key, value)""",
            *(NAMESPACE, name, number, epoch, value),
        )

    # -------------------------------------------------------------------------- who deletes

    async def _take_duty(self) -> None:
        """Nobody deletes from now on: the duty is ours, as if another cache had it."""
        async with asyncio.timeout(DUTY_SECONDS_MAX):
            while not await self._cache.fetchval(
                "SELECT pg_try_advisory_lock(hashtextextended('duty:' || $1, 0))", DUTY
            ):
                await self._cache.execute(
                    """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                       WHERE application_name LIKE $1 || ' %' AND datname = current_database()""",
                    DUTY,
                )
                await asyncio.sleep(POLL_SECONDS)

    async def _give_duty(self) -> None:
        """Until somebody has begun to delete."""
        await self._cache.execute(
            "SELECT pg_advisory_unlock(hashtextextended('duty:' || $1, 0))", DUTY
        )
        before = (await self._transactions()).number
        async with asyncio.timeout(DUTY_SECONDS_MAX):
            while (await self._transactions()).number == before:
                await asyncio.sleep(POLL_SECONDS)

    async def _transactions(self) -> _Transactions:
        async with httpx2.AsyncClient(trust_env=False) as http:
            text = (await http.get(f"{self._cache_url}/metrics")).text
        name = "annobus_cache_reclaim_seconds"
        short = f'{name}_bucket{{le="{TRANSACTION_MS_MAX / 1000}"}}'
        return _Transactions(
            int(find_value(text, f"{name}_count")),
            int(find_value(text, short)),
            find_value(text, f"{name}_sum"),
        )

    async def _reclaimed(self) -> int:
        """What is left, taken from what there was: it is noted only every second."""
        return self._count - int(
            await self._database.fetchval(
                "SELECT count(*) FROM cache.entry WHERE namespace = $1 AND epoch = 0", NAMESPACE
            )
        )

    # ------------------------------------------------------------------------ what is asked

    async def _forget(self, number: int) -> tuple[float, float]:
        """Seconds from the order, and from its answer, until both gateways answer anew what had
        been an entry of the million: which gene a name means that there is not."""
        probe = f"PROBE-{number}"
        await self._database.execute(
            "UPDATE cache.namespace SET floor = 0 WHERE namespace = $1", NAMESPACE
        )
        await self._database.execute(
            """INSERT INTO cache.entry
               SELECT namespace, key, epoch, ARRAY['key=' || key], value, octet_length(value),
                   now(), now() + interval '1 day'
               FROM cache.namespace, (VALUES ($2, $3::bytea)) probe (key, value)
               WHERE namespace = $1""",
            *(NAMESPACE, probe, self._meant),
        )
        asked = [request(url, f"/api/genes/{probe}") for url in self._gateways]
        order = request(self._gateways[0], f"/api/cache/namespaces/{NAMESPACE}/invalidate", "POST")
        async with (
            connect(self._gateways[0]) as first,
            connect(self._gateways[1]) as second,
            connect(self._gateways[0]) as ordering,
        ):
            pairs = [*zip((first, second), asked, strict=True)]
            for connection, question in pairs:
                for _ in range(3):  # From the database, and from memory.
                    status, said = await connection.ask(question)
                    if status != httpx2.codes.OK:
                        raise RuntimeError(f"{probe}: {status} {said.decode(errors='replace')}")
            began = time.perf_counter()
            watching = [asyncio.create_task(_until_unknown(*pair)) for pair in pairs]
            status, said = await ordering.ask(order)
            answered = time.perf_counter()
            if status != httpx2.codes.ACCEPTED:
                raise RuntimeError(f"{order!r}: {status} {said.decode(errors='replace')}")
            ended = max(await asyncio.gather(*watching))
        return ended - began, max(ended - answered, 0.0)

    async def _read(self, pages: "_Reads", names: "_Reads", seconds: float) -> None:
        """Pages and names in turn, at a stated pace."""
        url = self._gateways[0]
        page = request(url, PAGE)
        began = time.perf_counter()
        turn = count_from()
        pages.begin()
        names.begin()

        async def read() -> None:
            async with connect(url) as connection:
                for number in turn:
                    due = began + number / REQUESTS_PER_SECOND
                    if due - began > seconds:
                        return
                    await asyncio.sleep(due - time.perf_counter())
                    if number % 2:
                        await names.ask(connection, request(url, next(self._names)))
                    else:
                        await pages.ask(connection, page)

        async with asyncio.TaskGroup() as readers:
            for _ in range(CONCURRENCY):
                readers.create_task(read())


class _Reads:
    """Of one route: seconds of each round, without and with somebody who deletes in turn."""

    def __init__(self) -> None:
        self._rounds: list[list[float]] = []
        self._failed = 0

    def begin(self) -> None:
        self._rounds.append([])

    async def ask(self, connection: Connection, asked: bytes) -> None:
        began = time.perf_counter()
        try:
            status, _ = await connection.ask(asked)
        except BROKEN:
            self._failed += 1
            raise
        self._rounds[-1].append(time.perf_counter() - began)
        self._failed += status != httpx2.codes.OK

    def route(self) -> Route:
        p95 = [percentile(seconds, 0.95) * 1_000 for seconds in self._rounds]
        return Route(sum(map(len, self._rounds)), self._failed, p95[::2], p95[1::2])


async def _until_unknown(connection: Connection, asked: bytes) -> float:
    """When the gateway has answered that it knows no such name."""
    while (await connection.ask(asked))[0] != httpx2.codes.NOT_FOUND:
        pass
    return time.perf_counter()


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


async def _alone(count: int) -> EntryFigures:
    folder = PROJECT / ".annobus"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=FOLDER, dir=folder) as made:
        options = Options(state=Path(made) / "state", limits=False)
        try:
            async with System(options, "bench", say) as system:
                url = Cluster(options.state).environment()[OWNER_URL]
                async with owner.connect(url) as database:
                    await runs.measure(system.url, database, ("hgnc",))
                return await measure(options, system, count)
        finally:
            Cluster(options.state).remove()


if __name__ == "__main__":
    measured = uvloop.run(_alone(int(sys.argv[1]) if sys.argv[1:] else COUNT))
    told = asdict(measured) | {
        "ratios": {"pages": measured.pages.ratio, "names": measured.names.ratio},
        "problems": measured.problems,
    }
    sys.stdout.buffer.write(orjson.dumps(told, option=orjson.OPT_INDENT_2) + b"\n")
