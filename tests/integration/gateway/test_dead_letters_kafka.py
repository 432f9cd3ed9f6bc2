"""Dead letters on a real broker: into the table, and back to their topic for a mended reader."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest_asyncio

from contracts.messages import BatchDead, InvalidateNamespace
from contracts.topics import DEAD_LETTERS, FIXED
from services.chassis import outbox
from services.chassis.bus import Bus
from services.chassis.errors import PermanentError
from services.gateway.handlers import letter_subscriptions, subscriptions
from services.gateway.store.dead_letters import HEADER_BYTES, RETRY_BYTES_MAX
from tests.integration.chassis.desk import (
    COMMANDS,
    KNOWN,
    Broker,
    Headers,
    Heard,
    open_broker,
    typed,
)
from tests.integration.gateway.desk import Desk
from tests.integration.gateway.letters import PROBLEM, dead_batch
from tests.integration.gateway.test_dead_letters import ADDRESS, BY, listed
from tests.system import SharedCluster
from tests.waiting import until


@pytest_asyncio.fixture
async def broker(cluster: SharedCluster, topic_prefix: str) -> AsyncIterator[Broker]:
    bootstrap = cluster.environment()["ANNOBUS_KAFKA_BOOTSTRAP"]
    async with open_broker(bootstrap, topic_prefix, *(topic.name for topic in FIXED)) as broker:
        yield broker


@asynccontextmanager
async def listening(desk: Desk, broker: Broker) -> AsyncIterator[Bus]:
    """The gateway's own subscribers, and its relay."""
    bus = Bus(broker.settings, "gateway")
    bus.subscribe([*subscriptions(desk.handlers), *letter_subscriptions(desk.letters)])
    await bus.start()
    settings = desk.database.settings("gateway", shared=broker.settings)
    relay = asyncio.create_task(outbox.relay(settings, "gateway", bus.publish, bus.publish_again))
    try:
        yield bus
    finally:
        relay.cancel()
        await asyncio.wait({relay})
        await bus.stop()


class Reader(Heard):
    """Handles nothing until it is mended."""

    is_mended = False

    async def __call__(self, message: InvalidateNamespace) -> None:
        if not self.is_mended:
            raise PermanentError("it makes no sense to me")
        await super().__call__(message)


async def letters(desk: Desk, count: int, **parameters: str) -> list[dict[str, Any]]:
    async def found() -> list[dict[str, Any]] | None:
        entries = await listed(desk, **parameters)
        return entries if len(entries) == count else None

    return list(await until(found, f"{count} letters"))


async def retried(desk: Desk, letter_id: str) -> None:
    answer = await desk.client.post(f"{ADDRESS}/{letter_id}/retry", json=BY)
    assert answer.status_code == 202, answer.text


async def test_a_message_that_was_parked_is_handled_once_when_its_reader_is_mended(
    desk: Desk, broker: Broker
) -> None:
    reader = Reader()
    async with listening(desk, broker), broker.listen(reader, service="cache"):
        await broker.command("genes", partition=3)
        (parked,) = await letters(desk, 1)
        shown = parked["attributes"]
        assert (shown["topic"], shown["partition"], shown["offset"]) == (COMMANDS, 3, 0)
        assert (shown["service"], shown["consumer_group"], shown["attempts"]) == (
            *("cache", "planner"),
            1,
        )
        assert shown["problem"]["detail"] == "it makes no sense to me"
        assert shown["type"] == KNOWN

        await retried(desk, parked["id"])  # Too early.
        (again, first) = await letters(desk, 2)
        assert first["id"] == parked["id"]
        assert (first["attributes"]["state"], again["attributes"]["state"]) == ("retried", "open")
        assert again["attributes"]["retry_of"] == parked["id"]

        reader.is_mended = True
        await retried(desk, again["id"])
        await reader.until("genes")
        await broker.command("after")
        await reader.until("after")
        assert await listed(desk, **{"filter[state]": "open"}) == []
    assert reader.names == ["genes", "after"]


async def test_a_record_of_any_bytes_comes_back_as_it_was(desk: Desk, broker: Broker) -> None:
    headers = [
        *(("ce_type", b"\xff"), ("ce_id", b"the same"), ("twice", b"1")),
        *(("twice", b"\x00\xfe"), ("none", None), ("a\x00b", b"")),
    ]
    async with listening(desk, broker), broker.listen(Heard()):
        await broker.send(b"\xfd{", headers, key=b"\xfc")
        await broker.send(None, typed(KNOWN))
        for entry in await letters(desk, 2):
            await retried(desk, entry["id"])
        records = await broker.records(COMMANDS, 4)
        again = await letters(desk, 2, **{"filter[state]": "open"})
    first = {record.value: record for record in records if record.headers[-1][0] != "retry_of"}
    second = {record.value: record for record in records if record.headers[-1][0] == "retry_of"}
    assert set(first) == set(second) == {b"\xfd{", None}
    for value, record in second.items():
        assert record.key == first[value].key
        assert record.headers[:-1] == first[value].headers
    assert all(entry["attributes"]["retry_of"] for entry in again)


async def test_the_largest_that_is_sent_again_arrives(desk: Desk, broker: Broker) -> None:
    """One that Kafka refused would be in the outbox for ever."""
    ce_type = typed(KNOWN)
    size = (
        RETRY_BYTES_MAX
        - len(b"key")
        - sum(len(name) + len(value or b"") + HEADER_BYTES for name, value in ce_type)
    )
    async with listening(desk, broker), broker.listen(Heard()):
        await broker.send(b"x" * size, ce_type)
        (entry,) = await letters(desk, 1)
        assert entry["attributes"]["bytes"] == RETRY_BYTES_MAX
        await retried(desk, entry["id"])
        (again,) = await letters(desk, 1, **{"filter[state]": "open"})
        assert again["attributes"]["retry_of"] == entry["id"]


async def test_what_is_no_dead_letter_is_kept_where_it_lies_and_not_parked_again(
    desk: Desk, broker: Broker
) -> None:
    strange: list[Headers] = [
        [],
        [("ce_type", b"\xff"), ("none", None)],
        [("problem", b"no JSON"), ("origin", b"a/0/0")],
        [("problem", b"[]"), ("origin", b"a/0/0")],
        [("problem", b'{"title": "x"}'), ("origin", b"nowhere")],
        [("problem", b'{"title": "x"}'), ("origin", b"a/0/99999999999999999999")],
        [("problem", None), ("origin", None)],
        [("problem", b'{"title": "x"}'), ("origin", b"a/0/0"), ("origin", b"a/0/1")],
    ]
    async with listening(desk, broker) as bus:
        for headers in strange:
            await broker.send(b"\xff", headers, topic=DEAD_LETTERS)
        await broker.send_illegible_header(DEAD_LETTERS)
        numbers = [(name, b"9" * 15) for name in ("recorded_at", "attempts")]
        origin = ("origin", f"{broker.prefix}a.b/999999999/999999999999999999".encode())
        good = [("problem", b'{"title": "x"}'), origin, *numbers, ("parked_by", b"\xff/\x00")]
        await broker.send(b"good", good, topic=DEAD_LETTERS)
        found = await letters(desk, len(strange) + 2)
        assert await bus.problems() == []
    # All in one partition: had one been parked again, it would be behind the others or beside them.
    assert await broker.committed("dead-letters", DEAD_LETTERS) == {0: len(strange) + 2}
    kept = [entry["attributes"] for entry in found if entry["attributes"]["topic"] == DEAD_LETTERS]
    assert sorted(entry["offset"] for entry in kept) == list(range(len(strange) + 1))
    assert {entry["problem"]["title"] for entry in kept} == {"A message that cannot be read"}
    (other,) = [entry for entry in found if entry["attributes"]["topic"] == "a.b"]
    assert (other["attributes"]["partition"], other["attributes"]["attempts"]) == (
        999_999_999,
        None,
    )


async def test_letters_wait_for_the_database_and_are_read_again(desk: Desk, broker: Broker) -> None:
    async with listening(desk, broker), broker.listen(Heard()):
        await desk.execute("ALTER TABLE gateway.dead_letter RENAME TO gone")
        await broker.send(b"{", typed(KNOWN))
        await broker.parked(1)
        await desk.execute("ALTER TABLE gateway.gone RENAME TO dead_letter")
        await letters(desk, 1)
    assert len(await broker.parked(1)) == 1


async def test_a_dead_batch_is_heard_of_and_what_cannot_be_read_beside_it_is_a_letter(
    desk: Desk, broker: Broker
) -> None:
    fact = await dead_batch(desk, ["HGNC:1"])
    await desk.execute("TRUNCATE gateway.dead_letter CASCADE")
    async with listening(desk, broker):
        for body in (b"{", fact.model_dump_json().encode(), fact.model_dump_json().encode()):
            await broker.send(body, typed(BatchDead.type), topic=BatchDead.topic)
        found = await letters(desk, 2)
        by_kind = {entry["attributes"]["kind"]: entry["attributes"] for entry in found}
        assert by_kind["batch"]["batch_id"] == str(fact.batch_id)
        assert by_kind["batch"]["problem"] == PROBLEM
        assert (by_kind["message"]["service"], by_kind["message"]["topic"]) == (
            *("gateway",),
            BatchDead.topic,
        )
