"""Slices of a release that die, wait or are revived while runs follow it: every gene once."""

import asyncio
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from contracts.messages import AnnotateBatch, BatchDead
from services.annotator import domain
from services.annotator.domain import Batch, Counts
from services.annotator.errors import AttemptsUsedUp
from services.annotator.store import batches, counting, slices
from services.chassis.errors import PermanentError, Problem
from tests.builders import IDS
from tests.integration.annotator.catalogue import write_catalogue
from tests.integration.annotator.desk import Desk
from tests.integration.annotator.small_release import (
    WITH_VALUE,
    keep_unchanged,
    look_upstream,
    write_release,
)

WAIT_SECONDS = 4  # A transaction that waits longer is ended by the database.
SLICES = [IDS[:4], IDS[4:]]


async def claim_slice(desk: Desk) -> Batch:
    """The slice of the first four genes."""
    row = await desk.row(
        "SELECT id FROM batch WHERE kind = 'store' AND :first = ANY(genes)", first=IDS[0]
    )
    async with desk.engine.begin() as tx:
        batch = await batches.claim_batch(tx, row.id, "annotator-0")
    assert batch is not None
    return batch


async def failed(desk: Desk, run_id: UUID) -> int:
    row = await desk.row("SELECT failed_count FROM run_source WHERE run_id = :id", id=run_id)
    return int(row.failed_count)


async def outcome(desk: Desk, run_id: UUID) -> tuple[str, int, int, int]:
    """The run's state, and its genes done, without data and failed."""
    row = await desk.row(
        """SELECT run.state, done_count, no_data_count, failed_count
           FROM run_source JOIN run ON run.id = run_id WHERE run_id = :id""",
        id=run_id,
    )
    return row.state, row.done_count, row.no_data_count, row.failed_count


async def test_a_dead_slice_that_is_revived_is_not_counted_twice(desk: Desk) -> None:
    await write_catalogue(desk)
    keep_unchanged(desk)
    await write_release(desk, SLICES)
    everything = await desk.order(["hpo"])
    two = await desk.order(["hpo"], [IDS[0], IDS[-1]])  # One of each slice.
    await look_upstream(desk)
    await desk.handlers.give_back(await claim_slice(desk), PermanentError("it cannot be stored"))
    assert (await failed(desk, everything), await failed(desk, two)) == (4, 1)

    later = await desk.order(["hpo"])  # Somebody asks anew, and what is dead is tried again.
    await look_upstream(desk)
    assert (await failed(desk, everything), await failed(desk, two)) == (0, 0)
    await desk.work()

    whole = ("completed", len(WITH_VALUE), len(IDS) - len(WITH_VALUE), 0)
    assert await outcome(desk, everything) == await outcome(desk, later) == whole
    assert await outcome(desk, two) == ("completed", 1, 1, 0)


async def test_a_dead_slice_is_no_problem_of_a_run_that_wants_none_of_its_genes(
    desk: Desk,
) -> None:
    await write_catalogue(desk)
    keep_unchanged(desk)
    await write_release(desk, SLICES)
    hit = await desk.order(["hpo"], [IDS[0]])
    other = await desk.order(["hpo"], [IDS[-1]])
    await look_upstream(desk)
    await desk.handlers.give_back(await claim_slice(desk), PermanentError("it cannot be stored"))

    rows = await desk.rows("SELECT run_id, problem IS NULL AS well FROM run_source")
    assert {row.run_id: row.well for row in rows} == {hit: False, other: True}
    await desk.work()
    told = [message.run_id for message in desk.published if isinstance(message, BatchDead)]
    assert told == [hit]
    assert await outcome(desk, other) == ("completed", 0, 1, 0)


async def test_a_run_that_is_counted_afresh_has_no_problem_any_more(desk: Desk) -> None:
    await write_catalogue(desk)
    keep_unchanged(desk)
    await write_release(desk, SLICES)
    run_id = await desk.order(["hpo"])
    await look_upstream(desk)
    await desk.handlers.give_back(await claim_slice(desk), PermanentError("it cannot be stored"))
    assert await failed(desk, run_id) == 4

    async with desk.engine.begin() as tx:  # As when a newer release is accepted.
        await counting.detach_runs(tx, "hpo", uuid4())
    row = await desk.row("SELECT state, failed_count, problem FROM run_source")
    assert (row.state, row.failed_count, row.problem) == ("waiting", 0, None)


async def test_counters_that_are_taken_back_are_another_snapshot(desk: Desk) -> None:
    """Who has one with this seq would not take it for news."""
    await write_catalogue(desk)
    release_id = await write_release(desk, SLICES)
    keep_unchanged(desk)
    run_id = await desk.order(["hpo"])
    await look_upstream(desk)
    await desk.handlers.give_back(await claim_slice(desk), PermanentError("it cannot be stored"))
    before = (await desk.row("SELECT seq FROM run")).seq

    async with desk.engine.begin() as tx:
        await slices.revive_slices(tx, release_id)
    assert await failed(desk, run_id) == 0
    assert (await desk.row("SELECT seq FROM run")).seq > before


@pytest.mark.parametrize("dead_first", [False, True])
async def test_a_source_that_gave_no_value_and_had_a_problem_failed_whatever_ended_last(
    desk: Desk, dead_first: bool
) -> None:
    await write_catalogue(desk)
    run_id = await desk.order(["ensembl"], IDS[:2])
    await desk.planner.plan_once()
    steps: list[tuple[Counts, Problem | None]] = [
        (Counts(no_data=1), None),
        (Counts(failed=1), {"title": "no answer"}),
    ]
    async with desk.engine.begin() as tx:
        for counts, problem in reversed(steps) if dead_first else steps:
            await counting.advance(tx, run_id, "ensembl", counts, problem)
    row = await desk.row("SELECT state, problem FROM run_source")
    assert (row.state, row.problem) == ("failed", {"title": "no answer"})


@pytest.mark.parametrize("worn_out", [False, True])
async def test_a_run_that_comes_while_a_slice_is_buried_waits_and_does_not_hang(
    desk: Desk, worn_out: bool
) -> None:
    """Who buries has looked which runs follow, and has not committed: nobody may follow now."""
    await write_catalogue(desk)
    keep_unchanged(desk)
    await write_release(desk, SLICES)
    early = await desk.order(["hpo"])
    await look_upstream(desk)
    batch = await claim_slice(desk)
    late = await desk.order(["hpo"])
    await desk.planner.plan_once()
    look = await desk.row("SELECT id FROM batch WHERE kind = 'release' AND state = 'pending'")

    async def bury() -> None:
        if worn_out:
            await desk.planner.bury(batch, AttemptsUsedUp("its workers died"))
        else:
            await desk.handlers.give_back(batch, PermanentError("it cannot be stored"))

    async with desk.engine.begin() as holding:  # The burial stops at the counters of this run.
        await holding.execute(
            text("SELECT FROM run_source WHERE run_id = :early FOR UPDATE"), {"early": early}
        )
        burying = asyncio.create_task(bury())
        await desk.until_waiting(1, burying)
        attaching = asyncio.create_task(
            desk.handlers.on_annotate_batch(AnnotateBatch(batch_id=look.id, source="hpo"))
        )
        await desk.until_waiting(2, attaching)  # For the source's clock.
    await asyncio.gather(burying, attaching)
    await desk.work()

    whole = ("completed", len(WITH_VALUE), len(IDS) - len(WITH_VALUE), 0)
    assert await outcome(desk, early) == await outcome(desk, late) == whole


async def test_slices_whose_staged_rows_are_gone_wait_for_them_and_lose_no_attempt(
    desk: Desk,
) -> None:
    await write_catalogue(desk)
    release_id = await write_release(desk, SLICES)
    (first, _) = await desk.rows("SELECT id FROM batch ORDER BY id")
    async with desk.engine.begin() as tx:  # What a crash does to unlogged tables.
        for table in ("staged", "staged_release"):
            await tx.execute(text(f"DELETE FROM {table}"))  # noqa: S608

    for _ in range(domain.ATTEMPTS_MAX + 1):
        hint = AnnotateBatch(batch_id=first.id, source="hpo")
        await desk.handlers.on_annotate_batch(hint)
        batch = await desk.row("SELECT * FROM batch WHERE id = :id", id=first.id)
        assert (batch.state, batch.attempt) == ("pending", 0)
        assert batch.problem["type"].endswith("release-missing")
        await desk.make_due()

    release = await desk.row("SELECT state FROM release WHERE id = :id", id=release_id)
    assert release.state == "fetched"
    await desk.planner.emit_once()  # The slices are due, but there is nothing to store.
    queued = await desk.rows("SELECT kind FROM batch WHERE state = 'queued'")
    assert [row.kind for row in queued] == ["release"]

    async with desk.engine.begin() as tx:
        await tx.execute(
            text("UPDATE release SET state = 'accepted', accepted_at = now() WHERE id = :id"),
            {"id": release_id},
        )
    await desk.planner.emit_once()
    queued = await desk.rows("SELECT 1 FROM batch WHERE kind = 'store' AND state = 'queued'")
    assert len(queued) == len(SLICES)
