"""The catalogue in contracts/README.md names every topic, message and view, and nothing else."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import get_args

import pytest

from contracts import generate
from contracts.messages import TYPES, AnnotateBatch
from contracts.topics import FIXED, WORK
from contracts.views import VIEWS, AnnotationStatus
from services.chassis import outbox

README = Path(generate.__file__).parent / "README.md"
SET_BY_THE_RELAY = {"ce_id", "ce_source"}
WORDS = (
    "run, source, release, gene, annotation, change, batch, slice, page, attempt, lease, "
    "checkpoint, dead letter, namespace, epoch"
)

Row = Mapping[str, str]


def table(first_column: str) -> list[Row]:
    """The rows of the table whose first column is headed so, by column, without code marks."""
    lines = README.read_text(encoding="utf-8").splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith(f"| {first_column} |"))
    heads = cells(lines[start])
    rows: list[Row] = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(dict(zip(heads, cells(line), strict=True)))
    return rows


def cells(line: str) -> list[str]:
    return [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]


def shown(topic: str) -> str:
    return topic.replace("{source}", "<source>")


def in_words(duration: timedelta) -> str:
    unit, size = ("day", timedelta(days=1)) if duration.days else ("hour", timedelta(hours=1))
    number, rest = divmod(duration, size)
    assert not rest
    return f"{number} {unit}" + ("s" if number > 1 else "")


@pytest.mark.parametrize(
    ("duration", "words"),
    [
        (timedelta(days=7), "7 days"),
        (timedelta(days=1), "1 day"),
        (timedelta(hours=1), "1 hour"),
        (timedelta(hours=12), "12 hours"),
    ],
)
def test_retention_is_told_in_words(duration: timedelta, words: str) -> None:
    assert in_words(duration) == words


def test_every_topic_is_listed_once_with_its_partitions_and_retention() -> None:
    told = [(row["topic"], row["partitions"], row["retention"]) for row in table("topic")]
    there_are = [
        (shown(topic.name), str(topic.partitions), in_words(topic.retention))
        for topic in (*FIXED, WORK)
    ]
    assert sorted(told) == sorted(there_are)


def test_every_topic_says_its_key_its_producer_and_its_consumers() -> None:
    for row in table("topic"):
        assert all(row[column] for column in ("key", "producer", "consumers")), row["topic"]


def test_every_message_is_listed_once_with_its_type_topic_and_meaning() -> None:
    rows = table("message")
    told = [(row["message"], row["ce_type"], row["topic"]) for row in rows]
    there_are = [
        (message.__name__, message.type, shown(message.topic)) for message in TYPES.values()
    ]
    assert sorted(told) == sorted(there_are)
    assert all(row["meaning"] for row in rows)


def test_every_view_is_listed_once_with_its_meaning() -> None:
    rows = table("view")
    assert sorted(row["view"] for row in rows) == sorted(view.view for view in VIEWS)
    assert all(row["a row is"] for row in rows)


def test_every_header_is_listed_once() -> None:
    message = AnnotateBatch.model_validate(
        {"batch_id": "01a1e3b1-57dc-73ce-a2d4-a6d297b75092", "source": "hpo"}
    )
    written = {*outbox.envelope(message), *SET_BY_THE_RELAY}
    assert sorted(row["header"] for row in table("header")) == sorted(written)


def test_the_glossary_explains_the_words_the_counters_and_the_statuses() -> None:
    words = [row["word"] for row in table("word")]
    assert set(WORDS.split(", ")) <= set(words)
    assert len(words) == len(set(words))
    assert [row["counter"] for row in table("counter")] == [
        *("done", "no data", "failed", "cancelled", "changed")
    ]
    assert [row["status"] for row in table("status")] == list(get_args(AnnotationStatus))
