"""Who is fed next: every history of orders, ends, pauses and blocks, against what was promised."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
)
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.messages import Priority
from services.annotator.store import feeding
from services.annotator.store.feeding import Pace
from tests.models import run_model
from tests.system import Database

SOURCES = ("ensembl", "hpo")  # Any two will do: a run's batches are fed alike.
WEIGHTS = {"high": 4, "normal": 4, "low": 1}
WINDOW = 4
PACES = {name: Pace(per_second=1, concurrency=WINDOW - 1) for name in SOURCES}
GENES_MAX = 5  # In one batch.
EXAMPLES = 60
STEPS = 40

PRIORITIES = st.sampled_from(["high", "normal", "low"])


async def insert_run(
    tx: AsyncConnection, sources: Iterable[str], batches: list[int], priority: Priority = "normal"
) -> UUID:
    """A run that is planned: a batch of so many genes each, from each of these sources."""
    run_id = uuid4()
    await tx.execute(
        text("""
            INSERT INTO run (id, state, priority, all_genes, awaits_catalogue, planned_all,
                             open_sources)
            VALUES (:run_id, 'running', :priority, true, false, true, 1)
        """),
        {"run_id": run_id, "priority": priority},
    )
    for source in sources:
        await tx.execute(
            text("""
                WITH followed AS (
                    INSERT INTO release (source, state, parser_version, retrieved_at, checked_at)
                    VALUES (:source, 'fetched', 1, now(), now()) RETURNING id
                ), noted AS (
                    INSERT INTO run_source (run_id, source, state, release_id, total_count)
                    SELECT :run_id, :source, 'running', id, 1000 FROM followed
                )
                INSERT INTO batch (kind, source, run_id, genes)
                SELECT 'fetch', :source, :run_id, array_fill('HGNC:1'::text, ARRAY[size])
                FROM unnest(CAST(:batches AS integer[])) WITH ORDINALITY AS b (size, place)
                ORDER BY place
            """),
            {"run_id": run_id, "source": source, "batches": batches},
        )
    return run_id


async def finish_oldest(tx: AsyncConnection, source: str, count: int = 1) -> None:
    await tx.execute(
        text("""
            UPDATE batch SET state = 'done', finished_at = now() WHERE id IN (
                SELECT id FROM batch WHERE source = :source AND state = 'queued'
                ORDER BY queued_at, id LIMIT :count)
        """),
        {"source": source, "count": count},
    )


async def feed_one_by_one(tx: AsyncConnection, source: str, count: int) -> list[UUID]:
    """The runs of the batches that so many refills of one batch each queued, in order."""
    fed = []
    for _ in range(count):
        await finish_oldest(tx, source)
        due = await feeding.queue_due_batches(tx, PACES)
        run_ids = await tx.scalars(
            text("SELECT run_id FROM batch WHERE id = ANY(:ids)"),
            {"ids": [one.batch_id for one in due]},
        )
        fed += [UUID(bytes=run_id.bytes) for run_id in run_ids]
    return fed


async def test_runs_take_turns_also_when_there_is_room_for_one_batch_at_a_time(
    database: Database,
) -> None:
    async with database.begin("annotator") as tx:
        first = await insert_run(tx, ["ensembl"], [5] * 60)
        await feeding.queue_due_batches(tx, PACES)
        await feed_one_by_one(tx, "ensembl", 10)  # It has been alone for a while.
        second = await insert_run(tx, ["ensembl"], [5] * 60)
        fed = await feed_one_by_one(tx, "ensembl", 20)
    assert Counter(fed) == {first: 10, second: 10}
    assert {*fed[:2]} == {first, second}


async def test_a_low_priority_has_a_quarter_and_a_high_one_goes_first(database: Database) -> None:
    async with database.begin("annotator") as tx:
        normal = await insert_run(tx, ["ensembl"], [5] * 60)
        low = await insert_run(tx, ["ensembl"], [5] * 60, "low")
        await feeding.queue_due_batches(tx, PACES)
        fed = Counter(await feed_one_by_one(tx, "ensembl", 40))
        assert fed == {normal: 32, low: 8}
        high = await insert_run(tx, ["ensembl"], [5] * 10, "high")
        fed_then = await feed_one_by_one(tx, "ensembl", 14)
        assert fed_then[:10] == [high] * 10
        assert high not in fed_then[10:]


async def test_whoever_goes_first_does_not_change_who_of_the_others_is_behind(
    database: Database,
) -> None:
    async with database.begin("annotator") as tx:
        first = await insert_run(tx, ["ensembl"], [5] * 60)
        second = await insert_run(tx, ["ensembl"], [5] * 60)
        await feeding.queue_due_batches(tx, PACES)
        fed: list[UUID] = []
        for _ in range(8):  # Two large batches of high priority before each of the others.
            await insert_run(tx, ["ensembl"], [50, 50], "high")
            fed += await feed_one_by_one(tx, "ensembl", 3)
    assert (fed.count(first), fed.count(second)) == (4, 4)


async def test_a_look_at_the_source_waits_behind_no_run(database: Database) -> None:
    async with database.begin("annotator") as tx:
        await insert_run(tx, ["ensembl"], [5] * 60, "high")
        await feeding.queue_due_batches(tx, PACES)
        await tx.execute(text("INSERT INTO batch (kind, source) VALUES ('release', 'ensembl')"))
        await finish_oldest(tx, "ensembl")
        due = await feeding.queue_due_batches(tx, PACES)
        kinds = await tx.scalars(
            text("SELECT kind FROM batch WHERE id = ANY(:ids)"), {"ids": [due[0].batch_id]}
        )
        assert list(kinds) == ["release"]


async def queued_counts(tx: AsyncConnection) -> dict[str, int]:
    due = await feeding.queue_due_batches(tx, {})
    return dict(Counter(one.source for one in due))


async def shut(
    tx: AsyncConnection, name: str, *, blocked_for: float = -1, open_for: float | None = None
) -> None:
    """Seconds from now."""
    await tx.execute(
        text("""
            INSERT INTO upstream (name, blocked_until, blocked_reason, open_until, open_reason)
            VALUES (:name, now() + make_interval(secs => :blocked_for), '429',
                    now() + make_interval(secs => :open_for),
                    CASE WHEN CAST(:open_for AS double precision) IS NOT NULL THEN '503' END)
            ON CONFLICT (name) DO UPDATE SET
                blocked_until = excluded.blocked_until, blocked_reason = excluded.blocked_reason,
                open_until = excluded.open_until, open_reason = excluded.open_reason
        """),
        {"name": name, "blocked_for": blocked_for, "open_for": open_for},
    )


async def test_nothing_is_queued_that_would_call_an_upstream_that_is_shut(
    database: Database,
) -> None:
    async with database.begin("annotator") as tx:
        await insert_run(tx, SOURCES, [5] * 60)
        await tx.execute(text("INSERT INTO batch (kind, source) VALUES ('release', 'ensembl')"))
        await shut(tx, "ensembl", blocked_for=30)
        assert await queued_counts(tx) == {"hpo": feeding.WINDOW}
        await shut(tx, "ensembl", open_for=30)
        assert await queued_counts(tx) == {}
        await shut(tx, "ensembl", open_for=-0.001)  # It is half open: one call is made.
        assert await queued_counts(tx) == {"ensembl": 1}
        await shut(tx, "ensembl")
        assert await queued_counts(tx) == {"ensembl": feeding.WINDOW - 1}


async def test_a_probe_is_the_batch_that_has_lost_the_fewest_attempts(database: Database) -> None:
    """Or an outage uses up the attempts of the first batch, and then of the second."""
    probed: list[int] = []
    async with database.begin("annotator") as tx:
        await insert_run(tx, ["ensembl"], [1, 2, 3])
        await shut(tx, "ensembl", open_for=-0.001)
        for _ in range(6):
            (due,) = await feeding.queue_due_batches(tx, {})
            batch = await tx.execute(
                text("""
                    UPDATE batch SET state = 'pending', queued_at = NULL, attempt = attempt + 1
                    WHERE id = :id RETURNING cardinality(genes)
                """),
                {"id": due.batch_id},
            )
            probed.append(batch.scalar_one())
    assert probed == [1, 2, 3, 1, 2, 3]


async def test_whoever_has_a_stand_in_is_looked_at_although_it_is_shut(database: Database) -> None:
    async with database.begin("annotator") as tx:
        await tx.execute(text("INSERT INTO batch (kind, source) VALUES ('release', 'gnomad')"))
        await shut(tx, "gnomad", blocked_for=30)
        assert await feeding.queue_due_batches(tx, {}) == []
        (due,) = await feeding.queue_due_batches(tx, {}, ["gnomad"])
        assert due.source == "gnomad"


@pytest.mark.parametrize(("share", "queued"), [(1.0, 13), (0.5, 8), (1 / 64, 4)])
async def test_a_window_is_a_call_for_each_at_once_and_a_second_of_work(
    database: Database, share: float, queued: int
) -> None:
    async with database.begin("annotator") as tx:
        await insert_run(tx, ["ensembl"], [5] * 60)
        await tx.execute(
            text("INSERT INTO upstream (name, share) VALUES ('ensembl', :share)"),
            {"share": share},
        )
        due = await feeding.queue_due_batches(tx, {"ensembl": Pace(10, 3)})
    assert len(due) == queued


async def test_of_a_source_that_was_removed_nothing_is_queued(database: Database) -> None:
    async with database.connect() as owner:
        await owner.execute("UPDATE annotator.source SET is_retired = true WHERE name = 'ensembl'")
    async with database.begin("annotator") as tx:
        await insert_run(tx, SOURCES, [5] * 60)
        await tx.execute(text("INSERT INTO batch (kind, source) VALUES ('release', 'ensembl')"))
        assert await queued_counts(tx) == {"hpo": feeding.WINDOW}


@dataclass
class Fed:
    """A run at a source, as the model has it."""

    run: int
    source: str
    priority: Priority
    pending: list[int]  # Genes of its batches, in order.
    queued: list[UUID] = field(default_factory=list)
    served: int = 0  # Genes, ever.
    largest: int = 0  # Of its batches.
    is_paused: bool = False


class Feeding(RuleBasedStateMachine):
    """What is fed is never computed here: only what was promised of it is checked."""

    def __init__(self, runner: asyncio.Runner, connection: AsyncConnection) -> None:
        super().__init__()
        self.runner = runner
        self.connection = connection
        self.runs: list[UUID] = []
        self.paused: set[int] = set()
        self.shut: set[str] = set()
        self.fed: list[Fed] = []
        self.since: dict[tuple[int, int], tuple[int, int]] = {}
        for table in ("turn", "batch", "run_source", "run", "release", "upstream"):
            self.run_sql(f"DELETE FROM {table}")  # noqa: S608 - one of these names

    def run_sql(self, statement: str, **parameters: Any) -> Any:
        return self.runner.run(self.connection.execute(text(statement), parameters))

    # What happens.

    @rule(
        priority=PRIORITIES,
        sources=st.sampled_from([SOURCES, SOURCES[:1], SOURCES[1:]]),
        batches=st.lists(st.integers(1, GENES_MAX), min_size=1, max_size=30),
    )
    def order(self, priority: Priority, sources: tuple[str, ...], batches: list[int]) -> None:
        self.runs.append(self.runner.run(insert_run(self.connection, sources, batches, priority)))
        number = len(self.runs) - 1
        self.fed += [
            Fed(number, source, priority, [*batches], largest=max(batches)) for source in sources
        ]
        self.feed()

    @precondition(lambda self: any(one.queued for one in self.fed))
    @rule(data=st.data(), count=st.integers(1, WINDOW))
    def batches_end_together(self, data: st.DataObject, count: int) -> None:
        for _ in range(count):
            if working := [one for one in self.fed if one.queued]:
                self.end(data.draw(st.sampled_from(working)))
        self.feed()

    @precondition(lambda self: any(one.queued for one in self.fed))
    @rule(data=st.data(), count=st.integers(1, 12))
    def batches_end_one_by_one(self, data: st.DataObject, count: int) -> None:
        for _ in range(count):
            if working := [one for one in self.fed if one.queued]:
                self.end(data.draw(st.sampled_from(working)))
                self.feed()

    def end(self, one: Fed) -> None:
        self.run_sql(
            "UPDATE batch SET state = 'done', finished_at = now() WHERE id = :id",
            id=one.queued.pop(0),
        )

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def a_run_is_paused_or_resumed(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(range(len(self.runs))))
        self.paused ^= {number}
        self.run_sql(
            "UPDATE run SET state = :state, control_epoch = 1 WHERE id = :id",
            state="paused" if number in self.paused else "running",
            id=self.runs[number],
        )
        self.feed()

    @precondition(lambda self: self.fed)
    @rule(data=st.data())
    def a_source_of_a_run_is_paused_or_resumed(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.fed))
        one.is_paused = not one.is_paused
        self.run_sql(
            """UPDATE run_source SET is_paused = :is_paused, control_epoch = 1
               WHERE run_id = :run_id AND source = :source""",
            is_paused=one.is_paused,
            run_id=self.runs[one.run],
            source=one.source,
        )
        self.feed()

    @rule(source=st.sampled_from(SOURCES))
    def an_upstream_is_shut_or_comes_back(self, source: str) -> None:
        self.shut ^= {source}
        seconds = 3600 if source in self.shut else -1
        self.runner.run(shut(self.connection, source, blocked_for=seconds))
        self.feed()

    # What was promised.

    def may_be_fed(self, one: Fed) -> bool:
        return bool(
            one.pending
            and not one.is_paused
            and one.run not in self.paused
            and one.source not in self.shut
        )

    def feed(self) -> None:
        could = {number for number, one in enumerate(self.fed) if self.may_be_fed(one)}
        due = self.runner.run(feeding.queue_due_batches(self.connection, PACES))
        rows = self.run_sql(
            """SELECT id, run_id, source, cardinality(genes) AS genes FROM batch
               WHERE id = ANY(:ids)""",
            ids=[one.batch_id for one in due],
        )
        of = {row.id: row for row in rows}
        for batch_id in (one.batch_id for one in due):
            row = of[batch_id]
            (number,) = (
                place
                for place, one in enumerate(self.fed)
                if (str(self.runs[one.run]), one.source) == (str(row.run_id), row.source)
            )
            one = self.fed[number]
            assert number in could, "nobody is fed who is paused, or whose upstream is shut"
            assert row.genes == one.pending.pop(0)
            one.queued.append(batch_id)
            one.served += row.genes
            higher = [
                other
                for other in self.fed
                if other.source == one.source and other.priority == "high" and other is not one
            ]
            if one.priority != "high":
                assert not any(map(self.may_be_fed, higher)), "what is high goes first"
        self.check_that_no_room_is_left()
        self.check_that_shares_are_fair(could)

    def check_that_no_room_is_left(self) -> None:
        for source in SOURCES:
            here = [one for one in self.fed if one.source == source]
            in_kafka = sum(len(one.queued) for one in here)
            assert in_kafka <= WINDOW
            if any(map(self.may_be_fed, here)):
                assert in_kafka == WINDOW, "no room is left while something is due"

    def check_that_shares_are_fair(self, could: set[int]) -> None:
        """Of any time in which two were never without something due."""
        backlogged = [number for number in could if self.may_be_fed(self.fed[number])]
        since = {}
        for place, a in enumerate(backlogged):
            for b in backlogged[place + 1 :]:
                one, other = self.fed[a], self.fed[b]
                if one.source != other.source or (one.priority == "high") != (
                    other.priority == "high"
                ):
                    continue
                key = (min(a, b), max(a, b))
                first, second = self.fed[key[0]], self.fed[key[1]]
                began = self.since.get(key, (first.served, second.served))
                since[key] = began
                weights = WEIGHTS[first.priority], WEIGHTS[second.priority]
                apart = (first.served - began[0]) / weights[0] - (
                    second.served - began[1]
                ) / weights[1]
                most = first.largest / weights[0] + second.largest / weights[1]
                assert abs(apart) <= most + 1e-9, (first, second, apart, most)
        self.since = since


def test_every_history_of_feeding_keeps_what_was_promised(database: Database) -> None:
    with asyncio.Runner() as runner:
        opened = database.engine("annotator")
        engine = runner.run(opened.__aenter__())
        autocommit = engine.execution_options(isolation_level="AUTOCOMMIT").connect()
        connection = runner.run(autocommit.__aenter__())
        try:
            run_model(lambda: Feeding(runner, connection), histories=EXAMPLES, steps=STEPS)
        finally:
            runner.run(autocommit.__aexit__(None, None, None))
            runner.run(opened.__aexit__(None, None, None))
