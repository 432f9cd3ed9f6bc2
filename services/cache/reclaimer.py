"""Deletes entries that are not valid any more, in chunks and with pauses; counts what is left."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.cache import namespaces
from services.cache.namespaces import Counted
from services.chassis import database, telemetry

log = structlog.get_logger()

ROWS_MAX = 1_000  # Entries that one transaction looks at,
ROWS_MIN = 1  # and after some that took longer than they should, on a busy machine.
PAGES_MAX = 512  # Of the table: many may be empty. Fewer where fewer rows are looked at,
BYTES_MAX = 2 * 1024 * 1024  # and so many bytes of the entries that are deleted.
TRANSACTION_SECONDS = 0.005  # What one is to take: what it looks at is made to fit.
# It is broken off then, and has deleted nothing. On a busy machine that takes its time, too: it is
# to be over before 20 ms are.
TRANSACTION_SECONDS_MAX = 0.012
ROWS_GROWTH = 1.25  # After one that was short enough,
ROWS_SHRINKING = 0.25  # and at most after one that was not.
PAUSE_SECONDS = 0.01
# A chunk is followed by a pause that is so many times longer: a third of a processor at most.
PAUSE_SHARE = 2.0
PERIOD_SECONDS = 10.0
NOTED_SECONDS = 1.0  # So old is at most what is told of a round that goes on.
SECOND = timedelta(seconds=1)

Seen = dict[tuple[str, datetime], tuple[int, int]]


class Reclaimer:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        # Of namespaces that have too many: what was made before is too much.
        self._outdated: dict[str, datetime] = {}
        self._rows = ROWS_MAX

    async def reclaim(self, session: AsyncConnection) -> bool:
        """One walk over all entries, for `database.alone`, which hands in its session: in
        autocommit, so that a chunk is one statement and nothing waits in its transaction. Returns
        whether there are too many of a namespace: the next walk takes the oldest."""
        async with self._engine.begin() as tx:
            await namespaces.forget_invalidations(tx)
        pages = await namespaces.count_pages(session)
        limits = await namespaces.read_floors(session)
        seen: Seen = {}
        unnoted: Counter[str] = Counter()
        noted_at = time.monotonic()
        page = row = 0
        pid = await database.get_pid(session)
        await database.limit_statements(session, TRANSACTION_SECONDS_MAX)
        while page < pages:
            began = time.monotonic()
            chunk = await self._reclaim_chunk(session, page, row)
            took = time.monotonic() - began
            # By the database's clock: an answer may have waited for this process.
            if chunk is None:
                async with self._engine.connect() as connection:
                    seconds = await namespaces.time_broken_off(connection, pid)
                log.info("chunk_broken_off", rows=self._rows, seconds=seconds)
            else:
                seconds = chunk.seconds
            telemetry.RECLAIM_SECONDS.observe(seconds)
            self._rows = next_rows(self._rows, seconds)
            if chunk is not None:
                page, row = chunk.page, chunk.row
                for place, (count, size) in chunk.kept.items():
                    before_count, before_size = seen.get(place, (0, 0))
                    seen[place] = before_count + count, before_size + size
                unnoted += chunk.gone
            if unnoted and time.monotonic() - noted_at >= NOTED_SECONDS:
                await self._note(unnoted)
                unnoted, noted_at = Counter(), time.monotonic()
            await asyncio.sleep(max(PAUSE_SECONDS, PAUSE_SHARE * took))
        await database.limit_statements(session, None)
        if unnoted:
            await self._note(unnoted)
        async with self._engine.begin() as tx:
            floors = {namespace: floor for namespace, (floor, _) in limits.items()}
            await namespaces.note_counts(tx, sum_up(seen, limits), floors)
        async with self._engine.begin() as tx:
            await namespaces.note_documents(tx)
        entries_max = {namespace: most for namespace, (_, most) in limits.items()}
        self._outdated = find_outdated(seen, entries_max)
        return bool(self._outdated)

    async def _reclaim_chunk(
        self, session: AsyncConnection, page: int, row: int
    ) -> namespaces.Chunk | None:
        """None: it was broken off, and is to be tried again with less."""
        try:
            return await namespaces.reclaim(
                session,
                page,
                row,
                pages_max=max(PAGES_MAX * self._rows // ROWS_MAX, 1),
                rows_max=self._rows,
                bytes_max=max(BYTES_MAX * self._rows // ROWS_MAX, 1),
                outdated=self._outdated,
            )
        except DBAPIError as error:
            if not database.is_broken_off(error):
                raise
            return None

    async def _note(self, gone: Mapping[str, int]) -> None:
        async with self._engine.begin() as tx:
            await namespaces.note_reclaimed(tx, gone)
        for namespace, number in gone.items():
            telemetry.ENTRIES_RECLAIMED.labels(namespace).inc(number)


def next_rows(rows: int, took: float) -> int:
    """How many entries the next transaction looks at, after one that took so many seconds."""
    if took > TRANSACTION_SECONDS:
        return max(int(rows * max(TRANSACTION_SECONDS / took, ROWS_SHRINKING)), ROWS_MIN)
    return min(max(int(rows * ROWS_GROWTH), rows + 1), ROWS_MAX)


def sum_up(seen: Seen, limits: Mapping[str, object]) -> dict[str, Counted]:
    """What was seen of each namespace, by the second, as one sum."""
    counted = {namespace: Counted() for namespace in limits}
    for (namespace, second), (number, size) in seen.items():
        before = counted.get(namespace, Counted())
        counted[namespace] = Counted(
            before.entry_count + number,
            before.entry_bytes + size,
            min(before.oldest_at or second, second),
            max(before.newest_at or second, second),
        )
    return counted


def find_outdated(seen: Seen, entries_max: Mapping[str, int]) -> dict[str, datetime]:
    """Before which time entries of a namespace are too many; none where they are not. Those of one
    second go or stay together, and not more go than have to."""
    excess = Counter(
        {
            namespace: sum(number for (one, _), (number, _) in seen.items() if one == namespace)
            - most
            for namespace, most in entries_max.items()
        }
    )
    outdated: dict[str, datetime] = {}
    for (namespace, second), (number, _) in sorted(seen.items(), key=lambda item: item[0][1]):
        if number <= excess[namespace]:
            outdated[namespace] = second + SECOND
            excess[namespace] -= number
        else:
            excess[namespace] = 0
    return outdated
