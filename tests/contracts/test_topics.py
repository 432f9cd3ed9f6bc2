"""Topics have the names, partitions and retention that the design gives them."""

import re
from datetime import timedelta

import pytest

from contracts.messages import TYPES, AnnotateBatch
from contracts.topics import DEAD_LETTERS, FIXED, WORK, Topic, topics

NAME = re.compile(r"([a-z]+\.)*[a-z]+\.v[0-9]+")
TYPE = re.compile(r"annobus\.[a-z]+\.[a-z]+\.v[0-9]+")
BATCH_ID = "01a1e3b1-57dc-73ce-a2d4-a6d297b75092"

DESIGNED = {
    "pipeline.commands.v1": (6, timedelta(days=7)),
    "pipeline.events.v1": (6, timedelta(days=7)),
    "pipeline.progress.v1": (6, timedelta(hours=1)),
    "annotation.changes.v1": (6, timedelta(days=7)),
    "annotation.work.hpo.v1": (8, timedelta(days=3)),
    "cache.events.v1": (6, timedelta(days=1)),
    "dlq.v1": (3, timedelta(days=30)),
}


def test_partitions_and_retention_are_those_of_the_design() -> None:
    found = {topic.name: (topic.partitions, topic.retention) for topic in topics(["hpo"])}
    assert found == DESIGNED


def test_each_source_has_a_topic_of_its_own() -> None:
    names = [topic.name for topic in topics(["hgnc", "hpo"])]
    assert "annotation.work.hgnc.v1" in names
    assert "annotation.work.hpo.v1" in names
    assert len(names) == len(set(names)) == len(FIXED) + 2


def test_a_prefix_stands_before_every_name_and_changes_nothing_else() -> None:
    plain, prefixed = topics(["hpo"]), topics(["hpo"], "test-1.")
    assert [topic.name for topic in prefixed] == [f"test-1.{topic.name}" for topic in plain]
    assert [topic.settings() for topic in prefixed] == [topic.settings() for topic in plain]


def test_names_are_subject_stream_and_version() -> None:
    assert [topic.name for topic in topics(["hpo"]) if not NAME.fullmatch(topic.name)] == []
    assert [name for name in TYPES if not TYPE.fullmatch(name)] == []


def test_every_message_goes_to_a_topic_there_is_and_every_topic_has_messages() -> None:
    used = {message.topic for message in TYPES.values()}
    assert used | {DEAD_LETTERS} == {topic.name for topic in (*FIXED, WORK)}


def test_a_work_message_goes_to_the_topic_of_its_source() -> None:
    message = AnnotateBatch.model_validate({"batch_id": BATCH_ID, "source": "hpo"})
    assert message.destination() == "annotation.work.hpo.v1"


@pytest.mark.parametrize("topic", topics(["hpo"]), ids=lambda topic: topic.name)
def test_the_broker_is_told_the_retention_in_milliseconds(topic: Topic) -> None:
    settings = topic.settings()
    assert settings["cleanup.policy"] == "delete"
    assert timedelta(milliseconds=int(settings["retention.ms"])) == topic.retention


def test_dead_letters_may_be_larger_than_what_came_through_any_other_topic() -> None:
    limits = {topic.name: topic.settings().get("max.message.bytes") for topic in topics(["hpo"])}
    assert limits.pop("dlq.v1") == str(2 * 1024 * 1024)
    assert set(limits.values()) == {None}  # The broker's, which is half of that.
