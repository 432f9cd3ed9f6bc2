"""Whether subscribers hear. One that does not, though Kafka answers, ends its process: a ping is
no proof, and whoever supervises the process starts one that hears."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn

from aiokafka import AIOKafkaConsumer
from faststream.kafka.subscriber.usecase import DefaultSubscriber

LOOK_SECONDS = 1.0
DEAD_SECONDS = 3.0  # Nothing heals what is dead; long enough to be seen in readiness.
STUCK_SECONDS = 60.0  # Longer than a request to a broker that went away may take.
NOTED_SECONDS = 10.0  # A group that rebalances is ready; one that goes on doing so is not.
POLL_SECONDS_MAX = 600.0  # Between two messages; then the group goes on without this member.
HANDLING_SECONDS_MAX = 3_600.0  # Of one message: longer than the slowest release is let take.


class SubscriberLost(Exception):
    """A subscriber does not hear, and does not come back by itself."""


@dataclass(frozen=True)
class Ailment:
    what: str
    noted_seconds: float  # Before readiness tells of it.
    bearable_seconds: float  # Before the process ends.


def _dead(what: str) -> Ailment:
    return Ailment(what, 0.0, DEAD_SECONDS)


def _stuck(what: str) -> Ailment:
    return Ailment(what, NOTED_SECONDS, STUCK_SECONDS)


def ailment(subscriber: DefaultSubscriber) -> Ailment | None:
    """What keeps a subscriber from hearing now."""
    # FastStream keeps a task that failed in the list, beside the one it started instead.
    if not subscriber.running or all(task.done() for task in subscriber.tasks):
        return _dead("is dead")
    consumer = subscriber.consumer
    assert consumer is not None
    # aiokafka has no public word for most of this, and waits for ever without saying one.
    busy_seconds = consumer._subscription.fetcher_idle_time  # noqa: SLF001  # 0 while it waits.
    if busy_seconds > HANDLING_SECONDS_MAX:
        return _dead(f"has had one message in hand for {HANDLING_SECONDS_MAX:g} s")
    if busy_seconds > POLL_SECONDS_MAX:
        return None  # It is let in again when it asks for the next message.
    if found := _membership(consumer, subscriber.group_id):
        return found
    return _fetching(consumer) if busy_seconds == 0 else None


def _membership(consumer: AIOKafkaConsumer, group: str | None) -> Ailment | None:
    coordinator = consumer._coordinator  # noqa: SLF001
    if group is None:
        return None if consumer.assignment() else _stuck("has no partitions")
    if coordinator._coordination_task.done():  # noqa: SLF001
        return _dead("has lost touch with its group")
    heart = coordinator._heartbeat_task  # noqa: SLF001
    if heart is not None and heart.done() and not heart.cancelled() and heart.exception():
        return _dead("has no heartbeat")  # It is told of that again and again, and does not join.
    if coordinator.need_rejoin(consumer._subscription.subscription):  # noqa: SLF001
        return _stuck("waits to be let into its group")
    return None


def _fetching(consumer: AIOKafkaConsumer) -> Ailment | None:
    polls = [consumer.last_poll_timestamp(partition) for partition in consumer.assignment()]
    heard = max((poll for poll in polls if poll is not None), default=None)
    if heard is not None and time.time() - heard / 1000 > NOTED_SECONDS:
        return _stuck("waits for messages that nobody fetches")
    return None


class Watch:
    """Remembers since when each subscriber has been ill."""

    def __init__(
        self,
        subscribers: Callable[[], Iterable[DefaultSubscriber]],
        kafka_answers: Callable[[], Awaitable[bool]],
    ) -> None:
        self._subscribers = subscribers
        self._kafka_answers = kafka_answers
        self._since: dict[DefaultSubscriber, float] = {}

    def problems(self) -> list[str]:
        """What readiness says."""
        return [
            f"the subscriber of {', '.join(subscriber.topic_names)} {found.what}"
            for subscriber, found, seconds in self._look()
            if seconds >= found.noted_seconds
        ]

    async def watch(self) -> NoReturn:
        """Look for ever; raises when somebody has been ill for longer than can be borne."""
        while True:
            await self.watch_once()
            await asyncio.sleep(LOOK_SECONDS)

    async def watch_once(self) -> None:
        found = self._look()
        if found and not await self._kafka_answers():
            self._since.clear()  # They cannot be better than Kafka is; it may be away for hours.
            return
        for subscriber, illness, seconds in found:
            if seconds >= illness.bearable_seconds:
                topics = ", ".join(subscriber.topic_names)
                raise SubscriberLost(f"the subscriber of {topics} {illness.what}")

    def _look(self) -> list[tuple[DefaultSubscriber, Ailment, float]]:
        now = time.monotonic()
        ill = {
            subscriber: found
            for subscriber in self._subscribers()
            if (found := ailment(subscriber)) is not None
        }
        self._since = {subscriber: self._since.get(subscriber, now) for subscriber in ill}
        return [
            (subscriber, found, now - self._since[subscriber]) for subscriber, found in ill.items()
        ]
