"""Batches that are given up: what they leave undone is counted, and told."""

from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.messages import RunFact
from services.annotator import domain
from services.annotator.domain import Batch
from services.annotator.store import annotations, counting, runs
from services.chassis import outbox
from services.chassis.errors import problem_of


async def bury(tx: AsyncConnection, batch: Batch, error: Exception) -> list[RunFact]:
    """Count what a dead batch leaves undone, and say so."""
    problem = problem_of(error)
    touched: list[str] = []
    if batch.kind == "fetch":
        left = sorted(batch.genes[batch.checkpoint :])
        touched = await annotations.mark_failed(tx, batch.source, left, problem, batch.claimed_at)
    facts = await counting.count_dead(tx, batch, problem)
    await runs.save_facts(tx, facts)
    await outbox.add(tx, *facts, *domain.changes(batch.source, None, touched))
    return facts
