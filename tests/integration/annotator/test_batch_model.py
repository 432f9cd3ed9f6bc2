"""Runs, batches, leases and controls against a model of them: the real handlers and planner on the
real rows, with workers that fail, freeze and die at every call."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)
from pydantic import BaseModel
from sqlalchemy import text

from contracts.messages import (
    AnnotateBatch,
    BatchDead,
    ControlAction,
    ControlRun,
    RunCompleted,
    RunFact,
)
from services.annotator import domain, handlers
from services.annotator.domain import (
    ATTEMPTS_MAX,
    WHOLE_ATTEMPTS,
    Answer,
    Batch,
    Client,
    Declaration,
    Gene,
    Page,
    Version,
)
from services.annotator.errors import UpstreamRefused, UpstreamUnavailable
from services.annotator.handlers import Handlers
from services.annotator.holding import Holding
from services.annotator.sources import SOURCES
from services.annotator.store import batches
from services.annotator.upstream import Telling
from tests.builders import ASKABLE
from tests.integration.annotator.catalogue import write_catalogue
from tests.integration.annotator.desk import Desk, open_desk
from tests.models import run_model
from tests.system import Database, Mirror

SOURCE = "ensembl"
BATCH = 4  # Genes; of the seven that can be asked for, two batches.
PAGE = 2
RUNS_MAX = 2
WORKERS = ("annotator-0", "annotator-1")
KNOWN = set(ASKABLE[::2])  # The upstream has a value for these, and none for the others.
# All times are a hundred times as long as they are, so that the time a step takes is nothing.
SLOWER = 100
LAPSED = timedelta(seconds=11) * SLOWER  # Longer than a lease, and than any wait for an attempt.
QUEUED_MAX = batches.QUEUED_MAX * SLOWER  # A hint that nobody took up is lost.
FORGOTTEN = QUEUED_MAX + timedelta(seconds=1)
EXAMPLES = 40
STEPS = 50
PASSES_MAX = 60  # Until all that was ordered has ended, when nothing more is done to it.
SETTLE_SECONDS = 0.001
STEP_SECONDS_MAX = 20.0
BLIND_HALVINGS_MAX = 1  # Of batches this small, twice would leave nothing to find out.

OPEN = ("pending", "queued", "leased")

Place = Literal["run", "source"]
PLACES: Mapping[Place, str | None] = {"run": None, "source": SOURCE}
Failure = Literal["no answer", "answered 500", "answered 400"]
ERRORS: Mapping[Failure, Callable[[], Exception]] = {
    "no answer": lambda: UpstreamUnavailable("it is away"),
    "answered 500": lambda: UpstreamUnavailable("500", is_answer=True),
    "answered 400": lambda: UpstreamRefused("400"),
}

T = TypeVar("T")

asking: ContextVar[UUID] = ContextVar("asking")  # The batch whose call it is.


class Value(BaseModel):
    number: int = 1


@dataclass
class Upstream:
    """Stands for Ensembl: every call waits to be told what becomes of it."""

    page_size: int
    calls: dict[UUID, "asyncio.Future[None]"] = field(default_factory=dict)

    @property
    def declaration(self) -> Declaration:
        return SOURCES[SOURCE].declaration

    async def version(self, _: Client) -> Version:
        return Version("115", synthetic=True)

    async def fetch(self, client: Client, genes: Sequence[Gene]) -> Page:
        assert isinstance(client, Telling)
        client.sent()  # Nothing waits for a turn.
        call: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.calls[asking.get()] = call
        await call
        answers = [
            Answer(gene.hgnc_id, Value() if gene.hgnc_id in KNOWN else None, place)
            for place, gene in enumerate(genes)
        ]
        return Page("http://made.up", b"{}", answers)


@dataclass(repr=False)
class Task:
    """A worker's work at a batch, as its claim saw it, and what of controls has reached it."""

    batch: "ModelBatch"
    token: int
    attempt: int
    epoch: int
    task: "asyncio.Task[None]"
    action: ControlAction | None = None


@dataclass(repr=False)
class Worker:
    name: str
    handlers: Handlers
    upstream: Upstream
    heard: dict[tuple[UUID, Place], tuple[int, ControlAction]] = field(default_factory=dict)
    tasks: dict[UUID, Task] = field(default_factory=dict)


@dataclass(repr=False)
class ModelRun:
    id: UUID
    total: int
    state: str = "running"
    is_paused: bool = False  # Its source, by itself.
    epochs: dict[Place, int] = field(default_factory=lambda: {"run": 0, "source": 0})
    done: int = 0
    no_data: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def is_open(self) -> bool:
        return self.state in ("running", "paused")

    @property
    def may_be_worked(self) -> bool:
        return self.state == "running" and not self.is_paused

    @property
    def epoch(self) -> int:
        return max(self.epochs.values())

    def count(self, done: int = 0, no_data: int = 0, failed: int = 0) -> None:
        self.done += done
        self.no_data += no_data
        self.failed += failed
        if self.done + self.no_data + self.failed < self.total:
            return
        self.is_paused = False
        if not self.failed:
            self.state = "completed"
        else:
            self.state = "completed_with_errors" if self.done else "failed"


@dataclass(repr=False)
class ModelBatch:
    id: UUID
    run: ModelRun
    genes: Sequence[str]
    state: str = "pending"
    attempt: int = 0
    checkpoint: int = 0
    token: int = 0
    owner: str | None = None
    is_due: bool = True
    is_lapsed: bool = False  # Its lease, or its hint.
    halvings: int = 0
    failing_since: int | None = None
    done_at: int | None = None

    @property
    def left(self) -> int:
        return len(self.genes) - self.checkpoint

    hinted_for: timedelta = timedelta()

    def let_go(self, state: str) -> None:
        self.state, self.owner, self.is_lapsed = state, None, False


class Runs(RuleBasedStateMachine):
    """One rule for everything that may happen; after each, the rows are as the model says."""

    def __init__(self, runner: asyncio.Runner, desk: Desk) -> None:
        super().__init__()
        self.runner = runner
        self.desk = desk
        self.runs: dict[UUID, ModelRun] = {}
        self.batches: dict[UUID, ModelBatch] = {}
        self.hinted: set[UUID] = set()
        self.facts: list[RunFact] = []
        self.epoch = 0
        self.moment = 0  # Counted by what ends an attempt.
        self.workers = {name: self.hire(name) for name in WORKERS}
        self.do(self.empty())

    def do(self, work: Any) -> Any:
        """Whoever claims what the model says is not to be claimed would wait for an answer."""
        return self.runner.run(asyncio.wait_for(work, STEP_SECONDS_MAX))

    def hire(self, name: str) -> Worker:
        upstream = Upstream(PAGE)
        own = replace(
            self.desk.handlers,
            instance=name,
            sources={**self.desk.handlers.sources, SOURCE: upstream},
            in_flight=set(),
            holding=Holding(),
        )
        return Worker(name, own, upstream)

    def draw(self, data: st.DataObject, things: Sequence[T]) -> T:
        """By its place: ids are others in each history, and an example is to be short."""
        return things[data.draw(st.integers(0, len(things) - 1))]

    async def empty(self) -> None:
        async with self.desk.engine.begin() as tx:
            await tx.execute(text("DELETE FROM run_fact"))
            await tx.execute(text("DELETE FROM batch"))
            await tx.execute(text("DELETE FROM run_source"))
            await tx.execute(text("DELETE FROM run_gene"))
            await tx.execute(text("DELETE FROM run"))
            await tx.execute(text("DELETE FROM checked"))
            await tx.execute(text("DELETE FROM annotation"))
            await tx.execute(text("DELETE FROM outbox"))

    async def relay(self) -> None:
        for message in await self.desk.relay():
            if isinstance(message, AnnotateBatch) and message.batch_id in self.batches:
                self.hinted.add(message.batch_id)
            if isinstance(message, RunFact):
                self.facts.append(message)

    async def settle(self) -> None:
        """Until every worker waits for an answer, or has left its batch."""
        for worker in self.workers.values():
            for batch_id, work in list(worker.tasks.items()):
                while not work.task.done():
                    call = worker.upstream.calls.get(batch_id)
                    if call is not None and not call.done():
                        break
                    await asyncio.sleep(SETTLE_SECONDS)
                else:
                    work.task.result()
                    del worker.tasks[batch_id]
        await self.relay()

    # What people do

    @precondition(lambda self: len(self.runs) < RUNS_MAX)
    @rule(count=st.integers(1, len(ASKABLE)))
    def a_run_is_ordered(self, count: int) -> None:
        self.do(self.order(ASKABLE[:count]))

    async def order(self, genes: Sequence[str]) -> None:
        self.desk.published.clear()
        run_id = await self.desk.order([SOURCE], genes)
        assert await self.desk.planner.plan_once() == 1
        await self.feed()
        (look,) = [
            message
            for message in self.desk.published
            if isinstance(message, AnnotateBatch) and message.batch_id not in self.batches
        ]
        await self.desk.handlers.on_annotate_batch(look)
        run = self.runs[run_id] = ModelRun(run_id, len(genes))
        for row in await self.desk.rows(
            "SELECT id, genes FROM batch WHERE run_id = :run_id ORDER BY id", run_id=run_id
        ):
            self.batches[row.id] = ModelBatch(row.id, run, row.genes)
        await self.relay()

    @precondition(lambda self: self.runs)
    @rule(
        data=st.data(),
        action=st.sampled_from(["pause", "resume", "pause", "resume", "cancel"]),
        place=st.sampled_from(["run", "source"]),
        hearing=st.sets(st.sampled_from(WORKERS)),
        is_late=st.booleans(),
    )
    def a_run_is_controlled(
        self,
        data: st.DataObject,
        action: ControlAction,
        place: Place,
        hearing: set[str],
        is_late: bool,
    ) -> None:
        """By a command that is new, or that comes after newer ones; not every worker hears it."""
        at_work = [work.batch.run for one in self.workers.values() for work in one.tasks.values()]
        run = self.draw(data, [*self.runs.values(), *at_work, *at_work])
        epoch = run.epochs[place]
        if not is_late or epoch == 0:
            self.epoch += 1
            epoch = self.epoch
        command = ControlRun(run_id=run.id, action=action, source=PLACES[place], epoch=epoch)
        self.do(self.control(command, hearing))
        self.note_control(run, place, action, epoch)
        for name in sorted(hearing):
            self.note_heard(self.workers[name], run, place, action, epoch)
        self.do(self.settle())

    async def control(self, command: ControlRun, hearing: set[str]) -> None:
        await self.desk.handlers.on_control_run(command)
        for name in sorted(hearing):
            await self.workers[name].handlers.hear_control(command)

    def note_control(self, run: ModelRun, place: Place, action: ControlAction, epoch: int) -> None:
        own = [batch for batch in self.batches.values() if batch.run is run]
        if action == "pause":
            for batch in own:
                if batch.state == "queued":
                    batch.let_go("pending")
        if not run.is_open or epoch <= run.epochs[place]:
            return
        run.epochs[place] = epoch
        if action == "cancel":
            run.state, run.is_paused = "cancelled", False
            run.cancelled = run.total - run.done - run.no_data - run.failed
            for batch in own:
                if batch.state in OPEN:
                    batch.let_go("cancelled")
        elif place == "run":
            run.state = "paused" if action == "pause" else "running"
        else:
            run.is_paused = action == "pause"

    def note_heard(
        self, worker: Worker, run: ModelRun, place: Place, action: ControlAction, epoch: int
    ) -> None:
        known, _ = worker.heard.get((run.id, place), (0, ""))
        if epoch <= known:
            return
        worker.heard[run.id, place] = (epoch, action)
        for work in worker.tasks.values():
            if work.batch.run is run:
                heard = [worker.heard.get((run.id, one), (0, "")) for one in PLACES]
                actions = {action for epoch, action in heard if epoch > work.epoch}
                work.action = next((one for one in ("cancel", "pause") if one in actions), None)

    @precondition(lambda self: any(run.state == "paused" for run in self.runs.values()))
    @rule(data=st.data())
    def a_run_is_resumed_and_no_worker_hears_it(self, data: st.DataObject) -> None:
        """So that who heard of the pause claims what it knows to be paused."""
        run = self.draw(data, [run for run in self.runs.values() if run.state == "paused"])
        self.epoch += 1
        command = ControlRun(run_id=run.id, action="resume", source=None, epoch=self.epoch)
        self.do(self.control(command, set()))
        self.note_control(run, "run", "resume", self.epoch)
        self.do(self.pass_time(LAPSED))
        self.do(self.feed())

    # What the planner does

    @rule()
    def the_planner_feeds(self) -> None:
        self.do(self.feed())

    async def feed(self) -> None:
        await self.desk.planner.emit_once()
        for batch in self.batches.values():
            if batch.state == "pending" and batch.is_due and batch.run.may_be_worked:
                batch.state, batch.hinted_for = "queued", timedelta()
        await self.relay()

    @rule()
    def the_planner_sweeps(self) -> None:
        self.do(self.sweep())

    async def sweep(self) -> None:
        await self.desk.planner.sweep_once()
        for batch in self.batches.values():
            if not batch.is_lapsed or batch.state not in ("queued", "leased"):
                continue
            if batch.state == "leased" and batch.attempt >= ATTEMPTS_MAX:
                batch.token += 1
                self.bury(batch)
            else:
                batch.let_go("pending")
        await self.relay()

    def bury(self, batch: ModelBatch) -> None:
        batch.let_go("dead")
        batch.run.count(failed=len(batch.genes) - batch.checkpoint)

    @rule(passed=st.sampled_from([LAPSED, LAPSED, FORGOTTEN]))
    def time_passes(self, passed: timedelta) -> None:
        self.do(self.pass_time(passed))

    async def pass_time(self, passed: timedelta) -> None:
        async with self.desk.engine.begin() as tx:
            await tx.execute(
                text("""
                    UPDATE batch SET lease_until = lease_until - CAST(:passed AS interval),
                        queued_at = queued_at - CAST(:passed AS interval),
                        next_attempt_at = next_attempt_at - CAST(:passed AS interval)
                """),
                {"passed": passed},
            )
        for batch in self.batches.values():
            batch.is_due = True
            batch.hinted_for += passed
            batch.is_lapsed |= batch.state == "leased" or (
                batch.state == "queued" and batch.hinted_for > QUEUED_MAX
            )

    # What workers do

    @precondition(lambda self: self.hinted)
    @rule(data=st.data(), name=st.sampled_from(WORKERS))
    def a_hint_arrives(self, data: st.DataObject, name: str) -> None:
        """The newest of a batch, an older one, or one that came before."""
        known = [batch_id for batch_id in self.batches if batch_id in self.hinted]
        known = [one for one in known if self.batches[one].state in OPEN] or known
        self.do(self.deliver(self.workers[name], self.draw(data, known)))

    @precondition(lambda self: self.claimable())
    @rule(data=st.data())
    def a_batch_is_claimed(self, data: st.DataObject) -> None:
        """Of the hints that arrive by chance, few find something to do."""
        worker, batch = self.draw(data, self.claimable())
        self.do(self.deliver(worker, batch.id))

    @precondition(lambda self: self.claimable())
    @rule(data=st.data())
    def a_batch_is_claimed_from_one_who_is_frozen(self, data: st.DataObject) -> None:
        """And who may go on at any time."""
        worker, batch = self.draw(data, self.claimable())
        (other,) = (one for one in self.workers.values() if one is not worker)
        self.do(self.deliver(worker, batch.id))
        self.do(self.pass_time(LAPSED))
        self.do(self.deliver(other, batch.id))

    def claimable(self) -> list[tuple[Worker, ModelBatch]]:
        return [
            (worker, batch)
            for worker in self.workers.values()
            for batch in self.batches.values()
            if batch.id in self.hinted and self.may_claim(worker, batch)
        ]

    def may_claim(self, worker: Worker, batch: ModelBatch) -> bool:
        return (
            batch.id not in worker.tasks
            and batch.attempt < ATTEMPTS_MAX
            and batch.run.may_be_worked
            and (
                batch.state == "queued"
                or (batch.state == "pending" and batch.is_due)
                or (batch.state == "leased" and (batch.is_lapsed or batch.owner == worker.name))
            )
        )

    async def deliver(self, worker: Worker, batch_id: UUID) -> None:
        batch = self.batches[batch_id]
        asking.set(batch_id)
        if not self.may_claim(worker, batch):
            before = len(worker.upstream.calls)
            hint = AnnotateBatch(batch_id=batch_id, source=SOURCE)
            await worker.handlers.on_annotate_batch(hint)
            assert len(worker.upstream.calls) == before
            return
        batch.state, batch.owner, batch.is_lapsed = "leased", worker.name, False
        batch.attempt += 1
        batch.token += 1
        worker.upstream.calls.pop(batch_id, None)
        working = asyncio.create_task(
            worker.handlers.on_annotate_batch(AnnotateBatch(batch_id=batch_id, source=SOURCE))
        )
        worker.tasks[batch_id] = Task(batch, batch.token, batch.attempt, batch.run.epoch, working)
        await self.settle()

    def draw_work(self, data: st.DataObject) -> tuple[Worker, Task]:
        at_work = [(w, work) for w in self.workers.values() for work in w.tasks.values()]
        return self.draw(data, at_work)

    def is_any_at_work(self) -> bool:
        return any(worker.tasks for worker in self.workers.values())

    @precondition(is_any_at_work)
    @rule(data=st.data(), hearing=st.sets(st.sampled_from(WORKERS)))
    def a_run_is_paused_in_the_middle(self, data: st.DataObject, hearing: set[str]) -> None:
        worker, work = self.draw_work(data)
        self.epoch += 1
        run = work.batch.run
        command = ControlRun(run_id=run.id, action="pause", source=None, epoch=self.epoch)
        self.do(self.control(command, {worker.name, *hearing}))
        self.note_control(run, "run", "pause", self.epoch)
        for name in {worker.name, *hearing}:
            self.note_heard(self.workers[name], run, "run", "pause", self.epoch)
        self.do(self.answer(worker, work))

    @precondition(is_any_at_work)
    @rule(data=st.data())
    def the_upstream_answers(self, data: st.DataObject) -> None:
        self.do(self.answer(*self.draw_work(data)))

    async def answer(self, worker: Worker, work: Task) -> None:
        batch = work.batch
        worker.upstream.calls[batch.id].set_result(None)
        if self.holds(work):
            page = batch.genes[batch.checkpoint : batch.checkpoint + PAGE]
            batch.checkpoint += len(page)
            done = sum(hgnc_id in KNOWN for hgnc_id in page)
            if batch.checkpoint == len(batch.genes):
                batch.let_go("done")
                batch.done_at = self.tick()
            elif work.action == "pause":
                batch.let_go("pending")
                batch.is_due = False
                batch.attempt -= 1
            batch.run.count(done, len(page) - done)
        await self.settle()

    def tick(self) -> int:
        self.moment += 1
        return self.moment

    def holds(self, work: Task) -> bool:
        return work.batch.state == "leased" and work.batch.token == work.token

    @precondition(is_any_at_work)
    @rule(data=st.data(), failure=st.sampled_from([*ERRORS]))
    def the_upstream_fails(self, data: st.DataObject, failure: Failure) -> None:
        worker, work = self.draw_work(data)
        self.do(self.fail(worker, work, failure))

    @precondition(is_any_at_work)
    @rule(data=st.data(), failure=st.sampled_from(["answered 500", "answered 400"]))
    def a_gene_of_a_page_is_bad(self, data: st.DataObject, failure: Failure) -> None:
        """Until what has it dies, or is halved."""
        worker, work = self.draw_work(data)
        batch, halvings = work.batch, work.batch.halvings
        while batch.state == "leased" and batch.halvings == halvings:
            if not self.holds(work) or work.action is not None:
                return
            self.do(self.fail(worker, work, failure))
            self.do(self.pass_time(LAPSED))
            if batch.state != "pending" or not self.may_claim(worker, batch):
                return
            self.do(self.deliver(worker, batch.id))
            work = worker.tasks[batch.id]

    @precondition(lambda self: self.claimable())
    @rule(data=st.data(), failure=st.sampled_from(["answered 500", "answered 400"]))
    def every_page_of_a_run_fails(self, data: st.DataObject, failure: Failure) -> None:
        """No gene of any is the cause, and soon one knows."""
        worker, first = self.draw(data, self.claimable())
        for batch in [one for one in self.batches.values() if one.run is first.run]:
            if batch.id in self.hinted and self.may_claim(worker, batch):
                self.do(self.deliver(worker, batch.id))
                work = worker.tasks.get(batch.id)
                if work is not None and self.holds(work):
                    self.do(self.fail(worker, work, failure))

    async def fail(self, worker: Worker, work: Task, failure: Failure) -> None:
        batch = work.batch
        worker.upstream.calls[batch.id].set_exception(ERRORS[failure]())
        holds = self.holds(work)
        halved = holds and self.note_failure(work, failure)
        await self.settle()
        if halved:
            await self.note_other_half(batch)

    def note_failure(self, work: Task, failure: Failure) -> bool:
        """True when the batch is halved."""
        batch, is_final, moment = work.batch, failure == "answered 400", self.tick()
        others = [one for one in self.batches.values() if one is not batch]
        is_open = any(one.run is batch.run and one.halvings and one.state in OPEN for one in others)
        since = batch.failing_since
        is_answered = since is not None and any(
            one.done_at and one.done_at > since for one in others
        )
        is_suspect = batch.left > 1 and (
            is_final
            or (failure == "answered 500" and (batch.halvings or work.attempt >= WHOLE_ATTEMPTS))
        )
        batch.failing_since = moment if since is None else since
        may_look = batch.halvings > 0 or not is_open
        if is_suspect and (is_answered or (may_look and batch.halvings < BLIND_HALVINGS_MAX)):
            batch.attempt, batch.is_due = 0, True
            batch.halvings += 1
            batch.let_go("pending")
            return True
        waits = is_suspect and is_open
        if work.attempt >= ATTEMPTS_MAX or (is_final and not waits):
            self.bury(batch)
        else:
            batch.let_go("pending")
            batch.is_due = False
        return False

    async def note_other_half(self, batch: ModelBatch) -> None:
        rows = await self.desk.rows("SELECT id, genes FROM batch WHERE kind = 'fetch'")
        (other,) = [row for row in rows if row.id not in self.batches]
        kept = len(batch.genes) - len(other.genes)
        assert (batch.left - len(other.genes)) - batch.left // 2 == 0
        assert [*batch.genes[kept:]] == [*other.genes]
        batch.genes = batch.genes[:kept]
        self.batches[other.id] = ModelBatch(
            other.id,
            batch.run,
            other.genes,
            halvings=batch.halvings,
            failing_since=batch.failing_since,
        )

    @precondition(is_any_at_work)
    @rule(data=st.data())
    def a_lease_is_renewed(self, data: st.DataObject) -> None:
        """By one who may have been frozen until just now, and who finds what it did not hear."""
        worker, work = self.draw_work(data)
        run = work.batch.run
        claimed = Batch(
            id=work.batch.id,
            kind="fetch",
            source=SOURCE,
            run_id=run.id,
            release_id=None,
            genes=work.batch.genes,
            checkpoint=0,
            attempt=work.attempt,
            lease_token=work.token,
            claimed_at=datetime.now(UTC),  # Nobody stores by this one.
        )
        is_ours = self.do(worker.handlers.keep_lease_once(claimed))
        assert is_ours == self.holds(work)
        if is_ours:
            work.batch.is_lapsed = False
        if run.state == "cancelled":
            work.action = "cancel"
        elif run.state == "paused" or run.is_paused:
            work.action = "pause"
        self.do(self.settle())

    @rule(name=st.sampled_from(WORKERS))
    def a_worker_dies_and_is_started_again(self, name: str) -> None:
        self.do(self.kill(self.workers[name]))
        self.workers[name] = self.hire(name)

    async def kill(self, worker: Worker) -> None:
        for work in worker.tasks.values():
            work.task.cancel()
            with suppress(asyncio.CancelledError):
                await work.task

    # What always holds

    @invariant()
    def the_rows_are_as_the_model_says(self) -> None:
        rows = self.do(self.desk.rows("SELECT * FROM batch WHERE kind = 'fetch'"))
        found = {
            row.id: (
                *(row.state, row.attempt, row.checkpoint, row.lease_token, row.lease_owner),
                *(row.halvings, list(row.genes)),
            )
            for row in rows
        }
        assert found == {
            one.id: (
                *(one.state, one.attempt, one.checkpoint, one.token, one.owner),
                *(one.halvings, list(one.genes)),
            )
            for one in self.batches.values()
        }
        for run in self.runs.values():
            own = [
                hgnc_id for one in self.batches.values() if one.run is run for hgnc_id in one.genes
            ]
            assert sorted(own) == sorted(ASKABLE[: run.total])
        rows = self.do(
            self.desk.rows("""
                SELECT run.id, run.state, rs.is_paused, run.control_epoch, rs.done_count,
                       rs.no_data_count, rs.failed_count, rs.cancelled_count
                FROM run JOIN run_source rs ON rs.run_id = run.id
            """)
        )
        assert {row.id: tuple(row[1:]) for row in rows} == {
            run.id: (
                run.state,
                run.is_paused,
                run.epochs["run"],
                run.done,
                run.no_data,
                run.failed,
                run.cancelled,
            )
            for run in self.runs.values()
        }

    @invariant()
    def a_run_is_completed_once_and_says_what_was_counted(self) -> None:
        for run in self.runs.values():
            facts = [fact for fact in self.facts if fact.run_id == run.id]
            assert [fact.seq for fact in facts] == sorted({fact.seq for fact in facts})
            ends = [fact for fact in facts if isinstance(fact, RunCompleted)]
            assert len(ends) == (0 if run.is_open else 1)
            for end in ends:
                counts = (end.done_count, end.no_data_count, end.failed_count, end.cancelled_count)
                assert (end.state, *counts) == (
                    run.state,
                    run.done,
                    run.no_data,
                    run.failed,
                    run.cancelled,
                )
                assert sum(counts) == run.total
            dead = sum(fact.failed_count for fact in facts if isinstance(fact, BatchDead))
            assert dead == run.failed

    def teardown(self) -> None:
        """Whatever was done to it: when nothing more is, everything ends."""
        self.do(self.finish())
        self.the_rows_are_as_the_model_says()
        self.a_run_is_completed_once_and_says_what_was_counted()
        for worker in self.workers.values():
            self.do(self.kill(worker))

    async def finish(self) -> None:
        for run in self.runs.values():
            for place, source in PLACES.items():
                self.epoch += 1
                command = ControlRun(
                    run_id=run.id, action="resume", source=source, epoch=self.epoch
                )
                await self.control(command, set(WORKERS))
                self.note_control(run, place, "resume", self.epoch)
                for worker in self.workers.values():
                    self.note_heard(worker, run, place, "resume", self.epoch)
        worker = self.workers[WORKERS[0]]
        for _ in range(PASSES_MAX):
            if not any(run.is_open for run in self.runs.values()):
                return
            await self.feed()
            for batch in list(self.batches.values()):
                if batch.state == "queued":
                    await self.deliver(worker, batch.id)
            for one in self.workers.values():
                for work in list(one.tasks.values()):
                    await self.answer(one, work)
            await self.pass_time(FORGOTTEN)
            await self.sweep()
        raise AssertionError(f"still open after {PASSES_MAX} passes: {self.runs}")


@asynccontextmanager
async def open_small_desk(database: Database, mirror: Mirror, folder: Path) -> AsyncIterator[Desk]:
    async with open_desk(database, mirror, folder) as desk:
        await write_catalogue(desk)
        desk.use(sources={SOURCE: Upstream(BATCH)})
        yield desk


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.mark.timeout(600)  # Failing histories are made short, which takes most of it.
def test_every_history_of_runs_is_as_the_model_says(
    runner: asyncio.Runner,
    database: Database,
    mirror: Mirror,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handlers, "RENEW_SECONDS", 3_600.0)  # It is a rule.
    monkeypatch.setattr(batches, "BLIND_HALVINGS_MAX", BLIND_HALVINGS_MAX)
    for module, name in (
        (batches, "LEASE"),
        (batches, "LAID_DOWN"),
        (domain, "BACKOFF_FIRST_SECONDS"),
        (domain, "BACKOFF_SECONDS_MAX"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name) * SLOWER)
    monkeypatch.setattr(batches, "QUEUED_MAX", QUEUED_MAX)
    opened = open_small_desk(database, mirror, tmp_path)
    desk = runner.run(opened.__aenter__())
    try:
        run_model(lambda: Runs(runner, desk), histories=EXAMPLES, steps=STEPS)
    finally:
        runner.run(opened.__aexit__(None, None, None))
