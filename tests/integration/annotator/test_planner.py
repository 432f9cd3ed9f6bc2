"""What the planner does with runs that it cannot plan, and with what keeps it from its work."""

from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.messages import AnnotateBatch, RunFact
from services.annotator.domain import Batch
from services.annotator.errors import LeaseLost
from services.annotator.planner import Planner
from services.annotator.sources import SOURCES
from services.annotator.store import batches, counting
from services.chassis.errors import AnnobusError
from tests.builders import ASKABLE, IDS
from tests.integration.annotator.catalogue import write_catalogue
from tests.integration.annotator.desk import Desk
from tests.integration.annotator.small_release import keep_unchanged, write_release
from tests.system import Database


async def run_states(desk: Desk) -> list[str]:
    rows = await desk.rows("SELECT state FROM run ORDER BY started_at")
    return [row.state for row in rows]


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("INSERT INTO run (id) VALUES (NULL)", "null value"),
        ("SELECT CAST('9' || repeat('9', 20) AS bigint)", "out of range"),
    ],
)
async def test_a_run_that_cannot_be_planned_fails_and_holds_up_no_other(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, statement: str, says: str
) -> None:
    await write_catalogue(desk)
    poison = await desk.order(["ensembl"], IDS)
    await desk.order(["ensembl"], IDS)
    plan = Planner.plan

    async def stumble(planner: Planner, tx: AsyncConnection, run_id: UUID) -> list[RunFact]:
        facts = await plan(planner, tx, run_id)
        if run_id == poison:  # At its end: all that was planned is rolled back.
            await tx.execute(text(statement))
        return facts

    monkeypatch.setattr(Planner, "plan", stumble)
    await desk.work()

    assert await run_states(desk) == ["failed", "completed"]
    row = await desk.row("SELECT * FROM run_source WHERE run_id = :id", id=poison)
    assert says in row.problem["detail"]
    assert (row.state, row.total_count) == ("failed", 0)
    assert await desk.rows("SELECT 1 FROM batch WHERE run_id = :id", id=poison) == []


async def withdraw(desk: Desk, *genes: str) -> None:
    async with desk.engine.begin() as tx:
        await tx.execute(
            text("UPDATE gene SET status = 'withdrawn' WHERE hgnc_id = ANY(:genes)"),
            {"genes": list(genes)},
        )


async def test_a_run_has_the_genes_that_were_approved_when_it_was_planned(desk: Desk) -> None:
    """For each of its sources: files, an API, and the catalogue's own."""
    await write_catalogue(desk)
    keep_unchanged(desk)
    await write_release(desk, [IDS[:4], IDS[4:]])
    sources = ["hpo", "ensembl"]
    await desk.order(sources, IDS[:3])
    await withdraw(desk, IDS[0])
    await desk.planner.plan_and_feed()
    await withdraw(desk, IDS[1])  # From now on it is the run's.
    await desk.work()

    assert (await desk.row("SELECT state, gene_count FROM run")).gene_count == 2
    assert await run_states(desk) == ["completed"]
    rows = await desk.rows("SELECT * FROM run_source")
    counted = {row.source: (row.total_count, row.done_count + row.no_data_count) for row in rows}
    assert counted == dict.fromkeys(sources, (2, 2))


async def test_a_list_follows_no_release_before_it_is_planned(desk: Desk) -> None:
    """What is accepted now may withdraw some of its genes."""
    release_id = await write_catalogue(desk)
    listed = await desk.order(["hgnc"], IDS[:2])
    async with desk.engine.begin() as tx:
        await counting.attach_runs(tx, "hgnc", release_id, is_api=False)
    assert await desk.source_states(listed) == {"hgnc": "waiting"}


async def test_a_run_whose_genes_were_all_withdrawn_fails_with_that_reason(desk: Desk) -> None:
    await write_catalogue(desk)
    await desk.order(["ensembl"], IDS[:2])
    await withdraw(desk, *IDS[:2])
    await desk.work()

    assert await run_states(desk) == ["failed"]
    problem = (await desk.row("SELECT problem FROM run_source")).problem
    assert problem["type"] == "urn:annobus:problem:genes-withdrawn"
    assert "hgnc" not in problem["detail"]
    assert "none of the 2 genes that the run names is approved" in problem["detail"]
    assert any(hgnc_id in problem["detail"] for hgnc_id in IDS[:2])


async def test_a_source_that_is_not_known_here_yet_leaves_its_run_to_who_knows_it(
    desk: Desk, database: Database
) -> None:
    """`annobus migrate` has declared it, and this process is from before."""
    await write_catalogue(desk)
    async with database.connect() as owner:
        await owner.execute("""
            INSERT INTO annotator.source SELECT (jsonb_populate_record(s, '{"name": "exac"}')).*
            FROM annotator.source s WHERE name = 'hpo'""")
    await desk.order(["exac"], IDS)
    await desk.order(["ensembl"], IDS)
    await desk.work()
    assert await run_states(desk) == ["planning", "completed"]

    desk.use(sources={"exac": SOURCES["hpo"]})
    assert await desk.planner.plan_once() == 1
    assert await run_states(desk) == ["running", "completed"]


async def test_a_source_that_was_removed_fails_with_that_reason(
    desk: Desk, database: Database
) -> None:
    await write_catalogue(desk)
    async with database.connect() as owner:
        await owner.execute("""
            INSERT INTO annotator.source
            SELECT (jsonb_populate_record(s, '{"name": "exac", "is_retired": true}')).*
            FROM annotator.source s WHERE name = 'hpo'""")
    await desk.order(["exac", "ensembl"], ASKABLE)
    await desk.work()

    assert await run_states(desk) == ["completed_with_errors"]
    row = await desk.row("SELECT * FROM run_source WHERE source = 'exac'")
    assert (row.state, row.failed_count) == ("failed", len(ASKABLE))
    assert row.problem["type"] == "urn:annobus:problem:source-retired"
    assert await desk.rows("SELECT 1 FROM batch WHERE source = 'exac'") == []


@pytest.mark.parametrize("source", ["hpo", "ensembl"])
async def test_a_source_that_is_removed_while_runs_work_it_ends_in_them(
    desk: Desk, database: Database, source: str
) -> None:
    """Its look, and the batches of its runs, wait for workers that do not come back."""
    await write_catalogue(desk)
    await desk.order([source], ASKABLE)
    await desk.planner.plan_and_feed()
    if source == "ensembl":  # Its look is done, its batches are cut.
        (hint,) = [one for one in await desk.relay() if isinstance(one, AnnotateBatch)]
        await desk.handlers.on_annotate_batch(hint)
        await desk.planner.plan_and_feed()
    async with database.connect() as owner:
        await owner.execute("UPDATE annotator.source SET is_retired = true WHERE name = $1", source)
    await desk.relay()
    await desk.planner.sweep_once()

    row = await desk.row("SELECT * FROM run_source")
    assert (row.state, row.failed_count) == ("failed", len(ASKABLE))
    assert await run_states(desk) == ["failed"]
    open_batches = await desk.rows("SELECT 1 FROM batch WHERE state NOT IN ('done', 'dead')")
    problems = await desk.rows("SELECT problem FROM batch WHERE state = 'dead'")
    assert open_batches == []
    assert {row.problem["type"] for row in problems} == {"urn:annobus:problem:source-retired"}


async def test_worn_out_batches_are_taken_a_few_at_a_time_and_none_that_somebody_holds(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_catalogue(desk)
    await desk.order(["hpo", "gnomad", "ensembl"], IDS)
    await desk.planner.plan_once()
    async with desk.engine.begin() as tx:
        await tx.execute(
            text("""
                UPDATE batch SET state = 'leased', attempt = 5, lease_owner = 'annotator-9',
                                 lease_until = now() - interval '1 minute'
                WHERE kind = 'release'
            """)
        )
    async with desk.engine.begin() as renewing:
        await renewing.execute(
            text("UPDATE batch SET lease_until = now() + interval '6 s' WHERE source = 'hpo'")
        )
        async with desk.engine.begin() as tx:
            taken = await batches.take_worn_out_batches(tx, "annotator-0")
            assert sorted(batch.source for batch in taken) == ["ensembl", "gnomad"]
    monkeypatch.setattr(batches, "SWEPT_MAX", 1)
    async with desk.engine.begin() as tx:
        assert len(await batches.take_worn_out_batches(tx, "annotator-0")) == 1


async def test_a_burial_that_another_was_faster_at_holds_up_no_other(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_catalogue(desk)
    await desk.order(["ensembl"], IDS)
    await desk.order(["hpo"], IDS)
    await desk.planner.plan_once()
    await desk.planner.plan_once()
    async with desk.engine.begin() as tx:
        await tx.execute(
            text("""
                UPDATE batch SET state = 'leased', attempt = 5, lease_owner = 'annotator-9',
                                 lease_until = now() - interval '1 minute'
                WHERE kind = 'release'
            """)
        )
    tried: list[str] = []
    bury = Planner.bury

    async def lose_the_first(planner: Planner, batch: Batch, error: AnnobusError) -> None:
        tried.append(batch.source)
        if len(tried) == 1:
            raise LeaseLost(batch.id, batch.lease_token)
        await bury(planner, batch, error)

    monkeypatch.setattr(Planner, "bury", lose_the_first)
    await desk.planner.sweep_once()
    assert sorted(tried) == ["ensembl", "hpo"]
    rows = await desk.rows("SELECT source FROM batch WHERE kind = 'release' AND state = 'dead'")
    assert [row.source for row in rows] == tried[1:]


async def test_staged_rows_that_somebody_holds_keep_no_batch_from_being_fed(desk: Desk) -> None:
    """The child process that reads a release holds them for as long as that takes."""
    await write_catalogue(desk)
    await desk.order(["ensembl"], IDS)
    async with desk.engine.begin() as tx:
        await tx.execute(
            text("""
                INSERT INTO staged_release (release_id)
                SELECT id FROM release WHERE source = 'hgnc' AND state = 'stored'
            """)
        )
    async with desk.engine.begin() as holding:
        await holding.execute(text("SELECT FROM staged_release FOR UPDATE"))
        await desk.planner.plan_and_feed()
        queued = await desk.rows("SELECT kind FROM batch WHERE state = 'queued'")
        assert [row.kind for row in queued] == ["release"]
    await desk.planner.sweep_once()
    assert await desk.rows("SELECT 1 FROM staged_release") == []
