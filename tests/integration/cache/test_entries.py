"""Entries: which are valid, which are kept, and what becomes of those that are not."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.messages import InvalidateNamespace, NamespaceInvalidated, ReleaseStored
from contracts.parts import Part
from services.cache import namespaces, reclaimer
from services.cache.handlers import Handlers
from services.cache.reclaimer import TRANSACTION_SECONDS_MAX, Reclaimer, next_rows
from services.chassis.database import open_session
from tests.builders import IDS, build_genes
from tests.system import Database

PKD1, PKD2 = IDS[:2]
LISTS = "lists"


@dataclass
class Shelf:
    """Entries as a gateway puts and finds them, and the cache that forgets them."""

    database: Database
    engine: AsyncEngine  # The cache's.
    owner: "asyncpg.Connection[asyncpg.Record]"
    gateway: "asyncpg.Connection[asyncpg.Record]"

    async def put(
        self,
        key: str,
        *parts: Part,
        epoch: int | None = None,
        value: bytes | None = b"x",
        began: datetime | None = None,
        namespace: str = LISTS,
    ) -> bool:
        """Of the epoch and the time that are now, unless others are given."""
        seen = await self.epoch(namespace) if epoch is None else epoch
        began = began or await self.gateway.fetchval("SELECT now()")
        depends_on = [one for part in parts for one in part.depends_on()]
        return bool(
            await self.gateway.fetchval(
                "SELECT cache.put_entry_v1($1, $2, $3, $4, $5, $6)",
                *(namespace, key, seen, began, depends_on, value),
            )
        )

    async def epoch(self, namespace: str = LISTS) -> int:
        return int(await self.namespace("epoch", namespace))

    async def namespace(self, column: str, namespace: str = LISTS) -> Any:
        return await self.gateway.fetchval(
            f"SELECT {column} FROM cache.namespace_v1 WHERE namespace = $1",  # noqa: S608
            namespace,
        )

    async def found(self, namespace: str = LISTS) -> list[str]:
        rows = await self.gateway.fetch(
            "SELECT key FROM cache.entry_v1 WHERE namespace = $1 ORDER BY key", namespace
        )
        return [row["key"] for row in rows]

    async def lying(self) -> int:
        """Entries, valid or not."""
        return int(await self.owner.fetchval("SELECT count(*) FROM cache.entry"))

    async def forget(self, *parts: Part, namespace: str = LISTS) -> None:
        command = InvalidateNamespace(namespace=namespace, parts=tuple(map(str, parts)))
        await Handlers(self.engine).on_invalidate_namespace(command)

    def session(self) -> AbstractAsyncContextManager[AsyncConnection]:
        return open_session(self.database.settings("cache"), "test-reclaimer")

    async def told(self) -> list[NamespaceInvalidated]:
        async with self.engine.begin() as tx:
            rows = await tx.scalars(text("DELETE FROM outbox RETURNING payload"))
            return [NamespaceInvalidated.model_validate_json(bytes(row)) for row in rows]


@pytest_asyncio.fixture
async def shelf(database: Database) -> AsyncIterator[Shelf]:
    async with (
        database.engine("cache") as engine,
        database.connect() as owner,
        database.connect("gateway") as gateway,
    ):
        yield Shelf(database, engine, owner, gateway)


async def test_an_entry_is_found_until_its_namespace_is_invalidated(shelf: Shelf) -> None:
    assert await shelf.put("a", Part(gene=PKD1))
    assert await shelf.put("b", namespace="facets")
    assert await shelf.found() == ["a"]
    await shelf.forget()
    assert await shelf.found() == []
    assert await shelf.found("facets") == ["b"]
    assert await shelf.put("a")
    assert await shelf.found() == ["a"]


async def test_parts_are_forgotten_and_nothing_else(shelf: Shelf) -> None:
    for key, part in {
        "PKD1 of hpo": Part(gene=PKD1, source="hpo"),
        "PKD1": Part(gene=PKD1),
        "PKD2 of hpo": Part(gene=PKD2, source="hpo"),
        "gnomad": Part(source="gnomad"),
        "none of them": Part(key="elsewhere"),
    }.items():
        assert await shelf.put(key, part)
    await shelf.forget(Part(gene=PKD1, source="hpo"))
    assert await shelf.found() == ["PKD2 of hpo", "gnomad", "none of them"]
    await shelf.forget(Part(key="none of them"), Part(source="gnomad"))
    assert await shelf.found() == ["PKD2 of hpo"]
    told = await shelf.told()
    assert [(one.epoch, one.parts) for one in told] == [
        (1, (f"gene={PKD1} source=hpo",)),
        (2, ("key=none of them", "source=gnomad")),
    ]


async def test_what_was_begun_before_an_invalidation_is_not_kept_after_it(shelf: Shelf) -> None:
    before = await shelf.epoch()
    await shelf.forget(Part(gene=PKD1))
    assert not await shelf.put("a", Part(gene=PKD1), epoch=before)
    assert not await shelf.put("a", Part(source="hpo"), epoch=before)
    assert await shelf.put("b", Part(gene=PKD2), epoch=before)
    await shelf.forget()
    assert not await shelf.put("c", epoch=before + 1)
    assert not await shelf.put("c", epoch=before + 3)  # Of a time that has not come.
    assert await shelf.found() == []


async def test_an_entry_that_races_an_invalidation_is_found_by_nobody(shelf: Shelf) -> None:
    """It is put while the invalidation is not committed, and so not refused."""
    before = await shelf.epoch()
    async with shelf.engine.begin() as tx:
        await namespaces.invalidate(tx, LISTS, [str(Part(gene=PKD1))])
        assert await shelf.put("a", Part(gene=PKD1), epoch=before)
        assert await shelf.found() == ["a"]
    assert await shelf.found() == []


async def test_an_older_entry_does_not_replace_a_newer_one(shelf: Shelf) -> None:
    before = await shelf.epoch()
    await shelf.forget(Part(gene=PKD2))
    assert await shelf.put("a", Part(gene=PKD1), value=b"new")
    assert not await shelf.put("a", Part(gene=PKD1), value=b"old", epoch=before)
    value = await shelf.gateway.fetchval("SELECT value FROM cache.entry_v1")
    assert value == b"new"


async def test_nothing_is_an_answer_for_a_short_time(shelf: Shelf) -> None:
    now = await shelf.gateway.fetchval("SELECT now()")
    negative = timedelta(seconds=await shelf.namespace("negative_ttl_seconds"))
    assert await shelf.put("nothing", value=None, began=now - negative / 2)
    assert await shelf.put("nothing before", value=None, began=now - negative)
    assert await shelf.put("something", began=now - negative)
    assert await shelf.found() == ["nothing", "something"]


async def test_an_entry_has_a_time_to_live(shelf: Shelf) -> None:
    now = await shelf.gateway.fetchval("SELECT now()")
    ttl = timedelta(seconds=await shelf.namespace("ttl_seconds"))
    await shelf.put("old", began=now - ttl)
    await shelf.put("fresh", began=now - ttl / 2)
    assert await shelf.found() == ["fresh"]


async def test_what_does_not_fit_is_refused_and_nothing_is_raised(shelf: Shelf) -> None:
    most = await shelf.namespace("entry_bytes_max")
    assert not await shelf.put("a", value=b"x" * most)  # With its key it is more.
    assert await shelf.put("a", value=b"x" * (most - 1))
    assert not await shelf.put("x" * 1_001)
    assert not await shelf.put("a", namespace="genes")
    assert not await shelf.put("a", namespace="coffee", epoch=0)
    await shelf.owner.execute(
        "UPDATE cache.namespace SET entries_max = 5, entry_count = 10 WHERE ttl IS NOT NULL"
    )
    assert not await shelf.put("b")


async def test_a_gateway_has_no_other_way_to_write(shelf: Shelf) -> None:
    for statement in (
        "INSERT INTO cache.entry VALUES ('lists', 'a', 0, '{}', '', 0, now(), 'infinity')",
        "SELECT * FROM cache.entry",
        "DELETE FROM cache.invalidation",
        "UPDATE cache.namespace SET epoch = 0",
        "UPDATE cache.reads SET count = 0",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await shelf.gateway.execute(statement)


async def test_a_stored_release_has_what_was_made_of_its_source_forgotten(shelf: Shelf) -> None:
    await shelf.put("hpo", Part(source="hpo"))
    await shelf.put("gnomad", Part(source="gnomad"))
    await shelf.put("PKD1", namespace="resolutions")
    stored = ReleaseStored(source="hpo", release_id=uuid4(), version="1")
    await Handlers(shelf.engine).on_release_stored(stored)
    assert await shelf.found() == ["gnomad"]
    assert await shelf.found("resolutions") == ["PKD1"]
    assert {one.namespace for one in await shelf.told()} == {
        *("genes", "statistics", "lists", "facets")
    }
    catalogue = ReleaseStored(source="hgnc", release_id=uuid4(), version="1")
    await Handlers(shelf.engine).on_release_stored(catalogue)
    assert await shelf.found("resolutions") == []


async def test_documents_of_the_parts_that_are_forgotten_are_built_anew(shelf: Shelf) -> None:
    async with shelf.database.begin("annotator") as tx:
        await build_genes(tx)
    await shelf.owner.execute(
        """INSERT INTO cache.gene (hgnc_id, version, document, status, annotated_by)
           SELECT unnest($1::text[]), 1, '{}', 'approved', '{hpo}'""",
        IDS[:3],
    )

    async def dirty(*parts: Part) -> set[str]:
        await shelf.owner.execute("DELETE FROM cache.dirty_gene")
        await shelf.forget(*parts, namespace="genes")
        rows = await shelf.owner.fetch("SELECT hgnc_id FROM cache.dirty_gene")
        assert await shelf.namespace("dirty_count", "genes") == len(rows)
        return {row["hgnc_id"] for row in rows}

    assert await dirty(Part(gene=IDS[5])) == {IDS[5]}
    assert await dirty(Part(key=IDS[5]), Part(gene=IDS[0])) == {IDS[5], IDS[0]}
    assert await dirty(Part(source="hpo")) == set(IDS[:3])
    assert await dirty(Part(source="gnomad")) == set()
    assert await dirty(Part(gene=IDS[4], source="gnomad")) == {IDS[4]}
    assert await dirty() == set(IDS)
    assert await shelf.owner.fetchval("SELECT count(*) FROM cache.invalidation") == 0


# ------------------------------------------------------------------------------ reclaiming


async def fill(shelf: Shelf, count: int, namespace: str = LISTS, size: int = 10) -> None:
    await shelf.owner.execute(
        """INSERT INTO cache.entry
           SELECT $1, 'made ' || n, epoch, ARRAY['key=made ' || n], repeat('x', $3)::bytea, $3,
               now() - n * interval '1 ms', now() + interval '1 hour'
           FROM generate_series(1, $2::integer) n, cache.namespace WHERE namespace = $1""",
        *(namespace, count, size),
    )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reclaimer, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(reclaimer, "PAUSE_SHARE", 0)


@pytest.mark.usefixtures("quick")
async def test_what_is_not_valid_is_deleted_and_the_rest_is_counted(shelf: Shelf) -> None:
    await fill(shelf, 2_500)
    await fill(shelf, 30, "facets")
    walker = Reclaimer(shelf.engine)
    async with shelf.session() as session:
        assert not await walker.reclaim(session)
        assert await shelf.lying() == 2_530
        assert await shelf.namespace("entry_count") == 2_500
        assert await shelf.namespace("entry_bytes") == 25_000
        assert await shelf.namespace("oldest_at") < await shelf.namespace("newest_at")

        await shelf.forget()
        assert await shelf.namespace("reclaimable_count") == 2_500
        await shelf.put("new")
        await shelf.put("forgotten", Part(gene=PKD1), namespace="facets")
        await shelf.forget(Part(gene=PKD1), namespace="facets")
        assert not await walker.reclaim(session)
    assert await shelf.lying() == 31
    assert await shelf.found() == ["new"]
    for column, number in {
        "entry_count": 1,
        "reclaimable_count": 0,
        "reclaimed_count": 2_500,
    }.items():
        assert await shelf.namespace(column) == number, column
    assert await shelf.namespace("reclaimed_count", "facets") == 1


async def test_a_chunk_has_no_more_rows_pages_and_bytes_than_it_may(shelf: Shelf) -> None:
    await fill(shelf, 300)
    await fill(shelf, 10, "facets", size=5_000)
    await shelf.forget()
    await shelf.forget(namespace="facets")

    async def walk(**limits: int) -> list[int]:
        """What each chunk of a walk would delete."""
        most = {"rows_max": 1_000, "pages_max": 1_000, "bytes_max": 10**9} | limits
        async with shelf.engine.connect() as connection:
            pages = await namespaces.count_pages(connection)
            page, row, gone = 0, 0, []
            while page < pages:
                chunk = await namespaces.reclaim(connection, page, row, outdated={}, **most)
                assert (chunk.page, chunk.row) > (page, row)
                page, row = chunk.page, chunk.row
                gone.append(chunk.gone.total())
            await connection.rollback()
        return gone

    assert await walk() == [310]
    by_rows = await walk(rows_max=100)
    assert by_rows[:3] == [100, 100, 100]
    assert sum(by_rows) == 310
    by_pages = await walk(pages_max=1)
    assert len(by_pages) > 3
    assert sum(by_pages) == 310
    by_bytes = await walk(bytes_max=10_000)
    assert by_bytes[-5:] == [2] * 5 or max(by_bytes[1:]) <= 2
    assert sum(by_bytes) == 310


def test_what_a_transaction_looks_at_is_made_to_fit_its_time() -> None:
    fits, most, least = (
        reclaimer.TRANSACTION_SECONDS,
        reclaimer.ROWS_MAX,
        reclaimer.ROWS_MIN,
    )
    assert next_rows(800, 2 * fits) == 400
    assert next_rows(800, 100 * fits) == 200
    assert next_rows(least, 100 * fits) == least
    assert next_rows(800, fits / 2) == 1_000
    assert next_rows(most, fits / 2) == most
    assert next_rows(1, fits / 2) == 2  # Never so few that they stay so few.


@pytest.mark.usefixtures("quick")
async def test_a_transaction_that_takes_too_long_is_broken_off_and_tried_with_less(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each entry that is deleted takes a millisecond: all at once are too many."""
    await fill(shelf, 100)
    await shelf.forget()
    await shelf.owner.execute(
        """CREATE FUNCTION cache.dawdle() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN PERFORM pg_sleep(0.001); RETURN old; END $$;
           CREATE TRIGGER dawdle BEFORE DELETE ON cache.entry
           FOR EACH ROW EXECUTE FUNCTION cache.dawdle()"""
    )
    looked_at = []
    reclaim = namespaces.reclaim

    async def noted(*places: Any, rows_max: int, **limits: Any) -> namespaces.Chunk:
        looked_at.append(rows_max)
        return await reclaim(*places, rows_max=rows_max, **limits)

    times = []
    time_broken_off = namespaces.time_broken_off

    async def timed(connection: AsyncConnection, pid: int) -> float:
        times.append(await time_broken_off(connection, pid))
        return times[-1]

    monkeypatch.setattr(namespaces, "reclaim", noted)
    monkeypatch.setattr(namespaces, "time_broken_off", timed)
    broken_off = "annobus_cache_reclaim_seconds_bucket"
    long_before = REGISTRY.get_sample_value(broken_off, {"le": "0.05"}) or 0
    async with shelf.session() as session:
        assert not await Reclaimer(shelf.engine).reclaim(session)
        # What others do in this session has no such limit.
        assert await session.scalar(text("SHOW statement_timeout")) == "0"
    assert await shelf.lying() == 0
    assert await shelf.namespace("reclaimed_count") == 100
    assert looked_at[0] == 1_000
    assert 250 <= looked_at[1] < 500
    assert min(looked_at) < 20
    assert times
    assert TRANSACTION_SECONDS_MAX * 0.9 < min(times) <= max(times) < 1
    assert (REGISTRY.get_sample_value(broken_off, {"le": "0.05"}) or 0) > long_before


@pytest.mark.usefixtures("quick")
async def test_of_too_many_the_oldest_go(shelf: Shelf) -> None:
    await fill(shelf, 3_000)
    await shelf.owner.execute(
        """UPDATE cache.namespace SET entries_max = 1500 WHERE namespace = 'lists';
           UPDATE cache.entry SET made_at = date_trunc('second', now())
               - split_part(key, ' ', 2)::integer / 100 * interval '1 s'"""
    )
    walker = Reclaimer(shelf.engine)
    async with shelf.session() as session:
        assert await walker.reclaim(session)  # Now it knows from when on.
        assert not await walker.reclaim(session)
    left = await shelf.found()
    assert 1_500 <= len(left) < 1_700  # Those of one second go together.
    numbers = [int(key.split()[1]) for key in left]
    assert sorted(numbers) == list(range(1, len(left) + 1))


async def test_an_invalidation_goes_when_all_it_concerns_has_expired_and_stays_true(
    shelf: Shelf,
) -> None:
    before = await shelf.epoch()
    await shelf.forget(Part(gene=PKD1))
    await shelf.forget(Part(gene=PKD2))
    await shelf.owner.execute(
        "UPDATE cache.invalidation SET at = at - interval '1 hour' WHERE epoch = 1"
    )
    async with shelf.engine.begin() as tx:
        await namespaces.forget_invalidations(tx)
    rows = await shelf.owner.fetch("SELECT DISTINCT part FROM cache.invalidation ORDER BY 1")
    assert [row["part"] for row in rows] == ["gene=*", f"gene={PKD2}"]
    assert await shelf.namespace("floor") == 1
    assert not await shelf.put("a", Part(gene=PKD1), epoch=before)
    assert await shelf.put("a", Part(gene=PKD1), epoch=before + 1)


async def test_of_too_many_invalidations_the_oldest_become_one(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(namespaces, "FORGOTTEN_MAX", 4)
    await shelf.put("a", Part(gene="HGNC:1"))
    for number in range(2, 8):
        await shelf.forget(Part(gene=f"HGNC:{number}"))
    assert await shelf.found() == ["a"]
    await shelf.put("b", Part(gene="HGNC:1"))
    async with shelf.engine.begin() as tx:
        await namespaces.forget_invalidations(tx)
    assert await shelf.owner.fetchval("SELECT count(*) FROM cache.invalidation") == 4
    assert await shelf.found() == ["b"]
