"""What the gateway hears, put where its sockets and its reads find it."""

import asyncio
from dataclasses import dataclass

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.messages import (
    TYPES,
    BatchDead,
    DocumentsRebuilt,
    NamespaceInvalidated,
    RunFact,
    RunPlanned,
    RunProgress,
)
from services.chassis import failpoints, telemetry
from services.chassis.bus import Bus, LetterSubscription, Routes, Subscription
from services.chassis.database import CONNECTION_ERRORS
from services.chassis.dead_letters import Letter
from services.gateway.active import ActiveRuns
from services.gateway.changes import Changes
from services.gateway.documents import Documents
from services.gateway.domain import is_active
from services.gateway.entries import Entries
from services.gateway.failpoints import Failpoint
from services.gateway.live import Live
from services.gateway.store import dead_letters
from services.gateway.store import entries as shared

# So often Kafka is asked whether it would tell, and so long its answer is waited for: with a read
# that is under way, less than the second after which nobody serves what was invalidated.
HEARING_SECONDS = 0.25
ANSWER_SECONDS_MAX = 0.4
COUNTING_SECONDS = 10.0
TELLING_SECONDS = 5.0  # So late is what this gateway tells of its reads.
DEAD_LETTER_GROUP = "dead-letters"

log = structlog.get_logger()


@dataclass(frozen=True)
class Letters:
    """Dead letters, put where people find them. Each arrives more than once, and is one row."""

    engine: AsyncEngine

    async def on_letter(self, letter: Letter) -> None:
        async with self.engine.begin() as tx:
            await dead_letters.keep_message(tx, letter)

    async def on_batch_dead(self, fact: BatchDead) -> None:
        async with self.engine.begin() as tx:
            await dead_letters.keep_batch(tx, fact)


@dataclass(frozen=True)
class Handlers:
    live: Live
    active: ActiveRuns
    documents: Documents
    entries: Entries
    changes: Changes

    async def on_run_progress(self, progress: RunProgress) -> None:
        failpoints.hit(Failpoint.PROGRESS_HEARD)
        if is_active(progress):
            self.active.hear_of(progress.run_id)
        self.live.merge(progress)

    async def on_run_fact(self, fact: RunFact) -> None:
        """A fact is a row: the message only says that there is one."""
        failpoints.hit(Failpoint.FACT_HEARD)
        if isinstance(fact, RunPlanned):
            self.active.hear_of(fact.run_id)
        self.live.hear_of(fact.run_id, fact.seq)

    async def on_documents_rebuilt(self, event: DocumentsRebuilt) -> None:
        failpoints.hit(Failpoint.DOCUMENTS_HEARD)
        self.documents.hear(event.versions)
        self.changes.hear()

    async def on_namespace_invalidated(self, event: NamespaceInvalidated) -> None:
        self.documents.invalidate(event.namespace, event.epoch, event.parts)
        self.entries.invalidate(event.namespace, event.epoch, event.parts)
        self.changes.hear()


async def keep_trust(bus: Bus, documents: Documents, entries: Entries) -> None:
    """Keep what was read in memory only while the bus would tell of changes."""
    while True:
        hears = not await bus.deafness(ANSWER_SECONDS_MAX)
        documents.trust(hears)
        entries.trust(hears)
        await asyncio.sleep(HEARING_SECONDS)


async def count_reads(engine: AsyncEngine, documents: Documents, entries: Entries) -> None:
    """Tell how often cached values were asked for, so that all gateways together can be counted."""
    while True:
        await asyncio.sleep(TELLING_SECONDS)
        telemetry.CACHE_MEMORY_BYTES.labels("documents").set(documents.bytes)
        telemetry.CACHE_MEMORY_BYTES.labels("entries").set(entries.bytes)
        unsent = entries.tally.take_unsent()
        if not unsent:
            continue
        try:
            async with engine.begin() as tx:
                await shared.count_reads(tx, unsent)
        except CONNECTION_ERRORS as error:
            entries.tally.put_back(unsent)
            log.warning("reads_uncounted", error=repr(error))


async def count_letters(engine: AsyncEngine) -> None:
    """Keep the number of open dead letters where it is scraped."""
    while True:
        try:
            async with engine.connect() as connection:
                counts = await dead_letters.count_open(connection)
            for kind, count in counts.items():
                telemetry.DEAD_LETTERS_OPEN.labels(kind).set(count)
        except CONNECTION_ERRORS as error:
            log.warning("dead_letters_uncounted", error=repr(error))
        await asyncio.sleep(COUNTING_SECONDS)


def subscriptions(handlers: Handlers) -> list[Subscription]:
    """Without a group: every gateway hears everything, from now on."""
    facts: Routes = {
        fact: handlers.on_run_fact for fact in TYPES.values() if issubclass(fact, RunFact)
    }
    cache: Routes = {
        DocumentsRebuilt: handlers.on_documents_rebuilt,
        NamespaceInvalidated: handlers.on_namespace_invalidated,
    }
    return [
        Subscription(RunProgress.topic, {RunProgress: handlers.on_run_progress}, group=None),
        Subscription(RunFact.topic, facts, group=None),
        Subscription(DocumentsRebuilt.topic, cache, group=None),
    ]


def letter_subscriptions(letters: Letters) -> list[Subscription | LetterSubscription]:
    """Dead letters are shared among the gateways."""
    return [
        Subscription(BatchDead.topic, {BatchDead: letters.on_batch_dead}, group=DEAD_LETTER_GROUP),
        LetterSubscription(letters.on_letter, group=DEAD_LETTER_GROUP),
    ]
