"""Versions of annotations: what is stored, closed, kept; and what overlapping stores leave."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import orjson
import pytest
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.annotator.domain import Answer, Offered
from services.annotator.store import annotations, releases
from services.annotator.store.annotations import Origin
from services.chassis.errors import Problem
from tests.builders import IDS, build_file, build_release
from tests.integration.annotator.catalogue import write_catalogue
from tests.integration.annotator.desk import Desk
from tests.system import Database


class Value(BaseModel):
    number: int


def offer(numbers: dict[str, int | None]) -> Offered:
    offered = Offered()
    for place, (name, number) in enumerate(numbers.items()):
        value = None if number is None else Value(number=number)
        offered.add(Answer(f"HGNC:{name[1:]}", value, place))
    return offered


class Source:
    """Stands for Ensembl: offers numbers as its values, from releases that we make up."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    async def release(self, version: str) -> Origin:
        async with self.desk.engine.begin() as tx:
            release_id = await build_release(tx, "ensembl", version, state="accepted")
            await build_file(tx, release_id)
            release = await releases.get_release(tx, release_id)
            return replace(release.origin(), matched_by="ensembl_gene_id")

    async def store(self, origin: Origin, **numbers: int | None) -> list[str]:
        async with self.desk.engine.begin() as tx:
            return await self.store_in(tx, origin, numbers)

    async def store_in(
        self, tx: AsyncConnection, origin: Origin, numbers: dict[str, int | None]
    ) -> list[str]:
        now = await annotations.lock_store(tx, "ensembl")
        return await annotations.store_offered(tx, "ensembl", offer(numbers), origin, now)

    async def versions(self, hgnc_id: str) -> list[tuple[int | None, bool]]:
        rows = await self.desk.rows(
            """SELECT (value->>'number')::int AS number, valid_to = 'infinity' AS current
               FROM annotation WHERE hgnc_id = :hgnc_id ORDER BY valid_from""",
            hgnc_id=hgnc_id,
        )
        return [(row.number, row.current) for row in rows]


async def test_an_unchanged_value_writes_nothing(desk: Desk) -> None:
    source = Source(desk)
    first, second = await source.release("1"), await source.release("2")
    assert await source.store(first, g1=1, g2=2) == ["HGNC:1", "HGNC:2"]
    assert await source.store(second, g1=1, g2=2) == []
    assert await source.versions("HGNC:1") == [(1, True)]


async def test_a_changed_value_closes_the_version_before_it(desk: Desk) -> None:
    source = Source(desk)
    await source.store(await source.release("1"), g1=1, g2=2)
    assert await source.store(await source.release("2"), g1=1, g2=3) == ["HGNC:2"]
    assert await source.versions("HGNC:2") == [(2, False), (3, True)]
    gap = await desk.rows("""
        SELECT 1 FROM annotation a JOIN annotation b
        ON a.hgnc_id = b.hgnc_id AND a.valid_to = b.valid_from""")
    assert len(gap) == 1


async def test_versions_follow_each_other_though_the_clock_was_set_back(desk: Desk) -> None:
    source = Source(desk)
    await source.store(await source.release("1"), g1=1)
    async with desk.engine.begin() as tx:  # What an hour's wrong clock leaves.
        await tx.execute(text("UPDATE annotation SET valid_from = valid_from + interval '1 hour'"))
        await tx.execute(text("UPDATE store_clock SET at = at + interval '1 hour'"))
    assert await source.store(await source.release("2"), g1=2, g3=3) == ["HGNC:1", "HGNC:3"]
    assert await source.versions("HGNC:1") == [(1, False), (2, True)]
    (row,) = await desk.rows(
        """SELECT min(valid_from) > now() + interval '59 minutes' AS later FROM annotation
           WHERE valid_to = 'infinity'"""
    )
    assert row.later  # Also of the other gene: that time had been read.


async def test_a_value_that_is_gone_leaves_an_empty_version(desk: Desk) -> None:
    source = Source(desk)
    await source.store(await source.release("1"), g1=1)
    assert await source.store(await source.release("2"), g1=None, g2=None) == ["HGNC:1"]
    assert await source.versions("HGNC:1") == [(1, False), (None, True)]
    assert await source.versions("HGNC:2") == []


async def test_an_older_release_never_replaces_a_newer_one(desk: Desk) -> None:
    source = Source(desk)
    older, newer = await source.release("1"), await source.release("2")
    await source.store(newer, g1=2)
    assert await source.store(older, g1=1) == []
    assert await source.store(older, g1=None) == []
    assert await source.versions("HGNC:1") == [(2, True)]


async def test_a_store_twice_is_a_store_once(desk: Desk) -> None:
    source = Source(desk)
    origin = await source.release("1")
    await source.store(origin, g1=1, g2=None)
    assert await source.store(origin, g1=1, g2=None) == []


async def test_overlapping_stores_keep_order_and_a_cursor_misses_nothing(desk: Desk) -> None:
    """Two writers store many releases over the same genes, in opposite order of genes, while a
    reader follows the published view by its cursor."""
    source = Source(desk)
    genes = [f"g{number}" for number in range(1, 41)]
    releases = [await source.release(str(number)) for number in range(20)]
    done = asyncio.Event()

    async def write(mine: list[Origin], order: list[str]) -> None:
        for origin in mine:
            number = releases.index(origin)
            async with desk.engine.begin() as tx:
                await source.store_in(tx, origin, dict.fromkeys(order, number))
                await asyncio.sleep(0.002)  # Others may commit between our rows and our commit.

    async def read() -> list[int]:
        seen: list[int] = []
        after = ("0", 0)
        while True:
            last_pass = done.is_set()
            rows = await desk.changes_after(*after)
            seen += [row.id for row in rows]
            if rows:
                after = (rows[-1].xid, rows[-1].id)
            if last_pass:
                return seen
            await asyncio.sleep(0)

    reader = asyncio.create_task(read())
    await asyncio.gather(write(releases[::2], genes), write(releases[1::2], genes[::-1]))
    done.set()

    assert sorted(await reader) == [
        row.id for row in await desk.rows("SELECT id FROM annotation ORDER BY id")
    ]
    assert await desk.rows("SELECT 1 FROM annotation WHERE valid_from >= valid_to") == []
    current = await desk.rows("""
        SELECT hgnc_id, (value->>'number')::int AS number FROM annotation
        WHERE valid_to = 'infinity'""")
    assert {row.number for row in current} == {len(releases) - 1}
    assert len(current) == len(genes)


async def test_an_open_transaction_holds_the_cursor_back(desk: Desk) -> None:
    """Identity order is not commit order: without the bound this reader would skip a row."""
    source = Source(desk)
    origin = await source.release("1")
    readable = """SELECT id FROM annotation_v1
                  WHERE xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY xid, id"""
    async with desk.engine.connect() as slow:
        await slow.begin()
        await slow.execute(text("SELECT pg_current_xact_id()"))
        await source.store(origin, g1=1)
        assert await desk.rows(readable) == []
        await slow.rollback()
    assert len(await desk.rows(readable)) == 1


async def test_the_published_view_tells_five_states_apart(desk: Desk) -> None:
    await write_catalogue(desk)
    source = Source(desk)
    origin = await source.release("1")
    async with desk.engine.begin() as tx:
        now = await annotations.lock_store(tx, "ensembl")
        offered = Offered()
        offered.add(Answer(IDS[0], Value(number=1), 0))
        offered.add(Answer(IDS[1], None, 1))
        offered.add(Answer(IDS[2], Value(number=3), 2))
        await annotations.store_offered(tx, "ensembl", offered, origin, now)
        await annotations.mark_checked(tx, "ensembl", offered, now)
        await annotations.mark_failed(tx, "ensembl", [IDS[3]], {"title": "no answer"}, now)
        await tx.execute(
            text("UPDATE checked SET checked_at = :past WHERE hgnc_id = :hgnc_id"),
            {"past": _long_before(now), "hgnc_id": IDS[2]},
        )
    rows = await desk.rows(
        "SELECT hgnc_id, status FROM current_annotation_v1 WHERE source = 'ensembl'"
    )
    found = {row.hgnc_id: row.status for row in rows}
    assert [found[hgnc_id] for hgnc_id in IDS[:5]] == ["ok", "empty", "stale", "error", "pending"]


def _long_before(now: datetime) -> datetime:
    return now - timedelta(days=400)


async def test_a_values_release_file_and_place_are_kept_beside_it(desk: Desk) -> None:
    source = Source(desk)
    origin = await source.release("7")
    await source.store(origin, g1=1, g2=2)
    row = await desk.row("SELECT * FROM annotation_v1 WHERE hgnc_id = 'HGNC:2'")
    assert (row.release_id, row.file_id, row.position) == (origin.release_id, origin.file_id, 1)
    assert isinstance(row.release_id, UUID)


async def test_a_value_cannot_come_from_a_file_of_another_release(desk: Desk) -> None:
    source = Source(desk)
    first, second = await source.release("1"), await source.release("2")
    for stray in (replace(first, file_id=second.file_id), replace(first, release_id=uuid4())):
        with pytest.raises(IntegrityError, match=f"file {stray.file_id} is none of release"):
            await source.store(stray, g5=1)
    with pytest.raises(IntegrityError, match="of hgnc"):
        async with desk.engine.begin() as tx:
            await annotations.store_offered(tx, "hgnc", offer({"g5": 1}), first, first.retrieved_at)
    assert await desk.rows("SELECT 1 FROM annotation") == []


async def test_a_values_digest_is_of_its_text(desk: Desk) -> None:
    source = Source(desk)
    await source.store(await source.release("1"), g5=1, g7=None)
    row = await desk.row("SELECT sha256(convert_to(value::text, 'UTF8')), digest FROM annotation")
    assert row.sha256 == row.digest


async def test_an_answer_asked_for_before_an_equal_one_is_never_stored_over_it(desk: Desk) -> None:
    """The equal answer wrote no version; that it came later is known all the same."""
    source = Source(desk)
    first, between, last = [await source.release(version) for version in "123"]

    async def answer(origin: Origin, number: int) -> list[str]:
        async with desk.engine.begin() as tx:
            changed = await source.store_in(tx, origin, {"g1": number})
            offered = Offered()
            offered.add(Answer("HGNC:1", Value(number=number), 0))
            await annotations.mark_checked(tx, "ensembl", offered, origin.retrieved_at)
            return changed

    await answer(first, 1)
    await answer(last, 1)
    assert await answer(between, 2) == []
    assert await source.versions("HGNC:1") == [(1, True)]
    async with desk.engine.begin() as tx:
        problem: Problem = {"title": "no answer"}
        asked_at = between.retrieved_at
        assert await annotations.mark_failed(tx, "ensembl", ["HGNC:1"], problem, asked_at) == []
    checked = await desk.row("SELECT outcome, retrieved_at FROM checked")
    assert (checked.outcome, checked.retrieved_at) == ("ok", last.retrieved_at)


@pytest.mark.parametrize("which", ["true", "name = 'hpo'"])
async def test_what_each_source_has_is_counted_without_reading_one_version(
    database: Database, which: str
) -> None:
    genes = 2_000
    async with database.begin("annotator") as tx:
        for source in ("hpo", "gnomad"):
            await build_file(tx, await build_release(tx, source))
    async with database.connect() as owner:
        await owner.execute("SET search_path = annotator")
        await owner.execute(
            f"""INSERT INTO annotation (hgnc_id, source, valid_from, valid_to, value, digest,
                                        release_id, file_id, position, retrieved_at, parser_version,
                                        matched_by)
                SELECT 'HGNC:' || n, r.source, now() - v * interval '1 day',
                       CASE v WHEN 0 THEN 'infinity' ELSE now() - (v - 1) * interval '1 day' END,
                       json_build_object('text', repeat('x', 400)), '\\x01', r.id, f.id, 1,
                       now(), 1, 'entrez_id'
                FROM generate_series(1, {genes}) n, generate_series(0, 4) v,
                     release r JOIN release_file f ON f.release_id = r.id"""  # noqa: S608
        )
        await owner.execute("VACUUM ANALYZE annotation")
        rows = await owner.fetch(f"SELECT name, annotation_count FROM source_v1 WHERE {which}")  # noqa: S608
        pages = await owner.fetchval("SELECT relpages FROM pg_class WHERE relname = 'annotation'")
        asked = f"SELECT * FROM source_v1 WHERE {which}"  # noqa: S608
        plan = await owner.fetchval("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + asked)
        root = orjson.loads(plan)[0]["Plan"]
    found = {row["name"]: row["annotation_count"] for row in rows if row["annotation_count"]}
    assert found == dict.fromkeys(["hpo"] if "hpo" in which else ["gnomad", "hpo"], genes)
    assert pages > 1_000
    assert root["Shared Hit Blocks"] + root["Shared Read Blocks"] < pages / 10


async def test_that_an_api_has_none_is_a_version_once(desk: Desk) -> None:
    source = Source(desk)
    origin = await source.release("1")

    async def store(**numbers: int | None) -> list[str]:
        async with desk.engine.begin() as tx:
            now = await annotations.lock_store(tx, "ensembl")
            return await annotations.store_offered(
                tx, "ensembl", offer(numbers), origin, now, keeps_empty=True
            )

    assert await store(g1=None, g2=2) == ["HGNC:1", "HGNC:2"]
    assert await store(g1=None, g2=2) == []
    assert await source.versions("HGNC:1") == [(None, True)]
    rows = await desk.rows("SELECT cause, severity FROM annotation")
    assert {(row.cause, row.severity) for row in rows} == {
        (None, None)
    }  # First ones are no change.
