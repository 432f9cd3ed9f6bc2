"""The gene catalogue, rewritten from one release after the other: what readers are told of it."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import orjson
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.messages import (
    AnnotationsChanged,
    GeneEvent,
    GeneMerged,
    GeneRenamed,
    GeneRestored,
    GeneSplit,
    GeneWithdrawn,
)
from services.annotator import domain
from services.annotator.sources import SOURCES
from services.annotator.store import catalogue
from services.annotator.store.catalogue import Rewritten
from tests.builders import IDS, build_file, build_release
from tests.integration.annotator.catalogue import FILE, write_catalogue
from tests.integration.annotator.desk import Desk
from tests.integration.annotator.small_release import (
    WITH_VALUE,
    keep_unchanged,
    look_upstream,
    write_release,
)

PKD1, PKD2, BRAF = "HGNC:9008", "HGNC:9009", "HGNC:1097"
SYMBOLS = {PKD1: "PKD1", PKD2: "PKD2", BRAF: "BRAF"}

Genes = dict[str, Mapping[str, Any]]  # By HGNC id, what the release says besides the symbol.
APPROVED: Mapping[str, Any] = {"status": "approved"}
ALL: Genes = dict.fromkeys(SYMBOLS, APPROVED)


def merged(*successors: str) -> Mapping[str, Any]:
    return {"status": "merged", "successors": list(successors)}


async def stage(tx: AsyncConnection, release_id: UUID, genes: Genes, file_id: int = 1) -> None:
    for hgnc_id, said in genes.items():
        value = orjson.dumps({"symbol": SYMBOLS.get(hgnc_id, hgnc_id), "successors": [], **said})
        await tx.execute(
            text("""
                INSERT INTO staged (release_id, hgnc_id, value, digest, file_id, position,
                                    matched_by)
                VALUES (:release_id, :hgnc_id, CAST(:value AS json), :digest, :file_id, 1,
                        'hgnc_id')
            """),
            {
                "release_id": release_id,
                "hgnc_id": hgnc_id,
                "value": value.decode(),
                "digest": domain.digest(value),
                "file_id": file_id,
            },
        )


async def rewrite(desk: Desk, genes: Genes) -> Rewritten:
    """Make a release of these genes the catalogue. Returns what readers are told of."""
    async with desk.engine.begin() as tx:
        release_id = await build_release(tx, "hgnc", state="staged", is_readable=False)
        await stage(tx, release_id, genes)
        return await catalogue.rewrite_catalogue(tx, release_id)


async def restated(desk: Desk, genes: Genes) -> list[str]:
    return sorted((await rewrite(desk, genes)).restated)


async def status(desk: Desk, hgnc_id: str) -> str:
    row = await desk.row("SELECT status FROM gene WHERE hgnc_id = :hgnc_id", hgnc_id=hgnc_id)
    return str(row.status)


async def test_a_first_load_tells_of_no_gene(desk: Desk) -> None:
    """The batches that store it do, each of its own genes."""
    rewritten = await rewrite(desk, {PKD1: APPROVED, PKD2: {"status": "withdrawn"}})
    assert (rewritten.restated, rewritten.events, rewritten.approved_count) == ([], [], 1)


async def test_a_gene_that_comes_back_unchanged_is_told_as_one_that_went_was(desk: Desk) -> None:
    """Its record is the old one, so the store of its values finds nothing to tell."""
    both = {PKD1: APPROVED, PKD2: APPROVED}
    await rewrite(desk, both)
    assert await restated(desk, both) == []

    assert await restated(desk, {PKD2: APPROVED}) == [PKD1]  # A release that lacks it.
    assert await status(desk, PKD1) == "withdrawn"
    assert await restated(desk, both) == [PKD1]
    assert await status(desk, PKD1) == "approved"

    assert await restated(desk, both | {PKD2: {"status": "withdrawn"}}) == [PKD2]
    assert await restated(desk, both) == [PKD2]


async def test_a_gene_that_no_release_names_any_more_is_still_found_by_its_symbol(
    desk: Desk,
) -> None:
    await rewrite(desk, ALL)
    await rewrite(desk, {PKD2: APPROVED, BRAF: APPROVED})
    row = await desk.row("SELECT kind, hgnc_id FROM gene_name_v1 WHERE folded = 'pkd1'")
    assert tuple(row) == ("withdrawn", PKD1)


CHANGES: list[tuple[Mapping[str, Any] | None, GeneEvent]] = [
    (
        {"status": "approved", "symbol": "POLY1"},
        GeneRenamed(
            hgnc_id=PKD1, release_id=UUID(int=0), symbol_before="PKD1", symbol_after="POLY1"
        ),
    ),
    (
        merged(PKD2),
        GeneMerged(hgnc_id=PKD1, release_id=UUID(int=0), symbol="PKD1", successor=PKD2),
    ),
    (
        merged(PKD2, BRAF),
        GeneSplit(hgnc_id=PKD1, release_id=UUID(int=0), symbol="PKD1", successors=(PKD2, BRAF)),
    ),
    (
        {"status": "withdrawn"},
        GeneWithdrawn(hgnc_id=PKD1, release_id=UUID(int=0), symbol="PKD1"),
    ),
    (None, GeneWithdrawn(hgnc_id=PKD1, release_id=UUID(int=0), symbol="PKD1")),  # Not named.
]


@pytest.mark.parametrize(("said", "expected"), CHANGES)
async def test_what_becomes_of_a_gene_is_an_event_once(
    desk: Desk, said: Mapping[str, Any] | None, expected: GeneEvent
) -> None:
    await rewrite(desk, ALL)
    changed = {PKD2: APPROVED, BRAF: APPROVED} | ({} if said is None else {PKD1: said})
    (event,) = (await rewrite(desk, changed)).events
    row = await desk.row("SELECT * FROM gene_event_v1")
    assert event == expected.model_copy(update={"release_id": row.release_id})
    assert (row.hgnc_id, row.kind) == (PKD1, event.type.split(".")[2])
    assert (row.symbol_before, row.symbol_after) == ("PKD1", (said or {}).get("symbol", "PKD1"))
    assert row.successors == (said or {}).get("successors", [])

    assert (await rewrite(desk, changed)).events == []  # The same again changes nothing.
    back = (await rewrite(desk, ALL)).events
    kind: type[GeneEvent] = GeneRenamed if isinstance(event, GeneRenamed) else GeneRestored
    assert [(type(one), one.hgnc_id) for one in back] == [(kind, PKD1)]


async def test_a_withdrawn_gene_that_gets_a_successor_is_merged(desk: Desk) -> None:
    await rewrite(desk, ALL)
    await rewrite(desk, ALL | {PKD1: {"status": "withdrawn"}})
    (event,) = (await rewrite(desk, ALL | {PKD1: merged(PKD2)})).events
    assert isinstance(event, GeneMerged)
    (event,) = (await rewrite(desk, ALL | {PKD1: merged(BRAF, PKD2)})).events
    assert isinstance(event, GeneSplit)
    # In another order they are the same.
    assert (await rewrite(desk, ALL | {PKD1: merged(PKD2, BRAF)})).events == []


async def test_other_changes_and_new_genes_are_no_events(desk: Desk) -> None:
    await rewrite(desk, {PKD1: APPROVED})
    rewritten = await rewrite(desk, ALL | {PKD1: {"status": "approved", "name": "polycystin 1"}})
    assert (rewritten.events, rewritten.approved_count) == ([], 2)


async def test_a_refresh_tells_what_became_of_genes_and_keeps_their_annotations(
    desk: Desk,
) -> None:
    """The whole way: a release that is accepted, its events in the outbox, the values as before."""
    await write_catalogue(desk)
    await write_release(desk, [IDS])
    keep_unchanged(desk)
    await desk.order(["hpo"])
    await desk.work()
    before = await desk.rows("SELECT hgnc_id, value FROM annotation_v1 ORDER BY hgnc_id")
    assert before

    release_id = await publish(
        desk,
        {hgnc_id: {"status": "approved", "symbol": f"new {hgnc_id}"} for hgnc_id in IDS[2:]}
        | {PKD1: merged(PKD2), PKD2: {"status": "approved", "symbol": "PKD2"}},
    )
    desk.published.clear()
    await desk.order(["hgnc"])
    await look_upstream(desk)

    events = [message for message in desk.published if isinstance(message, GeneEvent)]
    events += [message for message in await desk.relay() if isinstance(message, GeneEvent)]
    assert {event.hgnc_id: type(event) for event in events} == {PKD1: GeneMerged} | dict.fromkeys(
        IDS[2:], GeneRenamed
    )
    assert {(event.key(), event.release_id) for event in events} == {
        (event.hgnc_id, release_id) for event in events
    }
    rows = await desk.rows("SELECT hgnc_id FROM gene_event_v1 ORDER BY id")
    assert [row.hgnc_id for row in rows] == [event.hgnc_id for event in events]

    after = await desk.rows("SELECT hgnc_id, value FROM annotation_v1 WHERE source = 'hpo' "
                            "AND valid_to IS NULL ORDER BY hgnc_id")  # fmt: skip
    assert after == before
    current = await desk.row(
        "SELECT value FROM current_annotation_v1 WHERE hgnc_id = :hgnc_id AND source = 'hpo'",
        hgnc_id=PKD1,
    )
    assert current.value == {"hgnc_id": PKD1}


async def publish(desk: Desk, genes: Genes) -> UUID:
    """A newer release of the catalogue, fetched and staged."""
    source = SOURCES["hgnc"]
    assert not domain.is_api(source)
    await desk.handlers.raw_store.keep_bytes(FILE, domain.digest(FILE))
    async with desk.engine.begin() as tx:
        release_id = await build_release(tx, "hgnc", "newer", state="staged", is_readable=False)
        file_ids = [
            await build_file(tx, release_id, file.name, domain.digest(FILE), len(FILE))
            for file in source.files
        ]
        await stage(tx, release_id, genes, file_ids[0])
        await tx.execute(
            text("INSERT INTO staged_release (release_id) VALUES (:id)"), {"id": release_id}
        )
    return release_id


async def test_what_a_refresh_says_of_a_gene_that_it_gives_up_is_a_version_of_it(
    desk: Desk,
) -> None:
    """No slice holds it: without that, it would be approved at any later time."""
    keep_unchanged(desk)
    approved: Genes = {hgnc_id: {"status": "approved", "symbol": hgnc_id} for hgnc_id in IDS}
    await publish(desk, approved)
    await desk.order(["hgnc"])
    await desk.work()
    assert await said_now(desk) == dict.fromkeys(IDS, "approved")
    kept = {hgnc_id: said for hgnc_id, said in approved.items() if hgnc_id not in (PKD1, PKD2)}

    release_id = await publish(desk, kept | {PKD1: merged(BRAF)})
    desk.published.clear()
    await desk.order(["hgnc"])
    await desk.work()

    assert await said_now(desk) == dict.fromkeys(kept, "approved") | {PKD1: "merged", PKD2: None}
    told = [one for one in desk.published if isinstance(one, AnnotationsChanged)]
    assert {PKD1, PKD2} <= {gene for one in told for gene in one.genes}
    row = await desk.row("SELECT * FROM release_v1 WHERE release_id = :id", id=release_id)
    assert (row.state, row.changed_count) == ("stored", 2)
    run = await desk.row("SELECT * FROM run_source_v1 ORDER BY started_at DESC LIMIT 1")
    assert (run.total_count, run.done_count, run.no_data_count) == (len(kept), len(kept), 0)

    await publish(desk, kept | {PKD1: merged(BRAF)})  # And said again, it is no change.
    await desk.order(["hgnc"])
    await desk.work()
    rows = await desk.rows("SELECT state, changed_count FROM release_v1 ORDER BY retrieved_at")
    assert [(row.state, row.changed_count) for row in rows] == [
        *(("stored", len(IDS)), ("stored", 2)),
        ("stored", 0),
    ]


async def test_a_new_gene_is_pending_until_a_release_was_matched_against_it(desk: Desk) -> None:
    """That a release says nothing of a gene which nobody looked for in it means nothing."""
    keep_unchanged(desk)
    known: Genes = {hgnc_id: {"status": "approved", "symbol": hgnc_id} for hgnc_id in IDS}
    await publish(desk, known)
    await desk.order(["hgnc"])
    await desk.work()
    matched = await write_release(desk, [IDS])
    await desk.order(["hpo"])
    await desk.work()
    without = {hgnc_id: "empty" for hgnc_id in IDS if hgnc_id not in WITH_VALUE}
    assert await statuses(desk) == dict.fromkeys(WITH_VALUE, "ok") | without

    new = "HGNC:5"
    catalogue_id = await publish(desk, known | {new: {"status": "approved", "symbol": "A1BG"}})
    await desk.order(["hgnc"])
    await desk.work()
    assert await statuses(desk) == dict.fromkeys(WITH_VALUE, "ok") | without | {new: "pending"}
    steps = (
        ("state = 'accepted', stored_at = NULL, catalogue_id = :catalogue_id", "pending"),
        ("state = 'stored', stored_at = clock_timestamp()", "empty"),  # Staged and stored anew.
    )
    for step, status in steps:
        async with desk.engine.begin() as tx:
            await tx.execute(
                text(f"UPDATE release SET {step} WHERE id = :id"),  # noqa: S608
                {"id": matched, **({"catalogue_id": catalogue_id} if ":cat" in step else {})},
            )
        assert await statuses(desk) == dict.fromkeys(WITH_VALUE, "ok") | without | {new: status}


async def statuses(desk: Desk) -> dict[str, str]:
    rows = await desk.rows("SELECT hgnc_id, status FROM current_annotation_v1 WHERE source = 'hpo'")
    return {row.hgnc_id: row.status for row in rows}


async def said_now(desk: Desk) -> dict[str, str | None]:
    rows = await desk.rows("""
        SELECT hgnc_id, value->>'status' AS status FROM annotation_v1
        WHERE source = 'hgnc' AND is_current
    """)
    return {row.hgnc_id: row.status for row in rows}
