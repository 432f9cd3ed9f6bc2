"""A bulk release of a few genes, made by hand, and an upstream that publishes nothing newer."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.messages import AnnotateBatch
from services.annotator import domain
from services.annotator.sources import SOURCES
from services.annotator.upstream import Upstream
from tests.builders import IDS, build_file, build_release
from tests.integration.annotator.desk import Desk

FILE = b"made up"
WITH_VALUE = IDS[:6]  # The release says nothing of the others.


class Unchanged(Upstream):
    """Stands for an upstream that answers 304 to every question for a file."""

    def __init__(self) -> None:
        """It calls nobody, so it needs no client."""

    async def download(self, *_: Any, **__: Any) -> None:
        return None


def keep_unchanged(desk: Desk) -> None:
    """From now on no bulk source publishes anything that the desk does not know."""
    bulk = (name for name, source in SOURCES.items() if not domain.is_api(source))
    desk.use(upstreams=dict.fromkeys(bulk, Unchanged()))


async def write_release(desk: Desk, slices: Sequence[Sequence[str]]) -> UUID:
    """An accepted release of HPO that is staged, and the slices that are to store it."""
    source = SOURCES["hpo"]
    assert not domain.is_api(source)
    sha256 = domain.digest(FILE)
    await desk.handlers.raw_store.keep_bytes(FILE, sha256)
    async with desk.engine.begin() as tx:
        release_id = await build_release(
            tx,
            "hpo",
            state="accepted",
            is_readable=False,
            parser_version=source.declaration.parser_version,
            catalogue_id=await tx.scalar(text("SELECT id FROM release WHERE source = 'hgnc'")),
        )
        for file in source.files:
            await build_file(tx, release_id, file.name, sha256, len(FILE))
        await stage(tx, release_id)
        for genes in slices:
            await tx.execute(
                text("""
                    INSERT INTO batch (kind, source, release_id, genes)
                    VALUES ('store', 'hpo', :release_id, :genes)
                """),
                {"release_id": release_id, "genes": list(genes)},
            )
    return release_id


async def stage(tx: AsyncConnection, release_id: UUID) -> None:
    """As the child process would, from what the release says."""
    await tx.execute(
        text("""
            INSERT INTO staged (release_id, hgnc_id, value, digest, file_id, position,
                                matched_by)
            SELECT :release_id, hgnc_id, json_build_object('hgnc_id', hgnc_id),
                   sha256(hgnc_id::bytea),
                   (SELECT min(id) FROM release_file WHERE release_id = :release_id), 1,
                   'entrez_id'
            FROM unnest(CAST(:genes AS text[])) AS g (hgnc_id)
        """),
        {"release_id": release_id, "genes": WITH_VALUE},
    )
    await tx.execute(
        text("INSERT INTO staged_release (release_id) VALUES (:release_id)"),
        {"release_id": release_id},
    )


async def look_upstream(desk: Desk) -> None:
    """Plan, and work the look at the upstream; slices stay as they were."""
    await desk.planner.plan_and_feed()
    looks = await desk.rows("SELECT id FROM batch WHERE kind = 'release' AND state = 'queued'")
    ids = {row.id for row in looks}
    for hint in await desk.relay():
        if isinstance(hint, AnnotateBatch) and hint.batch_id in ids:
            await desk.handlers.on_annotate_batch(hint)
    async with desk.engine.begin() as tx:
        await tx.execute(
            text("UPDATE batch SET state = 'pending', queued_at = NULL WHERE state = 'queued'")
        )
