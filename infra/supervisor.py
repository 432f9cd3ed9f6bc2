"""Keeps processes alive: starts them, starts a dead one again, stops them in reverse."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from infra.errors import SupervisorError
from infra.processes import (
    Child,
    Process,
    describe_exit,
    end,
    kill_leftovers,
    spawn,
    together,
    wait_until_ready,
)

DEATHS_MAX = 10
DEATHS_WINDOW_SECONDS = 60.0
RESTART_DELAY_SECONDS = 0.2
RESTART_DELAY_SECONDS_MAX = 5.0


@dataclass
class _Slot:
    process: Process
    child: Child
    watch: asyncio.Task[None] | None = None
    restarts: int = 0
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=DEATHS_MAX))


class Supervisor:
    """Runs processes by name, from the main thread.

    A child that dies DEATHS_MAX times in DEATHS_WINDOW_SECONDS stops the supervisor with everything
    it runs; `wait` then raises a SupervisorError that says which one.
    """

    def __init__(self) -> None:
        self._slots: dict[str, _Slot] = {}
        self._failure: SupervisorError | None = None
        self._failing: asyncio.Task[None] | None = None
        self._stopping = asyncio.Lock()
        self._ended = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def add(self, *processes: Process) -> None:
        """Starts these at once, returns when all are ready; when one fails, none of them stays."""
        if self._failure is not None:
            raise self._failure
        for process in processes:
            if process.name in self._slots:
                raise ValueError(f"a process named {process.name!r} runs already")
        try:
            await together(*(self._start(process) for process in processes))
        except BaseException:
            for process in reversed(processes):
                if process.name in self._slots:
                    await self.remove(process.name)
            raise

    async def remove(self, name: str) -> None:
        await self._end(self._slots.pop(name))

    async def stop(self) -> None:
        """Ends every process, the one started last first; one that does not listen is killed."""
        async with self._stopping:
            while self._slots:
                _, slot = self._slots.popitem()
                await self._end(slot)
        self._ended.set()

    async def wait(self) -> None:
        """Returns after `stop`; raises SupervisorError when a process died too often."""
        await self._ended.wait()
        if self._failure is not None:
            raise self._failure

    @property
    def pids(self) -> dict[str, int]:
        """The process ids of what runs now; a process between death and restart is not in it."""
        return {
            name: slot.child.pid
            for name, slot in self._slots.items()
            if slot.child.returncode is None
        }

    @property
    def restarts(self) -> dict[str, int]:
        return {name: slot.restarts for name, slot in self._slots.items()}

    async def _start(self, process: Process) -> None:
        child = await spawn(process)
        try:
            await wait_until_ready(process, child)
        except BaseException:
            await end(process, child)
            raise
        slot = self._slots[process.name] = _Slot(process, child)
        slot.watch = asyncio.create_task(self._keep_alive(slot), name=f"watch {process.name}")

    async def _keep_alive(self, slot: _Slot) -> None:
        clock = asyncio.get_running_loop()
        while True:
            await slot.child.wait()
            kill_leftovers(slot.process, slot.child)
            now = clock.time()
            while slot.deaths and slot.deaths[0] < now - DEATHS_WINDOW_SECONDS:
                slot.deaths.popleft()
            slot.deaths.append(now)
            if len(slot.deaths) == DEATHS_MAX:
                self._fail(
                    f"{slot.process.name} died {DEATHS_MAX} times in {DEATHS_WINDOW_SECONDS:g} s "
                    f"(the last time it {describe_exit(slot.child)}); see {slot.process.log_file}"
                )
                return
            await asyncio.sleep(_restart_delay_seconds(len(slot.deaths)))
            try:
                slot.child = await spawn(slot.process)
            except OSError as error:
                self._fail(f"{slot.process.name} died and cannot be started again: {error}")
                return
            slot.restarts += 1

    def _fail(self, reason: str) -> None:
        self._failure = SupervisorError(reason)
        # Not awaited here: stopping cancels the very task that runs this.
        self._failing = asyncio.create_task(self.stop())

    async def _end(self, slot: _Slot) -> None:
        if slot.watch is not None:
            slot.watch.cancel()
            await asyncio.wait({slot.watch})
        await end(slot.process, slot.child)


def _restart_delay_seconds(deaths: int) -> float:
    """At once after the first death of the window, then twice as long each time."""
    if deaths == 1:
        return 0.0
    delay: float = RESTART_DELAY_SECONDS * 2 ** (deaths - 2)
    return min(delay, RESTART_DELAY_SECONDS_MAX)
