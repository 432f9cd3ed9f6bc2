"""The outbox: nothing is lost, nothing overtakes within a key, a rollback announces nothing."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.messages import InvalidateNamespace, NamespaceInvalidated, StartRun
from services.chassis import outbox
from services.chassis.bus import Bus
from services.chassis.database import open_session
from services.chassis.errors import MessageTooLarge
from tests.integration.chassis.desk import COMMANDS, EVENTS, WAIT_SECONDS, started
from tests.integration.chassis.desk import Broker as RealBroker
from tests.system import Database

Sent = tuple[str, str, dict[str, str], bytes]


class Broker:
    """Stands for Kafka at the producer's door: takes records in order, or refuses a key."""

    def __init__(self, refuses: str | None = None) -> None:
        self.refuses = refuses
        self.sent: list[Sent] = []
        self.arrived = asyncio.Event()

    async def publish(
        self, topic: str, key: str, headers: dict[str, str], payload: bytes
    ) -> "asyncio.Future[Any]":
        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if key == self.refuses:
            outcome.set_exception(OSError("refused"))
        else:
            outcome.set_result(None)
            self.sent.append((topic, key, headers, payload))
            self.arrived.set()
        return outcome

    def keys(self) -> list[str]:
        return [key for _, key, _, _ in self.sent]


async def add(engine: AsyncEngine, *namespaces: str) -> None:
    async with engine.begin() as tx:
        await outbox.add(tx, *(InvalidateNamespace(namespace=name) for name in namespaces))


async def left(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int(await connection.scalar(text("SELECT count(*) FROM outbox")))


async def test_a_rollback_announces_nothing(database: Database) -> None:
    async with database.engine("gateway") as engine:
        async with engine.connect() as connection:
            tx = await connection.begin()
            await outbox.add(connection, InvalidateNamespace(namespace="genes"))
            await tx.rollback()
        assert await left(engine) == 0


async def test_messages_leave_in_order_with_their_envelope_and_are_forgotten(
    database: Database,
) -> None:
    broker = Broker()
    settings = database.settings("gateway")
    async with database.engine("gateway") as engine:
        run_id = uuid4()
        async with engine.begin() as tx:
            await outbox.add(tx, StartRun(run_id=run_id, sources=("hpo",)))
        await add(engine, "a", "b", "a")
        async with open_session(settings, "test-relay") as session:
            assert await outbox.relay_once(session, broker.publish) == 4
        assert await left(engine) == 0
    assert broker.keys() == [str(run_id), "a", "b", "a"]
    topic, _, headers, payload = broker.sent[0]
    assert topic == "pipeline.commands.v1"
    assert headers["ce_type"] == "annobus.run.start.v1"
    assert headers["ce_subject"] == str(run_id)
    assert len({sent[2]["ce_id"] for sent in broker.sent}) == 4
    assert StartRun.model_validate_json(payload).run_id == run_id


async def test_a_message_that_is_refused_holds_back_its_key_and_no_other(
    database: Database,
) -> None:
    broker = Broker(refuses="a")
    settings = database.settings("gateway")
    async with database.engine("gateway") as engine:
        await add(engine, "a", "b", "a", "c")
        async with open_session(settings, "test-relay") as session:
            assert await outbox.relay_once(session, broker.publish) == 2
            assert await left(engine) == 2
            broker.refuses = None
            assert await outbox.relay_once(session, broker.publish) == 2
        assert await left(engine) == 0
    assert broker.keys() == ["b", "c", "a", "a"]


async def test_a_topic_that_is_missing_holds_back_its_messages_and_no_others(
    broker: RealBroker, database: Database
) -> None:
    """The broker has no topic of events yet, as when `annobus migrate` is on its way."""
    settings = database.settings("gateway")
    async with (
        database.engine("gateway") as engine,
        open_session(settings, "test-relay") as session,
        started(bus := Bus(broker.settings, "gateway")),
    ):
        await add(engine, "ahead")
        async with engine.begin() as tx:
            for epoch in (1, 2):
                await outbox.add(tx, NamespaceInvalidated(namespace="genes", epoch=epoch))
        await add(engine, "behind")
        for arrived in (2, 0):
            async with asyncio.timeout(outbox.PUBLISH_TIMEOUT_SECONDS / 10):
                assert await outbox.relay_once(session, bus.publish) == arrived
        assert await left(engine) == 2
        records = await broker.records(COMMANDS, 2)
        names = [InvalidateNamespace.model_validate_json(r.value).namespace for r in records]
        assert sorted(names) == ["ahead", "behind"]

        await broker.create(EVENTS)
        async with asyncio.timeout(WAIT_SECONDS):
            while await left(engine):
                await outbox.relay_once(session, bus.publish)
        events = await broker.records(EVENTS, 2)
    epochs = [NamespaceInvalidated.model_validate_json(event.value).epoch for event in events]
    assert epochs == [1, 2]


async def test_what_is_refused_lets_what_is_behind_it_pass_however_much_it_is(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "ROWS_MAX", 3)
    broker = Broker(refuses="a")
    settings = database.settings("gateway")
    async with database.engine("gateway") as engine:
        await add(engine, *"aaaaa", "b")
        relay = asyncio.create_task(outbox.relay(settings, "gateway", broker.publish))
        async with asyncio.timeout(WAIT_SECONDS):
            await broker.arrived.wait()
            assert broker.keys() == ["b"]
            broker.refuses = None
            while await left(engine):
                await asyncio.sleep(0.05)
        relay.cancel()
        await asyncio.wait({relay})
    assert broker.keys() == ["b", *"aaaaa"]


async def test_a_row_that_is_sent_twice_carries_the_same_id(database: Database) -> None:
    """A relay that dies between the broker's answer and its delete."""
    broker = Broker()
    settings = database.settings("gateway")
    async with database.engine("gateway") as engine:
        await add(engine, "a")
        async with open_session(settings, "test-relay") as session:
            await session.execute(text("BEGIN"))
            await outbox.relay_once(session, broker.publish)
            await session.execute(text("ROLLBACK"))
            await outbox.relay_once(session, broker.publish)
    first, second = (headers["ce_id"] for _, _, headers, _ in broker.sent)
    assert first == second


async def test_a_message_above_the_limit_is_refused_where_it_is_made(database: Database) -> None:
    async with database.engine("gateway") as engine, engine.connect() as connection:
        with pytest.raises(MessageTooLarge, match="at most"):
            await outbox.add(
                connection, InvalidateNamespace(namespace="x" * outbox.PAYLOAD_BYTES_MAX)
            )


async def test_one_relay_works_at_a_time_and_another_takes_over(database: Database) -> None:
    first, second = Broker(), Broker()
    settings = database.settings("gateway")
    async with database.engine("gateway") as engine:
        one = asyncio.create_task(outbox.relay(settings, "gateway", first.publish))
        await add(engine, "a")
        async with asyncio.timeout(10):
            await first.arrived.wait()
        other = asyncio.create_task(outbox.relay(settings, "gateway", second.publish))
        await add(engine, "b")
        async with asyncio.timeout(10):
            while await left(engine):  # Else the other one sends what this one has not forgotten.
                await asyncio.sleep(0.01)
        one.cancel()
        await add(engine, "c")
        async with asyncio.timeout(10):
            await second.arrived.wait()
        other.cancel()
        await asyncio.wait({one, other})
    assert (first.keys(), second.keys()) == (["a", "b"], ["c"])


async def test_a_relay_outlives_its_database_session(database: Database) -> None:
    broker = Broker()
    settings = database.settings("gateway")
    async with database.engine("gateway") as engine:
        relay = asyncio.create_task(outbox.relay(settings, "gateway", broker.publish))
        await add(engine, "a")
        async with asyncio.timeout(10):
            await broker.arrived.wait()
        async with database.connect("gateway") as killer:
            killed = await killer.fetchval("""
                SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE application_name LIKE 'relay-gateway %' AND datname = current_database()""")
        assert killed == 1
        await add(engine, "b")
        async with asyncio.timeout(10):
            while len(set(broker.keys())) < 2:
                await asyncio.sleep(0.01)
        relay.cancel()
        await asyncio.wait({relay})
    # Killed between the broker's answer and its delete, it sends a row twice, and never too late.
    assert list(dict.fromkeys(broker.keys())) == ["a", "b"]
