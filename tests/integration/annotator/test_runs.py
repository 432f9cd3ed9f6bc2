"""Runs from order to end: what is planned, counted, told, and what happens when upstreams fail."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from uuid import uuid4

import pytest
from sqlalchemy import text

from contracts.messages import (
    AnnotateBatch,
    AnnotationsChanged,
    BatchDead,
    RunCompleted,
    RunFact,
    RunPlanned,
    SourceCompleted,
    StartRun,
)
from services.annotator import domain
from services.annotator.domain import Client, Declaration, Gene, Page, Version
from services.annotator.sources import SOURCES
from services.annotator.store import batches, runs
from services.chassis.errors import PermanentError
from tests.builders import ASKABLE, IDS
from tests.integration.annotator.catalogue import write_catalogue
from tests.integration.annotator.desk import Desk
from tests.integration.annotator.small_release import keep_unchanged
from tests.system import Mirror


async def counts(desk: Desk) -> tuple[int, int, int]:
    row = await desk.row("""
        SELECT sum(done_count)::int AS done, sum(no_data_count)::int AS no_data,
               sum(failed_count)::int AS failed FROM run_source""")
    return row.done, row.no_data, row.failed


async def test_a_list_is_annotated_and_its_counters_equal_the_rows(desk: Desk) -> None:
    await write_catalogue(desk)
    run_id = await desk.order(["ensembl"], IDS)
    await desk.work()

    row = await desk.row("SELECT state, gene_count, open_sources FROM run")
    assert (row.state, row.gene_count, row.open_sources) == ("completed", len(IDS), 0)
    values = await desk.rows("SELECT 1 FROM annotation WHERE value IS NOT NULL")
    assert await counts(desk) == (len(values), len(IDS) - len(values), 0)
    assert len(values) == len(ASKABLE)
    assert run_id in desk.reported


async def test_facts_are_rows_in_order_and_the_run_completes_once(desk: Desk) -> None:
    await write_catalogue(desk)
    run_id = await desk.order(["ensembl"], IDS)
    await desk.work()

    rows = await desk.rows("SELECT seq, type FROM run_fact ORDER BY seq")
    assert [row.type.split(".", 1)[1] for row in rows] == [
        "run.planned.v1",
        "batch.annotated.v1",
        "source.completed.v1",
        "run.completed.v1",
    ]
    told = Counter(type(message) for message in desk.published)
    assert (told[RunPlanned], told[SourceCompleted], told[RunCompleted]) == (1, 1, 1)
    async with desk.engine.connect() as connection:
        progress = await runs.get_progress(connection, run_id)
    assert progress is not None
    assert progress.seq >= rows[-1].seq
    assert progress.state == "completed"


async def test_a_command_that_comes_twice_starts_one_run(desk: Desk) -> None:
    await write_catalogue(desk)
    command = StartRun(run_id=uuid4(), sources=("ensembl",), genes=tuple(IDS))
    await desk.handlers.on_start_run(command)
    await desk.handlers.on_start_run(command)
    await desk.work()
    await desk.handlers.on_start_run(command)
    await desk.work()

    assert len(await desk.rows("SELECT 1 FROM run")) == 1
    assert len(await desk.rows("SELECT 1 FROM batch WHERE kind = 'fetch'")) == 1
    assert sum(isinstance(message, RunCompleted) for message in desk.published) == 1


async def test_an_unknown_source_in_a_command_can_never_succeed(desk: Desk) -> None:
    with pytest.raises(PermanentError, match=r"'exac'.*accepted.*hgnc"):
        await desk.order(["exac"], IDS)


async def test_genes_a_source_cannot_be_asked_for_have_no_data_and_readers_hear_of_it(
    desk: Desk,
) -> None:
    await write_catalogue(desk)
    without = [hgnc_id for hgnc_id in IDS if hgnc_id not in ASKABLE]
    await desk.order(["ensembl"], without)
    await desk.work()

    assert await counts(desk) == (0, len(without), 0)
    assert (await desk.row("SELECT state FROM run")).state == "completed"
    told = [m.genes for m in desk.published if isinstance(m, AnnotationsChanged)]
    assert told == [tuple(without)]


async def test_an_unchanged_upstream_is_told_to_nobody(desk: Desk) -> None:
    await write_catalogue(desk)
    await desk.order(["ensembl"], IDS)
    await desk.work()
    desk.published.clear()
    versions = await desk.rows("SELECT id FROM annotation")

    await desk.order(["ensembl"], IDS)
    await desk.work()

    assert await desk.rows("SELECT id FROM annotation") == versions
    assert not [m for m in desk.published if isinstance(m, AnnotationsChanged)]
    assert len(await desk.rows("SELECT 1 FROM run WHERE state = 'completed'")) == 2
    assert len(await desk.rows("SELECT 1 FROM release WHERE source = 'ensembl'")) == 1


async def test_an_upstream_that_is_down_fails_its_source_and_keeps_the_last_good_values(
    desk: Desk, mirror: Mirror
) -> None:
    await write_catalogue(desk)
    await desk.order(["ensembl"], IDS)
    await desk.work()
    good = await desk.rows("SELECT hgnc_id, value::text FROM annotation ORDER BY hgnc_id")

    with mirror.fault("ensembl", kind="status", status=503):
        await desk.order(["ensembl"], IDS)
        for _ in range(domain.ATTEMPTS_MAX):
            await desk.work()
            await desk.make_due()
        await desk.work()

    row = await desk.row("""
        SELECT s.state, s.failed_count, s.problem->>'detail' AS detail, r.state AS run_state
        FROM run_source s JOIN run r ON r.id = s.run_id ORDER BY r.started_at DESC LIMIT 1""")
    assert (row.state, row.run_state) == ("failed", "failed")
    assert row.failed_count == len(ASKABLE)
    assert await desk.rows("SELECT 1 FROM batch WHERE state NOT IN ('done', 'dead')") == []
    assert "503" in row.detail
    assert sum(isinstance(message, BatchDead) for message in desk.published) == 1
    assert good == await desk.rows("SELECT hgnc_id, value::text FROM annotation ORDER BY hgnc_id")


async def test_an_upstream_that_comes_back_costs_an_attempt_and_nothing_else(
    desk: Desk, mirror: Mirror
) -> None:
    await write_catalogue(desk)
    with mirror.fault("ensembl", kind="status", status=500):
        await desk.order(["ensembl"], IDS)
        await desk.work()
    await desk.make_due()
    await desk.work()

    assert (await desk.row("SELECT state FROM run")).state == "completed"
    assert (await counts(desk))[2] == 0


async def test_without_any_catalogue_a_run_fails_with_the_reason(
    desk: Desk, mirror: Mirror
) -> None:
    with mirror.fault("hgnc", kind="status", status=403):
        await desk.order(["hgnc", "ensembl"])
        await desk.work()

    assert (await desk.row("SELECT state FROM run")).state == "failed"
    rows = await desk.rows("SELECT source, problem FROM run_source")
    problems = {row.source: row.problem for row in rows}
    assert "403" in problems["hgnc"]["detail"]
    assert problems["ensembl"]["type"] == "urn:annobus:problem:catalogue-empty"


async def test_two_runs_share_one_look_at_the_upstream(desk: Desk) -> None:
    await write_catalogue(desk)
    await desk.order(["ensembl"], IDS[:3])
    await desk.order(["ensembl"], IDS[3:])
    await desk.work()

    assert len(await desk.rows("SELECT 1 FROM batch WHERE kind = 'release'")) == 1
    assert len(await desk.rows("SELECT 1 FROM run WHERE state = 'completed'")) == 2


async def test_runs_take_turns_so_that_a_small_one_does_not_wait_for_a_big_one(desk: Desk) -> None:
    await write_catalogue(desk)
    big = await desk.order(["ensembl"], IDS)
    await desk.planner.plan_and_feed()
    for hint in await desk.relay():
        if isinstance(hint, AnnotateBatch):
            await desk.handlers.on_annotate_batch(hint)
    async with desk.engine.begin() as tx:  # As if the big run had a thousand batches.
        await tx.execute(
            text("""INSERT INTO batch (kind, source, run_id, genes)
                    SELECT 'fetch', 'ensembl', :run_id, ARRAY['HGNC:9008']
                    FROM generate_series(1, 1000)"""),
            {"run_id": big},
        )
    small = await desk.order(["ensembl"], IDS[:1])
    await desk.planner.plan_once()
    async with desk.engine.begin() as tx:
        await tx.execute(
            text("""UPDATE run_source SET state = 'running', release_id = (
                        SELECT id FROM release WHERE source = 'ensembl')
                    WHERE run_id = :run_id"""),
            {"run_id": small},
        )
    await desk.planner.emit_once()
    queued = await desk.rows("SELECT DISTINCT run_id FROM batch WHERE state = 'queued'")
    assert {row.run_id for row in queued} >= {big, small}


async def test_a_run_planned_while_a_release_is_being_accepted_is_not_forgotten(
    desk: Desk,
) -> None:
    """Whoever finishes the release waits for the plan, and so sees the run that waits for it."""
    await write_catalogue(desk)
    await desk.order(["ensembl"], IDS[:3])
    await desk.planner.plan_and_feed()
    (hint,) = [m for m in await desk.relay() if isinstance(m, AnnotateBatch)]
    late = await desk.order(["ensembl"], IDS[3:])
    async with desk.engine.begin() as tx:
        facts = await desk.planner.plan(tx, late)
        accepting = asyncio.create_task(desk.handlers.on_annotate_batch(hint))
        done, _ = await asyncio.wait({accepting}, timeout=1.0)
        assert not done, "the release was finished while a plan that relies on it was open"
        await runs.save_facts(tx, facts)
    await accepting
    await desk.work()

    rows = await desk.rows("SELECT state FROM run")
    assert [row.state for row in rows] == ["completed", "completed"]
    assert len(await desk.rows("SELECT 1 FROM batch WHERE kind = 'release'")) == 1


class Broken:
    """Stands for Ensembl, with a mistake of ours in it."""

    page_size = 1_000

    @property
    def declaration(self) -> Declaration:
        return SOURCES["ensembl"].declaration

    async def version(self, _: Client) -> Version:
        return Version("115", synthetic=True)

    async def fetch(self, _: Client, genes: Sequence[Gene]) -> Page:
        raise ZeroDivisionError(f"{len(genes)} genes by nothing")


async def test_an_unexpected_error_waits_for_its_next_attempt_and_keeps_its_reason(
    desk: Desk,
) -> None:
    await write_catalogue(desk)
    desk.use(sources={"ensembl": Broken()})
    await desk.order(["ensembl"], ASKABLE)
    await desk.work()

    waiting = """SELECT id, state, attempt, next_attempt_at > now() AS waits,
                        problem->>'detail' AS detail FROM batch WHERE kind = 'fetch'"""
    batch = await desk.row(waiting)
    assert (batch.state, batch.attempt, batch.waits) == ("pending", 1, True)
    assert "ZeroDivisionError: 7 genes by nothing" in batch.detail
    async with desk.engine.begin() as tx:
        assert await batches.claim_batch(tx, batch.id, "annotator-0") is None

    for _ in range(domain.ATTEMPTS_MAX - 1):
        await desk.make_due()
        await desk.work()
    batch = await desk.row(waiting)
    assert (batch.state, batch.attempt) == ("dead", domain.ATTEMPTS_MAX)
    source = await desk.row("SELECT state, problem->>'detail' AS detail FROM run_source")
    assert source.state == "failed"
    assert "ZeroDivisionError" in source.detail


@pytest.mark.parametrize("catalogue_age", ["0 s", "400 days"])
@pytest.mark.parametrize("sources", [("hgnc",), ("hgnc", "ensembl")])
async def test_no_fact_is_ahead_of_its_run(
    desk: Desk, sources: tuple[str, ...], catalogue_age: str
) -> None:
    """With an outdated catalogue its source is done before the run is planned."""
    await write_catalogue(desk)
    keep_unchanged(desk)
    async with desk.engine.begin() as tx:
        await tx.execute(
            text("""
                UPDATE release SET parser_version = :parser_version,
                                   checked_at = now() - CAST(:age AS text)::interval
                WHERE source = 'hgnc'
            """),
            {"parser_version": SOURCES["hgnc"].declaration.parser_version, "age": catalogue_age},
        )
    run_id = await desk.order(sources)
    await desk.work()

    facts = [message for message in desk.published if isinstance(message, RunFact)]
    seqs = [fact.seq for fact in facts]
    assert sum(isinstance(fact, RunCompleted) for fact in facts) == 1
    assert isinstance(facts[-1], RunCompleted)
    assert seqs == sorted(set(seqs))
    async with desk.engine.connect() as connection:
        progress = await runs.get_progress(connection, run_id)
    assert progress is not None
    assert progress.state == "completed"
    assert progress.seq >= seqs[-1]
    assert (await desk.row("SELECT seq FROM run")).seq >= seqs[-1]


async def test_a_gene_without_the_identifier_is_found_empty_by_every_run(desk: Desk) -> None:
    await write_catalogue(desk)
    (without,) = set(IDS) - set(ASKABLE)
    await desk.order(["ensembl"], IDS)
    await desk.work()
    async with desk.engine.begin() as tx:
        await tx.execute(text("UPDATE checked SET checked_at = now() - interval '400 days'"))
    status = """SELECT status, checked_at > now() - interval '1 day' AS is_new
                FROM current_annotation_v1 WHERE source = 'ensembl' AND hgnc_id = :hgnc_id"""
    assert (await desk.row(status, hgnc_id=without)).status == "stale"
    desk.published.clear()

    await desk.order(["ensembl"], IDS)
    await desk.work()

    row = await desk.row(status, hgnc_id=without)
    assert (row.status, row.is_new) == ("empty", True)
    assert not [m for m in desk.published if isinstance(m, AnnotationsChanged)]


@pytest.mark.parametrize("outcome", ["ok", "error"])
async def test_a_gene_that_lost_its_identifier_keeps_its_value(desk: Desk, outcome: str) -> None:
    await write_catalogue(desk)
    await desk.order(["ensembl"], IDS)
    await desk.work()
    lost = ASKABLE[0]
    async with desk.engine.begin() as tx:
        await tx.execute(
            text("UPDATE gene SET ensembl_gene_id = NULL WHERE hgnc_id = :lost"), {"lost": lost}
        )
        await tx.execute(
            text("""UPDATE checked SET outcome = :outcome, problem = :problem
                    WHERE hgnc_id = :lost"""),
            {
                "lost": lost,
                "outcome": outcome,
                "problem": '{"title": "no answer"}' if outcome == "error" else None,
            },
        )
    before = await desk.row("SELECT * FROM checked WHERE hgnc_id = :lost", lost=lost)

    await desk.order(["ensembl"], IDS)
    await desk.work()

    assert await desk.row("SELECT * FROM checked WHERE hgnc_id = :lost", lost=lost) == before
    row = await desk.row(
        """SELECT status, value FROM current_annotation_v1
           WHERE source = 'ensembl' AND hgnc_id = :lost""",
        lost=lost,
    )
    assert row.status == outcome
    assert row.value is not None


async def test_a_command_that_names_a_gene_or_a_source_twice_starts_one_run(desk: Desk) -> None:
    await write_catalogue(desk)
    genes = (IDS[0], IDS[1], IDS[0])
    command = StartRun(run_id=uuid4(), sources=("ensembl", "ensembl"), genes=genes)
    await desk.handlers.on_start_run(command)
    await desk.work()

    row = await desk.row("SELECT state, gene_count, open_sources FROM run")
    assert (row.state, row.gene_count, row.open_sources) == ("completed", 2, 0)
    assert await counts(desk) == (2, 0, 0)
