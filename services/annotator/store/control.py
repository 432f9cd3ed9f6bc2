"""Controls of runs: pause, resume and cancel, of a whole run or of one source of it."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.messages import (
    ControlAction,
    ControlRun,
    RunCancelled,
    RunFact,
    RunPaused,
    RunResumed,
)
from services.annotator.domain import Batch
from services.annotator.store import annotations, batches, counting, scope


async def knows_run(tx: AsyncConnection, run_id: UUID) -> bool:
    found = await tx.scalar(text("SELECT true FROM run WHERE id = :id"), {"id": run_id})
    return bool(found)


async def find_action(tx: AsyncConnection, batch: Batch) -> ControlAction | None:
    """What the rows say of a claimed batch: pause or cancel, or None: go on."""
    action: ControlAction | None = await tx.scalar(
        text("""
            SELECT CASE WHEN 'cancelled' IN (run.state, rs.state) THEN 'cancel'
                        WHEN run.state = 'paused' OR rs.is_paused THEN 'pause' END
            FROM run JOIN run_source rs ON rs.run_id = run.id
            WHERE run.id = :run_id AND rs.source = :source
        """),
        {"run_id": batch.run_id, "source": batch.source},
    )
    return action


async def pause(tx: AsyncConnection, command: ControlRun) -> list[RunFact]:
    """Let nothing more of it be begun. What is the source's own goes on, and is counted."""
    await batches.lock_feeding(tx)
    # Before the run is locked, as in every store. If this command is not applied, they are fed
    # again.
    await batches.unqueue_batches(tx, command.run_id, command.source)
    seq = await _set_paused(tx, command, is_paused=True)
    if seq is None:
        return []
    return [RunPaused(run_id=command.run_id, seq=seq, source=command.source)]


async def resume(tx: AsyncConnection, command: ControlRun) -> list[RunFact]:
    seq = await _set_paused(tx, command, is_paused=False)
    if seq is None:
        return []
    return [RunResumed(run_id=command.run_id, seq=seq, source=command.source)]


async def cancel(tx: AsyncConnection, command: ControlRun) -> list[RunFact]:
    """Count what is left as cancelled. Its own batches end; a release or a slice is the source's,
    which goes on with it for whoever else waits, and for readers."""
    for source in await _open_sources(tx, command):  # In one order: two of these never deadlock.
        await annotations.lock_store(tx, source)
    await batches.lock_feeding(tx)
    # Again: a source may have ended while its store was waited for.
    still_open = await _open_sources(tx, command, "FOR UPDATE OF rs")
    if command.source is not None and not still_open:
        return []
    seq = await _note_cancel(tx, command)
    if seq is None:
        return []
    facts: list[RunFact] = [RunCancelled(run_id=command.run_id, seq=seq, source=command.source)]
    for source in still_open:
        # Behind the sources: a plan that is being made holds them, and what it has cut is seen when
        # it is committed. No store comes between: they are locked.
        await batches.cancel_batches(tx, command.run_id, source)
        facts += await counting.cancel_source(tx, command.run_id, source)
    whole = command.source is None
    completed = await counting.complete_run(tx, command.run_id, cancelled=whole)
    return [*facts, completed] if completed else facts


async def _open_sources(tx: AsyncConnection, command: ControlRun, lock: str = "") -> Sequence[str]:
    """Sources that have not ended and whose controls so far are older, in one order."""
    rows = await tx.scalars(
        text(f"""
            SELECT rs.source FROM run_source rs JOIN run ON run.id = rs.run_id
            WHERE rs.run_id = :run_id AND rs.source = coalesce(CAST(:source AS text), rs.source)
              AND rs.state IN ('waiting', 'running') AND :epoch > CASE
                  WHEN CAST(:source AS text) IS NULL THEN run.control_epoch
                  ELSE rs.control_epoch END
            ORDER BY rs.source {lock}
        """),
        {"run_id": command.run_id, "source": command.source, "epoch": command.epoch},
    )
    return list(rows)


async def _note_cancel(tx: AsyncConnection, command: ControlRun) -> int | None:
    """The fact's seq; None when the run has ended, or a newer control of it came first. A run that
    was not planned will not be: its genes are counted as they were ordered."""
    parameters = {"run_id": command.run_id, "epoch": command.epoch}
    if command.source is not None:
        await tx.execute(
            text("""
                UPDATE run_source SET control_epoch = :epoch
                WHERE run_id = :run_id AND source = :source
            """),
            parameters | {"source": command.source},
        )
        statement = "UPDATE run SET seq = seq + 1 WHERE id = :run_id RETURNING seq"
        del parameters["epoch"]
    else:
        statement = f"""
            UPDATE run SET seq = seq + 1, control_epoch = :epoch, planned_all = true,
                gene_count = coalesce(gene_count, (SELECT count(*) FROM ({scope.GENES}) g))
            WHERE id = :run_id AND finished_at IS NULL AND control_epoch < :epoch
            RETURNING seq
        """
    seq: int | None = await tx.scalar(text(statement), parameters)
    return seq


async def _set_paused(tx: AsyncConnection, command: ControlRun, *, is_paused: bool) -> int | None:
    """The fact's seq; None when nothing changes: it is so already, it has ended, or a newer
    control came first. The epoch is noted in any case, so that an older one comes too late."""
    if command.source is None:
        statement = """
            UPDATE run SET control_epoch = :epoch, seq = seq + 1, state = CASE
                WHEN :is_paused THEN 'paused' WHEN planned_all THEN 'running' ELSE 'planning' END
            WHERE id = :run_id AND finished_at IS NULL AND control_epoch < :epoch
            RETURNING seq, (old.state = 'paused') <> :is_paused AS has_moved
        """
    else:
        statement = """
            WITH moved AS (
                UPDATE run_source SET is_paused = :is_paused, control_epoch = :epoch
                WHERE run_id = :run_id AND source = :source AND control_epoch < :epoch
                  AND state IN ('waiting', 'running')
                RETURNING run_id, old.is_paused <> new.is_paused AS has_moved
            )
            UPDATE run SET seq = seq + 1 FROM moved WHERE run.id = moved.run_id
            RETURNING seq, has_moved
        """
    parameters = {"run_id": command.run_id, "epoch": command.epoch, "is_paused": is_paused}
    if command.source is not None:
        parameters["source"] = command.source
    row = (await tx.execute(text(statement), parameters)).one_or_none()
    return row.seq if row is not None and row.has_moved else None
