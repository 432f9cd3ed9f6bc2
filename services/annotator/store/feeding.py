"""Which batches go next: weighted fair queueing of the runs of each source, over all passes."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# Batches in Kafka at once of a source whose upstream sets no pace: nobody waits for the planner,
# and a run that comes later soon has its turn.
WINDOW = 32
LOW_WEIGHT = 1
NORMAL_WEIGHT = 4  # Of `high` too, among its kind.


@dataclass(frozen=True)
class Pace:
    """How fast an API may be asked; one batch is one call."""

    per_second: float
    concurrency: int


@dataclass(frozen=True)
class Due:
    batch_id: UUID
    source: str


async def queue_due_batches(
    tx: AsyncConnection, paces: Mapping[str, Pace], stood_in: Collection[str] = ()
) -> list[Due]:
    """Mark the next batches of every source as queued, up to its window. The caller holds the
    feeding lock.

    What is in Kafka is worked in the order it was put there. So of an API with a pace the window
    is a batch for each call at once and a second's work behind them: nobody waits for the planner,
    and a run that comes later waits for no more than that. While a breaker is half open one call
    is made, and one batch is enough: the one that has lost the fewest attempts. Each failure costs
    one, and an outage of an hour would use up those of the same few batches.

    The source's own batches go first, then those of runs of high priority, then the others. Among
    these each run has a clock that runs with the genes it is given, divided by its weight; the one
    that is behind goes next. A run that had nothing due starts where the last batch of its kind
    began: having slept gives no credit. Nothing is queued that would call an upstream which is to
    be left alone, unless somebody stands in for it.
    """
    rows = await tx.execute(
        text("""
            WITH room AS (
                SELECT s.name AS source, NOT coalesce(
                           u.blocked_until > now() OR u.open_until > now(), false)
                           OR s.name = ANY (CAST(:stood_in AS text[])) AS may_call,
                       s.kind = 'api' AND u.open_until IS NOT NULL AS is_probed,
                       CASE WHEN s.kind = 'api' AND u.open_until IS NOT NULL THEN 1
                            WHEN p.per_second IS NOT NULL
                            THEN p.concurrency + ceil(p.per_second * coalesce(u.share, 1))::integer
                            ELSE :window END
                       - (SELECT count(*) FROM batch f
                          WHERE f.source = s.name AND f.state IN ('queued', 'leased')) AS free
                FROM source s
                LEFT JOIN upstream u ON u.name = s.name
                LEFT JOIN unnest(CAST(:sources AS text[]),
                                 CAST(:per_second AS double precision[]),
                                 CAST(:concurrency AS integer[]))
                    AS p (source, per_second, concurrency) ON p.source = s.name
                WHERE NOT s.is_retired
            ), ranked AS (
                SELECT rs.source, rs.run_id, room.free, room.is_probed,
                       CASE run.priority WHEN 'high' THEN 1 ELSE 2 END AS rank,
                       CASE run.priority WHEN 'low' THEN CAST(:low_weight AS double precision)
                           ELSE CAST(:normal_weight AS double precision) END AS weight,
                       coalesce(t.until, 0) AS until, coalesce(t.began, 0) AS began,
                       rs.state = 'running' AND NOT rs.is_paused AND run.state = 'running'
                           AND room.may_call AS is_fed
                FROM room
                JOIN run_source rs
                    ON rs.source = room.source AND rs.state IN ('waiting', 'running')
                JOIN run ON run.id = rs.run_id
                LEFT JOIN turn t ON t.run_id = rs.run_id AND t.source = rs.source
            ), started AS (
                SELECT *, greatest(until, max(began) OVER (PARTITION BY source, rank)) AS start
                FROM ranked
            ), due AS (
                (SELECT b.id, b.source, room.free, NULL::uuid AS run_id, 0 AS rank,
                        0.0::double precision AS began, 0.0::double precision AS until
                 FROM room CROSS JOIN LATERAL (
                     SELECT b.id, b.source FROM batch b
                     WHERE b.source = room.source AND b.run_id IS NULL AND b.state = 'pending'
                       AND b.next_attempt_at <= now()
                       AND ((b.kind = 'release' AND room.may_call) OR EXISTS (
                           SELECT FROM release r WHERE r.id = b.release_id
                           AND r.state = 'accepted'))
                     ORDER BY b.id LIMIT greatest(room.free, 0)) b)
                UNION ALL
                SELECT b.id, s.source, s.free, s.run_id, s.rank,
                       s.start + sum(b.charge) OVER flow - b.charge AS began,
                       s.start + sum(b.charge) OVER flow AS until
                FROM started s CROSS JOIN LATERAL (
                    -- Two, and one of them empty: the first reads no more than it takes, in the
                    -- order of an index; only who looks for a probe reads all that is pending.
                    (SELECT b.id, (cardinality(b.genes) - b.checkpoint) / s.weight AS charge
                     FROM batch b
                     WHERE b.source = s.source AND b.run_id = s.run_id AND b.state = 'pending'
                       AND b.next_attempt_at <= now() AND NOT s.is_probed
                     ORDER BY b.id LIMIT greatest(s.free, 0))
                    UNION ALL
                    (SELECT b.id, (cardinality(b.genes) - b.checkpoint) / s.weight
                     FROM batch b
                     WHERE b.source = s.source AND b.run_id = s.run_id AND b.state = 'pending'
                       AND b.next_attempt_at <= now() AND s.is_probed
                     ORDER BY b.attempt, b.id LIMIT greatest(s.free, 0))) b
                WHERE s.is_fed
                WINDOW flow AS (PARTITION BY s.source, s.run_id ORDER BY b.id)
            ), placed AS (
                SELECT *, row_number() OVER (PARTITION BY source ORDER BY rank, began, id) AS place
                FROM due
            ), queued AS (
                UPDATE batch SET state = 'queued', queued_at = now()
                FROM placed
                WHERE placed.place <= placed.free AND batch.id = placed.id
                  AND batch.state = 'pending'
                RETURNING batch.id, batch.source, batch.run_id, placed.began, placed.until,
                          placed.place
            ), charged AS (
                INSERT INTO turn (run_id, source, began, until)
                SELECT run_id, source, max(began), max(until) FROM queued
                WHERE run_id IS NOT NULL GROUP BY run_id, source
                ON CONFLICT (run_id, source)
                DO UPDATE SET began = excluded.began, until = excluded.until
            )
            SELECT id, source FROM queued ORDER BY source, place
        """),
        {
            "window": WINDOW,
            "low_weight": LOW_WEIGHT,
            "normal_weight": NORMAL_WEIGHT,
            "stood_in": list(stood_in),
            "sources": list(paces),
            "per_second": [pace.per_second for pace in paces.values()],
            "concurrency": [pace.concurrency for pace in paces.values()],
        },
    )
    return [Due(row.id, row.source) for row in rows]
