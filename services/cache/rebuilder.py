"""Rebuilds the documents of many changed genes at once."""

import asyncio

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.messages import DocumentsRebuilt
from services.cache import store
from services.cache.failpoints import Failpoint
from services.chassis import failpoints, outbox, telemetry

GENES_MAX = 1_000
LANES = 2  # While one commits or reads, the other computes.
PASSES_MAX = 10  # Of a lane, before the duty is looked at again: about a second.
PERIOD_SECONDS = 2.0  # What a lost wake-up costs.
COALESCE_SECONDS = 0.3  # Between two rebuilds: a gene is in several changes of a burst.


class Rebuilder:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def rebuild(self, _: AsyncConnection) -> bool:
        """Lanes of passes side by side, for `database.alone`, which hands in its session."""
        left = await asyncio.gather(*(self._rebuild_lane() for _ in range(LANES)))
        return any(left)

    async def _rebuild_lane(self) -> bool:
        """Pass after pass, waiting for no other lane: genes differ by a thousand in what they
        take. Returns whether it left some."""
        for _ in range(PASSES_MAX):
            if await self.rebuild_once() < GENES_MAX:
                return False
        return True

    async def rebuild_once(self) -> int:
        """Rebuild the dirty genes and name those that are new to a reader. Returns how many
        were dirty."""
        async with self._engine.begin() as tx:
            genes = await store.take_dirty(tx, GENES_MAX)
            if not genes:
                return 0
            rebuilt = await store.rebuild(tx, genes)
            if rebuilt:
                versions = {document.hgnc_id: document.version for document in rebuilt}
                await outbox.add(tx, DocumentsRebuilt(versions=versions))
            failpoints.hit(Failpoint.DOCUMENTS_WRITTEN)
        failpoints.hit(Failpoint.DOCUMENTS_COMMITTED)
        telemetry.DOCUMENTS_REBUILT.labels("changed").inc(len(rebuilt))
        telemetry.DOCUMENTS_REBUILT.labels("unchanged").inc(len(genes) - len(rebuilt))
        return len(genes)
