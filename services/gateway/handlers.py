"""What the gateway hears, put where its sockets and reads find it; and how long it may rely on that."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from contracts.messages import (
    BatchAnnotated,
    BatchDead,
    DocumentsRebuilt,
    NamespaceInvalidated,
    RunCompleted,
    RunFact,
    RunPlanned,
    RunProgress,
    SourceCompleted,
)
from services.chassis.bus import Routes, Subscription
from services.gateway.documents import Documents
from services.gateway.live import Live

HEARING_SECONDS = 1.0


@dataclass(frozen=True)
class Handlers:
    live: Live
    documents: Documents

    async def on_run_progress(self, progress: RunProgress) -> None:
        self.live.merge(progress)

    async def on_run_fact(self, fact: RunFact) -> None:
        """A fact is a row: the message only says that there is one."""
        self.live.hear_of(fact.run_id, fact.seq)

    async def on_documents_rebuilt(self, event: DocumentsRebuilt) -> None:
        self.documents.hear(event.versions)

    async def on_namespace_invalidated(self, event: NamespaceInvalidated) -> None:
        self.documents.invalidate(event.namespace, event.epoch)


class Hearing(Protocol):
    async def start(self) -> None: ...

    async def problems(self) -> list[str]: ...


async def hear(bus: Hearing, documents: Documents) -> None:
    """Connect, however long it takes; keep documents in memory only while the bus is well."""
    await bus.start()
    while True:
        documents.trust(not await bus.problems())
        await asyncio.sleep(HEARING_SECONDS)


def subscriptions(handlers: Handlers) -> Sequence[Subscription]:
    """Without a group: every gateway hears everything, from now on."""
    facts: Routes = {
        fact: handlers.on_run_fact
        for fact in (RunPlanned, BatchAnnotated, BatchDead, SourceCompleted, RunCompleted)
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
