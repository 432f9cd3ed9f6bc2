"""Two gateways as processes: after an acknowledged invalidation neither serves the old value, also
where both were killed in between."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Literal, get_args

import asyncpg
import httpx2
import pytest

from infra import supervisor
from infra.addresses import KAFKA_BOOTSTRAP
from tests.builders import Gene, build_catalogue
from tests.e2e.running import Running, run_services
from tests.faults.proxy import NetworkKind
from tests.faults.servers import TEMPLATE, open_cluster
from tests.system import Database, Mirror, http_client, open_database
from tests.waiting import until

AGREED_SECONDS = 1.0  # After an acknowledgement: so soon nobody serves what was before,
HELD_SECONDS = 1.0  # and for so long it is looked whether it comes back.
READY_SECONDS_MAX = 30.0
CUT_OFF_SECONDS = 60.0  # At most, for one round.
READ_PERIOD_SECONDS = 0.01
GATEWAYS = ("gateway", "gateway-1")
WARMED = ("genes", "lists", "resolutions")  # The namespaces of what is read.
FIRST, SECOND = "HGNC:9008", "HGNC:9009"
GENES: Sequence[Gene] = ((FIRST, "MMM1", "5310", None), (SECOND, "MMM2", "5311", None))
NICKNAME = "NICK"
PATHS = (f"/api/genes/{FIRST}", "/api/genes?sort=symbol", f"/api/genes/{NICKNAME}")

# When gateways are killed: none; the second, before the order; both, as soon as it is acknowledged;
# both, when everybody has been told.
Kill = Literal["none", "other_before", "both_acknowledged", "both_told"]


@dataclass(frozen=True)
class Told:
    """What a gateway says: a gene's name, the symbols of a page, and which gene a name means."""

    name: str
    symbols: Sequence[str]
    meant: str


@dataclass
class World:
    running: Running
    owner: "asyncpg.Connection[asyncpg.Record]"
    clients: Sequence[httpx2.AsyncClient]
    round: int = 0

    @property
    def truth(self) -> Told:
        """Each round the gene has another name, comes before the other one or behind it, and the
        nickname means the other one."""
        return Told(
            name=f"round {self.round}",
            symbols=sorted([self.symbol, "MMM2"]),
            meant=(FIRST, SECOND)[self.round % 2],
        )

    @property
    def symbol(self) -> str:
        return f"{'AZ'[self.round % 2]}{self.round}"

    async def change(self) -> None:
        """The truth, which nobody is told of yet."""
        self.round += 1
        async with self.owner.transaction():
            await self.owner.execute(
                "UPDATE annotator.gene SET name = $2, symbol = $3 WHERE hgnc_id = $1",
                *(FIRST, self.truth.name, self.symbol),
            )
            await self.owner.execute(
                "UPDATE annotator.gene_name SET hgnc_id = $1 WHERE name = $2",
                *(self.truth.meant, NICKNAME),
            )

    async def invalidate(self, namespace: str, **parts: Sequence[str]) -> None:
        """Ordered of the first gateway, and acknowledged."""
        address = f"/api/cache/namespaces/{namespace}/invalidate"
        answer = await self.clients[0].post(address, json=parts)
        assert answer.status_code == 202, answer.text

    async def rebuild(self) -> None:
        """Have the gene's document rebuilt, as after a change of its annotations, and everybody
        told of it."""
        await self.owner.execute(
            "INSERT INTO cache.dirty_gene VALUES ($1) ON CONFLICT DO NOTHING", FIRST
        )
        await self.owner.execute("NOTIFY rebuilder")

        async def is_told() -> bool:
            return bool(
                await self.owner.fetchval(
                    """SELECT document->>'name' = $2 AND NOT EXISTS (SELECT FROM cache.outbox)
                       FROM cache.gene WHERE hgnc_id = $1""",
                    *(FIRST, self.truth.name),
                )
            )

        await until(is_told, "the new document is told")

    async def epochs(self) -> dict[str, int]:
        rows = await self.owner.fetch("SELECT namespace, epoch FROM cache.namespace")
        return {row["namespace"]: row["epoch"] for row in rows}

    async def until_told(self, before: dict[str, int]) -> None:
        async def is_told() -> bool:
            epochs = await self.epochs()
            left = await self.owner.fetchval("SELECT count(*) FROM cache.outbox")
            return not left and all(epochs[one] > before[one] for one in ("lists", "resolutions"))

        await until(is_told, "the invalidations are told")

    @asynccontextmanager
    async def readers(self) -> AsyncIterator[None]:
        """Read meanwhile, as people do: what is forgotten is asked for at once."""
        reading = asyncio.create_task(self._keep_reading())
        try:
            yield
            assert not reading.done()
        finally:
            reading.cancel()
            await asyncio.wait({reading})

    async def _keep_reading(self) -> None:
        while True:
            for client in self.clients:
                with suppress(httpx2.TransportError):
                    await self.read(client)
            await asyncio.sleep(READ_PERIOD_SECONDS)

    async def read(self, client: httpx2.AsyncClient) -> Told:
        gene, page, meant = [
            (await client.get(path)).raise_for_status().json()["data"] for path in PATHS
        ]
        symbols = [one["attributes"]["symbol"] for one in page]
        return Told(gene["attributes"]["name"], symbols, meant["id"])

    async def warm(self) -> None:
        """Both have what is true now in memory."""
        for client in self.clients:

            async def hits(client: httpx2.AsyncClient = client) -> bool:
                before = await _hits(client)
                told = await self.read(client)
                after = await _hits(client)
                return told == self.truth and all(after[one] > before[one] for one in WARMED)

            await until(hits, "what is read is in memory")

    def kill(self, *names: str) -> None:
        """At once, and without a word; the supervisor starts them again."""
        for name in names:
            os.kill(self.running.supervisor.pids[name], signal.SIGKILL)

    async def until_ready(self, killed: Sequence[str], restarts: dict[str, int]) -> None:
        for name in killed:

            def is_started_again(name: str = name) -> bool:
                return self.running.supervisor.restarts[name] > restarts[name]

            await until(is_started_again, f"{name} is started again")
            await until(self.running.readiness()[name], f"{name} is ready", READY_SECONDS_MAX)

    async def agree(self) -> None:
        """Neither says anything but the truth, now and for a while."""
        until_then = time.monotonic() + HELD_SECONDS
        while time.monotonic() < until_then:
            for name, client in zip(GATEWAYS, self.clients, strict=True):
                assert await self.read(client) == self.truth, name


async def _hits(client: httpx2.AsyncClient) -> dict[str, int]:
    answer = (await client.get("/api/cache/statistics")).raise_for_status()
    return {one["id"]: one["attributes"]["here"]["hit"] for one in answer.json()["data"]}


@asynccontextmanager
async def open_world(
    database: Database,
    topic_prefix: str,
    mirror: Mirror,
    folder: Path,
    environments: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> AsyncIterator[World]:
    async with database.begin("annotator") as tx:
        await build_catalogue(tx, GENES)
    async with AsyncExitStack() as stack:
        owner = await stack.enter_async_context(database.connect())
        await owner.execute(
            """INSERT INTO annotator.gene_name (folded, name, kind, hgnc_id)
               VALUES (lower($1), $1, 'alias', $2)""",
            *(NICKNAME, FIRST),
        )
        await owner.execute("INSERT INTO cache.dirty_gene SELECT hgnc_id FROM annotator.gene")
        running = await stack.enter_async_context(
            run_services(
                database,
                topic_prefix,
                mirror,
                folder,
                annotators=0,
                gateways=2,
                environments=environments,
            )
        )
        clients = [
            await stack.enter_async_context(http_client(f"http://127.0.0.1:{running.ports[name]}"))
            for name in GATEWAYS
        ]
        world = World(running, owner, clients)
        await world.change()
        await world.rebuild()
        yield world


@pytest.mark.timeout(120)
async def test_after_an_acknowledged_invalidation_neither_gateway_serves_the_old_value(
    database: Database,
    topic_prefix: str,
    mirror: Mirror,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Each death is the first for a while.
    monkeypatch.setattr(supervisor, "DEATHS_WINDOW_SECONDS", 0.1)
    async with open_world(database, topic_prefix, mirror, tmp_path) as world, world.readers():
        for kill in get_args(Kill):
            await world.warm()
            await go_round(world, kill)


@pytest.mark.timeout(120)
@pytest.mark.embedded
@pytest.mark.parametrize("kind", ["blackhole"])
async def test_a_gateway_that_kafka_does_not_reach_serves_nothing_old(
    topic_prefix: str, mirror: Mirror, tmp_path: Path, kind: NetworkKind
) -> None:
    async with open_cluster(tmp_path) as servers:
        kafka = servers.network["kafka"]
        through_it = {GATEWAYS[1]: {KAFKA_BOOTSTRAP: f"127.0.0.1:{kafka.port}"}}
        async with (
            open_database(servers.cluster, "replicas", TEMPLATE) as database,
            open_world(database, topic_prefix, mirror, tmp_path / "services", through_it) as world,
            world.readers(),
        ):
            await world.warm()
            cut_off = asyncio.create_task(kafka.suffer(kind, CUT_OFF_SECONDS, Random(1)))
            await go_round(world, "none")
            assert not cut_off.done()
            assert kafka.struck
            cut_off.cancel()
            await asyncio.wait({cut_off})
            await world.warm()  # It hears again, and keeps what it reads.
            await go_round(world, "none")


async def go_round(world: World, kill: Kill) -> None:
    killed: Sequence[str] = {"none": (), "other_before": GATEWAYS[1:]}.get(kill, GATEWAYS)
    restarts = world.running.supervisor.restarts
    before = await world.epochs()
    await world.change()
    await world.rebuild()
    if kill == "other_before":
        world.kill(*killed)
    await world.invalidate("lists")
    await world.invalidate("resolutions", keys=[NICKNAME])
    acknowledged = time.monotonic()
    if kill == "both_told":
        await world.until_told(before)
    if kill.startswith("both"):
        world.kill(*killed)
    await world.until_ready(killed, restarts)
    due = acknowledged + AGREED_SECONDS
    if kill == "both_acknowledged":
        # An order that is in the outbox of who was killed is given when it is back.
        due = time.monotonic() + AGREED_SECONDS
    await asyncio.sleep(max(due - time.monotonic(), 0))
    await world.agree()
