"""What the gateway hears, put where its sockets and its reads find it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from contracts.messages import (
    TYPES,
    DocumentsRebuilt,
    NamespaceInvalidated,
    RunFact,
    RunPlanned,
    RunProgress,
)
from services.chassis import failpoints
from services.chassis.bus import Bus, Routes, Subscription
from services.gateway.active import ActiveRuns
from services.gateway.documents import Documents
from services.gateway.domain import is_active
from services.gateway.failpoints import Failpoint
from services.gateway.live import Live

HEARING_SECONDS = 1.0


@dataclass(frozen=True)
class Handlers:
    live: Live
    active: ActiveRuns
    documents: Documents

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

    async def on_namespace_invalidated(self, event: NamespaceInvalidated) -> None:
        self.documents.invalidate(event.namespace, event.epoch)


async def keep_trust(bus: Bus, documents: Documents) -> None:
    """Keep documents in memory only while the bus would tell of changes."""
    while True:
        documents.trust(not await bus.deafness())
        await asyncio.sleep(HEARING_SECONDS)


def subscriptions(handlers: Handlers) -> Sequence[Subscription]:
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
