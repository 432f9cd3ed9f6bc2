"""Statistics: counted anew when genes have changed, and not otherwise."""

from collections.abc import AsyncIterator, Mapping
from statistics import mean, median
from typing import Any

import asyncpg
import orjson
import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.messages import AnnotationsChanged, NamespaceInvalidated, ReleaseStored
from services.cache import statistics
from services.cache.handlers import Handlers
from services.cache.rebuilder import Rebuilder
from services.cache.statistics import Statistics
from services.chassis import database as chassis_database
from tests.builders import build_file, build_genes, build_release
from tests.system import Database

PKD1, PKD2, OTHER = "HGNC:9008", "HGNC:9009", "HGNC:1097"
LOEUFS = {PKD1: 0.2, PKD2: 0.4, OTHER: 0.9}


class Counting:
    def __init__(self, database: Database, engine: AsyncEngine) -> None:
        self.database = database
        self.engine = engine
        self.handlers = Handlers(engine)
        self.statistics = Statistics(engine)

    async def store(self, source: str, version: str, values: Mapping[str, Any]) -> None:
        """A whole release, and the rebuild that follows it."""
        async with self.database.begin("annotator") as tx:
            release_id = await build_release(tx, source, version)
            file_id = await build_file(tx, release_id)
        async with self.database.connect() as owner:
            await owner.execute(
                """UPDATE annotator.annotation SET valid_to = now()
                   WHERE valid_to = 'infinity' AND source = $1""",
                source,
            )
            await owner.executemany(
                """INSERT INTO annotator.annotation (hgnc_id, source, valid_from, value, digest,
                       release_id, file_id, position, retrieved_at, parser_version,
                       matched_by)
                   VALUES ($1, $2, clock_timestamp(), $3, '\\x01', $4, $5, 1, now(), 1,
                       'hgnc_id')""",
                [
                    (hgnc_id, source, orjson.dumps(value).decode(), release_id, file_id)
                    for hgnc_id, value in values.items()
                ],
            )
        event = AnnotationsChanged(
            source=source, release_id=release_id, bucket=0, genes=tuple(values)
        )
        await self.handlers.on_annotations_changed(event)
        while await Rebuilder(self.engine).rebuild_once():
            pass

    async def refresh(self) -> int:
        """Returns how often readers were told to forget what they have of it."""
        before = await self._told()
        settings = self.database.settings("cache")
        async with chassis_database.open_session(settings, "test") as session:
            assert not await self.statistics.refresh(session)
        return await self._told() - before

    async def _told(self) -> int:
        async with self.database.connect() as owner:
            return int(
                await owner.fetchval(
                    """SELECT count(*) FROM cache.outbox WHERE headers->>'ce_type' = $1
                       AND convert_from(payload, 'UTF8')::json->>'namespace' = 'statistics'""",
                    NamespaceInvalidated.type,
                )
            )


@pytest_asyncio.fixture
async def counting(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Counting]:
    monkeypatch.setattr(statistics, "PAUSE_SECONDS", 0.0)
    async with database.begin("annotator") as tx:
        await build_genes(tx)
    async with database.engine("cache") as engine:
        yield Counting(database, engine)


async def rows(database: Database, view: str) -> list[asyncpg.Record]:
    async with database.connect("gateway") as gateway:
        return list(await gateway.fetch(f"SELECT * FROM cache.{view}"))  # noqa: S608


async def test_statistics_count_what_the_documents_have(counting: Counting) -> None:
    await counting.store("gnomad", "v4", {gene: {"loeuf": one} for gene, one in LOEUFS.items()})
    await counting.store("hpo", "2026", {PKD1: {"term_count": 3}})
    assert await counting.refresh() == 1
    by_source = {
        row["source"]: row for row in await rows(counting.database, "source_statistics_v1")
    }
    gene_count = by_source["gnomad"]["gene_count"]
    assert gene_count > len(LOEUFS)
    counts = {
        name: tuple(
            by_source[name][f"{what}_count"] for what in ("annotation", "no_data", "pending")
        )
        for name in ("gnomad", "hpo", "clinvar")
    }
    assert counts == {
        "gnomad": (3, gene_count - 3, 0),
        "hpo": (1, gene_count - 1, 0),
        "clinvar": (0, 0, gene_count),
    }
    fields = {
        (row["source"], row["field"]): row
        for row in await rows(counting.database, "field_statistics_v1")
    }
    loeuf = fields["gnomad", "loeuf"]
    assert loeuf["known_count"] == 3
    assert loeuf["mean"] == pytest.approx(mean(LOEUFS.values()))
    assert loeuf["median"] == pytest.approx(median(LOEUFS.values()))
    assert (loeuf["least"], loeuf["greatest"]) == (0.2, 0.9)
    assert fields["gnomad", "pli"]["known_count"] == 0
    overlaps = {
        tuple(row["sources"]): row["gene_count"]
        for row in await rows(counting.database, "overlap_v1")
    }
    assert overlaps == {("gnomad", "hpo"): 1, ("gnomad",): 2}


async def test_statistics_are_made_anew_when_something_changed_and_not_otherwise(
    counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await counting.refresh() == 1  # Never made before.
    assert await counting.refresh() == 0
    await counting.store("hpo", "2026", {PKD1: {"term_count": 3}})
    assert await counting.refresh() == 1
    await counting.store("hpo", "2027", {PKD1: {"term_count": 3}})  # Another version's time.
    assert await counting.refresh() == 1
    async with counting.database.begin("annotator") as tx:
        release_id = await build_release(tx, "hpo", "2028")
    await counting.handlers.on_release_stored(
        ReleaseStored(source="hpo", release_id=release_id, version="2028")
    )
    assert await counting.refresh() == 1  # Genes without a value have no document that changes.
    monkeypatch.setattr(statistics, "PAUSE_SECONDS", 60.0)
    await counting.store("hpo", "2029", {PKD1: {"term_count": 4}})
    assert await counting.refresh() == 0  # Soon.
    monkeypatch.setattr(statistics, "AGE_SECONDS_MAX", 0.0)
    assert await counting.refresh() == 1
