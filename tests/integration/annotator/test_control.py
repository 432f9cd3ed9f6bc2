"""Controls of runs: paused, resumed and cancelled, as a whole or one source of them."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from contracts.messages import (
    AnnotateBatch,
    ControlAction,
    ControlRun,
    RunCancelled,
    RunCompleted,
    RunFact,
    RunPaused,
    RunResumed,
    SourceCompleted,
)
from services.annotator import handlers
from services.annotator.domain import ATTEMPTS_MAX, Answer, Client, Declaration, Gene, Page, Version
from services.annotator.sources import SOURCES
from services.annotator.store import annotations, batches, runs
from services.annotator.upstream import Telling
from services.chassis.errors import PermanentError
from tests.builders import ASKABLE, IDS
from tests.integration.annotator.catalogue import write_catalogue
from tests.integration.annotator.desk import Desk
from tests.integration.annotator.small_release import WITH_VALUE, keep_unchanged, write_release
from tests.integration.chassis.desk import WAIT_SECONDS, soon

PAGE = 2


@dataclass
class Slow:
    """Stands for Ensembl: a batch of all genes, pages of two, each of which waits to be let go."""

    page_size: int = 1_000  # Of the plan; then PAGE.
    asked: list[str] = field(default_factory=list)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def declaration(self) -> Declaration:
        return SOURCES["ensembl"].declaration

    async def version(self, _: Client) -> Version:
        return Version("115", synthetic=True)

    async def fetch(self, client: Client, genes: Sequence[Gene]) -> Page:
        assert isinstance(client, Telling)
        client.sent()
        self.asked += [gene.hgnc_id for gene in genes]
        self.began.set()
        await self.go_on.wait()
        answers = [Answer(gene.hgnc_id, None, place) for place, gene in enumerate(genes)]
        return Page("http://made.up", b"{}", answers)


@dataclass
class Case:
    desk: Desk
    slow: Slow
    run_id: UUID

    async def control(self, action: ControlAction, epoch: int, source: str | None = None) -> None:
        """As both readers of the topic have it: every annotator at once, one writes the rows."""
        command = ControlRun(run_id=self.run_id, action=action, source=source, epoch=epoch)
        await self.desk.handlers.hear_control(command)
        await self.desk.handlers.on_control_run(command)

    async def begin_page(self) -> "asyncio.Task[None]":
        """A worker that is in the middle of a call."""
        hints = [m for m in await self.desk.relay() if isinstance(m, AnnotateBatch)]
        self.slow.began.clear()
        working = asyncio.create_task(self.desk.handlers.on_annotate_batch(hints[0]))
        await soon(self.slow.began)
        return working

    async def run(self) -> Any:
        return await self.desk.row("SELECT * FROM run WHERE id = :id", id=self.run_id)

    async def source(self, name: str = "ensembl") -> Any:
        return await self.desk.row(
            "SELECT * FROM run_source WHERE run_id = :id AND source = :name",
            id=self.run_id,
            name=name,
        )

    async def batch(self) -> Any:
        return await self.desk.row("SELECT * FROM batch WHERE kind = 'fetch'")

    async def facts(self) -> list[RunFact]:
        await self.desk.relay()
        return [m for m in self.desk.published if isinstance(m, RunFact)]


async def begin(desk: Desk, sources: Sequence[str] = ("ensembl",)) -> Case:
    """A run whose one batch of Ensembl genes is queued, four pages long."""
    await write_catalogue(desk)
    keep_unchanged(desk)
    slow = Slow()
    desk.use(sources={"ensembl": slow})
    run_id = await desk.order(sources, ASKABLE)
    await desk.planner.plan_and_feed()
    for hint in await desk.relay():
        if isinstance(hint, AnnotateBatch):
            await desk.handlers.on_annotate_batch(hint)
    slow.page_size = PAGE
    await desk.planner.plan_and_feed()
    return Case(desk, slow, run_id)


async def test_a_paused_run_finishes_its_page_and_goes_on_there_with_no_gene_asked_twice(
    desk: Desk,
) -> None:
    case = await begin(desk)
    working = await case.begin_page()
    await case.control("pause", 1)
    assert (await case.run()).state == "paused"
    case.slow.go_on.set()
    await working

    batch = await case.batch()
    assert (batch.state, batch.checkpoint, batch.attempt) == ("pending", PAGE, 0)
    assert (await case.source()).no_data_count == PAGE  # The page in flight is stored.
    await desk.make_due()
    await desk.work()
    assert len(case.slow.asked) == PAGE

    await case.control("resume", 2)
    await desk.work()

    assert (await case.run()).state == "completed"
    assert Counter(case.slow.asked) == Counter(ASKABLE)
    batch = await case.batch()
    assert (batch.state, batch.attempt) == ("done", 1)
    facts = await case.facts()
    assert sum(isinstance(fact, RunCompleted) for fact in facts) == 1
    assert [type(f) for f in facts if isinstance(f, RunPaused | RunResumed)] == [
        RunPaused,
        RunResumed,
    ]
    assert [fact.seq for fact in facts] == sorted({fact.seq for fact in facts})


async def test_a_hint_of_a_paused_run_finds_nothing_and_leaves_its_window(desk: Desk) -> None:
    case = await begin(desk)
    hints = [m for m in await desk.relay() if isinstance(m, AnnotateBatch)]
    await case.control("pause", 1)

    for hint in hints:
        await desk.handlers.on_annotate_batch(hint)

    batch = await case.batch()
    assert (batch.state, batch.attempt) == ("pending", 0)
    assert await desk.planner.emit_once() == 0
    assert case.slow.asked == []


async def test_a_control_that_the_rows_do_not_say_yet_is_obeyed_by_who_heard_it(
    desk: Desk,
) -> None:
    case = await begin(desk)
    (hint,) = [m for m in await desk.relay() if isinstance(m, AnnotateBatch)]
    await desk.handlers.hear_control(ControlRun(run_id=case.run_id, action="pause", epoch=1))

    await desk.handlers.on_annotate_batch(hint)

    assert case.slow.asked == []
    batch = await case.batch()
    assert (batch.state, batch.attempt, batch.checkpoint) == ("pending", 0, 0)


async def test_what_was_heard_and_undone_in_the_rows_stops_nobody(desk: Desk) -> None:
    """This annotator did not hear the resume: its claim knows better."""
    case = await begin(desk)
    await case.control("pause", 1)
    await desk.handlers.on_control_run(ControlRun(run_id=case.run_id, action="resume", epoch=2))
    case.slow.go_on.set()

    await desk.work()

    assert (await case.run()).state == "completed"


async def test_a_pause_that_was_not_heard_is_found_with_the_lease(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "RENEW_SECONDS", 0.05)
    case = await begin(desk)
    working = await case.begin_page()
    await desk.handlers.on_control_run(ControlRun(run_id=case.run_id, action="pause", epoch=1))
    lease = (await case.batch()).lease_until
    async with asyncio.timeout(WAIT_SECONDS):
        while (await case.batch()).lease_until == lease:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0)
    case.slow.go_on.set()
    await working

    assert len(case.slow.asked) == PAGE


async def test_a_cancelled_run_gives_up_its_call_and_counts_what_is_left(desk: Desk) -> None:
    case = await begin(desk)
    working = await case.begin_page()
    await case.control("cancel", 1)
    await soon_done(working)  # Nobody has let the call go on.
    case.slow.go_on.set()
    await desk.work()

    run, source, batch = await case.run(), await case.source(), await case.batch()
    assert (run.state, run.open_sources) == ("cancelled", 0)
    assert (source.state, source.cancelled_count) == ("cancelled", len(ASKABLE))
    assert (batch.state, batch.lease_owner) == ("cancelled", None)
    assert len(case.slow.asked) == PAGE
    assert await desk.rows("SELECT 1 FROM annotation") == []
    facts = await case.facts()
    (cancelled,) = [fact for fact in facts if isinstance(fact, RunCancelled)]
    (ended,) = [fact for fact in facts if isinstance(fact, SourceCompleted)]
    (completed,) = [fact for fact in facts if isinstance(fact, RunCompleted)]
    assert cancelled.seq < ended.seq < completed.seq
    assert (ended.state, ended.cancelled_count) == ("cancelled", len(ASKABLE))
    assert (completed.state, completed.cancelled_count) == ("cancelled", len(ASKABLE))
    async with desk.engine.connect() as connection:
        progress = await runs.get_progress(connection, case.run_id)
    assert progress is not None
    assert (progress.state, progress.cancelled_count) == ("cancelled", len(ASKABLE))


async def test_a_cancel_that_the_rows_do_not_say_for_long_makes_no_failure_of_its_batch(
    desk: Desk,
) -> None:
    """Who is to write it waits for a store; whoever heard it begins nothing meanwhile."""
    case = await begin(desk)
    command = ControlRun(run_id=case.run_id, action="cancel", epoch=1)
    await desk.handlers.hear_control(command)
    for _ in range(ATTEMPTS_MAX + 1):
        await desk.work()
        await desk.make_due()
    batch = await case.batch()
    assert (batch.state, batch.attempt, batch.lease_owner) == ("pending", 0, None)
    assert case.slow.asked == []

    await desk.handlers.on_control_run(command)
    assert (await case.batch()).state == "cancelled"
    assert (await case.source()).cancelled_count == len(ASKABLE)


async def test_what_a_cancelled_run_has_stored_stays_and_is_counted(desk: Desk) -> None:
    case = await begin(desk)
    working = await case.begin_page()
    case.slow.began.clear()
    case.slow.go_on.set()
    await asyncio.wait_for(case.slow.began.wait(), WAIT_SECONDS)
    case.slow.go_on.clear()
    await case.control("cancel", 1)
    await soon_done(working)

    source = await case.source()
    assert source.state == "cancelled"
    assert source.no_data_count >= PAGE
    assert source.no_data_count + source.cancelled_count == source.total_count == len(ASKABLE)


async def test_a_store_of_a_cancelled_batch_is_refused(desk: Desk) -> None:
    """Its worker heard nothing: the rows stop it."""
    case = await begin(desk)
    working = await case.begin_page()
    await desk.handlers.on_control_run(ControlRun(run_id=case.run_id, action="cancel", epoch=1))
    case.slow.go_on.set()
    await working

    assert await desk.rows("SELECT 1 FROM annotation") == []
    assert await desk.rows("SELECT 1 FROM checked") == []
    assert (await case.source()).cancelled_count == len(ASKABLE)


async def test_a_repeated_or_late_control_changes_nothing(desk: Desk) -> None:
    case = await begin(desk)
    await case.control("pause", 2)
    for action, epoch in (("pause", 2), ("resume", 1), ("cancel", 1)):
        before = await case.run()
        await case.control(action, epoch)  # type: ignore[arg-type]
        after = await case.run()
        assert (after.state, after.control_epoch) == ("paused", 2), (action, before)
    await case.control("resume", 3)
    await case.control("pause", 2)
    assert (await case.run()).state == "running"
    facts = [f for f in await case.facts() if isinstance(f, RunPaused | RunResumed)]
    assert [type(fact) for fact in facts] == [RunPaused, RunResumed]


async def test_a_late_pause_does_not_undo_a_resume_that_found_nothing_to_do(desk: Desk) -> None:
    case = await begin(desk)
    await case.control("resume", 2)
    await case.control("pause", 1)
    assert (await case.run()).state == "running"
    assert not [f for f in await case.facts() if isinstance(f, RunPaused | RunResumed)]


@pytest.mark.parametrize("action", ["pause", "resume", "cancel"])
async def test_a_run_that_has_ended_is_not_controlled(desk: Desk, action: ControlAction) -> None:
    case = await begin(desk)
    case.slow.go_on.set()
    await desk.work()
    before = await case.run()
    await case.control(action, 1)
    await case.control(action, 2, "ensembl")

    after = await case.run()
    assert (after.state, after.finished_at) == ("completed", before.finished_at)
    assert sum(isinstance(fact, RunCompleted) for fact in await case.facts()) == 1


async def test_a_control_of_a_run_that_was_never_noted_can_never_succeed(desk: Desk) -> None:
    with pytest.raises(PermanentError, match="never noted"):
        await desk.handlers.on_control_run(ControlRun(run_id=uuid4(), action="pause", epoch=1))


@pytest.mark.parametrize("action", ["pause", "cancel"])
async def test_a_run_can_be_controlled_before_it_is_planned(
    desk: Desk, action: ControlAction
) -> None:
    await write_catalogue(desk)
    slow = Slow()
    slow.go_on.set()
    desk.use(sources={"ensembl": slow})
    case = Case(desk, slow, await desk.order(["ensembl"], IDS))
    await case.control(action, 1)
    await desk.work()
    assert slow.asked == []
    if action == "pause":
        run = await case.run()
        assert (run.state, run.planned_all) == ("paused", False)
        await case.control("resume", 2)
        await desk.work()
        assert (await case.run()).state == "completed"
    else:
        run, source = await case.run(), await case.source()
        assert (run.state, run.gene_count) == ("cancelled", len(IDS))
        assert source.cancelled_count == source.total_count == len(IDS)


@pytest.mark.parametrize("source", [None, "ensembl"])
async def test_a_run_that_is_cancelled_while_its_plan_is_written_keeps_no_open_batch(
    desk: Desk, source: str | None
) -> None:
    await write_catalogue(desk)
    case = Case(desk, Slow(), await desk.order(["ensembl"], ASKABLE))
    async with desk.engine.begin() as planning:
        facts = await desk.planner.plan(planning, case.run_id)
        await runs.save_facts(planning, facts)
        cancelling = asyncio.create_task(case.control("cancel", 1, source))
        await desk.until_waiting(1, cancelling)
    await soon_done(cancelling)

    assert (await case.run()).state == (await case.source()).state == "cancelled"
    assert (await case.batch()).state == "cancelled"


async def test_a_cancel_that_was_overtaken_while_it_waited_for_a_store_ends_nothing(
    desk: Desk,
) -> None:
    case = await begin(desk)
    case.slow.go_on.set()
    async with desk.engine.begin() as storing:
        await annotations.lock_store(storing, "ensembl")
        late = ControlRun(run_id=case.run_id, action="cancel", epoch=1)
        cancelling = asyncio.create_task(desk.handlers.on_control_run(late))
        await desk.until_waiting(1, cancelling)
        await case.control("resume", 2)
    await soon_done(cancelling)

    await desk.work()
    assert (await case.run()).state == "completed"
    assert Counter(case.slow.asked) == Counter(ASKABLE)


async def test_one_source_is_paused_and_resumed_by_itself(desk: Desk) -> None:
    case = await begin(desk, ["hgnc", "ensembl"])
    case.slow.go_on.set()
    await case.control("pause", 1, "ensembl")
    await desk.work()

    run, source = await case.run(), await case.source()
    assert (run.state, source.state, source.is_paused) == ("running", "running", True)
    assert case.slow.asked == []
    shown = await desk.row(
        "SELECT state FROM run_source_v1 WHERE run_id = :id AND source = 'ensembl'", id=case.run_id
    )
    assert shown.state == "paused"
    assert (await case.source("hgnc")).state == "completed"

    await case.control("pause", 2)
    await case.control("resume", 3)  # The run as a whole; its source was paused by itself.
    assert (await case.source()).is_paused
    await case.control("resume", 4, "ensembl")
    await desk.make_due()
    await desk.work()
    assert (await case.run()).state == "completed"
    told = [fact for fact in await case.facts() if isinstance(fact, RunPaused | RunResumed)]
    assert [fact.source for fact in told] == ["ensembl", None, None, "ensembl"]


async def test_a_cancelled_source_ends_and_the_run_completes_with_the_others(desk: Desk) -> None:
    case = await begin(desk, ["hgnc", "ensembl"])
    working = await case.begin_page()
    await case.control("cancel", 1, "ensembl")
    await soon_done(working)
    await desk.work()

    run, source = await case.run(), await case.source()
    assert (run.state, source.state) == ("completed", "cancelled")
    facts = await case.facts()
    (completed,) = [fact for fact in facts if isinstance(fact, RunCompleted)]
    assert completed.cancelled_count == len(ASKABLE)
    assert completed.no_data_count == len(ASKABLE)  # The catalogue's own.


async def test_a_run_of_which_each_source_is_cancelled_is_cancelled(desk: Desk) -> None:
    case = await begin(desk)
    await case.control("cancel", 1, "ensembl")
    assert (await case.run()).state == "cancelled"


async def test_a_release_is_its_sources_own_and_is_stored_whatever_becomes_of_the_run(
    desk: Desk,
) -> None:
    """Who was paused is counted all the same; who was cancelled does not wait for it any more."""
    await write_catalogue(desk)
    keep_unchanged(desk)
    await write_release(desk, [IDS[:4], IDS[4:]])
    paused = Case(desk, Slow(), await desk.order(["hpo"], IDS))
    cancelled = Case(desk, Slow(), await desk.order(["hpo"], IDS))
    await desk.planner.plan_and_feed()
    await paused.control("pause", 1)
    await cancelled.control("cancel", 1)
    await desk.work()

    assert len(await desk.rows("SELECT 1 FROM annotation")) == len(WITH_VALUE)
    assert (await desk.row("SELECT state FROM release WHERE source = 'hpo'")).state == "stored"
    assert (await paused.run()).state == "completed"
    assert (await paused.source("hpo")).done_count == len(WITH_VALUE)
    assert (await cancelled.run()).state == "cancelled"
    assert (await cancelled.source("hpo")).cancelled_count == len(IDS)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE run SET state = 'cancelled'",
        "UPDATE run SET state = 'paused', control_epoch = 0",
        "UPDATE run_source SET state = 'cancelled'",
        "UPDATE run_source SET state = 'cancelled', finished_at = now()",
        "UPDATE run_source SET cancelled_count = 1",
        "UPDATE run_source SET is_paused = true, control_epoch = 0",
        """UPDATE run_source SET is_paused = true, control_epoch = 1, finished_at = now(),
               state = 'completed', no_data_count = total_count""",
        "UPDATE batch SET state = 'cancelled' WHERE kind = 'fetch'",
        "UPDATE batch SET state = 'cancelled', finished_at = now() WHERE kind = 'release'",
    ],
)
async def test_a_state_that_cannot_be_is_refused_by_the_database(
    desk: Desk, statement: str
) -> None:
    await begin(desk)
    with pytest.raises(IntegrityError, match="check constraint"):
        async with desk.engine.begin() as tx:
            await tx.execute(text(statement))


async def test_a_batch_of_a_paused_run_cannot_be_claimed(desk: Desk) -> None:
    case = await begin(desk)
    batch_id = (await case.batch()).id
    await case.control("pause", 1)
    async with desk.engine.begin() as tx:
        await tx.execute(text("UPDATE batch SET state = 'queued' WHERE kind = 'fetch'"))
        assert await batches.claim_batch(tx, batch_id, "annotator-0") is None


async def soon_done(task: "asyncio.Task[None]") -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        await task
