"""Gene documents: rebuilt for the genes that changed, with a version that grows only for news."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import orjson
import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.messages import (
    AnnotationsChanged,
    DocumentsRebuilt,
    InvalidateNamespace,
    NamespaceInvalidated,
    ReleaseStored,
)
from services.cache import store
from services.cache.errors import NamespaceUnknown
from services.cache.handlers import Handlers
from services.cache.rebuilder import Rebuilder
from tests.builders import IDS, build_file, build_genes, build_release
from tests.system import Database

PKD1 = "HGNC:9008"


class Cache:
    """The cache's handlers and rebuilder on a real database, with the tests as its bus."""

    def __init__(self, engine: AsyncEngine, database: Database) -> None:
        self.handlers = Handlers(engine)
        self.engine = engine
        self.database = database

    async def rebuild(self) -> dict[str, int]:
        """Rebuild what is dirty; returns what was announced."""
        rebuilder = Rebuilder(self.engine)
        while await rebuilder.rebuild_once():
            pass
        announced: dict[str, int] = {}
        for message in await self.announced(DocumentsRebuilt.type):
            announced |= DocumentsRebuilt.model_validate_json(message).versions
        return announced

    async def announced(self, message_type: str) -> list[bytes]:
        async with self.engine.begin() as tx:
            rows = await tx.execute(
                text("DELETE FROM outbox WHERE headers->>'ce_type' = :type RETURNING payload"),
                {"type": message_type},
            )
            return [bytes(row.payload) for row in rows]

    async def document(self, hgnc_id: str) -> dict[str, Any]:
        async with self.engine.connect() as connection:
            found = await connection.scalar(
                text("SELECT document::text FROM gene WHERE hgnc_id = :hgnc_id"),
                {"hgnc_id": hgnc_id},
            )
        document: dict[str, Any] = orjson.loads(found)
        return document

    async def documents(self) -> list[tuple[str, ...]]:
        """What readers get and what genes are filtered by, as text."""
        async with self.database.connect() as owner:
            rows = await owner.fetch(
                """SELECT g.document::text, s::text FROM cache.gene g
                   JOIN cache.gene_summary s USING (hgnc_id) ORDER BY hgnc_id"""
            )
        return [tuple(row) for row in rows]

    async def changed(self, *genes: str) -> None:
        await self.handlers.on_annotations_changed(
            AnnotationsChanged(source="hpo", release_id=uuid4(), bucket=0, genes=genes)
        )

    async def store_hpo_release(self, value: str | None, version: str) -> None:
        """As the annotator would: a whole release that has a value for PKD1, or for nobody."""
        async with self.database.begin("annotator") as tx:
            release_id = await build_release(tx, "hpo", version)
            file_id = await build_file(tx, release_id)
            now = await tx.scalar(text("SELECT clock_timestamp()"))
            await tx.execute(
                text("""
                    UPDATE annotation SET valid_to = :now
                    WHERE valid_to = 'infinity' AND source = 'hpo'
                """),
                {"now": now},
            )
            if value is not None:
                await tx.execute(
                    text("""
                        INSERT INTO annotation (hgnc_id, source, valid_from, value, digest,
                            release_id, file_id, position, retrieved_at, parser_version,
                            matched_by)
                        VALUES (:hgnc_id, 'hpo', :now, CAST(:value AS json), '\\x01',
                            :release_id, :file_id, 1, :now, 1, 'entrez_id')
                    """),
                    {
                        "hgnc_id": PKD1,
                        "now": now,
                        "value": value,
                        "release_id": release_id,
                        "file_id": file_id,
                    },
                )


@pytest_asyncio.fixture
async def cache(database: Database) -> AsyncIterator[Cache]:
    async with database.begin("annotator") as tx:
        await build_genes(tx)
    async with database.engine("cache") as engine:
        yield Cache(engine, database)


async def test_a_document_has_what_sources_said_of_its_gene(cache: Cache) -> None:
    await cache.store_hpo_release('{"term_count": 3}', "2025-01-16")
    async with cache.database.begin("annotator") as tx:
        await tx.execute(
            text("""
                INSERT INTO checked (hgnc_id, source, checked_at, retrieved_at, outcome, problem)
                VALUES (:empty, 'ensembl', now(), now(), 'empty', NULL),
                       (:error, 'ensembl', now(), now(), 'error', '{}')
            """),
            {"empty": PKD1, "error": IDS[1]},
        )
    await cache.changed(PKD1, *IDS[1:3])
    assert await cache.rebuild() == {PKD1: 1, IDS[1]: 1, IDS[2]: 1}

    annotations = (await cache.document(PKD1))["annotations"]
    assert annotations["hpo"]["status"] == "ok"
    assert annotations["hpo"]["value"] == {"term_count": 3}
    assert annotations["hpo"]["release"] == "2025-01-16"
    assert annotations["ensembl"]["status"] == "empty"
    assert list(annotations) == ["ensembl", "hpo"]
    (error,) = (await cache.document(IDS[1]))["annotations"].values()
    assert (error["status"], error["value"]) == ("error", None)
    assert (await cache.document(IDS[2]))["annotations"] == {}


async def test_a_value_that_is_gone_says_since_when(cache: Cache) -> None:
    await cache.store_hpo_release('{"term_count": 3}', "1")
    async with cache.database.begin("annotator") as tx:
        await tx.execute(text("UPDATE annotation SET value = NULL, digest = '\\x'"))
    await cache.changed(PKD1)
    await cache.rebuild()
    document = await cache.document(PKD1)
    hpo = document["annotations"]["hpo"]
    assert (hpo["status"], hpo["value"], hpo["release"]) == ("empty", None, "1")
    assert hpo["valid_from"] is not None


async def test_a_rebuild_that_changes_no_byte_announces_nothing(cache: Cache) -> None:
    await cache.changed(PKD1)
    assert await cache.rebuild() == {PKD1: 1}
    await cache.changed(PKD1)
    await cache.changed(PKD1)
    assert await cache.rebuild() == {}


async def test_a_version_grows_with_each_change_that_a_reader_can_see(cache: Cache) -> None:
    await cache.changed(PKD1)
    await cache.rebuild()
    for number in (2, 3):
        await cache.store_hpo_release(f'{{"term_count": {number}}}', str(number))
        await cache.changed(PKD1)
        assert await cache.rebuild() == {PKD1: number}


async def test_a_stored_release_rebuilds_nothing_and_lets_readers_forget(cache: Cache) -> None:
    await cache.changed(*IDS)
    await cache.rebuild()
    await cache.store_hpo_release(None, "1")
    event = ReleaseStored(source="hpo", release_id=uuid4(), version="1")
    await cache.handlers.on_release_stored(event)
    told = await cache.announced(NamespaceInvalidated.type)
    assert NamespaceInvalidated(namespace="genes", epoch=1) in map(
        NamespaceInvalidated.model_validate_json, told
    )
    assert await cache.rebuild() == {}


async def test_a_gene_marked_while_it_is_rebuilt_is_rebuilt_again(cache: Cache) -> None:
    await cache.changed(PKD1)
    async with cache.engine.begin() as tx:
        assert await store.take_dirty(tx, 10) == [PKD1]
        again = asyncio.create_task(cache.changed(PKD1))
        done, _ = await asyncio.wait({again}, timeout=0.3)
        assert not done  # It waits for the rebuild's end, and then marks the gene anew.
        await store.rebuild(tx, [PKD1])
    await again
    async with cache.engine.begin() as tx:
        assert await store.take_dirty(tx, 10) == [PKD1]


async def test_no_more_marks_are_taken_than_asked_for_whatever_the_planner_believes(
    cache: Cache, database: Database
) -> None:
    """Statistics are mostly made while nothing is dirty."""
    marked = [f"HGNC:{number}" for number in range(3_000)]
    async with cache.engine.begin() as tx:
        await store.mark_dirty(tx, marked)
        await store.take_dirty(tx, len(marked))
    async with database.connect() as owner:
        await owner.execute("ANALYZE cache.dirty_gene")
    async with cache.engine.begin() as tx:
        await store.mark_dirty(tx, marked)
    async with cache.engine.begin() as tx:
        assert sorted(await store.take_dirty(tx, 1_000)) == sorted(marked)[:1_000]


@pytest.mark.parametrize("place", range(len(IDS) - 1))
async def test_marks_are_set_in_one_order_so_that_two_bursts_do_not_deadlock(
    cache: Cache, database: Database, place: int
) -> None:
    """One burst stands in the middle; the other one comes so far, and holds nothing behind it."""
    in_order = sorted(IDS)
    async with database.connect() as owner, cache.engine.begin() as first:
        await store.mark_dirty(first, [in_order[place]])
        other = asyncio.create_task(cache.changed(*reversed(in_order)))
        async with asyncio.timeout(4):
            while not await owner.fetchval(
                """SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                   WHERE NOT l.granted AND a.datname = current_database())"""
            ):
                await asyncio.sleep(0.01)
        await store.mark_dirty(first, in_order[place + 1 :])
    await other
    assert set(await cache.rebuild()) == set(IDS)


async def test_an_invalidated_namespace_has_a_new_epoch_and_its_genes_are_rebuilt(
    cache: Cache,
) -> None:
    command = InvalidateNamespace(namespace="genes")
    await cache.handlers.on_invalidate_namespace(command)
    await cache.handlers.on_invalidate_namespace(command)

    told = [
        NamespaceInvalidated.model_validate_json(message).epoch
        for message in await cache.announced(NamespaceInvalidated.type)
    ]
    assert sorted(told) == [1, 2]
    assert set(await cache.rebuild()) == set(IDS)


async def test_documents_that_are_built_anew_are_equal_to_the_byte(cache: Cache) -> None:
    await cache.store_hpo_release('{"term_count": 3, "terms": ["é", 1.50]}', "2025-01-16")
    await cache.changed(*IDS)
    await cache.rebuild()
    before = await cache.documents()
    assert len(before) == len(IDS)
    async with cache.database.connect() as owner:
        await owner.execute("TRUNCATE cache.gene, cache.gene_summary, cache.dirty_gene")
    await cache.handlers.on_invalidate_namespace(InvalidateNamespace(namespace="genes"))
    await cache.rebuild()
    assert await cache.documents() == before


async def test_an_unknown_namespace_can_never_be_invalidated(cache: Cache) -> None:
    with pytest.raises(NamespaceUnknown, match="'coffee'; accepted is facets or genes"):
        await cache.handlers.on_invalidate_namespace(InvalidateNamespace(namespace="coffee"))


async def test_a_withdrawn_gene_is_told_apart(cache: Cache, database: Database) -> None:
    await cache.changed(PKD1)
    await cache.rebuild()
    async with database.connect() as owner:
        await owner.execute(
            """UPDATE annotator.gene SET status = 'merged', successors = '{HGNC:9009}'
               WHERE hgnc_id = 'HGNC:9008'"""
        )
    await cache.changed(PKD1)
    assert await cache.rebuild() == {PKD1: 2}
    document = await cache.document(PKD1)
    assert (document["status"], document["successors"]) == ("merged", ["HGNC:9009"])


async def test_rebuilding_a_thousand_genes_looks_each_pair_up_once(
    cache: Cache, database: Database
) -> None:
    """Whatever statistics say of tables that are being filled: no plan may scan them."""
    async with database.begin("annotator") as tx:
        await tx.execute(
            text("""
                INSERT INTO gene (hgnc_id, symbol, status)
                SELECT 'HGNC:' || 900000 + n, 'MADE' || n, 'approved'
                FROM generate_series(1, 20000) n
            """)
        )
        release_id = await build_release(tx, "hpo")
        await tx.execute(
            text("""
                INSERT INTO annotation (hgnc_id, source, valid_from, value, digest,
                    release_id, file_id, position, retrieved_at, parser_version, matched_by)
                SELECT hgnc_id, 'hpo', now(), '{}', '\\x01', :release_id, :file_id, 1, now(), 1,
                       'entrez_id'
                FROM gene WHERE symbol LIKE 'MADE%'
            """),
            {"release_id": release_id, "file_id": await build_file(tx, release_id)},
        )
    made = [f"HGNC:{900000 + number}" for number in range(1, 1001)]
    async with cache.engine.begin() as tx:
        async with asyncio.timeout(5):
            assert len(await store.rebuild(tx, made)) == 1000
        hits = await tx.scalar(
            text("""SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_xact_all_tables
                    WHERE schemaname = 'annotator' AND relname = 'annotation'""")
        )
    assert hits <= 3 * 1000
