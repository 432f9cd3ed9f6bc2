"""The one place where subscribers are made: parse, route, handle or park, then acknowledge."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import uniform
from typing import Any

import structlog
from aiokafka import ConsumerRecord
from aiokafka.errors import IllegalStateError, KafkaError
from faststream import AckPolicy, BaseMiddleware, ContextRepo
from faststream.kafka import KafkaBroker, KafkaRouter
from faststream.kafka.subscriber.usecase import DefaultSubscriber
from faststream.message import StreamMessage
from pydantic import ValidationError

from contracts.messages import TYPES, Message
from contracts.topics import DEAD_LETTERS
from services.chassis import database, outbox, telemetry
from services.chassis.closed_connections import tell_of_closed_connections
from services.chassis.consumer import TolerantConsumer
from services.chassis.dead_letters import DeadLetters, Header, Letter, read_letter
from services.chassis.errors import (
    MalformedMessage,
    PermanentError,
    TopicShut,
    TransientError,
    UnknownMessage,
    problem_of,
)
from services.chassis.liveness import POLL_SECONDS_MAX, Watch
from services.chassis.parking import PROBE_SECONDS, Parking
from services.chassis.settings import SharedSettings

log = structlog.get_logger()

# FastStream warns of what is meant here (topics are made by `annobus migrate` alone), and of each
# failed message, which Delivery logs itself.
logging.getLogger("annobus.bus").setLevel(logging.ERROR)

RETRY_PAUSE_SECONDS = 1.0
# Who is held looks so often whether it may take a message: well below what a stop waits for one.
HELD_PAUSE_SECONDS = 1.0
SEND_TIMEOUT_SECONDS = 5
# For a topic to take a record. aiokafka would wait 40 s for one that is missing, and all who
# publish behind it as long.
TOPIC_TIMEOUT_SECONDS = 1.0
GRACEFUL_SECONDS = 10.0  # For the message in flight. Never 0: FastStream would not wait at all.
FETCH_WAIT_SECONDS = 5.0
CONNECT_PAUSE_SECONDS = 1.0
PING_TIMEOUT_SECONDS = 2
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
        reason = _unreadable_header(record) or repr(error)
        parsed = await parse(replace(record, headers=(("malformed", reason.encode()),)))
        parsed.raw_message = record
        return parsed


def _unreadable_header(record: ConsumerRecord) -> str | None:
    for name, value in record.headers:
        try:
            if value is None:
                return f"the header {name} has no value; text in UTF-8 is accepted"
            value.decode()
        except UnicodeDecodeError:
            return f"the header {name} is {value!r}; text in UTF-8 is accepted"
    return None


async def unless_cancelled_inside(handled: Awaitable[Any]) -> Any:  # noqa: ANN401
    """A handler that awaits what somebody else cancelled fails. Nobody has cancelled its
    subscriber, which would end without a word if it took that for its own end."""
    try:
        return await handled
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise TransientError("something that the handler awaited was cancelled") from error


def is_hopeless(error: Exception) -> bool:
    """Whether the message fails whenever it is tried: it would be in the way of all behind it."""
    return isinstance(error, (PermanentError, ValidationError)) or database.is_refused(error)


class Delivery(BaseMiddleware[Any, ConsumerRecord]):
    """Move the offset only when a message was handled or parked; otherwise pause, read it again."""

    def __init__(
        self,
        msg: ConsumerRecord | None,
        /,
        *,
        context: ContextRepo,
        parking: Parking | None,
    ) -> None:
        super().__init__(msg, context=context)
        self.parking = parking  # None: what comes here is parked already.

    async def consume_scope(self, call_next: Handler, msg: StreamMessage[Any]) -> None:
        if self.parking is not None and (seconds := self.parking.wait_seconds()):
            await asyncio.sleep(min(seconds, HELD_PAUSE_SECONDS))
            await self.unless_revoked(msg.nack())  # It waits in its topic.
            return
        try:
            await self.handle_or_park(call_next, msg, self.parking)
        except Exception as error:
            if self.parking is not None:
                self.parking.note_nothing()
            self.warn("message_failed", error)
            self.count(msg, "retried")
            await asyncio.sleep(RETRY_PAUSE_SECONDS * uniform(0.5, 1.5))
            # Seeks back at once: without the pause this would spin.
            await self.unless_revoked(msg.nack())
            raise
        await self.unless_revoked(msg.ack())

    async def handle_or_park(
        self, call_next: Handler, msg: StreamMessage[Any], parking: Parking | None
    ) -> None:
        if parking is None:
            await unless_cancelled_inside(call_next(msg))
            self.count(msg, "handled")
            return
        attempts = parking.count_attempt(self.msg.partition, self.msg.offset)
        try:
            is_ours = await unless_cancelled_inside(call_next(msg))
            self.count(msg, "handled")
            parking.note_handled() if is_ours else parking.note_nothing()
        except Exception as error:
            if not is_hopeless(error):
                raise
            await self.context.dead_letters.park(self.msg, error, parking.group, attempts)
            self.count(msg, "parked")
            parking.note_parked()

    async def unless_revoked(self, move: Awaitable[None]) -> None:
        """The partition may be another member's by now, who was given the message, too."""
        try:
            await move
        except (KafkaError, IllegalStateError) as error:
            self.warn("offset_not_moved", error)

    def warn(self, event: str, error: Exception) -> None:
        log.warning(
            event,
            topic=self.msg.topic,
            partition=self.msg.partition,
            offset=self.msg.offset,
            problem=problem_of(error)["detail"],
        )

    def count(self, msg: StreamMessage[Any], outcome: str) -> None:
        name = msg.headers.get("ce_type", "")
        telemetry.MESSAGES_HANDLED.labels(
            self.msg.topic, name if name in TYPES else "unknown", outcome
        ).inc()


@dataclass(frozen=True)
class Subscription:
    """Members of a group share a topic from its beginning. Without a group, everybody hears
    everything from now on, or from so many seconds ago; nothing is committed or acknowledged."""

    topic: str
    handlers: Routes
    group: str | None
    parks_unknown: bool = False  # True for one group of each topic of commands.
    parks_untyped: bool = True  # False for all but one group of a topic: it is nobody's.
    seconds_ago: float = 0.0

    @property
    def accepted(self) -> str:
        """The types of this topic, whichever group reads them, as an error names them."""
        topics = {message.topic for message in self.handlers}
        return " or ".join(name for name, message in TYPES.items() if message.topic in topics)

    async def decode(self, msg: StreamMessage[Any]) -> Message | None:
        """What the type header names, or None: it is nothing for this reader."""
        name = msg.headers.get("ce_type")
        if name is None:
            if self.parks_untyped:
                missing = f"the header ce_type is missing; accepted is {self.accepted}"
                raise MalformedMessage(msg.headers.get("malformed", missing))
            return None
        for message in self.handlers:
            if message.type == name:
                try:
                    return message.model_validate_json(msg.body)
                except ValidationError as error:
                    raise MalformedMessage(str(error)) from error
        if name not in TYPES:
            if self.parks_unknown:
                raise UnknownMessage(f"ce_type is {name!r}; accepted is {self.accepted}")
            telemetry.MESSAGES_UNKNOWN.labels(self.topic).inc()
        return None

    async def handle(self, message: Message | None) -> bool:
        """Whether there was anything to do."""
        if message is None:
            return False
        await self.handlers[type(message)](message)
        return True


@dataclass(frozen=True)
class LetterSubscription:
    """The reader of dead letters: it is given every record, whatever it is. What it cannot handle
    is read again, and not parked once more."""

    handler: Callable[[Letter], Awaitable[None]]
    group: str
    topic: str = DEAD_LETTERS

    async def decode(self, msg: StreamMessage[ConsumerRecord]) -> Letter:
        return read_letter(msg.raw_message)

    async def handle(self, letter: Letter) -> None:
        await self.handler(letter)


class Bus:
    """One process's connection to Kafka: its subscribers and its producer."""

    def __init__(
        self, settings: SharedSettings, service: str, *, probe_seconds: float = PROBE_SECONDS
    ) -> None:
        tell_of_closed_connections()
        self._prefix = settings.topic_prefix
        self._service = service
        self._probe_seconds = probe_seconds
        self._parking: dict[tuple[str, str], Parking] = {}
        self._seconds_ago: dict[str, float] = {}  # By topic, of those who hear it without a group.
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
        self._dead_letters = DeadLetters(settings, service)
        self._broker.context.set_global("dead_letters", self._dead_letters)
        self._watch = Watch(self._subscribers, self._answers)
        self.started = False

    def subscribe(
        self,
        subscriptions: Iterable[Subscription | LetterSubscription],
        instance: str | None = None,
    ) -> None:
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
            router = KafkaRouter(middlewares=(self._delivery(subscription),) if grouped else ())
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
                max_poll_interval_ms=int(POLL_SECONDS_MAX * 1000),
                fetch_max_wait_ms=int(FETCH_WAIT_SECONDS * 1000),
            )(subscription.handle)
            self._broker.include_router(router)
            if isinstance(subscription, Subscription) and subscription.seconds_ago:
                self._seconds_ago[self._prefix + subscription.topic] = subscription.seconds_ago

    def _delivery(self, subscription: Subscription | LetterSubscription) -> Callable[..., Delivery]:
        """Members that share a topic here share what they know of it."""
        if isinstance(subscription, LetterSubscription):
            return partial(Delivery, parking=None)
        topic, group = self._prefix + subscription.topic, str(subscription.group)
        parking = Parking(topic, group, self._probe_seconds)
        return partial(Delivery, parking=self._parking.setdefault((topic, group), parking))

    async def start(self) -> None:
        """Connect, waiting as long as it takes: commands and reads do not need Kafka."""
        while True:
            try:
                await self._dead_letters.start()
                await self._broker.connect()
                self._use_tolerant_consumers()
                await self._broker.start()
                await self._hear_from_now_on()
            except (KafkaError, OSError) as error:  # A time-out is an OSError, too.
                log.warning("kafka_unreachable", error=repr(error))
                await self._disconnect()
                await asyncio.sleep(CONNECT_PAUSE_SECONDS)
            else:
                self.started = True
                log.info("bus_started")
                return

    def _use_tolerant_consumers(self) -> None:
        """Connecting has prepared how subscribers, at their start, make plain ones."""
        config = self._broker.config.broker_config
        assert isinstance(config.builder, partial)
        config.builder = partial(
            TolerantConsumer, seconds_ago=self._seconds_ago, **config.builder.keywords
        )

    async def _hear_from_now_on(self) -> None:
        """Wait until group-less subscribers know where now is: it is looked up only after their
        start, and what is published before would be missed."""
        async with asyncio.timeout(POSITION_TIMEOUT_SECONDS):
            for subscriber in self._subscribers():
                if subscriber.group_id:
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
        await self._disconnect()

    async def _disconnect(self) -> None:
        await self._broker.stop()
        await self._dead_letters.stop()

    async def watch(self) -> None:
        """Raises when a subscriber is lost: its process must end."""
        await self._watch.watch()

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
        """Queue one record; the future tells that every in-sync replica has it, or why not: with
        TopicShut, when its topic takes none."""
        queued = self._broker.publish(
            payload,
            self._prefix + topic,
            key=key.encode(),
            headers=headers | {"ce_source": f"/annobus/{self._service}"},
            no_confirm=True,
        )
        return await self._queue(topic, queued)

    async def publish_again(
        self, topic: str, key: bytes | None, headers: Sequence[Header], payload: bytes | None
    ) -> "asyncio.Future[Any]":
        """The same for a record that has come once: nothing of it is another."""
        sent = self._dead_letters.send(self._prefix + topic, key, headers, payload)
        return await self._queue(topic, sent)

    async def _queue(
        self, topic: str, queued: "Coroutine[Any, Any, asyncio.Future[Any]]"
    ) -> "asyncio.Future[Any]":
        try:
            async with asyncio.timeout(TOPIC_TIMEOUT_SECONDS):
                return await queued
        except KafkaError as error:  # Refused at the door: for the caller the same as on the way.
            reason: Exception = error
        except TimeoutError:
            reason = TopicShut(
                f"topic {self._prefix}{topic} took no message within {TOPIC_TIMEOUT_SECONDS:g} s; "
                "if it is missing, `annobus migrate` makes it"
            )
        refused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        refused.set_exception(reason)
        return refused

    async def problems(self) -> list[str]:
        """Why this process is not ready: a broker that does not answer, a subscriber that is dead
        or held."""
        held = [problem for parking in self._parking.values() for problem in parking.problems()]
        return [*await self.deafness(), *held]

    async def deafness(self, seconds_max: float = PING_TIMEOUT_SECONDS) -> list[str]:
        """Why this process may not hear what is said; known after so many seconds at most."""
        if not self.started:
            return ["Kafka is not reached yet"]
        found = self._watch.problems()
        if not await self._answers(seconds_max):
            found.append("Kafka does not answer")
        return found

    async def _answers(self, seconds_max: float = PING_TIMEOUT_SECONDS) -> bool:
        return await self._broker.ping(timeout=seconds_max)

    def _subscribers(self) -> list[DefaultSubscriber]:
        subscribers = self._broker.subscribers
        return [one for one in subscribers if isinstance(one, DefaultSubscriber)]


def _note_lost(sent: "asyncio.Future[Any]") -> None:
    if not sent.cancelled() and (error := sent.exception()) is not None:
        log.warning("snapshot_lost", error=repr(error))
