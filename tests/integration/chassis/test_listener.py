"""A real process that hears commands: it ends when its ears do, and stops in a bounded time."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from tests.integration.chassis.desk import COMMANDS, WAIT_SECONDS, Broker
from tests.integration.chassis.listener import EXIT, HOLD
from tests.integration.chassis.supervised import (
    AMPLE_SECONDS,
    AT_ONCE_SECONDS,
    NAME,
    SHORT_SECONDS,
    ended,
    supervised,
)


async def test_a_process_whose_subscriber_died_says_so_ends_and_is_started_again(
    broker: Broker, tmp_path: Path
) -> None:
    async with supervised(broker, tmp_path) as listener:
        await broker.command("before")
        await broker.command(EXIT)
        await broker.command("after")

        said: list[Any] = []
        async with asyncio.timeout(WAIT_SECONDS):
            while not listener.supervisor.restarts[NAME]:
                said.append(await listener.problems())
                await asyncio.sleep(0.02)
        named = [f"the subscriber of {broker.prefix}{COMMANDS} is dead"]
        assert named in said  # And nothing else: Kafka has answered all the time.

        await listener.until(lambda: "handled after" in listener.noted())
        assert await listener.problems() == []
        assert listener.supervisor.restarts == {NAME: 1}
    assert listener.noted() == [
        *("heard before", "handled before"),
        *("heard exit", "heard exit", "handled exit"),  # Again, after the restart.
        *("heard after", "handled after"),
    ]
    assert "SubscriberLost" in listener.log_file.read_text()
    assert await broker.committed() == {0: 3}
    assert await broker.parked(0) == []


async def test_a_process_that_is_told_to_stop_finishes_what_is_in_hand(
    broker: Broker, tmp_path: Path
) -> None:
    async with supervised(broker, tmp_path) as listener:
        pid = listener.pid
        await broker.command(HOLD)
        await broker.command("next")
        await listener.until(lambda: f"heard {HOLD}" in listener.noted())
        ending = asyncio.create_task(ended(pid, signal.SIGTERM))
        await listener.until_said("stopping")
        os.kill(pid, signal.SIGUSR1)
        assert await ending < AMPLE_SECONDS
        # The one that the supervisor starts instead is given the next message alone.
        await listener.until(lambda: "handled next" in listener.noted())
    assert listener.noted() == ["heard hold", "handled hold", "heard next", "handled next"]
    assert await broker.committed() == {0: 2}


async def test_a_second_signal_ends_a_process_at_once(broker: Broker, tmp_path: Path) -> None:
    async with supervised(broker, tmp_path) as listener:
        pid = listener.pid
        await broker.command(HOLD)
        await listener.until(lambda: f"heard {HOLD}" in listener.noted())
        os.kill(pid, signal.SIGTERM)
        await listener.until_said("stopping")
        assert await ended(pid, signal.SIGTERM) < AT_ONCE_SECONDS
        # Nobody has acknowledged the message: it comes again, to be finished.
        await listener.until(lambda: listener.noted().count(f"heard {HOLD}") == 2)
        os.kill(listener.pid, signal.SIGUSR1)
        await listener.until(lambda: f"handled {HOLD}" in listener.noted())


async def test_a_stop_is_bounded_whatever_a_handler_does(broker: Broker, tmp_path: Path) -> None:
    async with supervised(broker, tmp_path, SHORT_SECONDS) as listener:
        pid = listener.pid
        await broker.command(HOLD)
        await listener.until(lambda: f"heard {HOLD}" in listener.noted())
        assert await ended(pid, signal.SIGTERM) < SHORT_SECONDS + AT_ONCE_SECONDS
