"""A consumer that hears what comes at once, and goes on behind a record that its own library cannot
read."""

import time
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.structs import TopicPartition

from services.chassis.liveness import HANDLING_SECONDS_MAX


class UnreadableRecord(ConsumerRecord):  # type: ignore[misc]  # It ships no types.
    """Stands for a record that is left in its topic: nothing is known of it but its place."""


class TolerantConsumer(AIOKafkaConsumer):  # type: ignore[misc]
    def __init__(self, *topics: str, seconds_ago: Mapping[str, float], **settings: Any) -> None:
        super().__init__(*topics, **settings)
        self._seconds_ago = {} if settings.get("group_id") else seconds_ago

    async def start(self) -> None:
        """While a message is in hand, nothing is asked for.

        After 0.1 s the library would ask for what the other partitions have. Nobody needs that
        yet, and where they have nothing it is answered only after the longest wait: so long the
        partition of the message in hand would not be heard.
        """
        await super().start()
        self._fetcher._prefetch_backoff = HANDLING_SECONDS_MAX  # noqa: SLF001
        for topic in self.subscription() & self._seconds_ago.keys():
            await self._go_back(topic, self._seconds_ago[topic])

    async def _go_back(self, topic: str, seconds: float) -> None:
        """Before anything is asked for: what is asked for at the end of a topic is answered only
        after the longest wait."""
        partitions = [one for one in self.assignment() if one.topic == topic]
        self.pause(*partitions)
        since_ms = int((time.time() - seconds) * 1000)
        places = await self.offsets_for_times(dict.fromkeys(partitions, since_ms))
        for partition, place in places.items():
            if place is not None:  # Else nothing was said since.
                self.seek(partition, place.offset)
        self.resume(*partitions)

    async def getone(self, *partitions: TopicPartition) -> ConsumerRecord:
        try:
            return await super().getone(*partitions)
        except UnicodeDecodeError as error:
            # The name of a header: the library reads the record again, at once, for ever.
            return self._pass_over(error)
        finally:
            self._end_fetch()

    def _pass_over(self, error: UnicodeDecodeError) -> ConsumerRecord:
        place = next(iter(self._fetcher._records))  # noqa: SLF001  # It stopped at this one.
        assignment = self._subscription.subscription.assignment
        offset = assignment.state_value(place).position
        self.seek(place, offset + 1)
        reason = f"the name of a header is {error.object!r}; text in UTF-8 is accepted"
        return UnreadableRecord(
            topic=place.topic,
            partition=place.partition,
            offset=offset,
            timestamp=-1,
            timestamp_type=0,
            key=None,
            value=b"",
            checksum=None,
            serialized_key_size=-1,
            serialized_value_size=-1,
            headers=(("malformed", reason.encode()),),
        )

    def _end_fetch(self) -> None:
        """After an error the library takes its consumer for one that waits for a message, for
        ever: its group would never miss it, and nobody would see a handler that hangs."""
        subscription = self._subscription
        if subscription._fetch_count:  # noqa: SLF001
            subscription._fetch_count = 0  # noqa: SLF001
            subscription._last_fetch_ended = time.monotonic()  # noqa: SLF001
