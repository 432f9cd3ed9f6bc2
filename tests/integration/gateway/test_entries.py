"""Cached values of a gateway: made once for all who ask, shared with others, forgotten in time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.parts import Part
from services.cache import namespaces
from services.gateway import entries
from services.gateway.entries import Entries
from services.gateway.tally import Tally
from tests.system import Database
from tests.waiting import until

LISTS = "lists"
PKD1, PKD2 = "HGNC:9008", "HGNC:9009"


@dataclass
class Maker:
    """Counts how often it is asked; answers when it may."""

    value: bytes | None = b"1"
    error: Exception | None = None
    count: int = 0
    may: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self) -> bytes | None:
        self.count += 1
        value = self.value  # As it was when it was read.
        await self.may.wait()
        if self.error is not None:
            raise self.error
        return value


def ready(value: bytes | None = b"1", error: Exception | None = None) -> Maker:
    maker = Maker(value, error)
    maker.may.set()
    return maker


@dataclass
class Gateway:
    database: Database
    engine: AsyncEngine
    statements: list[str] = field(default_factory=list)

    def entries(self, *, hears: bool = True) -> Entries:
        """Those of one more gateway."""
        made = Entries(self.engine, Tally())
        made.trust(hears)
        return made

    async def invalidate(self, *parts: Part) -> int:
        """As the cache does; nobody is told."""
        async with self.database.begin("cache") as tx:
            return await namespaces.invalidate(tx, LISTS, [str(part) for part in parts])


@pytest_asyncio.fixture
async def gateway(database: Database) -> AsyncIterator[Gateway]:
    async with database.engine("gateway") as engine:
        made = Gateway(database, engine)

        def note(*arguments: object) -> None:
            made.statements.append(str(arguments[2]))

        event.listen(engine.sync_engine, "before_cursor_execute", note)
        yield made


async def value(found: Awaitable[entries.Entry]) -> bytes | None:
    return (await found).value


def outcomes(found: Entries) -> dict[str, int]:
    return {outcome: count for (_, outcome), count in found.tally.counts.items()}


async def test_a_hundred_who_ask_at_once_are_one_making(gateway: Gateway) -> None:
    found, maker = gateway.entries(), Maker()
    asking = [asyncio.create_task(found.get(LISTS, "a", (), maker)) for _ in range(100)]
    await until(lambda: maker.count, "the maker is asked")
    maker.may.set()
    answers = await asyncio.gather(*asking)
    assert {one.value for one in answers} == {b"1"}
    assert maker.count == 1
    assert len(gateway.statements) == 2  # Looked for, and put.
    assert outcomes(found) == {"miss": 100, "made": 1}
    assert await value(found.get(LISTS, "a", (), maker)) == b"1"
    assert len(gateway.statements) == 2  # From memory.
    assert outcomes(found)["hit"] == 1


async def test_another_gateway_finds_what_one_has_made_and_says_how_old_it_is(
    gateway: Gateway,
) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    made = await gateway.entries().get(LISTS, "a", (), ready())
    assert before < made.made_at < datetime.now(UTC) + timedelta(seconds=1)
    other, maker = gateway.entries(), ready(b"2")
    assert await other.get(LISTS, "a", (), maker) == made
    assert (maker.count, outcomes(other)) == (0, {"shared": 1})


async def test_a_failed_making_fails_all_who_wait_and_is_not_remembered(gateway: Gateway) -> None:
    found, maker = gateway.entries(), Maker(error=RuntimeError("no"))
    asking = [asyncio.create_task(found.get(LISTS, "a", (), maker)) for _ in range(3)]
    await until(lambda: maker.count, "the maker is asked")
    maker.may.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert [repr(answer) for answer in answers] == ["RuntimeError('no')"] * 3
    assert await value(found.get(LISTS, "a", (), ready(b"2"))) == b"2"
    assert maker.count == 1


async def test_who_leaves_takes_nothing_from_the_others(gateway: Gateway) -> None:
    found, maker = gateway.entries(), Maker()
    first = asyncio.create_task(found.get(LISTS, "a", (), maker))
    await until(lambda: maker.count, "the maker is asked")
    second = asyncio.create_task(found.get(LISTS, "a", (), maker))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    maker.may.set()
    assert await value(second) == b"1"
    assert maker.count == 1


async def test_nothing_is_remembered_as_such(gateway: Gateway) -> None:
    found, maker = gateway.entries(), ready(None)
    for one in (found, found, gateway.entries()):
        assert await value(one.get(LISTS, "a", (), maker)) is None
    assert maker.count == 1


async def test_a_value_too_large_to_be_shared_is_answered(gateway: Gateway) -> None:
    found, maker = gateway.entries(), ready(b"x" * 2_000_000)
    assert await value(found.get(LISTS, "a", (), maker)) == maker.value
    assert outcomes(found)["refused"] == 1
    assert await value(gateway.entries().get(LISTS, "a", (), ready(b"2"))) == b"2"


async def test_memory_is_bounded_by_bytes(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "BYTES_MAX", 10_000)
    found = gateway.entries()
    for number in range(20):
        await found.get(LISTS, str(number), (), ready(b"x" * 1_000))
    count, size = found.in_memory(LISTS)
    assert 1 <= count <= 6
    assert size == found.bytes <= 10_000
    await found.get(LISTS, "huge", (), ready(b"x" * 10_000))
    assert found.in_memory(LISTS) == (count, size)


async def test_a_database_that_takes_no_entry_fails_no_answer(gateway: Gateway) -> None:
    async with gateway.database.connect() as owner:
        await owner.execute("REVOKE EXECUTE ON FUNCTION cache.put_entry_v1 FROM gateway")
    found = gateway.entries()
    assert await value(found.get(LISTS, "a", (), ready())) == b"1"
    assert outcomes(found) == {"miss": 1, "made": 1, "refused": 1}


async def test_there_is_no_other_namespace(gateway: Gateway) -> None:
    for namespace in ("genes", "coffee"):
        with pytest.raises(LookupError, match=namespace):
            await gateway.entries().get(namespace, "a", (), ready())


FORGOTTEN: list[tuple[tuple[Part, ...], bool]] = [
    ((), True),
    ((Part(gene=PKD1),), True),
    ((Part(gene=PKD1, source="hpo"),), True),
    ((Part(source="hpo"),), True),
    ((Part(key="a"),), True),
    ((Part(gene=PKD2), Part(key="b")), False),
    ((Part(gene=PKD2, source="hpo"),), False),
]


async def test_what_was_heard_to_be_forgotten_is_made_again(gateway: Gateway) -> None:
    for forgotten, is_made_again in FORGOTTEN:
        found, maker = gateway.entries(), ready()
        await found.get(LISTS, "a", (Part(gene=PKD1),), maker)
        before = maker.count
        epoch = await gateway.invalidate(*forgotten)
        for _ in range(2):  # It is heard of twice.
            found.invalidate(LISTS, epoch, [str(part) for part in forgotten])
            found.invalidate("facets", 700)  # Somewhere else.
            await found.get(LISTS, "a", (Part(gene=PKD1),), maker)
        assert maker.count - before == is_made_again, forgotten
        assert outcomes(found).get("stale", 0) == is_made_again, forgotten


async def test_what_was_begun_before_an_invalidation_is_made_once_more(gateway: Gateway) -> None:
    """Who asked before it waits for that; who asks after it does not wait for the first one."""
    found, maker = gateway.entries(), Maker(b"old")
    before = asyncio.create_task(found.get(LISTS, "a", (), maker))
    await until(lambda: maker.count == 1, "the maker is asked")
    maker.value = b"new"
    found.invalidate(LISTS, await gateway.invalidate())
    after = asyncio.create_task(found.get(LISTS, "a", (), maker))
    await until(lambda: maker.count == 2, "the maker is asked again")
    maker.may.set()
    assert await value(after) == b"new"
    assert await value(before) == b"new"
    assert await value(found.get(LISTS, "a", (), ready(b"newer"))) == b"new"


async def test_nothing_is_held_while_nothing_is_heard(gateway: Gateway) -> None:
    found = gateway.entries(hears=False)
    await found.get(LISTS, "a", (), ready())
    assert found.in_memory(LISTS) == (0, 0)
    await gateway.invalidate()
    assert await value(found.get(LISTS, "a", (), ready(b"2"))) == b"2"
    found.trust(True)
    await found.get(LISTS, "a", (), ready())
    assert found.in_memory(LISTS)[0] == 1
    found.trust(False)
    assert found.in_memory(LISTS) == (0, 0)


async def test_what_was_begun_while_nothing_was_heard_is_not_held_afterwards(
    gateway: Gateway,
) -> None:
    found, maker = gateway.entries(hears=False), Maker()
    asking = asyncio.create_task(found.get(LISTS, "a", (), maker))
    await until(lambda: maker.count, "the maker is asked")
    found.trust(True)
    maker.may.set()
    await asking
    assert found.in_memory(LISTS) == (0, 0)


async def test_nobody_waits_for_what_may_have_been_forgotten_unheard(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, maker = gateway.entries(hears=False), Maker()
    first = asyncio.create_task(found.get(LISTS, "a", (), maker))
    await until(lambda: maker.count == 1, "the maker is asked")
    second = asyncio.create_task(found.get(LISTS, "a", (), maker))  # Just begun.
    await asyncio.sleep(0)
    assert maker.count == 1
    monkeypatch.setattr(entries, "UNHEARD_SECONDS", 0)
    third = asyncio.create_task(found.get(LISTS, "a", (), maker))
    await until(lambda: maker.count == 2, "the maker is asked again")
    maker.may.set()
    assert [await value(one) for one in (first, second, third)] == [b"1"] * 3


async def test_a_value_in_memory_has_its_time_to_live(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message may be lost without a trace."""
    monkeypatch.setattr(entries, "AGE_SECONDS_MAX", 0)
    found, maker = gateway.entries(), ready()
    for _ in range(2):
        await found.get(LISTS, "a", (), maker)
    assert (maker.count, outcomes(found)) == (1, {"miss": 1, "made": 1, "stale": 1, "shared": 1})


async def test_more_parts_than_can_be_remembered_are_all_forgotten(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "HEARD_MAX", 4)
    found = gateway.entries()
    await found.get(LISTS, "a", (Part(gene=PKD1),), ready())
    for number in range(1, 4):
        found.invalidate(LISTS, number, [f"gene=HGNC:{number}"])
    assert found.in_memory(LISTS) == (0, 0)
