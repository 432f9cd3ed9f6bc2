"""The one place where subscribers are made: parse, route, handle or park, then acknowledge."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from random import uniform
from typing import Any

import orjson
import structlog
from aiokafka import ConsumerRecord
from aiokafka.errors import KafkaError
from faststream import AckPolicy, BaseMiddleware
from faststream.kafka import KafkaBroker, KafkaRouter
from faststream.kafka.subscriber.usecase import DefaultSubscriber
from faststream.message import StreamMessage
from pydantic import ValidationError

from contracts.messages import TYPES, Message
from contracts.topics import DEAD_LETTERS
from services.chassis import outbox, telemetry
from services.chassis.errors import (
    MalformedMessage,
    PermanentError,
    UnknownMessage,
    problem_of,
)
from services.chassis.settings import SharedSettings

log = structlog.get_logger()

# FastStream warns of what is meant here (topics are made by `annobus migrate` alone), and of each
# failed message, which Delivery logs itself.
logging.getLogger("annobus.bus").setLevel(logging.ERROR)

RETRY_PAUSE_SECONDS = 1.0
PARK_TIMEOUT_SECONDS = 10
SEND_TIMEOUT_SECONDS = 5
GRACEFUL_SECONDS = 15.0
CONNECT_PAUSE_SECONDS = 1.0
POSITION_TIMEOUT_SECONDS = 30
POSITION_PAUSE_SECONDS = 0.02

Handler = Callable[[Any], Awaitable[Any]]
Routes = Mapping[type[Message], Handler]
Parse = Callable[[ConsumerRecord], Awaitable[StreamMessage[ConsumerRecord]]]


async def parse_tolerantly(record: ConsumerRecord, parse: Parse) -> StreamMessage[ConsumerRecord]:
    """Never raises: a record that FastStream cannot parse is skipped without a trace."""
    try:
        return await parse(record)
    except Exception as error:  # noqa: BLE001  # Whatever it is, the record must be seen.
        return await parse(replace(record, headers=(("malformed", repr(error).encode()),)))


class Delivery(BaseMiddleware[Any, ConsumerRecord]):
    """Move the offset only when a message was handled or parked; otherwise pause, read it again."""

    async def consume_scope(self, call_next: Handler, msg: StreamMessage[Any]) -> None:
        try:
            await self.handle_or_park(call_next, msg)
        except Exception as error:
            log.warning(
                "message_failed",
                topic=self.msg.topic,
                partition=self.msg.partition,
                offset=self.msg.offset,
                problem=problem_of(error)["detail"],
            )
            self.count(msg, "retried")
            await asyncio.sleep(RETRY_PAUSE_SECONDS * uniform(0.5, 1.5))
            await msg.nack()  # Seeks back at once: without the pause this would spin.
            raise
        await msg.ack()

    async def handle_or_park(self, call_next: Handler, msg: StreamMessage[Any]) -> None:
        try:
            await call_next(msg)
            self.count(msg, "handled")
        except (PermanentError, ValidationError) as error:
            await self.park(error)
            self.count(msg, "parked")

    async def park(self, error: Exception) -> None:
        """Keep the record as it came, with the reason and where it was."""
        record = self.msg
        headers = {
            name: (value or b"").decode(errors="backslashreplace") for name, value in record.headers
        }
        headers["problem"] = orjson.dumps(problem_of(error)).decode()
        headers["origin"] = f"{record.topic}/{record.partition}/{record.offset}"
        prefix = self.context.get("topic_prefix")
        async with asyncio.timeout(PARK_TIMEOUT_SECONDS):
            await self.context.broker.publish(
                record.value or b"", prefix + DEAD_LETTERS, key=record.key, headers=headers
            )
        log.error("message_parked", origin=headers["origin"], problem=headers["problem"])

    def count(self, msg: StreamMessage[Any], outcome: str) -> None:
        name = msg.headers.get("ce_type", "")
        telemetry.MESSAGES_HANDLED.labels(
            self.msg.topic, name if name in TYPES else "unknown", outcome
        ).inc()


@dataclass(frozen=True)
class Subscription:
    """Members of a group share a topic from its beginning. Without a group, everybody
    hears everything from now on, and nothing is committed or acknowledged."""

    topic: str
    handlers: Routes
    group: str | None
    parks_unknown: bool = False  # True for one group of each topic of commands.

    async def decode(self, msg: StreamMessage[Any]) -> Message | None:
        """What the type header names, or None: it is nothing for this reader."""
        name = msg.headers.get("ce_type")
        if name is None:
            raise MalformedMessage(msg.headers.get("malformed", "the header ce_type is missing"))
        for message in self.handlers:
            if message.type == name:
                return message.model_validate_json(msg.body)
        if name not in TYPES:
            if self.parks_unknown:
                raise UnknownMessage(name)
            telemetry.MESSAGES_UNKNOWN.labels(self.topic).inc()
        return None

    async def handle(self, message: Message | None) -> None:
        if message is not None:
            await self.handlers[type(message)](message)


class Bus:
    """One process's connection to Kafka: its subscribers and its producer."""

    def __init__(self, settings: SharedSettings, service: str) -> None:
        self._prefix = settings.topic_prefix
        self._service = service
        self._broker = KafkaBroker(
            settings.kafka_bootstrap,
            client_id=service,
            parser=parse_tolerantly,
            apply_types=False,  # The decoder has made the message; nothing is cast twice.
            enable_idempotence=True,
            acks="all",
            linger_ms=2,
            max_batch_size=128 * 1024,
            allow_auto_create_topics=False,
            metadata_max_age_ms=30_000,
            graceful_timeout=GRACEFUL_SECONDS,
            logger=logging.getLogger("annobus.bus"),
            log_level=logging.DEBUG,  # Each message received and processed: metrics count those.
        )
        self._broker.context.set_global("topic_prefix", self._prefix)
        self.started = False

    def subscribe(self, subscriptions: Iterable[Subscription], instance: str | None = None) -> None:
        """The only place where a subscriber is made.

        Members of a group bear their instance's name, so that one that is restarted takes its
        partitions back at once. Who subscribes several times is several members, each with
        partitions of its own: an acknowledgement commits all positions of one member.
        """
        members = Counter[tuple[str, str | None]]()
        for subscription in subscriptions:
            number = members[subscription.topic, subscription.group]
            members[subscription.topic, subscription.group] += 1
            grouped = subscription.group is not None
            router = KafkaRouter(middlewares=(Delivery,) if grouped else ())
            router.subscriber(
                self._prefix + subscription.topic,
                decoder=subscription.decode,
                group_id=f"{self._prefix}{subscription.group}" if grouped else None,
                group_instance_id=f"{instance}.{number}" if grouped and instance else None,
                auto_offset_reset="earliest" if grouped else "latest",
                ack_policy=AckPolicy.MANUAL,
                no_reply=True,
                session_timeout_ms=6_000,
                heartbeat_interval_ms=500,
                max_poll_interval_ms=600_000,
                fetch_max_wait_ms=5_000,
            )(subscription.handle)
            self._broker.include_router(router)

    async def start(self) -> None:
        """Connect, waiting as long as it takes: commands and reads do not need Kafka."""
        while True:
            try:
                await self._broker.start()
                await self._hear_from_now_on()
            except (KafkaError, OSError) as error:  # A time-out is an OSError, too.
                log.warning("kafka_unreachable", error=repr(error))
                await self._broker.stop()
                await asyncio.sleep(CONNECT_PAUSE_SECONDS)
            else:
                self.started = True
                log.info("bus_started")
                return

    async def _hear_from_now_on(self) -> None:
        """Wait until group-less subscribers know where now is: it is looked up only after their
        start, and what is published before would be missed."""
        async with asyncio.timeout(POSITION_TIMEOUT_SECONDS):
            for subscriber in self._broker.subscribers:
                if not isinstance(subscriber, DefaultSubscriber) or subscriber.group_id:
                    continue
                consumer = subscriber.consumer
                assert consumer is not None
                while not consumer.assignment():
                    await asyncio.sleep(POSITION_PAUSE_SECONDS)
                for partition in consumer.assignment():
                    await consumer.position(partition)

    async def stop(self) -> None:
        """Finish what is in flight, then leave."""
        self.started = False
        await self._broker.stop()

    async def send(self, message: Message, event_id: str) -> None:
        """Publish a snapshot directly. It may be lost: the next one is absolute."""
        headers = outbox.envelope(message) | {"ce_id": event_id}
        payload = message.model_dump_json().encode()
        async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
            sent = await self.publish(message.destination(), message.key(), headers, payload)
        sent.add_done_callback(_note_lost)

    async def publish(
        self, topic: str, key: str, headers: dict[str, str], payload: bytes
    ) -> "asyncio.Future[Any]":
        """Queue one record; the future tells that every in-sync replica has it, or why not."""
        try:
            return await self._broker.publish(
                payload,
                self._prefix + topic,
                key=key.encode(),
                headers=headers | {"ce_source": f"/annobus/{self._service}"},
                no_confirm=True,
            )
        except KafkaError as error:  # Refused at the door: for the caller the same as on the way.
            refused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            refused.set_exception(error)
            return refused

    async def problems(self) -> list[str]:
        """Why this process is not ready: a broker that does not answer, a dead subscriber."""
        if not self.started:
            return ["Kafka is not reached yet"]
        found = [
            f"the subscriber of {', '.join(subscriber.topic_names)} is dead"
            for subscriber in self._broker.subscribers
            if isinstance(subscriber, DefaultSubscriber)
            and (not subscriber.running or any(task.done() for task in subscriber.tasks))
        ]
        if not await self._broker.ping(timeout=2):
            found.append("Kafka does not answer")
        return found


def _note_lost(sent: "asyncio.Future[Any]") -> None:
    if not sent.cancelled() and (error := sent.exception()) is not None:
        log.warning("snapshot_lost", error=repr(error))
