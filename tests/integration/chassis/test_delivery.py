"""Delivery on a real broker: handled once, again or from the beginning, and in order."""

import asyncio
import json
import time
from itertools import pairwise
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import text

from contracts.messages import (
    AnnotationsChanged,
    InvalidateNamespace,
    NamespaceInvalidated,
    RunProgress,
)
from services.cache.handlers import Handlers
from services.chassis.bus import RETRY_PAUSE_SECONDS, Bus, Subscription
from services.chassis.errors import PermanentError, TransientError
from tests.integration.chassis.desk import (
    EVENTS,
    KNOWN,
    PARTITIONS,
    WAIT_SECONDS,
    Broker,
    Heard,
    Held,
    body,
    soon,
    started,
    typed,
)
from tests.system import Database

RETRIES_SEEN = 3
LONG_SECONDS = 0.3  # After a third of it the library would ask for what other partitions have.
AT_ONCE_SECONDS = 1.0


async def test_a_handler_that_fails_once_gets_the_message_again_and_order_is_kept(
    broker: Broker,
) -> None:
    heard = Heard()

    async def stumble(message: InvalidateNamespace) -> None:
        await heard(message)
        if heard.names == ["a", "b"]:
            raise ConnectionError("the database is gone for a moment")

    async with broker.listen(stumble):
        for name in "abc":
            await broker.command(name)
        await heard.until("c")
    assert heard.names == ["a", "b", "b", "c"]
    assert await broker.committed() == {0: 3}
    assert await broker.parked(0) == []


async def test_what_comes_behind_a_message_that_took_long_is_heard_at_once(broker: Broker) -> None:
    """Meanwhile nothing came in the other partitions, and who had asked for it would still wait."""
    heard = Held("long")
    async with broker.listen(heard):
        await broker.command("before")
        await heard.until("before")
        await broker.command("long")
        await soon(heard.held)
        await asyncio.sleep(LONG_SECONDS)
        heard.release.set()
        began = time.monotonic()
        await broker.command("behind")
        await heard.until("behind")
        assert time.monotonic() - began < AT_ONCE_SECONDS


async def test_what_can_never_succeed_is_parked_with_its_reason(broker: Broker) -> None:
    heard = Heard()

    async def refuse(message: InvalidateNamespace) -> None:
        await heard(message)
        if message.namespace == "bad":
            raise PermanentError("there is no such namespace")

    async with broker.listen(refuse):
        for name in ("first", "bad", "last"):
            await broker.command(name)
        await heard.until("last")
        (letter,) = await broker.parked(1)
    assert heard.names == ["first", "bad", "last"]
    assert "no such namespace" in json.loads(dict(letter.headers)["problem"])["detail"]
    assert await broker.committed() == {0: 3}


async def test_what_the_database_takes_at_no_time_is_parked_and_holds_up_nobody(
    broker: Broker, database: Database
) -> None:
    heard = Heard()

    async with database.engine("cache") as engine:

        async def keep(message: InvalidateNamespace) -> None:
            async with engine.connect() as connection:
                await connection.execute(
                    text("SELECT CAST(:name AS text)"), {"name": message.namespace}
                )
            await heard(message)

        async with broker.listen(keep):
            for name in ("first", "a\0b", "last"):
                await broker.command(name)
            await heard.until("last")
            (letter,) = await broker.parked(1)
    assert heard.names == ["first", "last"]
    assert "invalid byte sequence" in json.loads(dict(letter.headers)["problem"])["detail"]
    assert await broker.committed() == {0: 3}


async def test_what_may_succeed_later_waits_in_its_partition_without_spinning(
    broker: Broker,
) -> None:
    heard = Heard()
    calls: list[float] = []
    enough = asyncio.Event()
    healed = False

    async def fail(message: InvalidateNamespace) -> None:
        if message.namespace == "ill":
            calls.append(time.monotonic())
            if len(calls) == RETRIES_SEEN:
                enough.set()
            if not healed:
                raise TransientError("not yet")
        await heard(message)

    others = [f"other {number}" for number in range(3 * (PARTITIONS - 1))]
    async with broker.listen(fail):
        await broker.command("ill", partition=0)
        await broker.command("behind", partition=0)
        for number, name in enumerate(others):
            await broker.command(name, partition=1 + number % (PARTITIONS - 1))
        await heard.until(*others)
        await soon(enough)
        assert set(heard.names) == set(others)
        assert 0 not in await broker.committed()
        assert await broker.parked(0) == []
        healed = True
        await heard.until("behind")
    assert heard.names[-2:] == ["ill", "behind"]
    assert (await broker.committed())[0] == 2
    pauses = [after - before for before, after in pairwise(calls)]
    assert min(pauses) >= RETRY_PAUSE_SECONDS / 2


async def test_a_handler_that_awaited_something_cancelled_gets_the_message_again(
    broker: Broker,
) -> None:
    """Its subscriber would take it for its own end, and be dead behind a broker that answers."""
    heard = Heard()

    async def awaits_in_vain(message: InvalidateNamespace) -> None:
        await heard(message)
        if heard.names == ["a"]:
            other = asyncio.get_running_loop().create_future()
            other.cancel()
            await other

    async with broker.listen(awaits_in_vain) as bus:
        await broker.command("a")
        await broker.command("b")
        await heard.until("b")
        assert await bus.problems() == []
    assert heard.names == ["a", "a", "b"]
    assert await broker.parked(0) == []


async def test_a_database_that_is_away_parks_nothing_and_all_is_handled_when_it_is_back(
    broker: Broker, database: Database
) -> None:
    """Real sessions are cut, and new ones refused."""
    await broker.create(AnnotationsChanged.topic)
    failed = asyncio.Event()
    async with database.engine("cache") as engine, database.connect() as owner:
        handlers = Handlers(engine)

        async def handle(event: AnnotationsChanged) -> None:
            try:
                await handlers.on_annotations_changed(event)
            except Exception:
                failed.set()
                raise

        bus = Bus(broker.settings, "cache")
        bus.subscribe(
            [Subscription(AnnotationsChanged.topic, {AnnotationsChanged: handle}, "cache")]
        )
        async with started(bus):
            await change(broker, "HGNC:1", partition=0)
            await until_dirty(owner, 1)
            async with database.connect("cache") as cache:  # A role may end its own sessions.
                await owner.execute(f'ALTER DATABASE "{database.name}" CONNECTION LIMIT 0')
                await cache.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE usename = current_user AND pid <> pg_backend_pid()"
                )
            for number in range(2, 6):
                await change(broker, f"HGNC:{number}", partition=number % 2)
            await soon(failed)
            assert await owner.fetchval("SELECT count(*) FROM cache.dirty_gene") == 1
            await owner.execute(f'ALTER DATABASE "{database.name}" CONNECTION LIMIT -1')
            await until_dirty(owner, 5)
    assert await broker.parked(0) == []
    acknowledged = await broker.committed("cache", AnnotationsChanged.topic)
    assert sum(acknowledged.values()) == 5


async def change(broker: Broker, gene: str, partition: int) -> None:
    event = AnnotationsChanged(source="hpo", release_id=uuid4(), bucket=partition, genes=(gene,))
    await broker.send(
        event.model_dump_json().encode(),
        typed(event.type),
        topic=event.topic,
        partition=partition,
    )


async def until_dirty(owner: "asyncpg.Connection[asyncpg.Record]", count: int) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while await owner.fetchval("SELECT count(*) FROM cache.dirty_gene") < count:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("group", ["planner", None])
async def test_nothing_is_missed_that_is_published_right_after_a_start(
    broker: Broker, group: str | None
) -> None:
    """A position at the end is looked up after the start: what comes in between would be lost."""
    heard = Heard()
    names = [f"message {number}" for number in range(20)]
    async with broker.listen(heard, group=group) as bus:
        assert group or knows_where_now_is(bus)
        for number, name in enumerate(names):
            await broker.command(name, partition=number % PARTITIONS)
        await heard.until(*names)
    assert sorted(heard.names) == sorted(names)


def knows_where_now_is(bus: Bus) -> bool:
    """The messages alone would tell of a race that is seldom lost."""
    (subscriber,) = bus._subscribers()  # noqa: SLF001
    consumer: Any = subscriber.consumer
    assignment = consumer._subscription.subscription.assignment  # noqa: SLF001
    return len(assignment.all_consumed_offsets()) == PARTITIONS


async def test_a_new_group_reads_from_the_beginning(broker: Broker) -> None:
    await broker.command("before anybody listened")
    heard = Heard()
    async with broker.listen(heard):
        await heard.until("before anybody listened")


async def test_without_a_group_everybody_hears_what_comes_from_now_on(broker: Broker) -> None:
    await broker.command("before")
    one, other = Heard(), Heard()
    async with broker.listen(one, group=None), broker.listen(other, group=None):
        await broker.command("after")
        await one.until("after")
        await other.until("after")
    assert one.names == other.names == ["after"]


async def test_who_begins_some_time_ago_hears_at_once_what_was_said_since(broker: Broker) -> None:
    hour_ago_ms = int((time.time() - 3_600) * 1000)
    await broker.send(body("long before"), typed(KNOWN), timestamp_ms=hour_ago_ms)
    await broker.send(body("before"), typed(KNOWN))
    heard = Heard()
    async with broker.listen(heard, group=None, seconds_ago=60.0):
        began = time.monotonic()
        await heard.until("before")
        assert time.monotonic() - began < AT_ONCE_SECONDS
        await broker.command("after")
        await heard.until("after")
    assert heard.names == ["before", "after"]


async def test_a_snapshot_is_sent_directly_with_its_envelope(broker: Broker) -> None:
    progress = RunProgress(
        run_id=uuid4(),
        seq=7,
        state="running",
        total_count=None,
        done_count=0,
        no_data_count=0,
        failed_count=0,
        sources={},
    )
    await broker.create(RunProgress.topic)
    async with started(bus := Bus(broker.settings, "annotator")):
        await bus.send(progress, f"{progress.run_id}:7")
    (record,) = await broker.records(RunProgress.topic, 1)
    headers = {name: value.decode() for name, value in record.headers}
    assert headers["ce_id"] == f"{progress.run_id}:7"
    assert headers["ce_source"] == "/annobus/annotator"
    assert headers["ce_type"] == RunProgress.type
    assert RunProgress.model_validate_json(record.value) == progress


async def test_an_event_type_is_decoded_by_its_header_not_its_shape(broker: Broker) -> None:
    """Two types with the same fields: the header alone tells them apart."""
    await broker.create(EVENTS)
    heard: asyncio.Queue[NamespaceInvalidated] = asyncio.Queue()
    bus = Bus(broker.settings, "test")
    bus.subscribe([Subscription(EVENTS, {NamespaceInvalidated: heard.put}, group="g")])
    body = b'{"namespace": "genes", "epoch": 1}'
    async with started(bus):
        await broker.send(body, typed(KNOWN), topic=EVENTS)
        await broker.send(body, typed(NamespaceInvalidated.type), topic=EVENTS)
        async with asyncio.timeout(WAIT_SECONDS):
            await heard.get()
    assert heard.empty()
