"""Waiting for what no event tells of: asked again and again, until a deadline."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

from services.cli.state import started_at

SECONDS_MAX = 30.0
POLL_SECONDS = 0.02


async def until(condition: Callable[[], Any], what: str, seconds: float = SECONDS_MAX) -> Any:
    """The first answer that is true, of a coroutine too; fails when that takes too long."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain: {what}"
        await asyncio.sleep(POLL_SECONDS)


def block_until(condition: Callable[[], bool], what: str, seconds: float = SECONDS_MAX) -> None:
    """The same, for a test without a loop."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain: {what}"
        time.sleep(POLL_SECONDS)


def is_alive(pid: int) -> bool:
    return started_at(pid) is not None
