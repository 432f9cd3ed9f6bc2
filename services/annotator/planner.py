"""Plans runs, keeps a small window of batches in Kafka, and takes back what was lost."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.messages import AnnotateBatch, RunFact, RunPlanned
from services.annotator import domain
from services.annotator.domain import ApiSource, Batch, Counts, Declaration, Source, is_api
from services.annotator.errors import (
    AttemptsUsedUp,
    CatalogueEmpty,
    GenesWithdrawn,
    LeaseLost,
    SourceRetired,
)
from services.annotator.failpoints import Failpoint
from services.annotator.store import (
    annotations,
    batches,
    burials,
    counting,
    feeding,
    previews,
    runs,
    selection,
    staged,
)
from services.annotator.store.feeding import Pace
from services.annotator.store.selection import Selection
from services.chassis import database, failpoints, outbox
from services.chassis.errors import AnnobusError, problem_of

log = structlog.get_logger()

PERIOD_SECONDS = 1.0  # What a lost wake-up costs, and how late a retry may be.
COALESCE_SECONDS = 0.05  # Batches end in bursts: refill once for all of them.
SWEEP_SECONDS = 2.0


def paces(
    sources: Mapping[str, Source], per_second: Callable[[Declaration], float]
) -> dict[str, Pace]:
    """Of the APIs that may not be asked as fast as they answer."""
    declared = {name: source.declaration for name, source in sources.items() if is_api(source)}
    return {
        name: Pace(rate, declaration.concurrency)
        for name, declaration in declared.items()
        if (rate := per_second(declaration))
    }


@dataclass
class Planner:
    engine: AsyncEngine
    sources: Mapping[str, Source]
    instance: str
    report: Callable[[Iterable[UUID]], None]
    paces: Mapping[str, Pace] = field(default_factory=dict)
    _swept_at: float = field(default=0.0)

    async def work(self, _: AsyncConnection) -> bool:
        """One pass, for `database.alone`, which hands in the session that holds the lock."""
        await self.plan_and_feed()
        return False  # The windows are full, or nothing is due: whoever finishes a batch wakes us.

    async def plan_and_feed(self) -> None:
        """Take back what was lost, plan what is ordered, announce what is due."""
        if time.monotonic() - self._swept_at > SWEEP_SECONDS:
            await self.sweep_once()
            self._swept_at = time.monotonic()
        while await self.plan_once():  # All before the first hint: they share a look upstream.
            pass
        await self.emit_once()

    async def plan_once(self) -> int:
        """Plan the oldest run that is waiting for it. Returns how many were planned.

        A run that cannot be planned fails with the reason: no other waits behind it.
        """
        async with self.engine.connect() as connection:
            run_id = await runs.next_to_plan(connection, self.sources)
        if run_id is None:
            return 0
        try:
            async with self.engine.begin() as tx:
                await database.allow_long_transaction(tx)
                await announce(tx, await self.plan(tx, run_id))
                failpoints.hit(Failpoint.PLAN_WRITTEN)
        except Exception as error:
            if database.is_worth_another_try(error):
                raise
            log.exception("run_not_planned", run_id=str(run_id))
            async with self.engine.begin() as tx:
                await announce(tx, await self.fail(tx, run_id, error))
        failpoints.hit(Failpoint.PLAN_COMMITTED)
        self.report([run_id])
        return 1

    async def plan(self, tx: AsyncConnection, run_id: UUID) -> list[RunFact]:
        withdrawn = await runs.drop_withdrawn_genes(tx, run_id)
        gene_count = await runs.count_genes(tx, run_id)
        retired = await runs.retired_sources(tx, run_id)
        picked = await selection.get_selection(tx, run_id)
        idle: set[str] = set()
        if gene_count:  # Before any lock: it may wait for a release that is just being accepted.
            sources = [s for s in await runs.waiting_sources(tx, run_id) if s not in retired]
            for name in sources:
                kind = domain.kind(self.sources[name])
                if not await selection.has_work(tx, run_id, name, kind, picked):
                    idle.add(name)
            asked = [s for s in sources if s not in idle]
            if picked.is_dry:  # An API is not asked at all.
                asked = [s for s in asked if not is_api(self.sources[s])]
            await batches.open_release_batches(
                tx, asked, is_forced=picked.strategy == "force", is_dry=picked.is_dry
            )
        waiting = await runs.lock_waiting_sources(tx, run_id)
        seq = await runs.mark_planned(tx, run_id, gene_count)
        if seq is None:
            return []
        facts: list[RunFact] = [
            RunPlanned(run_id=run_id, seq=seq, gene_count=gene_count, sources=tuple(waiting))
        ]
        if gene_count == 0:
            problem = _no_genes(withdrawn, picked).problem()
            for source in waiting:
                facts += await counting.fail_source(tx, run_id, source, 0, problem)
        else:
            for source in waiting:
                if source in idle:
                    facts += await self.plan_nothing(tx, run_id, source)
                else:
                    facts += await self.plan_source(tx, run_id, source, gene_count, retired, picked)
        completed = await counting.complete_run(tx, run_id)
        return [*facts, completed] if completed else facts

    async def plan_source(
        self,
        tx: AsyncConnection,
        run_id: UUID,
        name: str,
        gene_count: int,
        retired: Sequence[str],
        picked: Selection,
    ) -> list[RunFact]:
        if name in retired:
            problem = problem_of(
                SourceRetired(f"{name} was removed; a run over the others goes on")
            )
            return await counting.fail_source(tx, run_id, name, gene_count, problem)
        source = self.sources[name]
        if is_api(source):
            plan = self.preview_api if picked.is_dry else self.plan_api
            return await plan(tx, run_id, source, picked)
        await runs.set_total(tx, run_id, name, 0 if picked.is_dry else gene_count)
        return []

    async def preview_api(
        self, tx: AsyncConnection, run_id: UUID, source: ApiSource, picked: Selection
    ) -> list[RunFact]:
        """Say what a run would ask an API for, and how long at least that takes."""
        name = source.declaration.name
        genes = await selection.count_fetches(
            tx, run_id, source.declaration.identifier, name, picked
        )
        requests = -(-genes // source.page_size)
        pace = self.paces.get(name)
        preview = {
            "gene_count": genes,
            "request_count": requests,
            "seconds": round(requests / pace.per_second, 1) if pace else None,
        }
        await runs.set_total(tx, run_id, name, 0)
        return await previews.complete_source(tx, run_id, name, preview)

    async def plan_nothing(self, tx: AsyncConnection, run_id: UUID, name: str) -> list[RunFact]:
        """Complete a source of which the run's strategy picks nothing."""
        await runs.set_total(tx, run_id, name, 0)
        step = await counting.advance(tx, run_id, name, Counts())
        return list(step.facts)

    async def fail(self, tx: AsyncConnection, run_id: UUID, error: Exception) -> list[RunFact]:
        """End what has not begun of a run that cannot be planned."""
        waiting = await runs.lock_waiting_sources(tx, run_id)
        seq = await runs.mark_planned(tx, run_id, 0)
        if seq is None:
            return []
        facts: list[RunFact] = [
            RunPlanned(run_id=run_id, seq=seq, gene_count=0, sources=tuple(waiting))
        ]
        for source in waiting:
            facts += await counting.fail_source(tx, run_id, source, 0, problem_of(error))
        completed = await counting.complete_run(tx, run_id)
        return [*facts, completed] if completed else facts

    async def plan_api(
        self, tx: AsyncConnection, run_id: UUID, source: ApiSource, picked: Selection
    ) -> list[RunFact]:
        name, identifier = source.declaration.name, source.declaration.identifier
        planned = await selection.plan_fetches(
            tx, run_id, name, identifier, source.page_size, picked
        )
        await runs.set_total(tx, run_id, name, planned.total)
        silent = await runs.mark_unaskable(tx, name, planned.unaskable)
        await outbox.add(tx, *domain.changes(name, None, silent))
        if planned.total and not planned.unaskable:
            return []
        step = await counting.advance(tx, run_id, name, Counts(no_data=len(planned.unaskable)))
        return list(step.facts)

    async def emit_once(self) -> int:
        """Announce the batches that are due, up to each source's window. Returns how many."""
        async with self.engine.begin() as tx:
            await batches.lock_feeding(tx)
            due = await feeding.queue_due_batches(tx, self.paces, self._stood_in())
            await outbox.add(
                tx, *(AnnotateBatch(batch_id=b.batch_id, source=b.source) for b in due)
            )
            if due:
                failpoints.hit(Failpoint.HINTS_WRITTEN)
        if due:
            failpoints.hit(Failpoint.HINTS_COMMITTED)
        return len(due)

    def _stood_in(self) -> list[str]:
        return [name for name, source in self.sources.items() if domain.fallback(source)]

    async def sweep_once(self) -> int:
        """Take back what nobody is at any more. Returns how many batches that were."""
        async with self.engine.begin() as tx:
            await batches.lock_feeding(tx)
            swept = await batches.sweep_lost_batches(tx)
            retired = await batches.take_retired_batches(tx, self.instance)
        async with self.engine.begin() as tx:
            worn_out = await batches.take_worn_out_batches(tx, self.instance)
        ends: list[tuple[Batch, AnnobusError]] = [
            *((batch, SourceRetired(f"{batch.source} was removed")) for batch in retired),
            *((batch, _worn_out(batch)) for batch in worn_out),
        ]
        for batch, error in ends:
            try:
                await self.bury(batch, error)
            except LeaseLost:
                log.info("lease_lost", batch_id=str(batch.id))  # Another buried it.
            except database.CONNECTION_ERRORS:
                # The next sweep takes it again; meanwhile the others are fed.
                log.exception("burial_failed", batch_id=str(batch.id))
        await self.drop_stored_rows()
        if swept or ends:
            log.info("batches_swept", swept=swept, dead=len(ends))
        return swept + len(ends)

    async def drop_stored_rows(self) -> None:
        """It may wait for another sweep: room on the disk is less urgent than work."""
        try:
            async with self.engine.begin() as tx:
                await staged.drop_stored_rows(tx)
        except database.CONNECTION_ERRORS as error:
            log.warning("staged_rows_not_dropped", error=repr(error))

    async def bury(self, batch: Batch, error: AnnobusError) -> None:
        async with self.engine.begin() as tx:
            await annotations.lock_store(tx, batch.source)
            left = await batches.give_back_batch(tx, batch, None, error.problem())
            facts = await burials.bury(tx, left, error)
        self.report({fact.run_id for fact in facts})


def _no_genes(withdrawn: Sequence[str], picked: Selection) -> AnnobusError:
    """Why there is nothing to plan."""
    if withdrawn:
        return GenesWithdrawn(
            f"none of the {len(withdrawn)} genes that the run names is approved, the first"
            f" is {withdrawn[0]}; accepted are their successors"
        )
    if picked.is_dry:
        return CatalogueEmpty(
            "no gene is known, and a dry run fills no catalogue: order a run of hgnc first"
        )
    return CatalogueEmpty("no gene is known: the source hgnc failed; order a run of it")


def _worn_out(batch: Batch) -> AttemptsUsedUp:
    return AttemptsUsedUp(f"{batch.attempt} attempts ended with the worker that made them")


async def announce(tx: AsyncConnection, facts: Sequence[RunFact]) -> None:
    await runs.save_facts(tx, facts)
    await outbox.add(tx, *facts)
