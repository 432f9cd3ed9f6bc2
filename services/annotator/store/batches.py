"""Batches: opened, claimed under a lease, renewed, finished or given back; and which are due."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.annotator.domain import ATTEMPTS_MAX, BLIND_HALVINGS_MAX, Batch
from services.annotator.errors import LeaseLost, ReleaseMissing
from services.chassis.errors import Problem

LEASE = timedelta(seconds=6)
# Before a batch of a paused run is due again: its worker may know of the pause before its row does.
LAID_DOWN = timedelta(seconds=1)
LEASE_GRACE = timedelta(seconds=1)  # Its owner may be renewing it right now.
# A hint that nobody has taken up by now is lost: it is sent again, and a second one does no harm.
QUEUED_MAX = timedelta(seconds=60)
SWEPT_MAX = 500


async def open_release_batches(
    tx: AsyncConnection,
    sources: Iterable[str],
    *,
    is_forced: bool = False,
    is_dry: bool = False,
) -> None:
    """Have somebody look what is new at these sources, unless somebody does already. Who has begun
    when this one is forced, or the first that is not dry, begins anew.

    A batch that is open stays locked until the caller commits: whoever finishes it then sees
    what the caller wrote, and a run that waits for it is never forgotten.
    """
    await tx.execute(
        text("""
            INSERT INTO batch (kind, source, is_forced, is_dry)
            SELECT 'release', name, :is_forced, :is_dry
            FROM unnest(CAST(:sources AS text[])) AS s (name)
            ORDER BY name  -- One order for all, so that two of these cannot deadlock.
            ON CONFLICT (source) WHERE kind = 'release' AND state NOT IN ('done', 'dead')
            DO UPDATE SET is_forced = batch.is_forced OR excluded.is_forced,  -- And for the lock.
                          is_dry = batch.is_dry AND excluded.is_dry
        """),
        {"sources": sorted(sources), "is_forced": is_forced, "is_dry": is_dry},
    )


async def claim_batch(tx: AsyncConnection, batch_id: UUID, owner: str) -> Batch | None:
    """Take the lease. None if there is nothing to do: finished, not due, or somebody is at it."""
    claimed = await tx.execute(
        text("""
            UPDATE batch SET state = 'leased', lease_owner = :owner,
                             lease_token = lease_token + 1,
                             lease_until = now() + CAST(:lease AS interval),
                             attempt = attempt + 1  -- Here, so that a crash counts too.
            WHERE id = :batch_id AND attempt < :attempts_max
              AND (state = 'queued'
                   OR (state = 'pending' AND next_attempt_at <= now())
                   -- My own name: my predecessor is dead.
                   OR (state = 'leased' AND (lease_until < now() OR lease_owner = :owner)))
              AND (run_id IS NULL OR EXISTS (
                  SELECT FROM run JOIN run_source rs ON rs.run_id = run.id
                  WHERE run.id = batch.run_id AND rs.source = batch.source
                    AND run.state = 'running' AND NOT rs.is_paused))
            RETURNING id, kind, source, run_id, release_id, genes, checkpoint, attempt,
                      refusals, is_forced, is_dry, halvings, lease_token,
                      clock_timestamp() AS claimed_at, coalesce((
                          SELECT greatest(run.control_epoch, rs.control_epoch)
                          FROM run JOIN run_source rs ON rs.run_id = run.id
                          WHERE run.id = batch.run_id AND rs.source = batch.source), 0)
                          AS control_epoch
        """),
        {"batch_id": batch_id, "owner": owner, "lease": LEASE, "attempts_max": ATTEMPTS_MAX},
    )
    row = claimed.one_or_none()
    return Batch(**row._mapping) if row else None


async def renew_lease(tx: AsyncConnection, batch: Batch) -> bool:
    """Keep the lease. False when it is another's."""
    renewed = await tx.execute(
        text("""
            UPDATE batch SET lease_until = now() + CAST(:lease AS interval)
            WHERE id = :batch_id AND state = 'leased' AND lease_token = :token
        """),
        {"batch_id": batch.id, "token": batch.lease_token, "lease": LEASE},
    )
    return bool(renewed.rowcount)


async def save_checkpoint(tx: AsyncConnection, batch: Batch, gene_count: int) -> bool:
    """These genes of the batch are done. True when they were the last. Raises LeaseLost."""
    row = (
        await tx.execute(
            text("""
                UPDATE batch SET checkpoint = checkpoint + :gene_count,
                    state = CASE WHEN last THEN 'done' ELSE state END,
                    finished_at = CASE WHEN last THEN now() END,
                    lease_owner = CASE WHEN last THEN NULL ELSE lease_owner END,
                    lease_until = CASE WHEN last THEN NULL ELSE lease_until END
                FROM (SELECT checkpoint + :gene_count = cardinality(genes) AS last
                      FROM batch WHERE id = :batch_id) step
                WHERE id = :batch_id AND state = 'leased' AND lease_token = :token
                RETURNING last AS finished
            """),
            {"batch_id": batch.id, "token": batch.lease_token, "gene_count": gene_count},
        )
    ).one_or_none()
    if row is None:
        raise LeaseLost(batch.id, batch.lease_token)
    return bool(row.finished)


async def finish_batch(tx: AsyncConnection, batch: Batch) -> None:
    """Raises LeaseLost, and ReleaseMissing when more was asked of it since it was claimed."""
    row = (
        await tx.execute(
            text("""
            UPDATE batch SET state = 'done', finished_at = now(), lease_owner = NULL,
                             lease_until = NULL
            WHERE id = :batch_id AND state = 'leased' AND lease_token = :token
            RETURNING is_forced, is_dry
        """),
            {"batch_id": batch.id, "token": batch.lease_token},
        )
    ).one_or_none()
    if row is None:
        raise LeaseLost(batch.id, batch.lease_token)
    if row.is_forced and not batch.is_forced:
        raise ReleaseMissing(f"{batch.source} is to be read anew, which was ordered meanwhile")
    if batch.is_dry and not row.is_dry:
        raise ReleaseMissing(f"{batch.source} is to be stored, which was ordered meanwhile")


async def give_back_batch(
    tx: AsyncConnection,
    batch: Batch,
    delay: timedelta | None,
    problem: Problem,
    *,
    counts: bool = True,
    is_refused: bool = False,
) -> Batch:
    """Let somebody try again after a delay; without one the batch is dead. Returns it as it is
    now: since its claim, pages of it may have been stored. Raises LeaseLost.

    An attempt that could not begin does not count; one that the upstream refused for now is
    counted apart.
    """
    checkpoint = await tx.scalar(
        text("""
            UPDATE batch SET state = CASE WHEN CAST(:delay AS interval) IS NULL
                                          THEN 'dead' ELSE 'pending' END,
                             finished_at = CASE WHEN CAST(:delay AS interval) IS NULL
                                                THEN now() END,
                             next_attempt_at = now() + coalesce(CAST(:delay AS interval), '0s'),
                             problem = CAST(:problem AS jsonb),
                             attempt = attempt - :uncounted,
                             failing_since = CASE WHEN :uncounted = 0
                                 THEN coalesce(failing_since, now()) ELSE failing_since END,
                             refusals = refusals + :refused,
                             lease_owner = NULL, lease_until = NULL, queued_at = NULL
            WHERE id = :batch_id AND state = 'leased' AND lease_token = :token
            RETURNING checkpoint
        """),
        {
            "batch_id": batch.id,
            "uncounted": int(not counts),
            "refused": int(is_refused),
            "token": batch.lease_token,
            "delay": delay,
            "problem": orjson.dumps(problem).decode(),
        },
    )
    if checkpoint is None:
        raise LeaseLost(batch.id, batch.lease_token)
    return replace(batch, checkpoint=checkpoint)


@dataclass(frozen=True)
class Suspicion:
    """What is known of the source since the batch began to fail."""

    is_gene: bool  # Other genes were answered, or it is worth a look whether they are.
    is_open: bool  # Others of its run are being looked at: soon one knows.


async def suspect_genes(tx: AsyncConnection, batch: Batch) -> Suspicion | None:
    """Whether a gene is the cause, or the upstream is. None for a batch of one gene, which has no
    other that could be saved. The caller holds the store lock of the source, so that of two parts
    of a batch the second one sees what became of the first. Raises LeaseLost."""
    row = (
        await tx.execute(
            text("""
                SELECT cardinality(genes) - checkpoint AS left_count, EXISTS (
                    SELECT FROM batch other
                    WHERE other.source = batch.source AND other.kind = 'fetch'
                      AND other.state = 'done' AND other.finished_at > batch.failing_since
                ) AS is_answered, EXISTS (
                    SELECT FROM batch part
                    WHERE part.run_id = batch.run_id AND part.source = batch.source
                      AND part.halvings > 0 AND part.state IN ('pending', 'queued', 'leased')
                      AND part.id <> batch.id
                ) AS is_open
                FROM batch
                WHERE id = :batch_id AND state = 'leased' AND lease_token = :token FOR UPDATE
            """),
            {"batch_id": batch.id, "token": batch.lease_token},
        )
    ).one_or_none()
    if row is None:
        raise LeaseLost(batch.id, batch.lease_token)
    if row.left_count < 2:
        return None
    may_look = batch.halvings > 0 or not row.is_open  # Of a run's pages, one at a time.
    is_blind = may_look and batch.halvings < BLIND_HALVINGS_MAX
    return Suspicion(is_gene=row.is_answered or is_blind, is_open=row.is_open)


async def halve_batch(tx: AsyncConnection, batch: Batch, problem: Problem) -> None:
    """Keep the first half of what it has not done, and let a new batch have the second; both begin
    afresh. The caller has just seen that the lease is ours and that there are two genes."""
    await tx.execute(
        text("""
            WITH kept AS (
                UPDATE batch SET state = 'pending', attempt = 0, halvings = halvings + 1,
                    genes = genes[1 : checkpoint + (cardinality(genes) - checkpoint) / 2],
                    failing_since = coalesce(failing_since, now()), next_attempt_at = now(),
                    problem = CAST(:problem AS jsonb),
                    lease_owner = NULL, lease_until = NULL, queued_at = NULL
                WHERE id = :batch_id AND state = 'leased' AND lease_token = :token
                RETURNING kind, source, run_id, new.halvings, failing_since, problem,
                          old.genes[cardinality(new.genes) + 1 : cardinality(old.genes)] AS others
            )
            INSERT INTO batch (kind, source, run_id, halvings, failing_since, problem, genes)
            SELECT * FROM kept
        """),
        {
            "batch_id": batch.id,
            "token": batch.lease_token,
            "problem": orjson.dumps(problem).decode(),
        },
    )


async def lay_down_batch(tx: AsyncConnection, batch: Batch) -> None:
    """Give back a batch of a run that is paused, or about to be cancelled, where it is, as if this
    attempt had not been. Raises LeaseLost."""
    laid_down = await tx.execute(
        text("""
            UPDATE batch SET state = 'pending', attempt = attempt - 1, queued_at = NULL,
                             next_attempt_at = now() + CAST(:delay AS interval),
                             lease_owner = NULL, lease_until = NULL
            WHERE id = :batch_id AND state = 'leased' AND lease_token = :token
        """),
        {"batch_id": batch.id, "token": batch.lease_token, "delay": LAID_DOWN},
    )
    if laid_down.rowcount == 0:
        raise LeaseLost(batch.id, batch.lease_token)


async def lock_feeding(tx: AsyncConnection) -> None:
    """Let one at a time move many batches between pending and queued, until the commit: two who
    lock them in different order would wait for each other."""
    await tx.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('feeding', 0))"))


async def unqueue_batches(tx: AsyncConnection, run_id: UUID, source: str | None) -> None:
    """Take back the hints of a run, or of one source of it: they would fill windows in vain, and
    come back only as lost ones. The caller holds the feeding lock."""
    await tx.execute(
        text("""
            UPDATE batch SET state = 'pending', queued_at = NULL
            WHERE run_id = :run_id AND state = 'queued'
              AND source = coalesce(CAST(:source AS text), source)
        """),
        {"run_id": run_id, "source": source},
    )


async def cancel_batches(tx: AsyncConnection, run_id: UUID, source: str) -> None:
    """End what is open of a run's own batches; whoever works one loses its lease. The caller
    holds the feeding lock."""
    await tx.execute(
        text("""
            UPDATE batch SET state = 'cancelled', finished_at = now(), lease_owner = NULL,
                             lease_until = NULL, queued_at = NULL
            WHERE run_id = :run_id AND source = :source
              AND state IN ('pending', 'queued', 'leased')
        """),
        {"run_id": run_id, "source": source},
    )


async def sweep_lost_batches(tx: AsyncConnection) -> int:
    """Make pending again what was queued and not heard of, or leased by one who died. The caller
    holds the feeding lock."""
    swept = await tx.execute(
        text("""
            UPDATE batch SET state = 'pending', lease_owner = NULL, lease_until = NULL,
                             queued_at = NULL
            WHERE (state = 'queued' AND queued_at < now() - CAST(:queued_max AS interval))
               OR (state = 'leased' AND attempt < :attempts_max
                   AND lease_until < now() - CAST(:grace AS interval))
        """),
        {"queued_max": QUEUED_MAX, "grace": LEASE_GRACE, "attempts_max": ATTEMPTS_MAX},
    )
    return swept.rowcount


async def take_worn_out_batches(tx: AsyncConnection, owner: str) -> list[Batch]:
    """Take over batches whose last attempt died with its worker: nobody may claim them again."""
    rows = await tx.execute(
        text("""
            -- An array is made once; a subquery might be asked again for each row, and take all.
            UPDATE batch SET lease_owner = :owner, lease_token = lease_token + 1
            WHERE id = ANY (ARRAY(
                SELECT id FROM batch WHERE state = 'leased' AND attempt >= :attempts_max
                AND lease_until < now() - CAST(:grace AS interval) LIMIT :swept_max
                FOR UPDATE SKIP LOCKED))  -- Whoever holds one renews it, or ends it.
            RETURNING id, kind, source, run_id, release_id, genes, checkpoint, attempt, refusals,
                      lease_token, clock_timestamp() AS claimed_at
        """),
        {
            "owner": owner,
            "grace": LEASE_GRACE,
            "attempts_max": ATTEMPTS_MAX,
            "swept_max": SWEPT_MAX,
        },
    )
    return [Batch(**row._mapping) for row in rows]


async def take_retired_batches(tx: AsyncConnection, owner: str) -> list[Batch]:
    """Take what is left of sources that were removed: no worker knows them. The caller holds the
    feeding lock."""
    rows = await tx.execute(
        text("""
            UPDATE batch SET state = 'leased', lease_owner = :owner, queued_at = NULL,
                             lease_token = lease_token + 1,
                             lease_until = now() + CAST(:lease AS interval)
            WHERE id = ANY (ARRAY(
                SELECT b.id FROM batch b JOIN source s ON s.name = b.source
                WHERE s.is_retired AND b.state IN ('pending', 'queued')
                ORDER BY b.id LIMIT :swept_max))
            RETURNING id, kind, source, run_id, release_id, genes, checkpoint, attempt,
                      lease_token, clock_timestamp() AS claimed_at
        """),
        {"owner": owner, "lease": LEASE, "swept_max": SWEPT_MAX},
    )
    return [Batch(**row._mapping) for row in rows]
