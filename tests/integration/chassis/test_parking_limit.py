"""A subscriber that parks almost everything is held, and the rest waits in its topic."""

import asyncio
import time

import httpx2
import pytest

from services.chassis import http, liveness, telemetry
from services.chassis.bus import Bus
from services.chassis.errors import TransientError
from services.chassis.parking import IN_A_ROW_MAX, LAST_COUNT, Parking
from tests.integration.chassis.desk import (
    COMMANDS,
    ELSEWHERE,
    GROUP,
    KNOWN,
    PARTITIONS,
    Broker,
    Heard,
    body,
    typed,
)
from tests.system import http_client
from tests.waiting import until

POISON_COUNT = 500
PARKED_MAX = 50
PROBE_SECONDS = 0.25
RARE_SECONDS = 6.0  # Longer than what a message that failed waits, and a look at who is held.
NEVER_SECONDS = 3_600.0
WATCHED_SECONDS = 4.0  # Far longer than the patience of the watch in that test.
STOP_SECONDS_MAX = 5.0


async def is_held(bus: Bus) -> bool:
    return any("is held" in problem for problem in await bus.problems())


async def not_held(bus: Bus) -> bool:
    return not await is_held(bus)


def held_gauge(broker: Broker, reason: str) -> float:
    gauge = telemetry.SUBSCRIBERS_HELD.labels(broker.prefix + COMMANDS, reason)
    return float(gauge._value.get())  # noqa: SLF001


async def send_poison(broker: Broker, count: int) -> None:
    await asyncio.gather(
        *(broker.send(b"{", typed(KNOWN), partition=n % PARTITIONS) for n in range(count))
    )


async def test_a_topic_of_poison_is_not_drained_into_the_dead_letters(broker: Broker) -> None:
    await send_poison(broker, POISON_COUNT)
    heard = Heard()
    async with broker.listen(heard, probe_seconds=NEVER_SECONDS) as bus:
        await until(lambda: is_held(bus), "the subscriber is held")
        app = http.create_app("test", {"kafka": bus.problems})
        async with (
            http.serve(app, "127.0.0.1", 0) as port,
            http_client(f"http://127.0.0.1:{port}") as client,
        ):
            ready = await client.get("/readyz?verbose")
        letters = await broker.parked(IN_A_ROW_MAX)
        assert await bus.deafness() == []
    assert ready.status_code == httpx2.codes.SERVICE_UNAVAILABLE
    (problem,) = ready.json()["checks"]["kafka"]["problems"]
    assert problem.startswith(f"the subscriber of {broker.prefix}{COMMANDS} (group {GROUP}) is")
    assert "20 messages in a row were parked" in problem
    assert IN_A_ROW_MAX <= len(letters) <= PARKED_MAX
    assert sum((await broker.committed()).values()) == len(letters)
    assert heard.names == []
    assert held_gauge(broker, "in_a_row") == 1


async def test_who_is_held_tries_one_at_a_time_until_one_is_handled_and_then_all_flow(
    broker: Broker,
) -> None:
    """Two probes are parked, the third is good: everything behind it comes at once."""
    for _ in range(IN_A_ROW_MAX + 2):
        await broker.send(b"{", typed(KNOWN))
    heard = Heard()
    names = [f"good {number}" for number in range(100)]
    async with broker.listen(heard, probe_seconds=PROBE_SECONDS) as bus:
        await until(lambda: is_held(bus), "the subscriber is held")
        began = time.monotonic()
        for name in names:
            await broker.command(name)
        await heard.until(names[0])
        assert time.monotonic() - began > 2 * PROBE_SECONDS
        await heard.until(names[-1])
        await until(lambda: not_held(bus), "all flow again")
    assert heard.names == names
    assert len(await broker.parked(IN_A_ROW_MAX + 2)) == IN_A_ROW_MAX + 2
    assert await broker.committed() == {0: IN_A_ROW_MAX + 2 + len(names)}
    assert held_gauge(broker, "in_a_row") == 0


async def test_a_held_subscriber_is_not_taken_for_dead_and_stops_in_order(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody ends its process, its group keeps it, and a stop does not wait for the next probe."""
    for name in ("STUCK_SECONDS", "DEAD_SECONDS"):
        monkeypatch.setattr(liveness, name, 0.5)
    monkeypatch.setattr(liveness, "NOTED_SECONDS", 2.0)
    monkeypatch.setattr(liveness, "LOOK_SECONDS", 0.05)
    await send_poison(broker, POISON_COUNT)
    async with broker.listen(Heard(), probe_seconds=NEVER_SECONDS) as bus:
        await until(lambda: is_held(bus), "the subscriber is held")
        watching = asyncio.create_task(bus.watch())
        done, _ = await asyncio.wait({watching}, timeout=WATCHED_SECONDS)
        assert not done
        assert await bus.deafness() == []
        watching.cancel()
        began = time.monotonic()
    assert time.monotonic() - began < STOP_SECONDS_MAX


async def test_a_message_that_was_never_acknowledged_is_handled_by_who_comes_next(
    broker: Broker,
) -> None:
    """The position of a held subscriber is where its next message lies, and not behind it."""
    for _ in range(IN_A_ROW_MAX):
        await broker.send(b"{", typed(KNOWN))
    await broker.command("waits")
    first, second = Heard(), Heard()
    async with broker.listen(first, probe_seconds=NEVER_SECONDS) as bus:
        await until(lambda: is_held(bus), "the subscriber is held")
    async with broker.listen(second):
        await second.until("waits")
    assert (first.names, second.names) == ([], ["waits"])


async def test_what_is_for_others_neither_holds_nor_releases(broker: Broker) -> None:
    for _ in range(IN_A_ROW_MAX - 1):
        await broker.send(b"{", typed(KNOWN))
        await broker.send(body("a"), typed(ELSEWHERE))
    await broker.send(b"{", typed(KNOWN))
    await broker.send(body("a"), typed(ELSEWHERE))
    await broker.send(b"{", typed(KNOWN))
    async with broker.listen(Heard(), probe_seconds=NEVER_SECONDS) as bus:
        await until(lambda: is_held(bus), "the subscriber is held")
        assert len(await broker.parked(IN_A_ROW_MAX)) == IN_A_ROW_MAX


async def test_a_probe_that_failed_for_a_while_is_tried_again_before_the_next_is_due(
    broker: Broker,
) -> None:
    for _ in range(IN_A_ROW_MAX):
        await broker.send(b"{", typed(KNOWN))
    tries: list[float] = []

    async def stumble(_: object) -> None:
        tries.append(time.monotonic())
        if len(tries) == 1:
            raise TransientError("the database is away")

    async with broker.listen(stumble, probe_seconds=RARE_SECONDS) as bus:
        await until(lambda: is_held(bus), "the subscriber is held")
        await broker.command("good")
        await until(lambda: len(tries) == 2, "it is tried again")
        assert tries[1] - tries[0] < RARE_SECONDS
        await until(lambda: not_held(bus), "all flow again")


def test_a_share_of_ninety_percent_holds_and_less_does_not() -> None:
    parking = Parking("topic", "group")
    for number in range(2 * LAST_COUNT):  # Every eighth is good: 86 %.
        parking.note_handled() if number % 8 == 0 else parking.note_parked()
    assert parking.wait_seconds() == 0
    parking = Parking("topic", "group")
    for number in range(LAST_COUNT):  # Every tenth.
        parking.note_handled() if number % 10 == 0 else parking.note_parked()
    assert parking.wait_seconds() > 0
    assert "at least 90% of the last 50 messages were parked" in parking.problems()[0]


def test_who_is_released_is_not_held_by_what_it_parked_before() -> None:
    parking = Parking("topic", "group")
    for number in range(LAST_COUNT):
        parking.note_handled() if number % 10 == 0 else parking.note_parked()
    assert parking.problems() != []
    parking.note_handled()
    parking.note_parked()
    assert parking.problems() == []


def test_a_new_subscription_does_not_judge_by_few() -> None:
    parking = Parking("topic", "group")
    for _ in range(IN_A_ROW_MAX - 1):
        parking.note_parked()
    assert parking.problems() == []
    parking.note_parked()
    assert parking.problems() != []
    parking.note_handled()
    parking.note_parked()
    assert parking.problems() == []


def test_attempts_are_counted_for_the_message_at_hand() -> None:
    parking = Parking("topic", "group")
    assert [parking.count_attempt(0, 7), parking.count_attempt(0, 7)] == [1, 2]
    assert [parking.count_attempt(1, 7), parking.count_attempt(0, 8)] == [1, 1]
