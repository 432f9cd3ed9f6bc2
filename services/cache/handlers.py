"""What the cache hears: genes that changed, and namespaces to forget."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.messages import (
    AnnotationsChanged,
    InvalidateNamespace,
    NamespaceInvalidated,
    ReleaseStored,
)
from services.cache import store
from services.cache.failpoints import Failpoint
from services.chassis import failpoints, outbox
from services.chassis.bus import Routes, Subscription

GENES = "genes"  # The namespace of gene documents.


@dataclass(frozen=True)
class Handlers:
    engine: AsyncEngine

    async def on_annotations_changed(self, event: AnnotationsChanged) -> None:
        """Only remember which genes to rebuild: many events, one rebuild."""
        async with self.engine.begin() as tx:
            await store.mark_dirty(tx, event.genes)
            await store.wake_rebuilder(tx)
            failpoints.hit(Failpoint.MARKS_WRITTEN)
        failpoints.hit(Failpoint.MARKS_COMMITTED)

    async def on_release_stored(self, _: ReleaseStored) -> None:
        """Genes that the release does not name are empty from now on. That is in no document, so
        none is rebuilt: readers forget what they have completed."""
        async with self.engine.begin() as tx:
            epoch = await store.raise_epoch(tx, GENES)
            await outbox.add(tx, NamespaceInvalidated(namespace=GENES, epoch=epoch))

    async def on_invalidate_namespace(self, command: InvalidateNamespace) -> None:
        """Readers forget at once; documents are served until they are rebuilt."""
        async with self.engine.begin() as tx:
            epoch = await store.raise_epoch(tx, command.namespace)
            if command.namespace == GENES:
                await store.mark_all_dirty(tx)
                await store.wake_rebuilder(tx)
            await outbox.add(tx, NamespaceInvalidated(namespace=command.namespace, epoch=epoch))
            failpoints.hit(Failpoint.EPOCH_WRITTEN)
        failpoints.hit(Failpoint.EPOCH_COMMITTED)


def subscriptions(handlers: Handlers) -> list[Subscription]:
    changes: Routes = {
        AnnotationsChanged: handlers.on_annotations_changed,
        ReleaseStored: handlers.on_release_stored,
    }
    commands: Routes = {InvalidateNamespace: handlers.on_invalidate_namespace}
    return [
        Subscription(AnnotationsChanged.topic, changes, group="cache"),
        Subscription(
            InvalidateNamespace.topic,
            commands,
            group="cache-commands",
            parks_untyped=False,  # The planner's group does, on the same topic.
        ),
    ]
