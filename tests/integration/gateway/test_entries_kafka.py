"""Two gateways and the cache on a real broker: what was forgotten is served by neither."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.parts import Part
from contracts.topics import FIXED
from services.cache import handlers as cache
from services.chassis import outbox
from services.chassis.bus import Bus
from services.gateway.handlers import keep_trust, subscriptions
from tests.integration.chassis.desk import Broker, open_broker
from tests.integration.gateway.desk import PKD1, PKD2, Desk, open_desk
from tests.system import Database, SharedCluster
from tests.waiting import until

AGREED_SECONDS_MAX = 1.0
LISTS = "lists"


@dataclass
class World:
    """What values are made of, two gateways, and how the cache is told and tells."""

    database: Database
    cache: AsyncEngine
    broker: Broker
    truth: int = 1
    made: list[int] = field(default_factory=list)

    async def make(self) -> bytes | None:
        self.made.append(self.truth)
        return str(self.truth).encode()

    async def served(self, desk: Desk, gene: str) -> int:
        entry = await desk.entries.get(LISTS, gene, [Part(gene=gene)], self.make)
        return int(entry.value or b"0")

    async def invalidate(self, desk: Desk, **body: Sequence[str]) -> float:
        """Returns when it was acknowledged: it is told to all who hear."""
        before = await self.epoch()
        address = f"/api/cache/namespaces/{LISTS}/invalidate"
        assert (await desk.client.post(address, json=body)).status_code == 202

        async def acknowledged() -> bool:
            async with self.cache.connect() as connection:
                left = await connection.scalar(text("SELECT count(*) FROM outbox"))
            return left == 0 and await self.epoch() > before

        await until(acknowledged, "the invalidation is told")
        return time.monotonic()

    async def epoch(self) -> int:
        async with self.cache.connect() as connection:
            found = await connection.scalar(
                text("SELECT epoch FROM namespace WHERE namespace = :lists"), {"lists": LISTS}
            )
        return int(found or 0)

    async def agree(self, since: float, gene: str, *desks: Desk) -> None:
        """All of them serve the truth in time, and go on with it."""
        for desk in desks:

            async def serves(desk: Desk = desk) -> bool:
                return await self.served(desk, gene) == self.truth

            await until(serves, "the truth is served", AGREED_SECONDS_MAX)
        assert time.monotonic() - since < AGREED_SECONDS_MAX
        for desk in desks:
            assert await self.served(desk, gene) == self.truth


@pytest_asyncio.fixture
async def world(
    cluster: SharedCluster, database: Database, topic_prefix: str
) -> AsyncIterator[World]:
    bootstrap = cluster.environment()["ANNOBUS_KAFKA_BOOTSTRAP"]
    async with (
        database.engine("cache") as engine,
        open_broker(bootstrap, topic_prefix, *(topic.name for topic in FIXED)) as broker,
    ):
        bus = Bus(broker.settings, "cache")
        bus.subscribe(cache.subscriptions(cache.Handlers(engine)))
        async with _running(database, bus, broker, "cache"):
            yield World(database, engine, broker)


@asynccontextmanager
async def gateway(world: World) -> AsyncIterator[Desk]:
    async with open_desk(world.database) as desk:
        bus = Bus(world.broker.settings, "gateway")
        bus.subscribe(subscriptions(desk.handlers))
        desk.documents.trust(False)
        desk.entries.trust(False)
        hearing = keep_trust(bus, desk.documents, desk.entries)
        async with _running(world.database, bus, world.broker, "gateway", hearing):
            yield desk


@asynccontextmanager
async def _running(
    database: Database, bus: Bus, broker: Broker, service: str, *others: Coroutine[Any, Any, None]
) -> AsyncIterator[None]:
    """The bus, the service's relay, and what else it does, until the context ends."""
    await bus.start()
    settings = database.settings(service, shared=broker.settings)
    relay = outbox.relay(settings, service, bus.publish)
    tasks = [asyncio.create_task(one) for one in (relay, *others)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await bus.stop()


async def test_two_gateways_agree_after_an_invalidation_whoever_was_restarted_meanwhile(
    world: World,
) -> None:
    async with gateway(world) as first:
        await first.add_genes()
        async with gateway(world) as second:
            for desk in (first, second):
                await until(partial(held, desk), "it hears")
                assert await world.served(desk, PKD1) == await world.served(desk, PKD2) == 1
            assert world.made == [1, 1]  # Each once, for both.

            world.truth = 2
            assert await world.served(first, PKD1) == await world.served(second, PKD1) == 1
            told = await world.invalidate(first, genes=["PKD1"])
            await world.agree(told, PKD1, first, second)
            assert await world.served(second, PKD2) == 1  # That was not forgotten.

        world.truth = 3
        told = await world.invalidate(first)  # The second one is away.
        async with gateway(world) as third:
            assert await world.served(third, PKD1) == 3  # From the beginning, heard or not.
            await world.agree(told, PKD2, first)
            await until(partial(held, third), "it hears")

            world.truth = 4
            async with AsyncExitStack() as restarted:
                told = await world.invalidate(third, sources=["hpo"])
                await world.agree(told, PKD1, third, first)
                fourth = await restarted.enter_async_context(gateway(world))
                assert await world.served(fourth, PKD1) == 4


async def held(desk: Desk) -> bool:
    """Whether it keeps anything in memory, as it does while it hears."""

    async def make() -> bytes | None:
        return b"0"

    await desk.entries.get("facets", "any", (), make)
    return desk.entries.in_memory("facets") != (0, 0)
