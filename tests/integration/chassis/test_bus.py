"""The subscriber factory on a real broker: what is handled, parked, read again, and passed over."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest_asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord

from contracts.messages import (
    GENES_MAX,
    InvalidateNamespace,
    NamespaceInvalidated,
    RunProgress,
    StartRun,
)
from contracts.topics import DEAD_LETTERS, topics
from infra.cluster import Cluster
from services.chassis import outbox
from services.chassis.bus import Bus, Routes, Subscription
from services.chassis.errors import DETAIL_CHARACTERS_MAX, PermanentError
from services.chassis.settings import SharedSettings
from services.cli.migrate import create_topics

COMMANDS = "pipeline.commands.v1"
EVENTS = "cache.events.v1"
WAIT_SECONDS = 20


class Broker:
    """The session's broker, under a prefix of this test's own."""

    def __init__(self, bootstrap: str, prefix: str, producer: AIOKafkaProducer) -> None:
        self.settings = SharedSettings(kafka_bootstrap=bootstrap, topic_prefix=prefix)
        self.prefix = prefix
        self.producer = producer

    async def send(
        self,
        body: bytes | None,
        headers: list[tuple[str, bytes | None]],
        topic: str = COMMANDS,
        key: bytes = b"k",
    ) -> None:
        """As any program may, our rules or not. One key: one partition, in order."""
        await self.producer.send_and_wait(self.prefix + topic, body, key=key, headers=headers)

    async def command(self, namespace: str) -> None:
        message = InvalidateNamespace(namespace=namespace)
        headers: list[tuple[str, bytes | None]] = [
            (name, value.encode()) for name, value in outbox.envelope(message).items()
        ]
        await self.send(message.model_dump_json().encode(), headers)

    @asynccontextmanager
    async def listen(
        self,
        handle: Callable[[InvalidateNamespace], Awaitable[None]],
        *,
        group: str | None = "planner",
        parks_unknown: bool = True,
        instance: str | None = None,
    ) -> AsyncIterator[Bus]:
        bus = Bus(self.settings, "test")
        routes: Routes = {InvalidateNamespace: handle}
        bus.subscribe([Subscription(COMMANDS, routes, group, parks_unknown)], instance)
        await bus.start()
        try:
            yield bus
        finally:
            await bus.stop()

    async def parked(self, count: int) -> list[ConsumerRecord]:
        """The first dead letters; waits for so many, and then a moment for one too many."""
        consumer = AIOKafkaConsumer(
            self.prefix + DEAD_LETTERS,
            bootstrap_servers=self.settings.kafka_bootstrap,
            auto_offset_reset="earliest",
        )
        await consumer.start()
        found: list[ConsumerRecord] = []
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while len(found) < count:
                    for records in (await consumer.getmany(timeout_ms=200)).values():
                        found += records
            for records in (await consumer.getmany(timeout_ms=500)).values():
                found += records
        finally:
            await consumer.stop()
        return found


@pytest_asyncio.fixture
async def broker(cluster: Cluster, topic_prefix: str) -> AsyncIterator[Broker]:
    bootstrap = cluster.environment()["ANNOBUS_KAFKA_BOOTSTRAP"]
    await create_topics(bootstrap, topics([], topic_prefix))
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    await producer.start()
    yield Broker(bootstrap, topic_prefix, producer)
    await producer.stop()


class Heard:
    """A handler that remembers what it was given, and who waits for it."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._more = asyncio.Event()

    async def __call__(self, message: InvalidateNamespace) -> None:
        self.names.append(message.namespace)
        self._more.set()

    async def until(self, name: str) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while name not in self.names:
                self._more.clear()
                await self._more.wait()


def typed(name: str) -> list[tuple[str, bytes | None]]:
    return [("ce_type", name.encode())]


KNOWN = InvalidateNamespace.type


async def test_poison_is_parked_once_and_its_neighbours_are_handled(broker: Broker) -> None:
    heard = Heard()
    poison: list[tuple[bytes | None, list[tuple[str, bytes | None]]]] = [
        (b"{not json", typed(KNOWN)),
        (b'{"namespace": 7}', typed(KNOWN)),
        (b"{}", typed(KNOWN)),
        (None, typed(KNOWN)),
        (b'{"namespace": "a"}', []),
        (b'{"namespace": "a"}', [("ce_type", None)]),
        (b'{"namespace": "a"}', [("ce_type", b"\xff\xfe")]),
        (b'{"namespace": "a"}', typed("annobus.namespace.invalidate.v2")),
        (b'{"namespace": "a"}', typed("annobus.coffee.make.v1")),
    ]
    async with broker.listen(heard):
        await broker.command("first")
        for body, headers in poison:
            await broker.send(body, headers)
        await broker.command("last")
        await heard.until("last")
        letters = await broker.parked(len(poison))

    assert heard.names == ["first", "last"]
    assert len(letters) == len(poison)
    for letter in letters:
        told = dict(letter.headers)
        assert json.loads(told["problem"])["title"]
        assert told["origin"].decode().startswith(f"{broker.prefix}{COMMANDS}/")
    assert {letter.value for letter in letters} == {body or b"" for body, _ in poison}

    async with broker.listen(again := Heard()):  # The offset has moved: nothing comes twice.
        await broker.command("after")
        await again.until("after")
    assert again.names == ["after"]


async def test_poison_with_a_thousand_pages_of_reasons_is_parked_with_a_short_one(
    broker: Broker,
) -> None:
    heard: asyncio.Queue[StartRun] = asyncio.Queue()
    bus = Bus(broker.settings, "test")
    bus.subscribe([Subscription(COMMANDS, {StartRun: heard.put}, group="planner")])
    good = StartRun(run_id=uuid4(), sources=("hpo",))
    genes = list(range(GENES_MAX))  # Numbers: as many errors of validation.
    await bus.start()
    try:
        poison = json.dumps({"run_id": str(uuid4()), "sources": ["hpo"], "genes": genes}).encode()
        await broker.send(poison, typed(StartRun.type))
        await broker.send(good.model_dump_json().encode(), typed(StartRun.type))
        async with asyncio.timeout(WAIT_SECONDS):
            assert await heard.get() == good
        (letter,) = await broker.parked(1)
    finally:
        await bus.stop()
    assert letter.value == poison
    problem = json.loads(dict(letter.headers)["problem"])
    assert "ValidationError" in problem["detail"]
    assert len(problem["detail"]) == DETAIL_CHARACTERS_MAX


async def test_a_command_for_another_service_and_an_unknown_fact_pass_in_silence(
    broker: Broker,
) -> None:
    heard = Heard()
    async with broker.listen(heard, parks_unknown=False):
        start = StartRun(run_id=uuid4(), sources=("hpo",))
        await broker.send(start.model_dump_json().encode(), typed(StartRun.type))
        await broker.send(b"{}", typed("annobus.something.happened.v9"))
        await broker.command("mine")
        await heard.until("mine")
    assert heard.names == ["mine"]
    assert await broker.parked(0) == []


async def test_a_handler_that_fails_once_gets_the_message_again_and_order_is_kept(
    broker: Broker,
) -> None:
    seen: list[str] = []
    done = asyncio.Event()

    async def stumble(message: InvalidateNamespace) -> None:
        seen.append(message.namespace)
        if seen.count("b") == 1 and message.namespace == "b":
            raise ConnectionError("the database is gone for a moment")
        if message.namespace == "c":
            done.set()

    async with broker.listen(stumble):
        for name in "abc":
            await broker.command(name)
        async with asyncio.timeout(WAIT_SECONDS):
            await done.wait()
    assert seen == ["a", "b", "b", "c"]
    assert await broker.parked(0) == []


async def test_what_can_never_succeed_is_parked_with_its_reason(broker: Broker) -> None:
    heard = Heard()

    async def refuse(message: InvalidateNamespace) -> None:
        if message.namespace == "bad":
            raise PermanentError("there is no such namespace")
        await heard(message)

    async with broker.listen(refuse):
        await broker.command("bad")
        await broker.command("good")
        await heard.until("good")
        (letter,) = await broker.parked(1)
    assert "no such namespace" in json.loads(dict(letter.headers)["problem"])["detail"]


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


async def test_a_stray_reply_to_header_is_answered_nowhere(broker: Broker) -> None:
    heard = Heard()
    async with broker.listen(heard):
        target = broker.prefix + EVENTS
        headers = [*typed(KNOWN), ("reply_to", target.encode())]
        await broker.send(b'{"namespace": "a"}', headers)
        await heard.until("a")
    consumer = AIOKafkaConsumer(
        target,
        bootstrap_servers=broker.settings.kafka_bootstrap,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    answers = await consumer.getmany(timeout_ms=500)
    await consumer.stop()
    assert answers == {}


async def test_a_snapshot_is_sent_directly_with_its_envelope(broker: Broker) -> None:
    bus = Bus(broker.settings, "annotator")
    await bus.start()
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
    consumer = AIOKafkaConsumer(
        broker.prefix + RunProgress.topic,
        bootstrap_servers=broker.settings.kafka_bootstrap,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    await bus.send(progress, f"{progress.run_id}:7")
    async with asyncio.timeout(WAIT_SECONDS):
        record = await consumer.getone()
    await consumer.stop()
    await bus.stop()
    headers = {name: value.decode() for name, value in record.headers}
    assert headers["ce_id"] == f"{progress.run_id}:7"
    assert headers["ce_source"] == "/annobus/annotator"
    assert headers["ce_type"] == RunProgress.type
    assert RunProgress.model_validate_json(record.value) == progress


async def test_readiness_names_a_dead_subscriber(broker: Broker) -> None:
    async with broker.listen(Heard()) as bus:
        assert await bus.problems() == []
        for subscriber in bus._broker.subscribers:  # noqa: SLF001  # As if its task had died.
            await subscriber.stop()
        (problem,) = await bus.problems()
    assert COMMANDS in problem
    assert "dead" in problem


async def test_readiness_says_when_kafka_has_not_been_reached() -> None:
    bus = Bus(SharedSettings(kafka_bootstrap="127.0.0.1:1"), "test")
    assert await bus.problems() == ["Kafka is not reached yet"]


async def test_an_event_type_is_decoded_by_its_header_not_its_shape(broker: Broker) -> None:
    """Two types with the same fields: the header alone tells them apart."""
    heard: list[str] = []
    done = asyncio.Event()

    async def on_event(event: NamespaceInvalidated) -> None:
        heard.append(event.namespace)
        done.set()

    bus = Bus(broker.settings, "test")
    bus.subscribe([Subscription(EVENTS, {NamespaceInvalidated: on_event}, group="g")])
    await bus.start()
    body = b'{"namespace": "genes", "epoch": 1}'
    await broker.send(body, typed(KNOWN), topic=EVENTS)
    await broker.send(body, typed(NamespaceInvalidated.type), topic=EVENTS)
    async with asyncio.timeout(WAIT_SECONDS):
        await done.wait()
    await bus.stop()
    assert heard == ["genes"]
