"""The story of the service: a run is ordered, and its batches are annotated one by one."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.messages import (
    AnnotateBatch,
    ControlRun,
    DecideRelease,
    ReleaseDecided,
    ReleaseStored,
    RunFact,
    StartRun,
)
from services.annotator import domain
from services.annotator.domain import Batch, Counts, Gene, Offered, Source
from services.annotator.errors import (
    BatchCancelled,
    BatchHeld,
    LeaseLost,
    RateLimited,
    ReleaseMissing,
    ReleaseQuarantined,
    RunUnknown,
    SourceUnknown,
)
from services.annotator.failpoints import Failpoint
from services.annotator.holding import Held, Holding
from services.annotator.raw_store import RawStore
from services.annotator.store import (
    annotations,
    batches,
    burials,
    catalogue,
    control,
    counting,
    releases,
    runs,
    staged,
)
from services.annotator.store.annotations import Origin
from services.annotator.upstream import Upstream, within
from services.chassis import database, failpoints, outbox, telemetry
from services.chassis.bus import Routes, Subscription
from services.chassis.errors import problem_of

log = structlog.get_logger()

BATCH_FETCHING_SECONDS_MAX = (
    600.0  # All pages of a batch together, with the turns that they wait for.
)
# Who starts hears the controls of so long: longer than rows that say so may be in coming, while a
# database or a table cannot be written.
CONTROL_SECONDS_AGO = 600.0
RENEW_SECONDS = 2.0  # Two of these may fail before the lease of 6 s ends.
VALUES_PER_STEP = 20  # Values serialised before the loop may do something else: under 1 ms.


@dataclass(frozen=True)
class Handlers:
    engine: AsyncEngine
    sources: Mapping[str, Source]
    upstreams: Mapping[str, Upstream]
    raw_store: RawStore
    instance: str
    report: Callable[[Iterable[UUID]], None]
    prepare_release: Callable[[Batch], Awaitable[list[RunFact]]]
    in_flight: set[UUID] = field(default_factory=set)
    holding: Holding = field(default_factory=Holding)

    async def on_start_run(self, command: StartRun) -> None:
        """Note the run; the planner takes it from there. A second delivery finds it noted.

        Its sources must be declared, not known here: while versions change, another annotator
        may know them.
        """
        async with self.engine.begin() as tx:
            declared = await runs.declared_sources(tx)
            unknown = [source for source in command.sources if source not in declared]
            if unknown:
                raise SourceUnknown(f"sources {unknown} are unknown; accepted are {declared}")
            if not await runs.insert_run(tx, command):
                return
            if await runs.awaits_catalogue(tx, command.run_id):
                await batches.open_release_batches(
                    tx, (name for name, s in self.sources.items() if s.declaration.is_catalogue)
                )
            failpoints.hit(Failpoint.RUN_WRITTEN)
        failpoints.hit(Failpoint.RUN_NOTED)
        self.report([command.run_id])

    async def on_control_run(self, command: ControlRun) -> None:
        """Pause, resume or cancel; what is not so any more, or older than what is, changes nothing.

        Commands of a run come in order: one whose run is unknown follows an order that was parked.
        """
        async with self.engine.begin() as tx:
            if not await control.knows_run(tx, command.run_id):
                raise RunUnknown(f"run {command.run_id} was never noted here")
            match command.action:
                case "pause":
                    facts = await control.pause(tx, command)
                case "resume":
                    facts = await control.resume(tx, command)
                case "cancel":
                    facts = await control.cancel(tx, command)
            await runs.save_facts(tx, facts)
            await outbox.add(tx, *facts)
        self.report([command.run_id])

    async def hear_control(self, command: ControlRun) -> None:
        """Every annotator hears it, and at once: its calls in flight obey before the rows do."""
        self.holding.hear(command)

    async def on_decide_release(self, command: DecideRelease) -> None:
        """Believe a quarantined release after all, or never; a release that is not quarantined any
        more stays as it is."""
        async with self.engine.begin() as tx:
            await annotations.lock_store(tx, command.source)
            if not await releases.decide_release(tx, command):
                return
            if command.decision == "accept":
                await batches.open_release_batches(tx, [command.source])
            await outbox.add(tx, ReleaseDecided(**command.model_dump()))

    async def on_annotate_batch(self, command: AnnotateBatch) -> None:
        """Work one batch, if it is still due."""
        if command.batch_id in self.in_flight:  # A duplicate; under my own name I would claim it.
            return
        self.in_flight.add(command.batch_id)
        try:
            await self.claim_and_work(command.batch_id)
        except LeaseLost:  # Another has it, or it is cancelled.
            log.info("lease_lost", batch_id=str(command.batch_id))
        finally:
            self.in_flight.discard(command.batch_id)

    async def claim_and_work(self, batch_id: UUID) -> None:
        async with self.engine.begin() as tx:
            batch = await batches.claim_batch(tx, batch_id, self.instance)
            if batch is None:  # Finished, not due or a duplicate: the message was only a hint.
                return
            genes = await catalogue.get_genes(tx, batch.genes) if batch.kind == "fetch" else []
        failpoints.hit(Failpoint.BATCH_CLAIMED)
        renewing = asyncio.create_task(self.keep_lease(batch))
        try:
            facts = await self.work(batch, genes)
        except LeaseLost:
            raise
        except (BatchHeld, BatchCancelled):
            # Of a cancelled run the rows may not say so yet: five attempts would be a failure.
            async with self.engine.begin() as tx:
                await batches.lay_down_batch(tx, batch)
            facts = []
        except Exception as error:  # noqa: BLE001  # Whatever it is, the next attempt waits.
            facts = await self.give_back(batch, error)
        finally:
            renewing.cancel()
        failpoints.hit(Failpoint.BATCH_LEFT)
        self.report({fact.run_id for fact in facts})

    async def keep_lease(self, batch: Batch) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                if not await self.keep_lease_once(batch):
                    return
            except database.CONNECTION_ERRORS as error:
                log.warning("lease_not_renewed", batch_id=str(batch.id), error=repr(error))

    async def keep_lease_once(self, batch: Batch) -> bool:
        """False when it is another's."""
        async with self.engine.begin() as tx:
            is_ours = await batches.renew_lease(tx, batch)
            if batch.run_id is not None:  # A control that was not heard costs this period.
                self.holding.find(batch, await control.find_action(tx, batch))
        return is_ours

    async def work(self, batch: Batch, genes: Sequence[Gene]) -> list[RunFact]:
        if batch.kind == "release":
            return await self.prepare_release(batch)
        if batch.kind == "store":
            return await self.store_slice(batch)
        async with within(BATCH_FETCHING_SECONDS_MAX, f"a batch of {batch.source}"):
            return await self.fetch_pages(batch, genes)

    async def store_slice(self, batch: Batch) -> list[RunFact]:
        """A slice of a staged release: its values never come here, two statements move them."""
        assert batch.release_id is not None
        async with self.engine.begin() as tx:
            now = await annotations.lock_store(tx, batch.source)
            release = await releases.get_release(tx, batch.release_id)
            genes = list(batch.genes)
            if self.sources[batch.source].declaration.is_catalogue:
                genes += await catalogue.list_given_up(tx, batch.source, release.id)
            changed = await annotations.store_staged(tx, batch.source, genes, release.origin(), now)
            await batches.save_checkpoint(tx, batch, len(batch.genes))
            version = await releases.complete_release(tx, batch.release_id, len(changed))
            facts = await counting.count_stored(tx, batch, changed)
            await runs.save_facts(tx, facts)
            await outbox.add(tx, *facts, *domain.changes(batch.source, batch.release_id, changed))
            if version is not None:
                stored = ReleaseStored(
                    source=batch.source, release_id=batch.release_id, version=version
                )
                await outbox.add(tx, stored)
            failpoints.hit(Failpoint.SLICE_WRITTEN)
        telemetry.BATCHES.labels(batch.source, "done").inc()
        return facts

    async def fetch_pages(self, batch: Batch, genes: Sequence[Gene]) -> list[RunFact]:
        """Ask an API for the batch's genes, page by page, resuming at its checkpoint.

        Raises BatchHeld between two pages, and BatchCancelled at any call, when its run is.
        """
        assert batch.run_id is not None
        source = self.sources[batch.source]
        assert domain.is_api(source)  # Only their batches are fetched.
        with self.holding.hold(batch) as held:
            return await self.fetch_held(batch, genes, source, held)

    async def fetch_held(
        self, batch: Batch, genes: Sequence[Gene], source: domain.ApiSource, held: Held
    ) -> list[RunFact]:
        assert batch.run_id is not None
        checkpoint = batch.checkpoint
        facts: list[RunFact] = []
        while asked := genes[checkpoint : checkpoint + source.page_size]:
            fetch = partial(ask_page, source, self.upstreams[batch.source], asked)
            page = await held.ask(fetch)  # No transaction open.
            sha256 = domain.digest(page.content)
            _, offered = await asyncio.gather(
                self.raw_store.keep_bytes(page.content, sha256), offer(page.answers)
            )
            failpoints.hit(Failpoint.PAGE_FETCHED)
            async with self.engine.begin() as tx:
                now = await annotations.lock_store(tx, batch.source)
                release_id, file_id, cause = await releases.record_page(
                    tx, batch.run_id, batch.source, page.url, sha256, len(page.content)
                )
                origin = Origin(
                    release_id,
                    file_id,
                    batch.claimed_at,
                    source.declaration.parser_version,
                    batch.run_id,
                    cause,
                    matched_by=source.declaration.identifier,
                )
                changed = await annotations.store_offered(
                    tx, batch.source, offered, origin, now, keeps_empty=True
                )
                seen = await annotations.mark_checked(tx, batch.source, offered, batch.claimed_at)
                finished = await batches.save_checkpoint(tx, batch, len(asked))
                done = sum(value is not None for value in offered.values)
                counts = Counts(done, len(asked) - done, changed=len(changed))
                facts = await counting.count_fetched(tx, batch, counts, finished)
                await runs.save_facts(tx, facts)
                touched = sorted({*changed, *seen})
                await outbox.add(tx, *facts, *domain.changes(batch.source, release_id, touched))
                failpoints.hit(Failpoint.PAGE_WRITTEN)
            failpoints.hit(Failpoint.PAGE_COMMITTED)
            self.report([batch.run_id])
            checkpoint += len(asked)
        telemetry.BATCHES.labels(batch.source, "done").inc()
        return facts

    async def give_back(self, batch: Batch, error: Exception) -> list[RunFact]:
        """Let the planner send the batch again later; without a delay it is a dead letter."""
        delay = domain.retry_after(batch, error)
        async with self.engine.begin() as tx:
            await annotations.lock_store(tx, batch.source)  # Nobody attaches to what is buried.
            if domain.is_suspect(batch, error):
                suspicion = await batches.suspect_genes(tx, batch)
                if suspicion and suspicion.is_gene:
                    await batches.halve_batch(tx, batch, problem_of(error))
                    note_failure(batch, error, "halved")
                    return []
                if suspicion and suspicion.is_open and batch.attempt < domain.ATTEMPTS_MAX:
                    delay = delay or domain.backoff(batch.attempt)
            if isinstance(error, ReleaseMissing) and batch.release_id is not None:
                await batches.open_release_batches(tx, [batch.source])
                await staged.unstage_release(tx, batch.release_id)
            left = await batches.give_back_batch(
                tx,
                batch,
                delay,
                problem_of(error),
                counts=not isinstance(error, domain.UNCOUNTED),
                is_refused=isinstance(error, RateLimited),
            )
            facts = await burials.bury(tx, left, error) if delay is None else []
            if isinstance(error, ReleaseQuarantined) and await releases.accepted_release(
                tx, batch.source
            ):
                # Decided while this batch was on its way to its end: nobody else looks after it.
                await batches.open_release_batches(tx, [batch.source])
        note_failure(batch, error, "dead" if delay is None else "retried")
        return facts


def note_failure(batch: Batch, error: Exception, outcome: str) -> None:
    log.warning(
        "batch_failed",
        outcome=outcome,
        batch_id=str(batch.id),
        source=batch.source,
        kind=batch.kind,
        attempt=batch.attempt,
        refusals=batch.refusals,
        error=repr(error),
    )
    telemetry.BATCHES.labels(batch.source, outcome).inc()


async def ask_page(
    source: domain.ApiSource, upstream: Upstream, genes: Sequence[Gene], sent: Callable[[], None]
) -> domain.Page:
    return await source.fetch(upstream.telling(sent), genes)


async def offer(answers: Iterable[domain.Answer]) -> Offered:
    """What an API said, column by column, made in steps so that the loop stays free."""
    offered = Offered()
    for number, answer in enumerate(answers, start=1):
        offered.add(answer)
        if number % VALUES_PER_STEP == 0:
            await asyncio.sleep(0)
    return offered


def subscriptions(handlers: Handlers) -> list[Subscription]:
    commands: Routes = {
        StartRun: handlers.on_start_run,
        ControlRun: handlers.on_control_run,
        DecideRelease: handlers.on_decide_release,
    }
    work: Routes = {AnnotateBatch: handlers.on_annotate_batch}
    return [
        Subscription(StartRun.topic, commands, group="planner", parks_unknown=True),
        Subscription(
            ControlRun.topic,
            {ControlRun: handlers.hear_control},
            group=None,
            parks_untyped=False,
            seconds_ago=CONTROL_SECONDS_AGO,
        ),
        *(
            Subscription(
                AnnotateBatch.topic.format(source=source),
                work,
                group=f"annotate-{source}",
                parks_unknown=True,
            )
            for source, declared in handlers.sources.items()
            for _ in range(declared.declaration.concurrency)
        ),
    ]
