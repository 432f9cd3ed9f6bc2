"""Dry runs say what a run would fetch and change, and change nothing that a reader sees."""

from collections import Counter
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from contracts.messages import AnnotateBatch, AnnotationsChanged, ReleaseStored, SourceCompleted
from services.annotator.errors import ReleaseMissing
from services.annotator.store import batches
from services.annotator.store.feeding import Pace
from tests.builders import ASKABLE, IDS
from tests.integration.annotator.catalogue import write_catalogue
from tests.integration.annotator.desk import Desk
from tests.integration.annotator.publishing import edit, publish
from tests.system import Mirror

TABLE = "genes_to_phenotype.txt"


async def dry_run(desk: Desk, source: str, genes: list[str] | None = None) -> Any:
    """Its row, when it has ended."""
    run_id = await desk.order([source], genes, dry_run=True)
    await desk.work()
    return await outcome(desk, run_id)


async def outcome(desk: Desk, run_id: UUID) -> Any:
    return await desk.row(
        """SELECT run.state AS run_state, rs.state, rs.total_count, rs.preview, rs.problem
           FROM run JOIN run_source rs ON rs.run_id = run.id WHERE run.id = :run_id""",
        run_id=run_id,
    )


async def readable(desk: Desk) -> list[Any]:
    """All that a reader can tell from, but for the runs."""
    tables = {
        "annotation": "id",
        "checked": "source, hgnc_id",
        "gene": "hgnc_id",
        "release_change": "xid",
        "source_v1": "name",
    }
    return [
        await desk.row(
            f"SELECT count(*), md5(string_agg(t::text, '' ORDER BY {order})) FROM {name} t"  # noqa: S608
        )
        for name, order in tables.items()
    ]


async def test_what_a_dry_run_says_of_a_release_is_what_a_run_does_without_another_download(
    loaded_desk: Desk, mirror: Mirror
) -> None:
    desk = loaded_desk
    before = await readable(desk)
    first = await dry_run(desk, "hpo")
    assert (first.run_state, first.state, first.total_count) == ("completed", "completed", 0)
    assert first.preview["new_count"] > 5_000
    assert await readable(desk) == before
    assert (await desk.row("SELECT state FROM release WHERE source = 'hpo'")).state == "staged"

    asked = mirror.counters("hpo")
    await desk.order(["hpo"])
    await desk.work()
    assert mirror.counters("hpo")["not_modified"] - asked["not_modified"] == 3
    assert mirror.counters("hpo")["requests"] - asked["requests"] == 3
    stored = await desk.row("SELECT count(*) AS n FROM annotation WHERE source = 'hpo'")
    assert first.preview == {
        "release": (await desk.row("SELECT version FROM release WHERE source = 'hpo'")).version,
        "is_new_release": True,
        "new_count": stored.n,
        "changed_count": 0,
        "withdrawn_count": 0,
        "unchanged_count": 0,
        "severities": {"none": 0, "minor": 0, "major": 0, "clinical": 0},
    }

    before = await readable(desk)
    again = await dry_run(desk, "hpo")
    assert await readable(desk) == before  # Nor that it was seen a moment ago.
    assert (again.preview["is_new_release"], again.preview["unchanged_count"]) == (False, stored.n)

    publisher = await publish(desk, "hpo")
    publisher.contents[TABLE] = edit(publisher.contents[TABLE], 3, {"drop": 0.01, "trim": 0.02})
    before = await readable(desk)
    desk.published.clear()
    changed = (await dry_run(desk, "hpo")).preview
    sent = publisher.sent
    assert await readable(desk) == before
    assert not [m for m in desk.published if isinstance(m, AnnotationsChanged | ReleaseStored)]
    assert changed["changed_count"] > 50
    assert changed["withdrawn_count"] > 10

    await desk.order(["hpo"])
    await desk.work()
    assert publisher.sent == sent
    changes = await desk.rows("""
        SELECT c.severity, c.before IS NULL AS is_new, c.after IS NULL AS is_withdrawn
        FROM change_v1 c JOIN release r ON r.id = c.release_id
        WHERE r.id = (SELECT id FROM release WHERE source = 'hpo'
                      ORDER BY retrieved_at DESC LIMIT 1)
    """)
    assert changed["new_count"] == sum(row.is_new for row in changes)
    assert changed["withdrawn_count"] == sum(row.is_withdrawn for row in changes)
    assert changed["changed_count"] == sum(not (row.is_new or row.is_withdrawn) for row in changes)
    weights = Counter(row.severity for row in changes)
    assert changed["severities"] == {
        name: weights[name] for name in ("none", "minor", "major", "clinical")
    }


async def test_a_dry_run_counts_the_genes_of_its_list_alone(loaded_desk: Desk) -> None:
    listed = await dry_run(loaded_desk, "hpo", ["HGNC:9008", "HGNC:9009"])
    assert listed.preview["new_count"] == 2


async def test_a_run_that_comes_while_a_dry_one_waits_shares_its_look(
    loaded_desk: Desk, mirror: Mirror
) -> None:
    desk = loaded_desk
    asked = mirror.counters("hpo")["requests"]
    dry = await desk.order(["hpo"], dry_run=True)
    while await desk.planner.plan_once():
        pass
    real = await desk.order(["hpo"])
    await desk.work()

    assert mirror.counters("hpo")["requests"] - asked == 3
    told, done = await outcome(desk, dry), await outcome(desk, real)
    assert (told.total_count, done.run_state) == (0, "completed")
    stored = await desk.row("SELECT count(*) AS n FROM annotation WHERE source = 'hpo'")
    assert told.preview["new_count"] == stored.n > 5_000


async def test_a_dry_look_that_others_wait_for_by_now_is_done_again(desk: Desk) -> None:
    await write_catalogue(desk)
    await desk.order(["hpo"], IDS, dry_run=True)
    await desk.planner.plan_and_feed()
    (hint,) = [m for m in await desk.relay() if isinstance(m, AnnotateBatch)]
    async with desk.engine.begin() as tx:
        batch = await batches.claim_batch(tx, hint.batch_id, "annotator-0")
    assert batch is not None
    assert batch.is_dry
    async with desk.engine.begin() as tx:
        await batches.open_release_batches(tx, ["hpo"])
    with pytest.raises(ReleaseMissing, match="ordered meanwhile"):
        async with desk.engine.begin() as tx:
            await batches.finish_batch(tx, batch)


async def test_an_api_is_not_asked_and_its_requests_are_counted(desk: Desk, mirror: Mirror) -> None:
    await write_catalogue(desk)
    before, asked = await readable(desk), mirror.counters("ensembl")["requests"]
    desk.planner.paces = {"ensembl": Pace(per_second=0.5, concurrency=1)}
    told = await dry_run(desk, "ensembl", IDS)

    assert (told.run_state, told.state, told.total_count) == ("completed", "completed", 0)
    assert told.preview == {"gene_count": len(ASKABLE), "request_count": 1, "seconds": 2.0}
    assert await readable(desk) == before
    assert mirror.counters("ensembl")["requests"] == asked
    assert await desk.rows("SELECT 1 FROM batch") == []
    (end,) = [m for m in desk.published if isinstance(m, SourceCompleted)]
    assert (end.state, end.done_count + end.no_data_count + end.failed_count) == ("completed", 0)


async def test_a_dry_run_does_not_fill_an_empty_catalogue(desk: Desk) -> None:
    told = await dry_run(desk, "hpo")
    assert (told.run_state, told.problem["title"]) == ("failed", "The gene catalogue is empty")
    assert "a dry run fills no catalogue" in told.problem["detail"]
    assert await desk.rows("SELECT 1 FROM batch") == []


async def test_a_preview_and_counted_genes_exclude_each_other(desk: Desk) -> None:
    await write_catalogue(desk)
    await desk.order(["ensembl"], IDS)
    await desk.planner.plan_and_feed()
    with pytest.raises(IntegrityError, match="check constraint"):
        async with desk.engine.begin() as tx:
            await tx.execute(text("UPDATE run_source SET preview = '{}'"))
