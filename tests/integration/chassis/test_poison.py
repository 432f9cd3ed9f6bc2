"""Poison is parked once, as it came; its neighbours are handled and the offset moves."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer, ConsumerRecord
from aiokafka.errors import MessageSizeTooLargeError

from contracts.messages import GENES_MAX, StartRun
from contracts.topics import DEAD_LETTERS
from services.chassis import dead_letters, telemetry
from services.chassis.bus import Bus, LetterSubscription, Subscription
from services.chassis.dead_letters import Letter
from services.chassis.errors import DETAIL_CHARACTERS_MAX, PermanentError
from tests.integration.chassis.desk import (
    COMMANDS,
    ELSEWHERE,
    EVENTS,
    GROUP,
    KNOWN,
    WAIT_SECONDS,
    Broker,
    Headers,
    Heard,
    body,
    open_broker,
    started,
    typed,
)
from tests.system import SharedCluster
from tests.waiting import until

MALFORMED = "urn:annobus:problem:malformed-message"
UNKNOWN = "urn:annobus:problem:unknown-message"
ACCEPTED = (
    "accepted is annobus.run.start.v1 or annobus.run.control.v1 or annobus.release.decide.v1 or"
    " annobus.namespace.invalidate.v1"
)
TOPIC_BYTES_MAX = 1_048_588  # Kafka's default for a topic, framing included.
FRAMING_BYTES = 200


@dataclass(frozen=True)
class Poison:
    body: bytes | None
    headers: Headers
    problem: str  # Its type.
    detail: str  # Part of it.


POISON = {
    "bad JSON": Poison(b"{not json", typed(KNOWN), MALFORMED, "Invalid JSON"),
    "not UTF-8": Poison(b'{"namespace": "\xff\xfe"}', typed(KNOWN), MALFORMED, "unicode"),
    "a wrong type": Poison(b'{"namespace": 7}', typed(KNOWN), MALFORMED, "valid string"),
    "a missing field": Poison(b"{}", typed(KNOWN), MALFORMED, "Field required"),
    "no object": Poison(b"[]", typed(KNOWN), MALFORMED, "object"),
    "a tombstone": Poison(None, typed(KNOWN), MALFORMED, "Invalid JSON"),
    "an empty body": Poison(b"", typed(KNOWN), MALFORMED, "Invalid JSON"),
    "no headers": Poison(body("a"), [], MALFORMED, f"ce_type is missing; {ACCEPTED}"),
    "a type without a value": Poison(body("a"), [("ce_type", None)], MALFORMED, "no value"),
    "a header without a value": Poison(
        body("a"), [*typed(KNOWN), ("trace", None)], MALFORMED, "the header trace has no value"
    ),
    "a type that is not UTF-8": Poison(body("a"), [("ce_type", b"\xff")], MALFORMED, r"b'\xff'"),
    "a header that is not UTF-8": Poison(
        body("a"), [("trace", b"\xff\xfe"), *typed(KNOWN)], MALFORMED, "the header trace is"
    ),
    "a header twice": Poison(
        b"{", [*typed(KNOWN), ("trace", b"1"), ("trace", b"2")], MALFORMED, "Invalid JSON"
    ),
    "an unknown command": Poison(
        body("a"), typed("annobus.coffee.make.v1"), UNKNOWN, f"'annobus.coffee.make.v1'; {ACCEPTED}"
    ),
    "an unknown version": Poison(
        body("a"), typed("annobus.namespace.invalidate.v2"), UNKNOWN, "invalidate.v2"
    ),
}


def origin_of(letter: ConsumerRecord) -> str:
    return str(dict(letter.headers)["origin"], "utf-8")


def problem_of(letter: ConsumerRecord) -> dict[str, Any]:
    problem: dict[str, Any] = json.loads(dict(letter.headers)["problem"])
    return problem


async def test_poison_is_parked_once_and_its_neighbours_are_handled(broker: Broker) -> None:
    heard = Heard()
    neighbours = ["before", *(f"after {name}" for name in POISON)]
    offsets: dict[str, int] = {}
    async with broker.listen(heard):
        await broker.command("before")
        for name, poison in POISON.items():
            offsets[name] = await broker.send(poison.body, poison.headers, key=name.encode())
            await broker.command(f"after {name}")
        await heard.until(neighbours[-1])
        letters = await broker.parked(len(POISON))

    assert heard.names == neighbours
    assert await broker.committed() == {0: 2 * len(POISON) + 1}
    assert len(letters) == len(POISON)
    by_name = {letter.key.decode(): letter for letter in letters}
    for name, poison in POISON.items():
        letter = by_name[name]
        assert letter.value == poison.body, name
        assert letter.headers[:-5] == tuple(poison.headers), name
        told = ["problem", "origin", "recorded_at", "parked_by", "attempts"]
        assert [header for header, _ in letter.headers[-5:]] == told
        assert letter.headers[-2][1] == f"test/{GROUP}".encode()
        assert origin_of(letter) == f"{broker.prefix}{COMMANDS}/0/{offsets[name]}"
        assert problem_of(letter)["type"] == poison.problem, name
        assert poison.detail in problem_of(letter)["detail"], name


async def test_a_record_with_neither_key_nor_body_is_parked(broker: Broker) -> None:
    """Legal in Kafka, and refused by the producer that has to park it."""
    heard = Heard()
    async with broker.listen(heard):
        batch = broker.producer.create_batch()
        batch.append(key=None, value=None, timestamp=None, headers=typed(KNOWN))
        await (await broker.producer.send_batch(batch, broker.prefix + COMMANDS, partition=0))
        await broker.command("after")
        await heard.until("after")
        (letter,) = await broker.parked(1)
    assert (letter.key, letter.value) == (None, b"")
    assert await broker.committed() == {0: 2}


async def test_poison_as_large_as_its_topic_takes_is_parked_whole(broker: Broker) -> None:
    heard = Heard()
    largest = b"x" * (TOPIC_BYTES_MAX - FRAMING_BYTES)
    async with broker.listen(heard):
        with pytest.raises(MessageSizeTooLargeError):
            await broker.send(largest + b"x" * FRAMING_BYTES, typed(KNOWN))
        await broker.send(largest, typed(KNOWN))
        await broker.command("after")
        await heard.until("after")
        (letter,) = await broker.parked(1)
    assert letter.value == largest
    assert heard.names == ["after"]
    assert await broker.committed() == {0: 2}


async def test_poison_that_fits_compressed_alone_stays_where_it_is_and_is_told_of(
    broker: Broker,
) -> None:
    heard = Heard()
    bomb = b"x" * (4 * TOPIC_BYTES_MAX)
    packer = AIOKafkaProducer(
        bootstrap_servers=broker.settings.kafka_bootstrap,
        compression_type="gzip",
        max_request_size=2 * len(bomb),
    )
    async with packer, broker.listen(heard):
        await packer.send_and_wait(
            broker.prefix + COMMANDS, bomb, key=b"k", headers=typed(KNOWN), partition=0
        )
        await broker.command("after")
        await heard.until("after")
        (letter,) = await broker.parked(1)
    assert dict(letter.headers)["left_at_origin"] == b"true"
    assert origin_of(letter) == f"{broker.prefix}{COMMANDS}/0/0"
    assert problem_of(letter)["type"] == MALFORMED
    assert await broker.committed() == {0: 2}


@pytest.mark.parametrize("group", [GROUP, None])
async def test_a_record_that_the_library_cannot_read_is_told_of_and_passed_over(
    broker: Broker, group: str | None
) -> None:
    """Or it is read again without a pause, for ever, by a subscriber that looks well."""
    heard = Heard()
    async with broker.listen(heard, group=group) as bus:
        for name in ("before", "after"):
            await broker.command(name)
            await broker.send_illegible_header()
        await broker.command("last")
        await heard.until("last")
        letters = await broker.parked(2 if group else 0)
        (subscriber,) = bus._subscribers()  # noqa: SLF001
        assert len(subscriber.tasks) == 1
    assert heard.names == ["before", "after", "last"]
    assert await broker.committed() == ({0: 5} if group else {})
    assert sorted(origin_of(letter)[-2:] for letter in letters) == (["/1", "/3"] if group else [])
    for letter in letters:
        assert dict(letter.headers)["left_at_origin"] == b"true"
        assert "xff" in problem_of(letter)["detail"]


async def test_poison_with_a_thousand_pages_of_reasons_is_parked_with_a_short_one(
    broker: Broker,
) -> None:
    heard: asyncio.Queue[StartRun] = asyncio.Queue()
    bus = Bus(broker.settings, "test")
    bus.subscribe([Subscription(COMMANDS, {StartRun: heard.put}, GROUP)])
    good = StartRun(run_id=uuid4(), sources=("hpo",))
    genes = list(range(GENES_MAX))  # Numbers: as many errors of validation.
    poison = json.dumps({"run_id": str(uuid4()), "sources": ["hpo"], "genes": genes}).encode()
    async with started(bus):
        await broker.send(poison, typed(StartRun.type))
        await broker.send(good.model_dump_json().encode(), typed(StartRun.type))
        async with asyncio.timeout(WAIT_SECONDS):
            assert await heard.get() == good
        (letter,) = await broker.parked(1)
    assert letter.value == poison
    assert len(problem_of(letter)["detail"]) == DETAIL_CHARACTERS_MAX


async def test_two_groups_of_one_topic_park_what_is_nobodys_once(broker: Broker) -> None:
    one, other = Heard(), Heard()
    async with (
        broker.listen(one),
        broker.listen(other, group="cache-commands", parks_unknown=False, parks_untyped=False),
    ):
        await broker.send(body("a"), [])
        await broker.send(body("a"), [("ce_type", b"\xff")])
        await broker.send(body("a"), typed("annobus.coffee.make.v1"))
        await broker.command("after")
        await one.until("after")
        await other.until("after")
        letters = await broker.parked(3)
    assert len(letters) == 3
    assert {origin_of(letter)[-1] for letter in letters} == {"0", "1", "2"}
    assert await broker.committed() == await broker.committed("cache-commands") == {0: 4}


async def test_what_the_reader_of_dead_letters_refuses_is_not_parked_once_more(
    broker: Broker,
) -> None:
    """It would read it again, for ever."""
    read: asyncio.Queue[Letter] = asyncio.Queue()

    async def refuse_once(letter: Letter) -> None:
        await read.put(letter)
        if read.qsize() == 1:
            raise PermanentError("there is no place for it")

    bus = Bus(broker.settings, "gateway")
    bus.subscribe([LetterSubscription(refuse_once, "dead-letters")])
    async with started(bus), broker.listen(Heard()):
        offset = await broker.send(b"{", typed(KNOWN))
        await until(lambda: read.qsize() == 2, "it is read again")
        assert len(await broker.parked(1)) == 1
    first, again = read.get_nowait(), read.get_nowait()
    assert first == again
    assert (first.topic, first.offset, first.value) == (COMMANDS, offset, b"{")
    assert list(first.headers) == typed(KNOWN)
    assert (first.service, first.group, first.attempts) == ("test", GROUP, 1)


async def test_what_is_for_others_is_acknowledged_and_an_unknown_fact_counted(
    broker: Broker,
) -> None:
    heard = Heard()
    unknown = telemetry.MESSAGES_UNKNOWN.labels(COMMANDS)._value  # noqa: SLF001
    before = unknown.get()
    async with broker.listen(heard, parks_unknown=False):
        await broker.send(b"{not read", typed(ELSEWHERE))
        await broker.send(b"{not read", typed("annobus.something.happened.v9"))
        await broker.command("mine")
        await heard.until("mine")
    assert heard.names == ["mine"]
    assert unknown.get() == before + 1
    assert await broker.parked(0) == []
    assert await broker.committed() == {0: 3}


async def test_a_known_command_for_another_service_is_not_parked_by_the_group_that_parks(
    broker: Broker,
) -> None:
    heard = Heard()
    async with broker.listen(heard):
        await broker.send(b"{not read", typed(ELSEWHERE))
        await broker.command("mine")
        await heard.until("mine")
    assert await broker.parked(0) == []
    assert await broker.committed() == {0: 2}


async def test_a_field_that_nobody_knows_is_ignored(broker: Broker) -> None:
    heard = Heard()
    async with broker.listen(heard):
        await broker.send(b'{"namespace": "a", "colour": "red"}', typed(KNOWN))
        await heard.until("a")
    assert await broker.parked(0) == []


async def test_a_stray_reply_to_header_is_answered_nowhere(broker: Broker) -> None:
    await broker.create(EVENTS)
    heard = Heard()
    target = broker.prefix + EVENTS
    headers = [*typed(KNOWN), ("reply_to", target.encode()), ("correlation_id", b"1")]
    async with broker.listen(heard):
        await broker.send(body("a"), headers)
        await broker.send(b"{", headers)  # Nor when it is parked.
        await broker.command("after")
        await heard.until("after")
        assert len(await broker.parked(1)) == 1
    assert await broker.records(EVENTS, 0) == []
    assert len(await broker.records(COMMANDS, 3)) == 3


async def test_a_listener_without_a_group_passes_over_poison(broker: Broker) -> None:
    heard = Heard()
    async with broker.listen(heard, group=None) as bus:
        for poison in POISON.values():
            await broker.send(poison.body, poison.headers)
        await broker.command("after")
        await heard.until("after")
        assert await bus.problems() == []
    assert heard.names == ["after"]
    assert await broker.parked(0) == []


async def test_what_cannot_be_parked_is_not_acknowledged(
    cluster: SharedCluster, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "PARK_TIMEOUT_SECONDS", 0.5)
    heard = Heard()
    bootstrap = cluster.environment()["ANNOBUS_KAFKA_BOOTSTRAP"]
    retried = telemetry.MESSAGES_HANDLED.labels(topic_prefix + COMMANDS, KNOWN, "retried")
    async with (
        open_broker(bootstrap, topic_prefix, COMMANDS) as broker,  # No topic to park in.
        broker.listen(heard),
    ):
        await broker.send(b"{", typed(KNOWN))
        await broker.command("after")
        async with asyncio.timeout(WAIT_SECONDS):
            while not retried._value.get():  # noqa: SLF001
                await asyncio.sleep(0.02)
        assert heard.names == []
        assert await broker.committed() == {}
        await broker.create(DEAD_LETTERS)
        await heard.until("after")
        (letter,) = await broker.parked(1)
    assert origin_of(letter) == f"{topic_prefix}{COMMANDS}/0/0"
