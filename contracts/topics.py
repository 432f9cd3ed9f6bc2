"""The topics: partitions and retention; `annobus migrate` creates them from here."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta

DEAD_LETTERS = "dlq.v1"
RECORD_BYTES_MAX = 1_048_588  # Kafka's default for a topic, framing included.
# Twice what other topics take, so that what came through one of them fits with the reason added.
DEAD_LETTER_BYTES_MAX = 2 * 1024 * 1024


@dataclass(frozen=True)
class Topic:
    name: str
    partitions: int
    retention: timedelta
    record_bytes_max: int | None = None  # None: what the broker takes everywhere.

    def settings(self) -> dict[str, str]:
        """The broker's settings of this topic."""
        settings = {
            "cleanup.policy": "delete",
            "retention.ms": str(int(self.retention.total_seconds() * 1000)),
        }
        if self.record_bytes_max is not None:
            settings["max.message.bytes"] = str(self.record_bytes_max)
        return settings


WORK = Topic("annotation.work.{source}.v1", 8, timedelta(days=3))

FIXED = (
    Topic("pipeline.commands.v1", 6, timedelta(days=7)),
    Topic("pipeline.events.v1", 6, timedelta(days=7)),
    Topic("pipeline.progress.v1", 6, timedelta(hours=1)),
    Topic("annotation.changes.v1", 6, timedelta(days=7)),
    Topic("cache.events.v1", 6, timedelta(days=1)),
    Topic(DEAD_LETTERS, 3, timedelta(days=30), DEAD_LETTER_BYTES_MAX),
)


def topics(sources: Iterable[str], prefix: str = "") -> list[Topic]:
    """All topics of a system with these sources; `prefix` lets tests share one broker."""
    work = [replace(WORK, name=WORK.name.format(source=source)) for source in sources]
    return [replace(topic, name=prefix + topic.name) for topic in (*FIXED, *work)]
