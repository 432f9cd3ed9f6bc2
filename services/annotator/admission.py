"""When this worker may call an upstream: its turns, leased a few at a time from what all workers
share, and what it tells the others of the answers."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.annotator.errors import (
    RateLimited,
    UpstreamShut,
    UpstreamTruncated,
    UpstreamUnavailable,
)
from services.annotator.store import limits
from services.annotator.store.limits import Lease
from services.chassis import database
from services.chassis.errors import AnnobusError, readable

log = structlog.get_logger()

T = TypeVar("T")

SHUT_SECONDS_MAX = 2.0  # Waited for here; for longer the batch is given back.
PAUSE_SECONDS = 1.0  # After a 429 that does not say when to come back.
LOOK_SECONDS_MAX = 5.0  # Between two looks for a turn.
DATABASE_SECONDS = 0.5  # Between two looks for a database that is away.
# A turn that is not used in time is void, or two would come at once: half its spacing later, and
# however close they are, after what a busy loop takes.
LATE_SECONDS_MIN = 0.025
PROBE_SECONDS_MAX = limits.PROBE.total_seconds() / 2  # So long is the one permit waited with.
# A longer one does not tell well what the database's clock says. Where all are, twice as long a one
# does each time, or nobody would call.
ROUND_TRIP_SECONDS_MAX = 0.05
RETURN_SECONDS_MAX = 1.0  # For a permit that was not used: who is to stop has no more time.
GROW_SECONDS = 30.0  # Without more turns than callers, after one was void.
REASON_CHARACTERS_MAX = 200


@dataclass(frozen=True)
class Turn:
    """Of one call; `at` and `until` are of this process's monotonic clock. `probe` is the name of
    the permit when the breaker is half open."""

    at: float
    until: float
    probe: datetime | None


@dataclass(frozen=True)
class Shut:
    """The upstream is not to be called before `until`, of the monotonic clock."""

    until: float
    reason: str


class Admission:
    """One worker's way to an upstream. Safe for concurrent use; without the database nobody is
    admitted."""

    def __init__(self, engine: AsyncEngine, name: str, per_second: float) -> None:
        # Each statement is a transaction: one round trip, and the row is locked no longer.
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._name = name
        self._per_second = per_second
        self._queue = asyncio.Lock()  # Whoever has it is the next to call.
        self._waiting = 0
        self._turns: deque[Turn] = deque()
        self._leased = 0  # How many at the last time,
        self._grows_at = 0.0  # and when it may be more than are waiting.
        self._shut: Shut | None = None
        self._offset: float | None = None  # The monotonic clock minus the database's.
        self._round_trip_max = ROUND_TRIP_SECONDS_MAX
        self._successes = 0  # Nobody else knows of them yet.

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """Around one call: waits for its turn, and tells how it went. Raises UpstreamShut."""
        turn = await self._take_turn()
        began = time.monotonic()
        try:
            yield
        except RateLimited as error:
            await self._note_rate_limited(turn, began, error)
            raise
        except (UpstreamUnavailable, UpstreamTruncated) as error:
            await self._note_failure(turn, error)
            raise
        except AnnobusError:  # Whatever is wrong with the answer, it is one.
            await self._note_success(turn)
            raise
        except BaseException:  # Given up, or it failed here: it says nothing of the upstream.
            await self._return_probe(turn)
            raise
        await self._note_success(turn)

    async def _take_turn(self) -> Turn:
        self._waiting += 1
        try:
            async with self._queue:
                while True:
                    while not self._turns:
                        await self._look()
                    turn = self._turns[0]
                    await asyncio.sleep(turn.at - time.monotonic())
                    if not self._turns or self._turns[0] is not turn:
                        continue  # A 429 came meanwhile, which takes all turns back.
                    self._turns.popleft()
                    if time.monotonic() <= turn.until:
                        return turn
                    self._grows_at = time.monotonic() + GROW_SECONDS
        finally:
            self._waiting -= 1

    async def _look(self) -> None:
        """Lease some turns, or wait a while before the next look. Raises UpstreamShut."""
        now = time.monotonic()
        if self._shut is not None and self._shut.until > now:
            await self._wait_shut(self._shut.until - now, self._shut.reason)
            return
        # Those who wait take a turn each. Who could take another has to be back by then: that is
        # tried now and then, because a turn that nobody takes is lost for all workers.
        count = self._waiting if now < self._grows_at else max(self._waiting, 2 * self._leased)
        successes, self._successes = self._successes, 0  # Nobody else tells them.
        asked = time.monotonic()
        lease = await self._on_database(lambda tx: self._lease(tx, count, successes))
        if lease is None:
            self._successes += successes
            await asyncio.sleep(DATABASE_SECONDS)
            return
        if lease.count:
            self._keep(lease, asked, time.monotonic())
        elif lease.shut is not None:
            self._shut = Shut(time.monotonic() + lease.wait, lease.shut)
            await self._wait_shut(lease.wait, lease.shut)
        else:
            await asyncio.sleep(min(lease.wait, LOOK_SECONDS_MAX))

    async def _lease(self, connection: AsyncConnection, count: int, successes: int) -> Lease:
        while True:
            lease = await limits.lease_turns(
                connection, self._name, self._per_second, count, successes
            )
            if lease is not None:
                return lease
            await limits.add_upstream(connection, self._name)

    def _keep(self, lease: Lease, asked: float, answered: float) -> None:
        """Turns by our own clock. The database's stood at `now` between question and answer."""
        if lease.probe is not None:
            # Nobody calls beside it, so no moment is too late for it; and were it dropped, nobody
            # would call for a minute.
            self._turns.append(Turn(answered, asked + PROBE_SECONDS_MAX, lease.probe))
            return
        earliest, latest = asked - lease.now, answered - lease.now
        late = max(lease.spacing / 2, LATE_SECONDS_MIN)
        if self._offset is None or not earliest <= self._offset <= latest:
            if latest - earliest > max(late, self._round_trip_max):
                self._round_trip_max *= 2
                return  # These turns may be over.
            self._offset = latest  # Never too early.
            self._round_trip_max = ROUND_TRIP_SECONDS_MAX
        self._leased = lease.count
        for number in range(lease.count):
            at = self._offset + lease.first_at + number * lease.spacing
            self._turns.append(Turn(at, at + late, None))

    async def _wait_shut(self, seconds: float, reason: str) -> None:
        if seconds > SHUT_SECONDS_MAX:
            until = datetime.now(UTC) + timedelta(seconds=seconds)
            raise UpstreamShut(f"{self._name} until {until:%H:%M:%S} UTC: {reason}", seconds)
        await asyncio.sleep(seconds)

    async def _note_rate_limited(self, turn: Turn, began: float, error: RateLimited) -> None:
        seconds, reason = error.retry_after_seconds, readable(error.reason)
        if seconds is None:
            seconds = PAUSE_SECONDS
        now = time.monotonic()
        self._shut = Shut(now + seconds, reason)  # Whatever becomes of the row.
        self._turns.clear()
        await self._on_database(
            lambda connection: limits.note_rate_limited(
                connection,
                self._name,
                began=timedelta(seconds=now - began),
                wait=timedelta(seconds=seconds),
                reason=reason,
                probe=turn.probe,
            )
        )

    async def _note_failure(self, turn: Turn, error: AnnobusError) -> None:
        successes, self._successes = self._successes, 0
        opens = await self._on_database(
            lambda connection: limits.note_failure(
                connection,
                self._name,
                successes=successes,
                reason=readable(str(error))[:REASON_CHARACTERS_MAX],
                probe=turn.probe,
            )
        )
        if opens:
            self._turns.clear()
            log.warning("breaker_opened", upstream=self._name, error=repr(error))

    async def _note_success(self, turn: Turn) -> None:
        self._successes += 1
        if turn.probe is not None:
            probe = turn.probe
            await self._on_database(
                lambda connection: limits.note_probe_answered(connection, self._name, probe)
            )
            log.info("breaker_closed", upstream=self._name)

    async def _return_probe(self, turn: Turn) -> None:
        """Let another call be the probe; or nobody would call until this one's time is over."""
        if turn.probe is None:
            return
        probe = turn.probe
        with suppress(TimeoutError):  # It is not worth waiting for: time returns it, too.
            async with asyncio.timeout(RETURN_SECONDS_MAX):
                await self._on_database(
                    lambda connection: limits.return_probe(connection, self._name, probe)
                )

    async def _on_database(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T | None:
        """None when the database is away."""
        try:
            async with self._engine.connect() as connection:
                return await work(connection)
        except database.CONNECTION_ERRORS as error:
            if not database.is_worth_another_try(error):
                raise
            log.warning("limits_not_reached", upstream=self._name, error=repr(error))
            return None
