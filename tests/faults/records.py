"""Faults of what is in topics: records that nobody can handle, copies, and a group that begins
anew."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from contracts.messages import (
    AnnotateBatch,
    AnnotationsChanged,
    ControlRun,
    InvalidateNamespace,
    RunProgress,
    StartRun,
)
from contracts.topics import DEAD_LETTERS, topics
from services.annotator.sources import SOURCES

Headers = Sequence[tuple[str, bytes | None]]

COPIES = 3
POISON_KEY = b"poison"
BOMB_BYTES = 2 * 1024 * 1024  # It fits into its topic compressed alone.
POLL_MILLISECONDS = 50
PAUSE_SECONDS = 0.2
AWAY_SECONDS_MAX = 30.0  # Until a group has missed its members.
# By service; of each group the topic that it reads.
GROUPS: Mapping[str, Mapping[str, str]] = {
    "cache": {"cache": AnnotationsChanged.topic, "cache-commands": InvalidateNamespace.topic},
    "annotator": {
        "planner": StartRun.topic,
        **{f"annotate-{source}": f"annotation.work.{source}.v1" for source in ("ensembl", "hpo")},
    },
}


def _typed(name: str) -> Headers:
    return [("ce_type", name.encode())]


# Topic, headers and body. Each is to be parked by one group, whatever else reads its topic.
POISON: Sequence[tuple[str, Headers, bytes | None]] = (
    (StartRun.topic, _typed(StartRun.type), b"{not json"),
    (StartRun.topic, _typed(StartRun.type), b'{"run_id": 7}'),
    (StartRun.topic, _typed(ControlRun.type), None),
    (StartRun.topic, [*_typed(StartRun.type), ("trace", None)], b"{}"),
    (StartRun.topic, [*_typed(StartRun.type), ("trace", b"\xff\xfe")], b"{}"),
    (StartRun.topic, _typed("annobus.coffee.make.v1"), b"{}"),
    (StartRun.topic, _typed("annobus.run.start.v2"), b"{}"),
    (StartRun.topic, [*_typed(StartRun.type), ("reply_to", b"pipeline.events.v1")], b"{"),
    (StartRun.topic, _typed(InvalidateNamespace.type), b"[]"),
    (StartRun.topic, _typed(StartRun.type), bytes(BOMB_BYTES)),
    (AnnotationsChanged.topic, _typed(AnnotationsChanged.type), b"{not json"),
    ("annotation.work.hpo.v1", _typed(AnnotateBatch.type), b'{"batch_id": []}'),
)


@asynccontextmanager
async def _producing(bootstrap: str) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, compression_type="gzip", max_request_size=2 * BOMB_BYTES
    )
    try:
        await producer.start()
        yield producer
    finally:
        await producer.stop()


async def poison(bootstrap: str, prefix: str, *sent: set[str]) -> None:
    """Adds where each record is, as its dead letter will say."""
    async with _producing(bootstrap) as producer:
        for topic, headers, body in POISON:
            place = await producer.send_and_wait(
                prefix + topic, body, key=POISON_KEY, headers=list(headers)
            )
            for places in sent:
                places.add(f"{place.topic}/{place.partition}/{place.offset}")


async def copy(bootstrap: str, prefix: str, since: float, random: Random) -> int:
    """What was said since a moment is said again, so many times, in another order. Returns how many
    records that is."""
    records = [
        record
        for record in await read(bootstrap, prefix, since)
        if not record.topic.endswith(DEAD_LETTERS) and record.key != POISON_KEY
        for _ in range(COPIES)
    ]
    random.shuffle(records)
    async with _producing(bootstrap) as producer:
        for record in records:
            await producer.send(
                record.topic,
                record.value,
                key=record.key,
                headers=list(record.headers),
                partition=record.partition,
            )
        await producer.flush()
    return len(records)


async def read(
    bootstrap: str, prefix: str, since: float, named: Collection[str] = ()
) -> list[ConsumerRecord]:
    """All records that came since a moment, but for snapshots of progress, or those of the named
    topics."""
    wanted = {prefix + name for name in named}
    places = [
        TopicPartition(topic.name, number)
        for topic in topics(SOURCES, prefix)
        if (topic.name in wanted if wanted else topic.name != prefix + RunProgress.topic)
        for number in range(topic.partitions)
    ]
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, fetch_max_wait_ms=POLL_MILLISECONDS
    )
    found: list[ConsumerRecord] = []
    try:
        await consumer.start()
        consumer.assign(places)
        begins = await consumer.offsets_for_times(dict.fromkeys(places, int(since * 1000)))
        ends = await consumer.end_offsets(places)
        left = {place for place, begin in begins.items() if begin and begin.offset < ends[place]}
        consumer.assign(left)
        for place in left:
            consumer.seek(place, begins[place].offset)
        while left:
            batches = await consumer.getmany(timeout_ms=POLL_MILLISECONDS)
            for place, records in batches.items():
                found += [record for record in records if record.offset < ends[place]]
                if records[-1].offset + 1 >= ends[place]:
                    left.discard(place)
    finally:
        await consumer.stop()
    return found


async def rewind(bootstrap: str, prefix: str, service: str) -> int:
    """Let the groups of a service, whose processes are away, begin at the beginning. Returns how
    many records they will hear again."""
    again = 0
    partitions = {topic.name: topic.partitions for topic in topics(SOURCES, prefix)}
    for group, topic in GROUPS[service].items():
        consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap, group_id=prefix + group, enable_auto_commit=False
        )
        try:
            await consumer.start()
            places = [
                TopicPartition(prefix + topic, number)
                for number in range(partitions[prefix + topic])
            ]
            consumer.assign(places)
            begins = await consumer.beginning_offsets(places)
            for place in places:
                again += (await consumer.committed(place) or 0) - begins[place]
            await _commit(consumer, begins)
        finally:
            await consumer.stop()
    return again


async def _commit(consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int]) -> None:
    """Refused as long as the group has members, of whom some may be dead and not missed yet."""
    async with asyncio.timeout(AWAY_SECONDS_MAX):
        for _ in itertools.count():
            try:
                await consumer.commit(offsets)
            except KafkaError:
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                return
