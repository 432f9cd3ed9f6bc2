"""The life of the process above all others: a signal cancels it, and it stops in order."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from services.cli.errors import INTERRUPTED

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run to an exit code; 130 when a signal came and `main` had nothing better to say."""
    return asyncio.run(_guarded(main))


async def _guarded(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    task = asyncio.create_task(main(), name="main")
    interrupts = 0

    def on_signal(number: signal.Signals) -> None:
        nonlocal interrupts
        interrupts += 1
        if interrupts == 1:
            task.cancel()
        elif number == signal.SIGINT:
            # Somebody at a keyboard asks again. The children die with us, and lose nothing by it.
            os._exit(INTERRUPTED)

    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        return await task
    except asyncio.CancelledError:
        return INTERRUPTED
