"""Faults are data: what is done to whom and when; and each says that it struck, or fails."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Literal

from infra.supervisor import Supervisor
from services.chassis.failpoints import Failpoint as AnyService
from tests.e2e.running import Fired, Running
from tests.system import Database

Kind = Literal[
    "kill",  # SIGKILL; the supervisor starts it again.
    "freeze",  # SIGSTOP to the process and its children, and SIGCONT after so many seconds.
    "kill_in_stop",  # SIGTERM, and SIGKILL in the middle of stopping in order.
    "terminate_backends",  # PostgreSQL ends sessions of services in the middle of transactions.
]

# When a fault was over, and when whom it hit was ready again, on the wall clock.
Over = tuple[float, float | None]

STRIKE_SECONDS_MAX = 30.0
READY_SECONDS_MAX = 60.0
POLL_SECONDS = 0.01
STORM_PAUSE_SECONDS = 0.2
SESSIONS_MAX = 100
SERVICES = ("annotator", "cache", "gateway")


@dataclass(frozen=True)
class Hit:
    """The n-th hit of a failpoint, by whichever process of the service."""

    point: StrEnum
    hits: int = 1


@dataclass(frozen=True)
class FaultSpec:
    """`target` is a process's name, or with a Hit the name of a service. `at` is in seconds after
    the order. The budgets begin when the fault is over: until what was hit is ready again, and
    until everything that was going on is done."""

    kind: Kind
    target: str
    at: float | Hit
    seconds: float = 0.0
    ready_seconds: float = 15.0
    settle_seconds: float = 45.0

    def __str__(self) -> str:
        at = f"{self.at.point} {self.at.hits}×" if isinstance(self.at, Hit) else f"{self.at:.2f} s"
        length = f" for {self.seconds:g} s" if self.seconds else ""
        return f"{self.kind} {self.target} at {at}{length}"


class FaultMissed(AssertionError):
    """A fault that struck nobody: what it was to show was not shown."""


@dataclass
class Striker:
    """Does what the faults of one run say, and measures how long it takes until it is over."""

    running: Running
    supervisors: Sequence[Supervisor]
    database: Database
    ready: Mapping[str, Callable[[], Awaitable[bool]]]
    random: Random
    names: dict[int, str] = field(default_factory=dict)  # Of all processes there were.

    def arm(self, fault: FaultSpec) -> None:
        """Before the order: its point may be hit at any moment."""
        service = fault.target.partition("-")[0]
        if fault.kind == "kill_in_stop":
            self.running.arm(service, AnyService.STOP_BEGUN)
        elif isinstance(fault.at, Hit):
            send = signal.SIGKILL if fault.kind == "kill" else signal.SIGSTOP
            self.running.arm(service, fault.at.point, fault.at.hits, send)

    async def strike(self, fault: FaultSpec, began: float, *, alone: bool) -> Over | None:
        """None when its point was not reached, and there were others that may be why."""
        if not isinstance(fault.at, Hit):
            return await self._at_moment(fault, began + fault.at)
        try:
            return await self._at_point(fault, fault.at.point)
        except FaultMissed:
            service = fault.target.partition("-")[0]
            if alone or self.running.fired(service, fault.at.point) is not None:
                raise
            self.running.disarm(service, fault.at.point)
            return None

    async def _at_moment(self, fault: FaultSpec, moment: float) -> Over:
        await asyncio.sleep(max(0.0, moment - time.time()))
        if fault.kind == "terminate_backends":
            return await self._storm(fault)
        pid = await self._ready_pid(fault)
        match fault.kind:
            case "kill":
                os.kill(pid, signal.SIGKILL)
                return await self._restarted(fault, pid, time.time())
            case "kill_in_stop":
                fired = await self._asked_to_stop(fault, pid)
                return await self._restarted(fault, fired.pid, fired.at)
            case "freeze":
                with frozen(pid):
                    if not await _until(lambda: state(pid) == "T", STRIKE_SECONDS_MAX):
                        raise FaultMissed(f"{fault}: {pid} is not stopped")
                    await asyncio.sleep(fault.seconds)
                over = time.time()
                return over, await self._until_ready(fault.target, pid)

    async def _asked_to_stop(self, fault: FaultSpec, pid: int) -> Fired:
        """Another fault may be quicker, and kill it first: then the next one is asked."""
        service = fault.target.partition("-")[0]
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        await _until(lambda: state(pid) in ("", "Z"))
        fired = self.running.fired(service, AnyService.STOP_BEGUN)
        return fired or await self._asked_to_stop(fault, await self._ready_pid(fault))

    async def _at_point(self, fault: FaultSpec, point: StrEnum) -> Over:
        fired = await self._fired(fault, point)
        if fault.kind == "kill":
            return await self._restarted(fault, fired.pid, fired.at)
        if not await _until(lambda: state(fired.pid) == "T", STRIKE_SECONDS_MAX):
            raise FaultMissed(f"{fault}: {fired.pid} is not stopped")
        if fault.kind == "terminate_backends":
            service = fault.target.partition("-")[0]
            if not await self._terminate(service, SESSIONS_MAX, of_process=fired.pid):
                raise FaultMissed(f"{fault}: no transaction was open")
        else:
            await asyncio.sleep(fault.seconds)
        os.kill(fired.pid, signal.SIGCONT)
        over = time.time()
        name = self.names.get(fired.pid)
        return over, over if name is None else await self._until_ready(name, fired.pid)

    async def _fired(self, fault: FaultSpec, point: StrEnum) -> Fired:
        service = fault.target.partition("-")[0]
        if not await _until(lambda: self.running.fired(service, point) is not None):
            raise FaultMissed(f"{fault}: the point was not hit within {STRIKE_SECONDS_MAX:g} s")
        fired = self.running.fired(service, point)
        assert fired is not None
        return fired

    async def _restarted(self, fault: FaultSpec, pid: int, over: float) -> Over:
        """A child of a service has no name: whoever started it goes on."""
        if not await _until(lambda: state(pid) in ("", "Z")):
            raise FaultMissed(f"{fault}: {pid} still runs")
        name = self.names.get(pid)
        if name is None:
            return over, time.time()
        if not await _until(lambda: self._pids().get(name, pid) != pid):
            raise FaultMissed(f"{fault}: {name} was not started again")
        return over, await self._until_ready(name, self._pids()[name])

    async def _until_ready(self, name: str, pid: int) -> float | None:
        """None where another fault hit it before it was ready: that one's time is measured."""
        async with asyncio.timeout(READY_SECONDS_MAX):
            while not await self.ready[name]():
                if state(pid) in ("", "Z", "T"):
                    return None
                await asyncio.sleep(POLL_SECONDS)
        return time.time()

    async def _ready_pid(self, fault: FaultSpec) -> int:
        """Of a process that is up: one that starts does not stop in order yet, it just ends."""
        while True:
            pid = await self._pid(fault)
            if await self._until_ready(fault.target, pid) is not None:
                return pid

    async def _pid(self, fault: FaultSpec) -> int:
        if not await _until(lambda: fault.target in self._pids()):
            raise FaultMissed(f"{fault}: it does not run")
        return self._pids()[fault.target]

    def _pids(self) -> dict[str, int]:
        return {name: pid for one in self.supervisors for name, pid in one.pids.items()}

    async def _storm(self, fault: FaultSpec) -> Over:
        ended, until = 0, time.time() + fault.seconds
        while time.time() < until:
            ended += await self._terminate(self.random.choice(SERVICES), most=1)
            await asyncio.sleep(STORM_PAUSE_SECONDS)
        if ended == 0:
            raise FaultMissed(f"{fault}: no session was ended")
        over = time.time()
        for name, pid in self._pids().items():
            await self._until_ready(name, pid)
        return over, time.time()

    async def _terminate(self, service: str, most: int, of_process: int | None = None) -> int:
        """End sessions of a service, or of one process those that are in a transaction."""
        async with self.database.connect(service) as session:
            ended = await session.fetch(
                """SELECT pg_terminate_backend(pid) FROM (
                       SELECT pid FROM pg_stat_activity
                       WHERE datname = current_database() AND usename = current_user
                         AND pid <> pg_backend_pid()
                         AND ($2::text IS NULL OR state LIKE 'idle in transaction%'
                              AND application_name LIKE '% ' || $2)
                       ORDER BY xact_start IS NULL, random() LIMIT $1) found""",
                most,
                None if of_process is None else str(of_process),
            )
        return len(ended)


async def _until(condition: Callable[[], bool], seconds: float = STRIKE_SECONDS_MAX) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True


def state(pid: int) -> str:
    """The letter that the kernel has for it; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process and its children. It is stopped before they are looked for: a server whose sessions
    come and go has no new ones then; those that just end are gone before their signal."""
    stopped = [pid]
    os.kill(pid, signal.SIGSTOP)
    try:
        for one in descendants(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGSTOP)
                stopped.append(one)
        yield
    finally:
        for one in reversed(stopped):
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGCONT)


def descendants(pid: int) -> list[int]:
    """Parents before their children."""
    children: dict[str, list[int]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            children.setdefault(parent, []).append(int(process.name))
    found = [pid]
    for one in found:
        found += children.get(str(one), [])
    return found[1:]
