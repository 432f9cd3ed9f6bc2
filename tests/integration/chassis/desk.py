"""What the tests of the bus share: a broker of their own, by name, and a handler that remembers."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.record.util import calc_crc32c

from contracts.messages import InvalidateNamespace, NamespaceInvalidated, StartRun
from contracts.topics import DEAD_LETTERS, topics
from services.annotator.sources import SOURCES
from services.chassis import outbox
from services.chassis.bus import Bus, Routes, Subscription
from services.chassis.parking import PROBE_SECONDS
from services.chassis.settings import SharedSettings
from services.cli.migrate import create_topics

COMMANDS = InvalidateNamespace.topic
EVENTS = NamespaceInvalidated.topic
KNOWN = InvalidateNamespace.type
ELSEWHERE = StartRun.type  # A known command that the handlers here have no use for.
PARTITIONS = 6
GROUP = "planner"
WAIT_SECONDS = 20
ONE_TOO_MANY_SECONDS = 0.3
CHECKSUM = slice(17, 21)  # In a batch of records; of all that comes behind it.

Headers = Sequence[tuple[str, bytes | None]]
Handler = Callable[[InvalidateNamespace], Awaitable[None]]


class Broker:
    """A real broker, under a prefix of one test's own."""

    def __init__(self, bootstrap: str, prefix: str, producer: AIOKafkaProducer) -> None:
        self.settings = SharedSettings(
            kafka_bootstrap=bootstrap, topic_prefix=prefix, environment="test"
        )
        self.prefix = prefix
        self.producer = producer

    async def create(self, *names: str) -> None:
        wanted = [topic for topic in topics(SOURCES) if topic.name in names]
        named = [replace(topic, name=self.prefix + topic.name) for topic in wanted]
        await create_topics(self.settings.kafka_bootstrap, named)

    async def send(
        self,
        body: bytes | None,
        headers: Headers,
        *,
        topic: str = COMMANDS,
        key: bytes | None = b"key",
        partition: int = 0,
        timestamp_ms: int | None = None,
    ) -> int:
        """As any program may, our rules or not; returns the offset."""
        place = await self.producer.send_and_wait(
            self.prefix + topic,
            body,
            key=key,
            headers=list(headers),
            partition=partition,
            timestamp_ms=timestamp_ms,
        )
        return int(place.offset)

    async def send_illegible_header(self, topic: str = COMMANDS) -> None:
        """As no producer here can write it: the name is put in behind its back."""
        batch = self.producer.create_batch()
        batch.append(key=b"k", value=body("a"), timestamp=None, headers=[("zz", b"1")])
        record = bytearray(batch._build()).replace(b"zz", b"\xff\xfe")  # noqa: SLF001
        record[CHECKSUM] = struct.pack(">I", calc_crc32c(memoryview(record)[CHECKSUM.stop :]))
        batch._buffer = record  # noqa: SLF001
        await (await self.producer.send_batch(batch, self.prefix + topic, partition=0))

    async def command(self, namespace: str, partition: int = 0) -> None:
        message = InvalidateNamespace(namespace=namespace)
        headers = [(name, value.encode()) for name, value in outbox.envelope(message).items()]
        await self.send(message.model_dump_json().encode(), headers, partition=partition)

    @asynccontextmanager
    async def listen(
        self,
        *handlers: Handler,
        group: str | None = GROUP,
        instance: str | None = None,
        service: str = "test",
        parks_unknown: bool = True,
        parks_untyped: bool = True,
        probe_seconds: float = PROBE_SECONDS,
        seconds_ago: float = 0.0,
    ) -> AsyncIterator[Bus]:
        """A process's bus; each handler is a member of the group."""
        bus = Bus(self.settings, service, probe_seconds=probe_seconds)
        routes: list[Routes] = [{InvalidateNamespace: handler} for handler in handlers]
        bus.subscribe(
            [
                Subscription(COMMANDS, route, group, parks_unknown, parks_untyped, seconds_ago)
                for route in routes
            ],
            instance,
        )
        async with started(bus):
            yield bus

    async def records(self, topic: str, count: int) -> list[ConsumerRecord]:
        """What a topic holds, to its end; waits for so many, and then a moment for one too many."""
        consumer = AIOKafkaConsumer(
            self.prefix + topic,
            bootstrap_servers=self.settings.kafka_bootstrap,
            auto_offset_reset="earliest",
        )
        await consumer.start()
        found: list[ConsumerRecord] = []
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while len(found) < count or not await _is_at_end(consumer):
                    for records in (await consumer.getmany(timeout_ms=200)).values():
                        found += records
            late = await consumer.getmany(timeout_ms=int(ONE_TOO_MANY_SECONDS * 1000))
            for records in late.values():
                found += records
        finally:
            await consumer.stop()
        return found

    async def parked(self, count: int) -> list[ConsumerRecord]:
        return await self.records(DEAD_LETTERS, count)

    async def committed(self, group: str = GROUP, topic: str = COMMANDS) -> dict[int, int]:
        """Partition → how many records a group has acknowledged, where it has any."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.settings.kafka_bootstrap)
        await admin.start()
        try:
            offsets = await admin.list_consumer_group_offsets(self.prefix + group)
        finally:
            await admin.close()
        return {
            place.partition: found.offset
            for place, found in offsets.items()
            if place.topic == self.prefix + topic and found.offset > 0
        }


async def _is_at_end(consumer: AIOKafkaConsumer) -> bool:
    """Whether it has read all there is now: to begin with it does not know where it is."""
    places = consumer.assignment()
    ends = await consumer.end_offsets(places)
    return bool(places) and all([await consumer.position(place) >= ends[place] for place in places])


@asynccontextmanager
async def open_broker(
    bootstrap: str, prefix: str, *names: str, bytes_max: int = 16 * 1024 * 1024
) -> AsyncIterator[Broker]:
    """With these topics, and a producer that keeps to no limit of ours."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", max_request_size=bytes_max)
    await producer.start()
    try:
        broker = Broker(bootstrap, prefix, producer)
        await broker.create(*names)
        yield broker
    finally:
        await producer.stop()


@asynccontextmanager
async def started(bus: Bus) -> AsyncIterator[None]:
    await bus.start()
    try:
        yield
    finally:
        await bus.stop()


class Heard:
    """A handler that remembers what it was given, and who waits for it."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._more = asyncio.Event()

    async def __call__(self, message: InvalidateNamespace) -> None:
        self.names.append(message.namespace)
        self._more.set()

    async def until(self, *names: str) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not set(names) <= set(self.names):
                self._more.clear()
                await self._more.wait()


class Held(Heard):
    """Holds one message, when it comes the first time, until it is released."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.held = asyncio.Event()
        self.release = asyncio.Event()
        self.finished: list[str] = []
        self._name = name

    async def __call__(self, message: InvalidateNamespace) -> None:
        await super().__call__(message)
        if message.namespace == self._name and not self.held.is_set():
            self.held.set()
            await self.release.wait()
        self.finished.append(message.namespace)


async def soon(event: asyncio.Event) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        await event.wait()


def typed(name: str) -> Headers:
    return [("ce_type", name.encode())]


def body(namespace: str) -> bytes:
    return InvalidateNamespace(namespace=namespace).model_dump_json().encode()
