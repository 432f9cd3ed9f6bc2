"""The topics: partitions and retention; `annobus migrate` creates them from here."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta

DEAD_LETTERS = "dlq.v1"


@dataclass(frozen=True)
class Topic:
    name: str
    partitions: int
    retention: timedelta

    def settings(self) -> dict[str, str]:
        """The broker's settings of this topic."""
        return {
            "cleanup.policy": "delete",
            "retention.ms": str(int(self.retention.total_seconds() * 1000)),
        }


WORK = Topic("annotation.work.{source}.v1", 8, timedelta(days=3))

FIXED = (
    Topic("pipeline.commands.v1", 6, timedelta(days=7)),
    Topic("pipeline.events.v1", 6, timedelta(days=7)),
    Topic("pipeline.progress.v1", 6, timedelta(hours=1)),
    Topic("annotation.changes.v1", 6, timedelta(days=7)),
    Topic("cache.events.v1", 6, timedelta(days=1)),
    Topic(DEAD_LETTERS, 3, timedelta(days=30)),
)


def topics(sources: Iterable[str], prefix: str = "") -> list[Topic]:
    """All topics of a system with these sources; `prefix` lets tests share one broker."""
    work = [replace(WORK, name=WORK.name.format(source=source)) for source in sources]
    return [replace(topic, name=prefix + topic.name) for topic in (*FIXED, *work)]
