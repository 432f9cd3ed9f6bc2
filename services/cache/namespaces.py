"""SQL of what is forgotten together: epochs of namespaces and their parts, and dead entries."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.messages import PARTS_MAX
from contracts.parts import Part
from services.cache.errors import NamespaceUnknown
from services.chassis import database

RECLAIMER = "reclaimer"  # The reclaimer's duty: one process at a time, and what wakes it.
FORGOTTEN_MAX = 10 * PARTS_MAX  # Of a namespace; beyond them the floor is raised over the oldest.


async def wake_reclaimer(tx: AsyncConnection) -> None:
    await database.notify(tx, RECLAIMER)


async def invalidate(tx: AsyncConnection, namespace: str, parts: Sequence[str] = ()) -> int:
    """Forget parts of a namespace, or all of it: one row each, whatever it holds. Returns its new
    epoch; raises NamespaceUnknown. Who invalidates the same namespace meanwhile waits."""
    epoch = await tx.scalar(
        text("""
            UPDATE namespace SET epoch = epoch + 1, invalidated_at = now(),
                floor = CASE WHEN :is_whole THEN epoch + 1 ELSE floor END,
                reclaimable_count = CASE WHEN :is_whole AND ttl IS NOT NULL THEN entry_count
                                         ELSE reclaimable_count END
            WHERE namespace = :namespace RETURNING epoch
        """),
        {"namespace": namespace, "is_whole": not parts},
    )
    if epoch is None:
        known = await tx.scalars(text("SELECT namespace FROM namespace ORDER BY namespace"))
        raise NamespaceUnknown(f"no namespace {namespace!r}; accepted is {' or '.join(known)}")
    if parts:
        await tx.execute(
            text("""
                INSERT INTO invalidation (namespace, part, epoch)
                SELECT namespace, part, epoch
                FROM namespace, unnest(CAST(:parts AS text[])) part
                WHERE namespace = :namespace AND ttl IS NOT NULL  -- Documents are built anew.
                ORDER BY part
                ON CONFLICT (namespace, part) DO UPDATE SET epoch = excluded.epoch, at = now()
            """),
            {
                "namespace": namespace,
                "parts": list({one for part in parts for one in Part.parse(part).forgets()}),
            },
        )
    else:
        await wake_reclaimer(tx)
    return int(epoch)


async def lock_all(tx: AsyncConnection) -> None:
    """For who changes several: all of them, in one order."""
    await tx.execute(text("SELECT FROM namespace ORDER BY namespace FOR UPDATE"))


async def list_names(connection: AsyncConnection) -> list[str]:
    """Those that hold entries."""
    rows = await connection.scalars(
        text("SELECT namespace FROM namespace WHERE ttl IS NOT NULL ORDER BY namespace")
    )
    return list(rows)


async def is_catalogue(connection: AsyncConnection, source: str) -> bool:
    return bool(
        await connection.scalar(
            text("SELECT is_catalogue FROM annotator.source_v1 WHERE name = :source"),
            {"source": source},
        )
    )


# ------------------------------------------------------------------------------ reclaiming


async def forget_invalidations(tx: AsyncConnection) -> None:
    """Let go of invalidations that every entry they concern has outlived by its time to live, and
    of the oldest where they are too many: below the floor, which is raised over them, entries are
    not valid anyway."""
    await tx.execute(
        text("""
            WITH ranked AS (
                SELECT i.*, n.ttl,
                    row_number() OVER (PARTITION BY namespace ORDER BY i.epoch DESC) AS rank
                FROM invalidation i JOIN namespace n USING (namespace)
            ), risen AS (
                SELECT namespace, max(epoch) AS floor FROM ranked
                WHERE at < now() - ttl - interval '1 minute' OR rank > :forgotten_max
                GROUP BY namespace
            )
            UPDATE namespace n SET floor = greatest(n.floor, risen.floor)
            FROM risen WHERE risen.namespace = n.namespace
        """),
        {"forgotten_max": FORGOTTEN_MAX},
    )
    await tx.execute(
        text("""
            DELETE FROM invalidation i USING namespace n
            WHERE n.namespace = i.namespace AND i.epoch <= n.floor
        """)
    )


async def count_pages(connection: AsyncConnection) -> int:
    return int(
        await connection.scalar(
            text("""
                SELECT pg_relation_size('entry') / current_setting('block_size')::integer
            """)
        )
    )


@dataclass(frozen=True)
class Chunk:
    """What was seen of a stretch of entries: counts and bytes of those that stay, by namespace and
    the second they are of, and how many went. The next one begins at `page` and `row`. `seconds`
    are those of the transaction, by the database's clock: 0 where there was nothing."""

    page: int
    row: int
    kept: Mapping[tuple[str, datetime], tuple[int, int]]
    gone: Counter[str]
    seconds: float


async def reclaim(
    connection: AsyncConnection,
    page: int,
    row: int,
    *,
    pages_max: int,
    rows_max: int,
    bytes_max: int,
    outdated: Mapping[str, datetime],
) -> Chunk:
    """Look at the entries behind a place, as many as these limits allow, and delete those that are
    not valid, or of a namespace with too many from before its time in `outdated`."""
    rows = await connection.execute(
        text("""
            WITH seen AS MATERIALIZED (
                SELECT ctid AS place, namespace, epoch, parts, bytes, made_at, expires_at
                FROM entry
                WHERE ctid > CAST(:first AS tid) AND ctid < CAST(:behind AS tid)
                LIMIT :rows_max
            ), judged AS MATERIALIZED (
                SELECT e.place, e.namespace, e.bytes, e.made_at,
                    e.epoch < n.floor OR e.expires_at <= now()
                    OR coalesce(e.made_at < outdated.at, false)
                    OR EXISTS (SELECT FROM invalidation i WHERE i.namespace = e.namespace
                        AND i.part = ANY (e.parts) AND i.epoch > e.epoch) AS is_dead
                FROM seen e JOIN namespace n USING (namespace)
                LEFT JOIN unnest(CAST(:spaces AS text[]), CAST(:times AS timestamptz[]))
                    AS outdated (namespace, at) USING (namespace)
            ), chunk AS MATERIALIZED (  -- A large value lies in many rows of its own.
                SELECT * FROM (
                    SELECT *, sum(bytes) FILTER (WHERE is_dead) OVER (
                        ORDER BY place ROWS UNBOUNDED PRECEDING) AS dead_bytes,
                        row_number() OVER (ORDER BY place) AS number
                    FROM judged) summed
                WHERE coalesce(dead_bytes, 0) <= :bytes_max OR number = 1
            ), deleted AS (
                DELETE FROM entry WHERE ctid = ANY (ARRAY(
                    SELECT place FROM chunk WHERE is_dead))
                RETURNING 1
            ), ended AS (  -- Not before the last was deleted.
                SELECT extract(epoch FROM clock_timestamp() - now())::float8 AS seconds
                FROM (SELECT count(*) FROM deleted) counted
            )
            SELECT namespace, date_trunc('second', made_at) AS second, is_dead, count(*) AS number,
                sum(bytes) AS bytes, max(place) AS last, (SELECT count(*) FROM seen) AS seen,
                (SELECT count(*) FROM chunk) AS done, (SELECT seconds FROM ended) AS seconds
            FROM chunk GROUP BY namespace, second, is_dead
        """),
        {
            "first": [page, row],
            "behind": [page + pages_max, 0],
            "rows_max": rows_max,
            "bytes_max": bytes_max,
            "spaces": list(outdated),
            "times": list(outdated.values()),
        },
    )
    kept: dict[tuple[str, datetime], tuple[int, int]] = {}
    gone: Counter[str] = Counter()
    last = (page, row)
    is_cut = False
    seconds = 0.0
    for found in rows:
        seconds = found.seconds
        last = max(last, found.last)
        is_cut = found.seen == rows_max or found.done < found.seen
        if found.is_dead:
            gone[found.namespace] += found.number
        else:
            kept[found.namespace, found.second] = (found.number, found.bytes)
    next_page, next_row = last if is_cut else (page + pages_max, 0)
    return Chunk(next_page, next_row, kept, gone, seconds)


async def time_broken_off(connection: AsyncConnection, pid: int) -> float:
    """Seconds that the last statement of another session took, by the database's clock."""
    seconds = await connection.scalar(
        text("""
            SELECT extract(epoch FROM state_change - query_start)::float8
            FROM pg_stat_activity WHERE pid = :pid AND state = 'idle'
        """),
        {"pid": pid},
    )
    if seconds is None:
        raise RuntimeError(f"session {pid} is gone, or does something else")
    return float(seconds)


async def note_reclaimed(tx: AsyncConnection, gone: Mapping[str, int]) -> None:
    """How many were deleted since this was noted last."""
    await lock_all(tx)
    await tx.execute(
        text("""
            UPDATE namespace n SET
                entry_count = greatest(n.entry_count - gone.count, 0),
                reclaimable_count = greatest(n.reclaimable_count - gone.count, 0),
                reclaimed_count = n.reclaimed_count + gone.count
            FROM unnest(CAST(:spaces AS text[]), CAST(:counts AS bigint[]))
                AS gone (namespace, count)
            WHERE n.namespace = gone.namespace
        """),
        {"spaces": list(gone), "counts": list(gone.values())},
    )


@dataclass(frozen=True)
class Counted:
    """What a whole round has seen of a namespace."""

    entry_count: int = 0
    entry_bytes: int = 0
    oldest_at: datetime | None = None
    newest_at: datetime | None = None


async def read_floors(connection: AsyncConnection) -> dict[str, tuple[int, int]]:
    """The floor of each namespace with entries, and how many it may have."""
    rows = await connection.execute(
        text("SELECT namespace, floor, entries_max FROM namespace WHERE ttl IS NOT NULL")
    )
    return {row.namespace: (row.floor, row.entries_max) for row in rows}


async def note_counts(
    tx: AsyncConnection, counted: Mapping[str, Counted], floors: Mapping[str, int]
) -> None:
    """What a round has seen. What was invalidated while it went on is still to be reclaimed."""
    await lock_all(tx)
    await tx.execute(
        text("""
            UPDATE namespace n SET entry_count = c.count, entry_bytes = c.bytes,
                oldest_at = c.oldest_at, newest_at = c.newest_at, counted_at = now(),
                reclaimable_count = CASE WHEN n.floor > c.floor THEN c.count ELSE 0 END
            FROM unnest(CAST(:spaces AS text[]), CAST(:counts AS bigint[]),
                CAST(:bytes AS bigint[]), CAST(:oldest AS timestamptz[]),
                CAST(:newest AS timestamptz[]), CAST(:floors AS bigint[]))
                AS c (namespace, count, bytes, oldest_at, newest_at, floor)
            WHERE n.namespace = c.namespace
        """),
        {
            "spaces": list(counted),
            "counts": [one.entry_count for one in counted.values()],
            "bytes": [one.entry_bytes for one in counted.values()],
            "oldest": [one.oldest_at for one in counted.values()],
            "newest": [one.newest_at for one in counted.values()],
            "floors": [floors[namespace] for namespace in counted],
        },
    )


async def note_documents(tx: AsyncConnection) -> None:
    """Gene documents are counted beside; their bytes are those on the disk."""
    await tx.execute(
        text("""
            UPDATE namespace SET entry_count = (SELECT count(*) FROM gene_summary),
                entry_bytes = pg_table_size('gene'), counted_at = now()
            WHERE namespace = 'genes'
        """)
    )
