"""Members of a group: who leaves finishes what is in hand, who is passed over undoes nothing."""

import asyncio
import time

import pytest

from contracts.messages import InvalidateNamespace
from services.chassis import bus as chassis_bus
from tests.integration.chassis.desk import PARTITIONS, WAIT_SECONDS, Broker, Heard, Held, soon

# Kafka orders members by these names and deals partitions out in that order.
DEALT_FIRST = "a-member"
DEALT_LAST = "b-member"


async def test_a_member_that_stops_finishes_the_message_in_hand_and_acknowledges_it(
    broker: Broker,
) -> None:
    """FastStream waits for it only where a time to wait is set: None and 0 cut it off."""
    held = Held("in hand")
    async with broker.listen(held) as bus:
        await broker.command("before")
        await broker.command("in hand")
        await broker.command("next")
        await soon(held.held)
        stopping = asyncio.create_task(bus.stop())
        await asyncio.wait({stopping}, timeout=0.3)
        assert not stopping.done()
        assert held.finished == ["before"]
        held.release.set()
        await stopping
    assert held.finished == ["before", "in hand"]
    assert await broker.committed() == {0: 2}

    async with broker.listen(other := Heard()):
        await other.until("next")
    assert other.names == ["next"]


async def test_a_stop_does_not_wait_for_ever_and_the_next_member_gets_the_message(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chassis_bus, "GRACEFUL_SECONDS", 0.3)
    held = Held("stuck")
    async with broker.listen(held) as bus:
        await broker.command("stuck")
        await soon(held.held)
        began = time.monotonic()
        await bus.stop()
        assert time.monotonic() - began < 5
    assert held.finished == []
    assert await broker.committed() == {}

    async with broker.listen(other := Heard()):
        await other.until("stuck")


async def test_a_member_whose_partition_was_taken_in_the_middle_commits_over_nobody(
    broker: Broker,
) -> None:
    """It gets to know in the background, while its handler runs."""
    slow, quick = Held("taken"), Heard()
    async with broker.listen(slow, service=DEALT_LAST) as passed_over:
        await broker.command("taken", partition=0)
        await soon(slow.held)
        async with broker.listen(quick, service=DEALT_FIRST):
            await quick.until("taken")
            await broker.command("later", partition=0)
            await quick.until("later")
            slow.release.set()
            everywhere = [f"partition {number}" for number in range(PARTITIONS)]
            for number, name in enumerate(everywhere):
                await broker.command(name, partition=number)
            async with asyncio.timeout(WAIT_SECONDS):
                while not set(everywhere) <= {*slow.names, *quick.names}:
                    await asyncio.sleep(0.02)
            assert await passed_over.problems() == []
            # Both went on; neither was given what the other had acknowledged.
            assert set(everywhere) & set(slow.names)
            assert set(everywhere) & set(quick.names)
    assert slow.finished.count("taken") == 1
    assert slow.names.count("taken") == quick.names.count("taken") == 1
    assert await broker.committed() == {0: 3, **dict.fromkeys(range(1, PARTITIONS), 1)}
    assert await broker.parked(0) == []


async def test_a_failure_in_a_partition_that_was_taken_is_the_new_members_to_try_again(
    broker: Broker,
) -> None:
    slow, quick = Held("taken"), Heard()

    async def first_fails(message: InvalidateNamespace) -> None:
        await slow(message)
        if message.namespace == "taken":
            raise ConnectionError("the database went away as well")

    async with broker.listen(first_fails, service=DEALT_LAST) as passed_over:
        await broker.command("taken", partition=0)
        await soon(slow.held)
        async with broker.listen(quick, service=DEALT_FIRST):
            await quick.until("taken")
            slow.release.set()
            await broker.command("mine", partition=1)
            await slow.until("mine")
            assert await passed_over.problems() == []
    assert quick.names == ["taken"]
    assert await broker.committed() == {0: 1, 1: 1}


async def test_an_acknowledgement_of_one_member_of_a_process_moves_no_other(
    broker: Broker,
) -> None:
    busy, free = Held("in hand"), Heard()  # Dealt out in turn: 0, 2, 4 and 1, 3, 5.
    async with broker.listen(busy, free, instance="test-0"):
        await broker.command("in hand", partition=0)
        await soon(busy.held)
        await broker.command("behind", partition=2)
        names = [f"partition {number}" for number in (1, 3, 5)]
        for number, name in zip((1, 3, 5), names, strict=True):
            await broker.command(name, partition=number)
        await free.until(*names)
        await broker.command("acknowledged when this one comes", partition=1)
        await free.until("acknowledged when this one comes")
        assert set(await broker.committed()) == {1, 3, 5}
        busy.release.set()
        await busy.until("behind")
    assert await broker.committed() == {0: 1, 1: 2, 2: 1, 3: 1, 5: 1}
