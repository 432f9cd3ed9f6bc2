"""Faults are data: what is done to whom and when; and each says that it struck, or fails."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from random import Random
from typing import Literal, cast, get_args

import asyncpg
import httpx2
from aiokafka.errors import KafkaError

from contracts.topics import DEAD_LETTERS
from infra.addresses import KAFKA_BOOTSTRAP
from infra.errors import SupervisorError
from infra.processes import Process, end, spawn, wait_until_ready
from infra.supervisor import Supervisor
from services.annotator.store.limits import OPEN
from services.chassis.database import ANSWER_SECONDS_MAX
from services.chassis.failpoints import Failpoint as AnyService
from tests.e2e.running import Fired, Running, is_ready
from tests.faults import records, sessions
from tests.faults.proxy import NetworkKind, Proxy
from tests.system import Database, Mirror, free_ports, http_client

Kind = Literal[
    "kill",  # SIGKILL; the supervisor starts it again.
    "freeze",  # SIGSTOP to the process and its children, and SIGCONT after so many seconds.
    "stop",  # SIGTERM: it stops in order, and the supervisor starts it again.
    "stop_twice",  # SIGTERM, and once more in the middle of stopping in order.
    "stop_in_start",  # SIGKILL, and SIGTERM to the next one while it starts.
    "kill_in_stop",  # SIGTERM, and SIGKILL in the middle of stopping in order.
    "quit",  # SIGQUIT, at which PostgreSQL stops without writing a checkpoint.
    "terminate_backends",  # PostgreSQL ends sessions of services in the middle of transactions.
    NetworkKind,  # Between services and whom they talk to.
    "exhaust_connections",  # No connection to PostgreSQL is left.
    "lock_table",  # Nobody reads or writes the table.
    "give_up_transactions",  # Those that write the table fail as of a deadlock.
    "poison",  # Records that nobody can handle.
    "copy",  # Everything since the order is said again, three times, in another order.
    "rewind",  # All processes of a service are away, and read their topics from the beginning then.
    "rebalance",  # One more annotator comes and goes.
    "same_name",  # One more annotator that bears another's name.
    "upstream",  # A fault of the mirror's, in `how`.
]
# A literal within a literal is its words: all of them.
KINDS: frozenset[str] = frozenset(get_args(Kind))
DEADLY: frozenset[Kind] = frozenset({"kill", "kill_in_stop", "stop_in_start"})  # With a SIGKILL.

STRIKE_SECONDS_MAX = 30.0
READY_SECONDS_MAX = 60.0
SETTLE_SECONDS = 45.0
STOP_SECONDS_MAX = 15.0
STOP_TWICE_SECONDS_MAX = 1.0
STOP_TWICE_PAUSE_SECONDS = 0.05
POLL_SECONDS = 0.01
STORM_PAUSE_SECONDS = 0.2
STAYS_SECONDS_MAX = 1.0
EXTRA_SLOT = "9"
NAME_LOST_SECONDS_MAX = 2.0
LETTERS = (DEAD_LETTERS,)
SESSIONS_MAX = 100
UPSTREAM = "upstream"  # Who asks it does so while it works; all others talk all the time.
SERVICES = ("annotator", "cache", "gateway")


@dataclass(frozen=True)
class Hit:
    """The n-th hit of a failpoint, by whichever process of the service."""

    point: StrEnum
    hits: int = 1


@dataclass(frozen=True)
class FaultSpec:
    """`target` is a process's name, or with a Hit the name of a service. `at` is in seconds after
    the order. The budgets begin when the last fault of a run is over: until what was hit is ready
    again, and until everything that was going on is done."""

    kind: Kind
    target: str
    at: float | Hit
    seconds: float = 0.0
    ready_seconds: float = 15.0
    how: Mapping[str, str | float] = field(default_factory=dict)

    @property
    def settle_seconds(self) -> float:
        """Who cannot reach an upstream leaves it alone for as long as its breaker is open."""
        is_shut = self.target == UPSTREAM and self.kind in get_args(NetworkKind)
        return SETTLE_SECONDS + (OPEN.total_seconds() if is_shut else 0.0)

    def __str__(self) -> str:
        at = f"{self.at.point} {self.at.hits}×" if isinstance(self.at, Hit) else f"{self.at:.2f} s"
        length = f" for {self.seconds:.2f} s" if self.seconds else ""
        how = "".join(f", {name} {value}" for name, value in self.how.items())
        return f"{self.kind} {self.target} at {at}{length}{how}"

    def as_json(self) -> dict[str, object]:
        at = [self.at.point, self.at.hits] if isinstance(self.at, Hit) else self.at
        return {
            "kind": self.kind,
            "target": self.target,
            "at": at,
            "for": self.seconds,
            "how": dict(self.how),
        }


class FaultMissed(AssertionError):
    """A fault that struck nobody: what it was to show was not shown."""


@dataclass(frozen=True)
class Strike:
    """When a fault struck and was over, and when whom it hit was ready again, on the wall clock;
    never where another fault hit it before. `pid` is who died of it."""

    struck: float
    over: float
    ready: float | None
    pid: int | None = None


@dataclass
class Striker:
    """Does what the faults of one run say, and measures how long it takes until it is over."""

    running: Running
    supervisors: Sequence[Supervisor]
    database: Database
    mirror: Mirror
    prefix: str  # Of the topics.
    ready: Mapping[str, Callable[[], Awaitable[bool]]]
    random: Random
    names: dict[int, str] = field(default_factory=dict)  # Of all processes there were.
    network: Mapping[str, Proxy] = field(default_factory=dict)
    poisoned: set[str] = field(default_factory=set)  # Where poison is, as letters say it.
    began: float = 0.0  # When the order was given, on the wall clock.
    loses_sessions: bool = False  # By the network, between services and the database.
    killed_others: int = 0  # Processes that no supervisor keeps.
    _members: asyncio.Lock = field(default_factory=asyncio.Lock)  # Who is added and removed.
    # Set when nothing is left to do: a point that was not hit will not be.
    nothing_left: asyncio.Event = field(default_factory=asyncio.Event)

    def arm(self, fault: FaultSpec) -> None:
        """Before the order: its point may be hit at any moment."""
        service = fault.target.partition("-")[0]
        self.loses_sessions |= fault.target == "postgres" and fault.kind in get_args(NetworkKind)
        if fault.kind == "kill_in_stop":
            self.running.arm(service, AnyService.STOP_BEGUN)
        elif isinstance(fault.at, Hit):
            send = signal.SIGKILL if fault.kind == "kill" else signal.SIGSTOP
            self.running.arm(service, fault.at.point, fault.at.hits, send)

    async def strike(self, fault: FaultSpec, *, alone: bool) -> Strike | None:
        """None when it struck nobody, and there were others that may be why."""
        try:
            if isinstance(fault.at, Hit):
                return await self._at_point(fault, fault.at.point)
            await asyncio.sleep(max(0.0, self.began + fault.at - time.time()))
            return await self._at_moment(fault)
        except FaultMissed:
            if alone:
                raise
            return None
        finally:
            if isinstance(fault.at, Hit):
                self.running.disarm(fault.target.partition("-")[0], fault.at.point)

    async def _at_moment(self, fault: FaultSpec) -> Strike:
        strikes: dict[Kind, Callable[[FaultSpec], Awaitable[Strike]]] = {
            "kill": self._kill,
            "freeze": self._freeze,
            "stop": self._stop,
            "stop_twice": self._stop_twice,
            "stop_in_start": self._stop_in_start,
            "kill_in_stop": self._kill_in_stop,
            "quit": self._quit,
            "terminate_backends": self._storm,
        }
        strikes |= dict.fromkeys(get_args(NetworkKind), self._suffer)
        effects: Mapping[Kind, Callable[[FaultSpec], Awaitable[object]]] = {
            "exhaust_connections": lambda one: sessions.exhaust(self.database, one.seconds),
            "lock_table": lambda one: sessions.lock(self.database, one.target, one.seconds),
            "give_up_transactions": lambda one: sessions.give_up(
                self.database, one.target, one.seconds
            ),
            "poison": lambda _: self._poison(),
            "copy": lambda _: records.copy(self.bootstrap, self.prefix, self.began, self.random),
            "rewind": self._rewind,
            "rebalance": self._rebalance,
            "same_name": self._same_name,
            "upstream": self._upstream,
        }
        if fault.kind in effects:
            return await self._take_effect(fault, effects[fault.kind])
        return await strikes[fault.kind](fault)

    async def _kill(self, fault: FaultSpec) -> Strike:
        pid = await self._send(fault, signal.SIGKILL)
        return await self._restarted(fault, pid, time.time())

    async def _quit(self, fault: FaultSpec) -> Strike:
        pid = await self._send(fault, signal.SIGQUIT)
        return await self._restarted(fault, pid, time.time())

    async def _send(self, fault: FaultSpec, number: signal.Signals) -> int:
        """To the process of that name; if another fault was quicker, to the one after it."""
        while True:
            pid = await self._ready_pid(fault)
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
            return pid

    async def _stop(self, fault: FaultSpec) -> Strike:
        pid = await self._send(fault, signal.SIGTERM)
        struck = time.time()
        if not await _until(partial(is_gone, pid), STOP_SECONDS_MAX + 1):
            raise AssertionError(f"{fault}: it did not stop within {STOP_SECONDS_MAX:g} s")
        return await self._restarted(fault, pid, struck)

    async def _stop_twice(self, fault: FaultSpec) -> Strike:
        pid = await self._send(fault, signal.SIGTERM)
        struck = time.time()
        while state(pid) not in ("", "Z", "T"):
            if time.time() > struck + STOP_TWICE_SECONDS_MAX:
                raise AssertionError(f"{fault}: it still waits after {STOP_TWICE_SECONDS_MAX:g} s")
            # Two signals at once are one to a process that has not looked yet.
            await asyncio.sleep(STOP_TWICE_PAUSE_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        return await self._restarted(fault, pid, struck)

    async def _stop_in_start(self, fault: FaultSpec) -> Strike:
        """The next one has a process id before it has heard of signals: any moment will do."""
        killed = await self._send(fault, signal.SIGKILL)
        struck = time.time()
        if not await _until(lambda: self._pids().get(fault.target, killed) != killed):
            raise FaultMissed(f"{fault}: {fault.target} was not started again")
        pid = self._pids()[fault.target]
        await asyncio.sleep(fault.seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        again = await self._restarted(fault, pid, struck)
        return Strike(struck, again.over, again.ready, killed)

    async def _freeze(self, fault: FaultSpec) -> Strike:
        while True:
            pid = await self._ready_pid(fault)
            try:
                with frozen(pid):
                    struck = time.time()
                    if not await _until(partial(is_stopped, pid)):
                        raise FaultMissed(f"{fault}: {pid} is not stopped")
                    await asyncio.sleep(fault.seconds)
            except ProcessLookupError:
                continue
            over = time.time()
            return Strike(struck, over, await self._until_ready(fault.target, pid))

    async def _kill_in_stop(self, fault: FaultSpec) -> Strike:
        """Another fault may be quicker, and kill it first: then the next one is asked."""
        service = fault.target.partition("-")[0]
        while True:
            pid = await self._send(fault, signal.SIGTERM)
            await _until(partial(is_gone, pid))
            if (fired := self.running.fired(service, AnyService.STOP_BEGUN)) is not None:
                return await self._restarted(fault, fired.pid, fired.at)

    async def _at_point(self, fault: FaultSpec, point: StrEnum) -> Strike:
        fired = await self._fired(fault, point)
        if fault.kind == "kill":
            return await self._restarted(fault, fired.pid, fired.at)
        if not await _until(partial(is_stopped, fired.pid)):
            raise FaultMissed(f"{fault}: {fired.pid} is not stopped")
        if fault.kind == "terminate_backends":
            service = fault.target.partition("-")[0]
            if not await self._terminate(service, SESSIONS_MAX, of_process=fired.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(fired.pid, signal.SIGCONT)
                raise FaultMissed(f"{fault}: no transaction was open")
        else:
            await asyncio.sleep(fault.seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(fired.pid, signal.SIGCONT)
        over = time.time()
        name = self.names.get(fired.pid)
        ready = over if name is None else await self._until_ready(name, fired.pid)
        return Strike(fired.at, over, ready)

    async def _fired(self, fault: FaultSpec, point: StrEnum) -> Fired:
        service = fault.target.partition("-")[0]
        await _until(
            lambda: self.running.fired(service, point) is not None or self.nothing_left.is_set(),
            2 * READY_SECONDS_MAX,
        )
        fired = self.running.fired(service, point)
        if fired is None:
            raise FaultMissed(f"{fault}: the point was not hit")
        return fired

    async def _restarted(self, fault: FaultSpec, pid: int, struck: float) -> Strike:
        """A child of a service has no name: whoever started it goes on."""
        if not await _until(partial(is_gone, pid)):
            raise FaultMissed(f"{fault}: {pid} still runs")
        over = time.time()
        name = self.names.get(pid)
        if name is None:
            return Strike(struck, over, over, pid)
        if not await _until(lambda: self._pids().get(name, pid) != pid):
            raise FaultMissed(f"{fault}: {name} was not started again")
        return Strike(struck, over, await self._until_ready(name, self._pids()[name]), pid)

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
            await asyncio.sleep(POLL_SECONDS)

    async def _pid(self, fault: FaultSpec) -> int:
        if not await _until(lambda: fault.target in self._pids()):
            raise FaultMissed(f"{fault}: it does not run")
        return self._pids()[fault.target]

    def _pids(self) -> dict[str, int]:
        return {name: pid for one in self.supervisors for name, pid in one.pids.items()}

    async def _storm(self, fault: FaultSpec) -> Strike:
        struck = time.time()
        ended = 0
        while time.time() < struck + fault.seconds:
            # Another fault may have the server down meanwhile.
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                ended += await self._terminate(self.random.choice(SERVICES), most=1)
            await asyncio.sleep(STORM_PAUSE_SECONDS)
        if ended == 0:
            raise FaultMissed(f"{fault}: no session was ended")
        return Strike(struck, time.time(), await self._all_ready())

    async def _take_effect(
        self, fault: FaultSpec, effect: Callable[[FaultSpec], Awaitable[object]]
    ) -> Strike:
        """What returns nothing has struck nobody. Where another fault has a server down, it is
        begun anew."""
        struck = time.time()
        async with asyncio.timeout(READY_SECONDS_MAX):
            while True:
                try:
                    took = await effect(fault)
                    break
                except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, KafkaError):
                    await asyncio.sleep(STORM_PAUSE_SECONDS)
        if not took:
            raise FaultMissed(f"{fault}: nobody met it")
        return Strike(struck, time.time(), await self._all_ready())

    @property
    def bootstrap(self) -> str:
        return self.database.environment[KAFKA_BOOTSTRAP]

    async def _poison(self) -> bool:
        """It is over when all of it is parked."""
        mine: set[str] = set()
        await records.poison(self.bootstrap, self.prefix, mine, self.poisoned)
        async with asyncio.timeout(STRIKE_SECONDS_MAX):
            while True:
                letters = await records.read(self.bootstrap, self.prefix, self.began, LETTERS)
                if mine <= {dict(one.headers)["origin"].decode() for one in letters}:
                    return True
                await asyncio.sleep(STORM_PAUSE_SECONDS)

    async def _rewind(self, fault: FaultSpec) -> int:
        names = [name for name in self.running.ports if name.startswith(fault.target)]
        async with self._members:
            for name in names:
                await self.running.supervisor.remove(name)
            try:
                return await records.rewind(self.bootstrap, self.prefix, fault.target)
            finally:
                for name in names:
                    await self._add(name)

    async def _add(self, name: str) -> None:
        """Another fault may kill it while it starts, before anybody keeps it."""
        while True:
            try:
                await self.running.supervisor.add(self.running.processes[name])
            except SupervisorError:
                await asyncio.sleep(STORM_PAUSE_SECONDS)
            else:
                return

    async def _rebalance(self, fault: FaultSpec) -> int:
        """It stays for a moment, and leaves in order or not."""
        until, joined = time.time() + fault.seconds, 0
        while time.time() < until:
            process = self._extra(EXTRA_SLOT)
            child = await spawn(process)
            with contextlib.suppress(SupervisorError):
                await wait_until_ready(process, child)
                joined += 1
                await asyncio.sleep(self.random.uniform(0.0, STAYS_SECONDS_MAX))
            if self.random.random() < 0.5 and child.returncode is None:
                self.killed_others += 1
                os.kill(child.pid, signal.SIGKILL)
            await end(process, child)
        return joined

    async def _same_name(self, fault: FaultSpec) -> bool:
        """It waits and says so; or bears the name, when another fault has killed who did."""
        process = self._extra(fault.target.partition("-")[2])
        process.log_file.unlink(missing_ok=True)
        child = await spawn(process)
        try:
            async with asyncio.timeout(STRIKE_SECONDS_MAX):
                while "slot_taken" not in process.log_file.read_text(encoding="utf-8"):
                    if await process.ready():
                        await self._until_one_bears_the_name(fault, process)
                        return True
                    await asyncio.sleep(POLL_SECONDS)
            await asyncio.sleep(fault.seconds)
            return True
        finally:
            await end(process, child)

    async def _until_one_bears_the_name(self, fault: FaultSpec, process: Process) -> None:
        """Who bore it before ends as soon as it finds it lost: at once, unless the network has lost
        the session and nobody says so."""
        until = time.time() + NAME_LOST_SECONDS_MAX
        until += ANSWER_SECONDS_MAX if self.loses_sessions else 0.0
        while await process.ready() and await self.ready[fault.target]():
            if time.time() > until:
                raise AssertionError(f"{fault}: two processes bear the name")
            await asyncio.sleep(POLL_SECONDS)

    def _extra(self, slot: str) -> Process:
        like = self.running.processes["annotator-0"]
        (port,) = free_ports(1)
        ours = {"ANNOTATOR_SLOT": slot, "ANNOTATOR_PORT": str(port)}
        return replace(
            like,
            name="annotator-extra",
            log_file=like.log_file.with_name("annotator-extra.log"),
            environment={**like.environment, **ours},
            ready=is_ready(port),
        )

    async def _upstream(self, fault: FaultSpec) -> int:
        """Until so many seconds are over, or so many requests were struck as it says."""
        kind = str(fault.how["kind"])
        async with http_client(self.mirror.url) as client:
            before = await self._struck_requests(client, fault.target, kind)
            told = await client.post(f"/_control/{fault.target}", json=dict(fault.how))
            assert told.status_code == 200, told.text
            struck, until = 0, time.time() + fault.seconds
            try:
                while struck < int(fault.how["count"]) and time.time() < until:
                    await asyncio.sleep(STORM_PAUSE_SECONDS)
                    struck = await self._struck_requests(client, fault.target, kind) - before
            finally:
                await client.delete(f"/_control/{fault.target}")
            return struck

    async def _struck_requests(self, client: httpx2.AsyncClient, upstream: str, kind: str) -> int:
        counters = (await client.get(f"/_requests/{upstream}")).json()
        return int(counters["faults"].get(kind, 0))

    async def _suffer(self, fault: FaultSpec) -> Strike:
        struck = time.time()
        proxy = self.network[fault.target]
        assert fault.kind in get_args(NetworkKind)
        await proxy.suffer(cast("NetworkKind", fault.kind), fault.seconds, self.random)
        if not proxy.struck:
            raise FaultMissed(f"{fault}: nobody said anything")
        return Strike(struck, time.time(), await self._all_ready())

    async def _all_ready(self) -> float:
        for name in self.ready:
            async with asyncio.timeout(READY_SECONDS_MAX):
                while not await self.ready[name]():
                    await asyncio.sleep(POLL_SECONDS)
        return time.time()

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


def is_gone(pid: int) -> bool:
    return state(pid) in ("", "Z")


def is_stopped(pid: int) -> bool:
    """Or another fault has killed it since."""
    return state(pid) == "T" or is_gone(pid)


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
