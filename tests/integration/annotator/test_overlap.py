"""Two runs over the same genes at the same time, from an upstream that changes between them."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import orjson
from pydantic import BaseModel

from contracts.messages import AnnotateBatch
from services.annotator.domain import Answer, Client, Declaration, Gene, Page, Version
from services.annotator.sources import SOURCES
from tests.builders import ASKABLE
from tests.integration.annotator.catalogue import write_catalogue
from tests.integration.annotator.desk import Desk, open_desk
from tests.system import Database, Mirror


class Numbered(BaseModel):
    release: int
    hgnc_id: str


class ChangingUpstream:
    """Stands for Ensembl: what it publishes is a number, and an answer can be held back."""

    page_size = 2

    def __init__(self) -> None:
        self.release = 1
        self.asked = asyncio.Event()
        self.go_on: asyncio.Event | None = None

    @property
    def declaration(self) -> Declaration:
        return SOURCES["ensembl"].declaration

    async def version(self, _: Client) -> Version:
        return Version(str(self.release), synthetic=True)

    async def fetch(self, _: Client, genes: Sequence[Gene]) -> Page:
        answers = [
            Answer(gene.hgnc_id, Numbered(release=self.release, hgnc_id=gene.hgnc_id), place)
            for place, gene in enumerate(genes)
        ]
        content = orjson.dumps([self.release, *(gene.hgnc_id for gene in genes)])
        if self.go_on is not None:
            self.asked.set()
            await self.go_on.wait()
        return Page("http://made.up/lookup", content, answers)


async def hints(desk: Desk) -> list[AnnotateBatch]:
    await desk.planner.plan_and_feed()
    return [message for message in await desk.relay() if isinstance(message, AnnotateBatch)]


async def test_two_overlapping_runs_leave_the_newest_releases_values(
    database: Database, mirror: Mirror, tmp_path: Path
) -> None:
    """The first run's worker has asked, and is slow. Meanwhile the upstream publishes something
    new, and a second run stores it. Then the slow one stores what it heard before."""
    old, new = ChangingUpstream(), ChangingUpstream()
    old.go_on = asyncio.Event()
    new.release = 2
    async with (
        open_desk(database, mirror, tmp_path, "annotator-0") as slow,
        open_desk(database, mirror, tmp_path, "annotator-1") as fast,
    ):
        slow.use(sources={"ensembl": old})
        fast.use(sources={"ensembl": new})
        await write_catalogue(slow)
        cursor = asyncio.create_task(follow_changes(fast, versions=len(ASKABLE)))

        await slow.order(["ensembl"], ASKABLE)
        (release,) = await hints(slow)
        await slow.handlers.on_annotate_batch(release)
        first, *rest = await hints(slow)
        late = asyncio.create_task(slow.handlers.on_annotate_batch(first))
        await old.asked.wait()

        await fast.order(["ensembl"], ASKABLE)
        await fast.work()
        old.go_on.set()
        await late
        for hint in rest:
            await slow.handlers.on_annotate_batch(hint)
        await fast.work()

        rows = await fast.rows("SELECT state FROM run")
        assert [row.state for row in rows] == ["completed", "completed"]
        current = await fast.rows(
            "SELECT hgnc_id, value->>'release' AS release FROM annotation "
            "WHERE valid_to = 'infinity'"
        )
        first_genes = await fast.row("SELECT genes FROM batch WHERE id = :id", id=first.batch_id)
        found = {row.hgnc_id: row.release for row in current}
        assert set(found) == set(ASKABLE)
        # What the slow worker asked before the second run asked is never stored over it.
        assert {found[hgnc_id] for hgnc_id in first_genes.genes} == {"2"}
        assert await fast.rows("SELECT 1 FROM annotation WHERE valid_from >= valid_to") == []
        stored = await fast.rows("SELECT id FROM annotation ORDER BY id")
        assert sorted(await cursor) == [row.id for row in stored]
        counted = await fast.rows("SELECT done_count, total_count FROM run_source")
        assert all(row.done_count == row.total_count == len(ASKABLE) for row in counted)


async def follow_changes(desk: Desk, versions: int) -> list[int]:
    """Read the published view by its cursor until so many versions have been seen, and once more
    after that."""
    seen: list[int] = []
    after = ("0", 0)
    async with asyncio.timeout(30):
        while True:
            is_last = len(seen) >= versions and await ended(desk)  # Asked before it reads.
            rows = await desk.changes_after(*after)
            seen += [row.id for row in rows]
            if rows:
                after = (rows[-1].xid, rows[-1].id)
            elif is_last:
                return seen
            await asyncio.sleep(0.001)


async def ended(desk: Desk) -> bool:
    rows = await desk.rows("SELECT state FROM run")
    return len(rows) == 2 and all(row.state == "completed" for row in rows)
