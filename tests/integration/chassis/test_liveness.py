"""A subscriber that does not hear: readiness names it, then its process ends and another begins."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from faststream.kafka.subscriber.usecase import DefaultSubscriber

from services.chassis import bus as chassis_bus
from services.chassis import liveness
from services.chassis.bus import Bus
from services.chassis.liveness import SubscriberLost
from services.chassis.settings import SharedSettings
from tests.integration.chassis.desk import (
    COMMANDS,
    PARTITIONS,
    WAIT_SECONDS,
    Broker,
    Heard,
    Held,
    soon,
)

BEARABLE_SECONDS = 0.3
LOOK_SECONDS = 0.02
FETCH_WAIT_SECONDS = (
    0.1  # As in the product, somebody who waits is answered well before he is noted.
)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "LOOK_SECONDS", LOOK_SECONDS)
    monkeypatch.setattr(chassis_bus, "FETCH_WAIT_SECONDS", FETCH_WAIT_SECONDS)
    for name in ("DEAD_SECONDS", "STUCK_SECONDS", "NOTED_SECONDS"):
        monkeypatch.setattr(liveness, name, BEARABLE_SECONDS)


def ear(bus: Bus) -> tuple[DefaultSubscriber, Any]:
    """The one subscriber of a bus, and its aiokafka consumer with all its private parts."""
    (subscriber,) = bus._subscribers()  # noqa: SLF001
    consumer = subscriber.consumer
    assert isinstance(consumer, AIOKafkaConsumer)
    return subscriber, consumer


async def watched(bus: Bus) -> str:
    """What the watch ends the process with."""
    async with asyncio.timeout(WAIT_SECONDS):
        with pytest.raises(SubscriberLost) as lost:
            await bus.watch()
    return str(lost.value)


async def until_problem(bus: Bus, what: str) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not any(what in problem and COMMANDS in problem for problem in await bus.problems()):
            await asyncio.sleep(0.02)


async def test_readiness_says_when_kafka_has_not_been_reached() -> None:
    bus = Bus(SharedSettings(kafka_bootstrap="127.0.0.1:1"), "test")
    assert await bus.problems() == ["Kafka is not reached yet"]


@pytest.mark.parametrize("group", ["planner", None])
@pytest.mark.usefixtures("impatient")
async def test_a_dead_subscriber_is_named_though_kafka_answers_and_then_ends_its_process(
    broker: Broker, group: str | None
) -> None:
    async with broker.listen(Heard(), group=group) as bus:
        assert await bus.problems() == []
        subscriber, _ = ear(bus)
        (task,) = subscriber.tasks
        task.cancel()
        await until_problem(bus, "is dead")
        assert "Kafka does not answer" not in await bus.problems()
        assert "is dead" in await watched(bus)


def lose_the_group(consumer: Any) -> None:
    """Each question for a message is an error from now on; the library asks every 5 s."""
    coordinator = consumer._coordinator  # noqa: SLF001

    async def fall_over(*_: object) -> None:
        raise RuntimeError("nobody expected this")

    coordinator.ensure_active_group = fall_over
    coordinator.request_rejoin()


def lose_the_heartbeat(consumer: Any) -> None:
    coordinator = consumer._coordinator  # noqa: SLF001

    async def fall_over(*_: object) -> None:
        raise RuntimeError("nobody expected this")

    coordinator._do_heartbeat = fall_over  # noqa: SLF001


def never_be_let_in(consumer: Any) -> None:
    """As aiokafka#1154 left it: it knows that it must join again, and does not."""
    coordinator = consumer._coordinator  # noqa: SLF001

    async def nothing_comes_of_it(*_: object) -> None:
        await asyncio.sleep(LOOK_SECONDS)

    coordinator.ensure_active_group = nothing_comes_of_it
    coordinator.request_rejoin()


def stop_fetching(consumer: Any) -> None:
    consumer._fetcher._fetch_task.cancel()  # noqa: SLF001


@pytest.mark.parametrize(
    ("injure", "what"),
    [
        (lose_the_group, "lost touch with its group"),
        (lose_the_heartbeat, "has no heartbeat"),
        (never_be_let_in, "waits to be let into its group"),
        (stop_fetching, "waits for messages that nobody fetches"),
    ],
)
@pytest.mark.usefixtures("impatient")
async def test_a_subscriber_that_lives_and_is_cut_off_is_named_and_ends_its_process(
    broker: Broker, injure: Callable[[Any], None], what: str
) -> None:
    async with broker.listen(heard := Heard()) as bus:
        await broker.command("well")
        await heard.until("well")
        _, consumer = ear(bus)
        injure(consumer)
        watching = asyncio.create_task(watched(bus))
        await until_problem(bus, what)
        assert what in await watching


@pytest.mark.usefixtures("impatient")
async def test_a_handler_that_never_ends_ends_its_process(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held("for ever")
    async with broker.listen(held) as bus:
        await broker.send_illegible_header()  # After an error the library sees nobody work.
        monkeypatch.setattr(liveness, "HANDLING_SECONDS_MAX", BEARABLE_SECONDS)
        await broker.command("for ever")
        await soon(held.held)
        assert "has had one message in hand for 0.3 s" in await watched(bus)
        held.release.set()


@pytest.mark.usefixtures("impatient")
async def test_a_handler_that_outlasts_the_patience_of_its_group_is_let_in_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (chassis_bus, liveness):
        monkeypatch.setattr(module, "POLL_SECONDS_MAX", BEARABLE_SECONDS)
    held = Held("long")
    async with broker.listen(held) as bus:
        await broker.command("long")
        await broker.command("next")
        await soon(held.held)
        _, consumer = ear(bus)
        watching = asyncio.create_task(bus.watch())
        async with asyncio.timeout(WAIT_SECONDS):
            while consumer._coordinator.generation > 0:  # noqa: SLF001  # Until it is put out.
                await asyncio.sleep(LOOK_SECONDS)
        done, _ = await asyncio.wait({watching}, timeout=3 * BEARABLE_SECONDS)
        assert not done
        held.release.set()
        await held.until("next")
        assert not watching.done()
        watching.cancel()
    # Once or twice: an empty group takes the acknowledgement of somebody it has put out.
    assert list(dict.fromkeys(held.finished)) == ["long", "next"]
    assert await broker.committed() == {0: 2}


@pytest.mark.usefixtures("impatient")
async def test_who_waits_for_a_partition_or_a_slow_handler_is_well(broker: Broker) -> None:
    """More members than partitions, one of them at work for longer than an ailment is borne."""
    held = Held("slow")
    members = [held, *(Heard() for _ in range(PARTITIONS))]
    async with broker.listen(*members) as bus:
        await broker.command("slow")
        idle = [one for one in bus._subscribers() if not one.consumer.assignment()]  # type: ignore[union-attr]  # noqa: SLF001
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3 * BEARABLE_SECONDS):
                await bus.watch()
        assert idle
        assert await bus.problems() == []
        held.release.set()


@pytest.mark.usefixtures("impatient")
async def test_a_subscriber_whose_loop_fell_over_and_was_started_again_is_not_dead(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library starts it again, and keeps the task that failed in its list."""
    async with broker.listen(heard := Heard()) as bus:
        subscriber, _ = ear(bus)
        whole = subscriber.get_msg
        falls = iter([True])

        async def get_msg(consumer: AIOKafkaConsumer) -> Any:
            if next(falls, False):
                raise RuntimeError("it fell over")
            return await whole(consumer)

        monkeypatch.setattr(type(subscriber), "get_msg", lambda _, consumer: get_msg(consumer))
        await broker.command("before")
        await heard.until("before")
        await broker.command("after")
        await heard.until("after")
        assert len(subscriber.tasks) == 2
        assert await bus.problems() == []


@pytest.mark.usefixtures("impatient")
async def test_no_process_ends_because_kafka_is_away(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with broker.listen(Heard()) as bus:
        subscriber, _ = ear(bus)
        answers = False

        async def ping(**_: object) -> bool:
            return answers

        monkeypatch.setattr(bus._broker, "ping", ping)  # noqa: SLF001
        await subscriber.stop()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3 * BEARABLE_SECONDS):
                await bus.watch()
        assert "Kafka does not answer" in await bus.problems()
        answers = True
        back = time.monotonic()
        assert "is dead" in await watched(bus)
        assert time.monotonic() - back > BEARABLE_SECONDS / 2  # It begins when Kafka is back.
