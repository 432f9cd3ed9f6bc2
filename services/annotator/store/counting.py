"""How genes are counted for runs, and when a source, and then a run, is complete."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.messages import BatchAnnotated, BatchDead, RunCompleted, RunFact, SourceCompleted
from services.annotator.domain import Batch, Counts
from services.annotator.failpoints import Failpoint
from services.annotator.store import scope
from services.chassis import failpoints
from services.chassis.errors import Problem

# A step raises `seq` by this much, so that each of its facts has a number; gaps are allowed.
FACTS_PER_STEP_MAX = 2


@dataclass(frozen=True)
class Step:
    """One run's counters moved: `seq` is the first number its facts may take."""

    run_id: UUID
    seq: int
    facts: tuple[RunFact, ...]  # That a source, or the run, is complete.


async def advance(
    tx: AsyncConnection, run_id: UUID, source: str, counts: Counts, problem: Problem | None = None
) -> Step:
    """Count genes for one run and source; close the source with its last gene, the run with its
    last source. The rows are locked in the order run_source, run, as in every store."""
    row = (
        await tx.execute(
            text("""
                WITH counted AS (
                    UPDATE run_source SET
                        done_count = done_count + :done,
                        no_data_count = no_data_count + :no_data,
                        failed_count = failed_count + :failed,
                        changed_count = changed_count + :changed,
                        started_at = coalesce(started_at, now()),
                        problem = coalesce(CAST(:problem AS jsonb), problem),
                        is_paused = is_paused AND done_count + no_data_count + failed_count
                            + :done + :no_data + :failed < total_count,
                        finished_at = CASE WHEN done_count + no_data_count + failed_count
                            + :done + :no_data + :failed = total_count THEN now() END,
                        state = CASE
                            WHEN done_count + no_data_count + failed_count
                                 + :done + :no_data + :failed < total_count THEN state
                            WHEN coalesce(CAST(:problem AS jsonb), problem) IS NOT NULL
                                 AND done_count + :done = 0 THEN 'failed'
                            ELSE 'completed' END
                    WHERE run_id = :run_id AND source = :source
                      AND state IN ('waiting', 'running')
                    RETURNING state, done_count, no_data_count, failed_count,
                              finished_at IS NOT NULL AS closed
                ), moved AS (
                    UPDATE run SET seq = seq + :facts_max,
                        open_sources = open_sources - (SELECT closed::integer FROM counted)
                    WHERE id = :run_id RETURNING seq - :facts_max + 1 AS seq
                )
                SELECT * FROM counted, moved
            """),
            {
                "run_id": run_id,
                "source": source,
                "done": counts.done,
                "no_data": counts.no_data,
                "failed": counts.failed,
                "changed": counts.changed,
                "problem": orjson.dumps(problem).decode() if problem else None,
                "facts_max": FACTS_PER_STEP_MAX,
            },
        )
    ).one()
    if not row.closed:
        return Step(run_id, row.seq, ())
    closing = SourceCompleted(
        run_id=run_id,
        seq=row.seq + 1,
        source=source,
        state=row.state,
        done_count=row.done_count,
        no_data_count=row.no_data_count,
        failed_count=row.failed_count,
    )
    completed = await complete_run(tx, run_id)
    return Step(run_id, row.seq, (closing, completed) if completed else (closing,))


async def cancel_source(tx: AsyncConnection, run_id: UUID, source: str) -> list[RunFact]:
    """End an open source of a run: what is not counted by now is counted as cancelled. A run whose
    last open source that was is for the caller to complete."""
    row = (
        await tx.execute(
            text(f"""
                WITH closed AS (
                    UPDATE run_source rs SET state = 'cancelled', is_paused = false,
                        finished_at = now(), total_count = known.total, cancelled_count =
                            known.total - done_count - no_data_count - failed_count
                    FROM (
                        SELECT o.run_id, o.source, coalesce(o.total_count,
                            (SELECT count(*) FROM ({scope.GENES}) g)) AS total
                        FROM run_source o JOIN run ON run.id = o.run_id
                    ) known
                    WHERE rs.run_id = :run_id AND rs.source = :source
                      AND rs.state IN ('waiting', 'running')
                      AND known.run_id = rs.run_id AND known.source = rs.source
                    RETURNING rs.done_count, rs.no_data_count, rs.failed_count, rs.cancelled_count
                ), moved AS (
                    UPDATE run SET seq = seq + 1, open_sources = open_sources - 1
                    WHERE id = :run_id AND EXISTS (SELECT FROM closed) RETURNING seq
                )
                SELECT * FROM closed, moved
            """),
            {"run_id": run_id, "source": source},
        )
    ).one_or_none()
    if row is None:
        return []
    return [
        SourceCompleted(
            run_id=run_id,
            seq=row.seq,
            source=source,
            state="cancelled",
            done_count=row.done_count,
            no_data_count=row.no_data_count,
            failed_count=row.failed_count,
            cancelled_count=row.cancelled_count,
        )
    ]


async def complete_run(
    tx: AsyncConnection, run_id: UUID, *, cancelled: bool = False
) -> RunCompleted | None:
    """End the run if nothing of it is open. One caller gets the fact, and only once.

    It is cancelled when that was asked of it as a whole, or of each of its sources.
    """
    row = (
        await tx.execute(
            text("""
                UPDATE run SET finished_at = clock_timestamp(), seq = seq + 1, state = CASE
                    WHEN :cancelled OR sums.all_cancelled THEN 'cancelled'
                    WHEN sums.all_failed THEN 'failed'
                    WHEN sums.failed_count > 0 OR sums.any_failed THEN 'completed_with_errors'
                    ELSE 'completed' END
                FROM (
                    SELECT bool_and(state = 'failed') AS all_failed,
                           bool_or(state = 'failed') AS any_failed,
                           bool_and(state = 'cancelled') AS all_cancelled,
                           sum(done_count)::integer AS done_count,
                           sum(no_data_count)::integer AS no_data_count,
                           sum(failed_count)::integer AS failed_count,
                           sum(cancelled_count)::integer AS cancelled_count
                    FROM run_source WHERE run_id = :run_id
                ) sums
                WHERE id = :run_id AND open_sources = 0 AND planned_all AND finished_at IS NULL
                RETURNING seq, state, sums.done_count, sums.no_data_count, sums.failed_count,
                          sums.cancelled_count
            """),
            {"run_id": run_id, "cancelled": cancelled},
        )
    ).one_or_none()
    if row is None:
        return None
    failpoints.hit(Failpoint.COMPLETION_WRITTEN)
    return RunCompleted(
        run_id=run_id,
        seq=row.seq,
        state=row.state,
        done_count=row.done_count,
        no_data_count=row.no_data_count,
        failed_count=row.failed_count,
        cancelled_count=row.cancelled_count,
    )


async def count_fetched(
    tx: AsyncConnection, batch: Batch, counts: Counts, finished: bool
) -> list[RunFact]:
    """Count one page of a run's own batch."""
    assert batch.run_id is not None
    step = await advance(tx, batch.run_id, batch.source, counts)
    if not finished:
        return list(step.facts)
    return [_annotated(batch, step, counts), *step.facts]


async def count_stored(tx: AsyncConnection, batch: Batch, changed: list[str]) -> list[RunFact]:
    """Count a slice of a release for every run that follows it."""
    rows = await tx.execute(
        text(f"""
            SELECT rs.run_id, count(*) FILTER (WHERE a.value IS NOT NULL) AS done,
                   count(*) FILTER (WHERE a.value IS NULL) AS no_data,
                   count(*) FILTER (WHERE g.hgnc_id = ANY(CAST(:changed AS text[]))) AS changed
            FROM run_source rs JOIN run ON run.id = rs.run_id
            CROSS JOIN unnest(CAST(:genes AS text[])) AS g (hgnc_id)
            LEFT JOIN LATERAL (
                SELECT a.value FROM annotation a WHERE a.hgnc_id = g.hgnc_id
                AND a.source = :source AND a.valid_to = 'infinity' LIMIT 1) a ON true
            WHERE rs.source = :source AND rs.release_id = :release_id AND rs.state = 'running'
              AND {scope.HAS_GENE}
            GROUP BY rs.run_id ORDER BY rs.run_id
        """),
        {
            "genes": list(batch.genes),
            "source": batch.source,
            "release_id": batch.release_id,
            "changed": changed,
        },
    )
    facts: list[RunFact] = []
    for row in rows.all():
        counts = Counts(done=row.done, no_data=row.no_data, changed=row.changed)
        step = await advance(tx, row.run_id, batch.source, counts)
        facts += [_annotated(batch, step, counts), *step.facts]
    return facts


def _annotated(batch: Batch, step: Step, counts: Counts) -> BatchAnnotated:
    return BatchAnnotated(
        run_id=step.run_id,
        seq=step.seq,
        batch_id=batch.id,
        source=batch.source,
        done_count=counts.done,
        no_data_count=counts.no_data,
    )


async def count_dead(tx: AsyncConnection, batch: Batch, problem: Problem) -> list[RunFact]:
    """Count what a dead batch leaves undone as failed, for every run that waits for it."""
    rows = await tx.execute(
        text(f"""
            SELECT * FROM (
                SELECT rs.run_id, CASE :kind
                    WHEN 'fetch' THEN :left
                    WHEN 'release' THEN t.total
                        - rs.done_count - rs.no_data_count - rs.failed_count
                    ELSE (SELECT count(*) FROM unnest(CAST(:genes AS text[])) AS g (hgnc_id)
                          WHERE {scope.HAS_GENE})
                    END AS failed, t.total
                FROM run_source rs JOIN run ON run.id = rs.run_id
                JOIN source ON source.name = rs.source
                CROSS JOIN LATERAL (
                    SELECT coalesce(rs.total_count, (SELECT count(*) FROM ({scope.GENES}) g))
                        AS total
                ) t
                WHERE rs.source = :source AND CASE :kind
                    WHEN 'fetch' THEN rs.run_id = :run_id AND rs.state = 'running'
                    WHEN 'release' THEN rs.state = 'waiting'
                        AND (run.planned_all OR run.all_genes AND source.is_catalogue)
                    ELSE rs.release_id = :release_id AND rs.state = 'running' END
            ) waiting
            -- A slice with none of a run's genes is not its problem; a source without genes ends.
            WHERE failed > 0 OR :kind = 'release'
            ORDER BY run_id
        """),
        {
            "kind": batch.kind,
            "source": batch.source,
            "run_id": batch.run_id,
            "release_id": batch.release_id,
            "genes": list(batch.genes),
            "left": len(batch.genes) - batch.checkpoint,
        },
    )
    facts: list[RunFact] = []
    for row in rows.all():
        if batch.kind == "release":
            await _bury_with_release(tx, row.run_id, batch.source, problem)
        await _set_unknown_total(tx, row.run_id, batch.source, row.total)
        step = await advance(
            tx, row.run_id, batch.source, Counts(failed=row.failed), problem=problem
        )
        dead = BatchDead(
            run_id=row.run_id,
            seq=step.seq,
            batch_id=batch.id,
            source=batch.source,
            failed_count=row.failed,
            problem=problem,
        )
        facts += [dead, *step.facts]
    return facts


async def _bury_with_release(
    tx: AsyncConnection, run_id: UUID, source: str, problem: Problem
) -> None:
    """Batches that waited for a release nobody could find out."""
    await tx.execute(
        text("""
            UPDATE batch SET state = 'dead', finished_at = now(), problem = CAST(:problem AS jsonb)
            WHERE run_id = :run_id AND source = :source AND state = 'pending'
        """),
        {"run_id": run_id, "source": source, "problem": orjson.dumps(problem).decode()},
    )


async def fail_source(
    tx: AsyncConnection, run_id: UUID, source: str, total: int, problem: Problem
) -> list[RunFact]:
    """Count a source of one run as failed altogether."""
    await _set_unknown_total(tx, run_id, source, total)
    step = await advance(tx, run_id, source, Counts(failed=total), problem=problem)
    return list(step.facts)


async def _set_unknown_total(tx: AsyncConnection, run_id: UUID, source: str, total: int) -> None:
    await tx.execute(
        text("""
            UPDATE run_source SET total_count = :total
            WHERE run_id = :run_id AND source = :source AND total_count IS NULL
        """),
        {"run_id": run_id, "source": source, "total": total},
    )


async def attach_runs(
    tx: AsyncConnection,
    source: str,
    release_id: UUID,
    *,
    is_api: bool,
    run_ids: Sequence[UUID] | None = None,
) -> list[RunFact]:
    """Let every run that waits for this source, or these of them, follow this release.

    The caller holds the source's store lock, so no slice is counted twice or missed: what is
    stored by now is counted here, what comes is counted by its batch.
    """
    rows = await tx.execute(
        text(f"""
            UPDATE run_source rs SET state = 'running', release_id = :release_id,
                   started_at = coalesce(rs.started_at, now()), total_count = CASE
                       WHEN :is_api THEN rs.total_count
                       WHEN run.all_genes AND release.state = 'accepted' THEN (
                           SELECT coalesce(sum(cardinality(genes)), 0) FROM batch
                           WHERE batch.release_id = :release_id AND kind = 'store')
                       ELSE (SELECT count(*) FROM ({scope.GENES}) g)
                   END
            FROM run, source, release
            WHERE rs.source = :source AND rs.state = 'waiting' AND run.id = rs.run_id
              AND source.name = rs.source AND NOT run.dry_run
              -- A list is not known before it is planned; all genes are planned after this.
              AND (run.planned_all OR run.all_genes AND source.is_catalogue)
              AND release.id = :release_id
              AND (CAST(:run_ids AS uuid[]) IS NULL OR run.id = ANY(:run_ids))
            RETURNING rs.run_id, run.all_genes, release.state AS release_state
        """),
        {"source": source, "release_id": release_id, "is_api": is_api, "run_ids": run_ids},
    )
    facts: list[RunFact] = []
    for row in sorted(rows.all(), key=lambda row: row.run_id.bytes):
        counts = Counts() if is_api else await _count_present(tx, row.run_id, source, release_id)
        facts += (await advance(tx, row.run_id, source, counts)).facts
    return facts


async def _count_present(
    tx: AsyncConnection, run_id: UUID, source: str, release_id: UUID
) -> Counts:
    """What this release has settled so far of a run's genes.

    While it is being stored: the genes of finished batches, and genes that no batch names, which
    left the catalogue since they were ordered. Once it is stored whole: all of them.
    """
    row = (
        await tx.execute(
            text(f"""
                WITH scope AS (
                    SELECT g.hgnc_id FROM run CROSS JOIN LATERAL ({scope.GENES}) g
                    WHERE run.id = :run_id
                ), slices AS (
                    SELECT unnest(b.genes) AS hgnc_id, b.state FROM batch b
                    JOIN release r ON r.id = b.release_id
                    WHERE b.release_id = :release_id AND b.kind = 'store'
                      AND r.state = 'accepted'
                ), settled AS (
                    SELECT hgnc_id, state = 'dead' AS dead FROM slices
                    JOIN scope USING (hgnc_id) WHERE state IN ('done', 'dead')
                    UNION ALL
                    SELECT s.hgnc_id, false FROM scope s, run, release r
                    WHERE run.id = :run_id AND r.id = :release_id
                      AND (r.state = 'stored' OR NOT run.all_genes)
                      AND NOT EXISTS (SELECT FROM slices WHERE slices.hgnc_id = s.hgnc_id)
                )
                SELECT count(*) FILTER (WHERE NOT dead AND a.value IS NOT NULL) AS done,
                       count(*) FILTER (WHERE NOT dead AND a.value IS NULL) AS no_data,
                       count(*) FILTER (WHERE dead) AS failed
                FROM settled LEFT JOIN LATERAL (
                    SELECT a.value FROM annotation a WHERE a.hgnc_id = settled.hgnc_id
                    AND a.source = :source AND a.valid_to = 'infinity' LIMIT 1) a ON true
            """),
            {"run_id": run_id, "source": source, "release_id": release_id},
        )
    ).one()
    return Counts(done=row.done, no_data=row.no_data, failed=row.failed)


async def detach_runs(tx: AsyncConnection, source: str, release_id: UUID) -> None:
    """Let runs that follow a superseded release wait for the next one, counted afresh."""
    await tx.execute(
        text("""
            UPDATE run_source SET state = 'waiting', release_id = NULL, done_count = 0,
                                  no_data_count = 0, failed_count = 0, changed_count = 0,
                                  problem = NULL
            WHERE source = :source AND state = 'running' AND release_id <> :release_id
        """),
        {"source": source, "release_id": release_id},
    )
