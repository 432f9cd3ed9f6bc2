"""What the cache hears: genes that changed, and namespaces to forget."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.messages import (
    AnnotationsChanged,
    InvalidateNamespace,
    NamespaceInvalidated,
    ReleaseStored,
)
from contracts.parts import Part
from services.cache import namespaces, store
from services.cache.failpoints import Failpoint
from services.chassis import failpoints, outbox
from services.chassis.bus import Routes, Subscription

GENES = "genes"  # The namespace of gene documents.
RESOLUTIONS = "resolutions"  # That of what names mean: it depends on the catalogue alone.


@dataclass(frozen=True)
class Handlers:
    engine: AsyncEngine

    async def on_annotations_changed(self, event: AnnotationsChanged) -> None:
        """Only remember which genes to rebuild: many events, one rebuild. What else was made of
        them lives on for its time, and says how old it is."""
        async with self.engine.begin() as tx:
            await store.mark_dirty(tx, event.genes)
            await store.wake_rebuilder(tx)
            failpoints.hit(Failpoint.MARKS_WRITTEN)
        failpoints.hit(Failpoint.MARKS_COMMITTED)

    async def on_release_stored(self, event: ReleaseStored) -> None:
        """Genes that the release does not name are empty from now on. That is in no document, so
        none is rebuilt: readers forget what they have completed, and what they have made of the
        source."""
        of_source = (str(Part(source=event.source)),)
        async with self.engine.begin() as tx:
            await store.note_change(tx)
            await namespaces.lock_all(tx)
            await _invalidate(tx, GENES)
            for namespace in await namespaces.list_names(tx):
                if namespace != RESOLUTIONS:
                    await _invalidate(tx, namespace, of_source)
                elif await namespaces.is_catalogue(tx, event.source):
                    await _invalidate(tx, namespace)

    async def on_invalidate_namespace(self, command: InvalidateNamespace) -> None:
        """Readers forget at once; documents are served until they are rebuilt."""
        async with self.engine.begin() as tx:
            if command.namespace == GENES:
                await _mark(tx, [Part.parse(part) for part in command.parts])
                await store.wake_rebuilder(tx)
            await _invalidate(tx, command.namespace, command.parts)
            failpoints.hit(Failpoint.EPOCH_WRITTEN)
        failpoints.hit(Failpoint.EPOCH_COMMITTED)


async def _invalidate(tx: AsyncConnection, namespace: str, parts: Sequence[str] = ()) -> None:
    """Raises NamespaceUnknown."""
    epoch = await namespaces.invalidate(tx, namespace, parts)
    told = NamespaceInvalidated(namespace=namespace, epoch=epoch, parts=tuple(parts))
    await outbox.add(tx, told)


async def _mark(tx: AsyncConnection, parts: Sequence[Part]) -> None:
    """The genes whose documents these parts are in; the key of a document is its gene."""
    if not parts:
        await store.mark_all_dirty(tx)
        return
    genes = [gene for part in parts if (gene := part.gene or part.key) is not None]
    sources = [part.source for part in parts if part.source is not None and part.gene is None]
    await store.mark_dirty(tx, genes, sources)


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
