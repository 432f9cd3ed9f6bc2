"""The newest progress of the runs that somebody watches, and the wake-ups of those who watch."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from contracts.messages import RunProgress
from services.chassis import failpoints
from services.chassis.database import CONNECTION_ERRORS
from services.gateway import frames
from services.gateway.domain import is_active
from services.gateway.failpoints import Failpoint
from services.gateway.frames import FACTS_MAX, Fact

log = structlog.get_logger()

SILENCE_SECONDS_MAX = 0.5  # After it, the database is asked.
ROUND_SECONDS = 0.1  # Between two frames of a run; the first change after a pause is sent at once.
REPEAT_SECONDS = 0.7  # An active run that does not move sends its newest frame again.
READ_SECONDS_MAX = 2.0
FACTS_KEPT_MAX = 1_000  # Frames shared by the sockets of a run; who is further behind reads rows.

Read = Callable[[UUID], Awaitable[RunProgress]]
# Run, after, up to: the facts between, at most FACTS_MAX.
ReadFacts = Callable[[UUID, int, int], Awaitable[Sequence[Fact]]]


@dataclass
class Watched:
    """One run that somebody watches: one snapshot and one refresher for all its sockets.

    `kept` holds the frames of all facts with kept_after < seq <= newest.seq, so what is sent
    fits together: facts first, then the snapshot that includes them.
    """

    newest: RunProgress
    frame: str
    kept_after: int
    kept: deque[tuple[int, str]] = field(default_factory=deque)
    round: int = 0
    stale: bool = False
    snapshot_heard: RunProgress | None = None
    fact_heard: int = 0
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    watchers: set[asyncio.Event] = field(default_factory=set)

    @property
    def run_id(self) -> UUID:
        return self.newest.run_id

    def publish(self, newest: RunProgress, facts: Sequence[Fact], *, stale: bool = False) -> None:
        """Make the frames that all sockets share, and wake them when something is new."""
        if newest == self.newest and not facts and stale == self.stale:
            return
        told = frames.facts(newest, facts)
        self.kept.extend(zip((fact.seq for fact in facts), told, strict=True))
        while len(self.kept) > FACTS_KEPT_MAX:
            self.kept_after = self.kept.popleft()[0]
        self.newest = newest
        self.stale = stale
        self.frame = frames.snapshot(newest, stale=stale)
        self.round += 1
        failpoints.hit(Failpoint.FRAMES_MADE)
        for changed in self.watchers:
            changed.set()


class Seat:
    """One socket's place at a run: what it has been sent, and what it lacks."""

    def __init__(self, run: Watched, after: int | None, read_facts: ReadFacts) -> None:
        self._run = run
        self._read_facts = read_facts
        self._round: int | None = None
        self._last_fact = run.newest.seq if after is None else after
        self._sent_at = 0.0

    async def news(self) -> list[str]:
        """The frames to send now: the snapshot first of all; from then on facts before it."""
        run = self._run
        first = self._round is None
        opening = [self._snapshot()] if first else []
        told = await self._facts()
        if first or self.is_behind or (self._round == run.round and self.due_seconds() > 0):
            return opening + told
        return [*told, self._snapshot()]

    def _snapshot(self) -> str:
        self._round = self._run.round
        self._sent_at = time.monotonic()
        return self._run.frame

    async def _facts(self) -> list[str]:
        newest, after = self._run.newest, self._last_fact
        if after >= newest.seq:
            return []
        if after >= self._run.kept_after:
            self._last_fact = newest.seq
            return [frame for seq, frame in self._run.kept if seq > after]
        rows = await self._read_facts(newest.run_id, after, newest.seq)
        self._last_fact = rows[-1].seq if len(rows) == FACTS_MAX else newest.seq
        return frames.facts(newest, rows)

    @property
    def is_behind(self) -> bool:
        """Whether facts are left that one answer could not hold."""
        return self._last_fact < self._run.newest.seq

    @property
    def is_over(self) -> bool:
        """Whether the run is at its end and all of it was sent."""
        return (
            not is_active(self._run.newest)
            and self._round == self._run.round
            and not self.is_behind
        )

    def due_seconds(self) -> float:
        """Until the newest frame is due again."""
        if not is_active(self._run.newest):
            return float("inf")
        return self._sent_at + REPEAT_SECONDS - time.monotonic()


class Live:
    """Merge what Kafka says, wake who waits. Nothing here sends, so nothing here can block.

    A wake-up carries no data: the socket's task looks at the newest frames when it is ready.
    Wake-ups that pile up collapse into one, so a slow client costs nothing.
    """

    def __init__(self, read: Read, read_facts: ReadFacts) -> None:
        self._read = read
        self._read_facts = read_facts
        self._runs: dict[UUID, Watched] = {}
        self._first_reads: dict[UUID, asyncio.Task[RunProgress]] = {}
        self._refreshers: dict[UUID, asyncio.Task[None]] = {}

    def merge(self, progress: RunProgress) -> None:
        run = self._runs.get(progress.run_id)
        if run is None:
            return
        newest = run.snapshot_heard or run.newest
        if progress.seq > newest.seq:
            run.snapshot_heard = progress
        run.heard.set()

    def hear_of(self, run_id: UUID, seq: int) -> None:
        """There is a fact with this seq; its row is read."""
        run = self._runs.get(run_id)
        if run is not None and seq > run.fact_heard:
            run.fact_heard = seq
            run.heard.set()

    @asynccontextmanager
    async def watch(
        self, run_id: UUID, changed: asyncio.Event, after: int | None = None
    ) -> AsyncIterator[Seat]:
        """Follow a run; `changed` is set when there is news. With `after`, facts with a higher
        seq are sent as well, else those that come from now on. Raises RunUnknown."""
        run = self._runs.get(run_id) or self._begin(await self._first_read(run_id))
        run.watchers.add(changed)
        try:
            yield Seat(run, after, self._read_facts)
        finally:
            run.watchers.discard(changed)
            if not run.watchers:
                self._refreshers.pop(run_id).cancel()
                del self._runs[run_id]

    async def _first_read(self, run_id: UUID) -> RunProgress:
        """One question, however many ask at once."""
        reading = self._first_reads.get(run_id)
        if reading is None:
            reading = asyncio.ensure_future(self._read(run_id))
            self._first_reads[run_id] = reading
            reading.add_done_callback(lambda _: self._first_reads.pop(run_id))
        return await asyncio.shield(reading)

    def _begin(self, first: RunProgress) -> Watched:
        run = self._runs.get(first.run_id)  # Somebody else may have waited for the same answer.
        if run is None:
            run = Watched(first, frames.snapshot(first), kept_after=first.seq)
            self._runs[first.run_id] = run
            self._refreshers[first.run_id] = asyncio.create_task(self._refresh(run))
        return run

    async def _refresh(self, run: Watched) -> None:
        """Ask the database when the topic is silent: one question at a time, whoever watches."""
        while True:
            unsure = is_active(run.newest) or run.stale
            silent = False
            try:
                async with asyncio.timeout(SILENCE_SECONDS_MAX if unsure else None):
                    await run.heard.wait()
            except TimeoutError:
                silent = True
            run.heard.clear()
            try:
                async with asyncio.timeout(READ_SECONDS_MAX):
                    await self.refresh_once(run, ask=silent or run.stale)
            except CONNECTION_ERRORS as error:
                log.warning("refresh_failed", run_id=str(run.run_id), error=repr(error))
                run.publish(run.newest, [], stale=True)
            except Exception:
                log.exception("refresh_failed", run_id=str(run.run_id))  # The sockets stay open.
            await asyncio.sleep(ROUND_SECONDS)

    async def refresh_once(self, run: Watched, *, ask: bool) -> None:
        """Publish the newest snapshot, and the facts up to it that were not published before."""
        newest = run.snapshot_heard or run.newest
        if ask or run.fact_heard > newest.seq:
            read = await self._read(run.run_id)
            newest = read if read.seq >= newest.seq else newest
        facts: list[Fact] = []
        after = run.newest.seq
        while after < newest.seq:
            page = await self._read_facts(run.run_id, after, newest.seq)
            facts += page
            after = page[-1].seq if len(page) == FACTS_MAX else newest.seq
        if run.snapshot_heard is not None and run.snapshot_heard.seq <= newest.seq:
            run.snapshot_heard = None
        run.publish(newest, facts)
