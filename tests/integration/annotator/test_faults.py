"""An upstream that fails: its source keeps its last good values, the others go on, and it heals."""

import re
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from sqlalchemy import text

from contracts.messages import AnnotationsChanged, BatchDead, ReleaseStored, RunCompleted
from services.annotator import upstream as client
from services.annotator.domain import (
    ATTEMPTS_MAX,
    BLIND_HALVINGS_MAX,
    OF_A_PAGE,
    REFUSALS_MAX,
)
from services.annotator.errors import RateLimited
from services.annotator.sources.ensembl import PAGE_SIZE
from services.cache.handlers import Handlers as CacheHandlers
from services.cache.rebuilder import Rebuilder
from services.chassis.errors import PermanentError
from tests.builders import ASKABLE, IDS
from tests.integration.annotator.catalogue import write_catalogue
from tests.integration.annotator.desk import Desk
from tests.integration.annotator.faults import CASES, Case
from tests.integration.annotator.small_release import keep_unchanged, write_release
from tests.system import Database, Mirror

HOUR_SECONDS = 3_600.0
ORDER_SECONDS = 600.0  # Somebody orders a run so often, whatever became of the one before.
GENES_IN_TWO_PAGES = PAGE_SIZE + 50


@pytest_asyncio.fixture
async def known(desk: Desk) -> Desk:
    """A desk that has good values of both kinds of sources: a file's and an API's."""
    await write_catalogue(desk)
    upstreams = desk.handlers.upstreams
    keep_unchanged(desk)
    await write_release(desk, [IDS])
    assert await end(desk, await desk.order(["hpo", "ensembl"], IDS)) == "completed"
    async with desk.engine.begin() as tx:  # The mirror says "unchanged" to whoever has any file.
        await tx.execute(text("UPDATE release_file SET etag = '*'"))
    desk.use(upstreams=upstreams)
    await desk.relay()
    desk.published.clear()
    return desk


async def end(desk: Desk, run_id: UUID) -> str:
    """Work and let time pass until a run has ended; returns how."""
    for _ in range(2 * (ATTEMPTS_MAX + REFUSALS_MAX)):
        await desk.work()
        row = await desk.row("SELECT state FROM run WHERE id = :id", id=run_id)
        if row.state not in ("planning", "running"):
            return str(row.state)
        await desk.skip(HOUR_SECONDS)
    raise AssertionError(f"run {run_id} is {row.state} after twice as many attempts as it has")


async def read_values(desk: Desk) -> list[Any]:
    return await desk.rows(
        """SELECT hgnc_id, source, value::text AS value, release FROM current_annotation_v1
           WHERE source IN ('hpo', 'ensembl') ORDER BY hgnc_id, source"""
    )


async def read_statuses(desk: Desk, source: str) -> dict[str, str]:
    rows = await desk.rows(
        "SELECT hgnc_id, status FROM current_annotation_v1 WHERE source = :source", source=source
    )
    return {row.hgnc_id: row.status for row in rows}


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(("ill", "well"), [("hpo", "ensembl"), ("ensembl", "hpo")])
async def test_a_fault_fails_its_source_alone_and_a_new_run_gets_everything(
    known: Desk, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, ill: str, well: str, case: Case
) -> None:
    desk = known
    values, statuses = await read_values(desk), await read_statuses(desk, ill)
    for constant, seconds in case.deadlines.items():
        monkeypatch.setattr(client, constant, seconds)
    path = {"hpo": "/hp/hpoa/", "ensembl": "/lookup/"}[ill]
    with mirror.fault(ill, path=path, **case.fault):
        run_id = await desk.order(["hpo", "ensembl"], IDS)
        assert await end(desk, run_id) == "completed_with_errors"

    rows = await desk.rows("SELECT * FROM run_source WHERE run_id = :id", id=run_id)
    sources = {row.source: row for row in rows}
    assert (sources[well].state, sources[well].failed_count) == ("completed", 0)
    assert (sources[ill].state, sources[ill].done_count) == ("failed", 0)
    assert sources[ill].failed_count + sources[ill].no_data_count == len(IDS)
    problem = sources[ill].problem
    assert problem["type"] == f"urn:annobus:problem:{case.error.kind}"
    assert re.search(case.says, problem["detail"])

    dead = await desk.rows("SELECT * FROM batch WHERE state <> 'done'")
    if ill == "ensembl" and (case.name in ("500", "503") or issubclass(case.error, OF_A_PAGE)):
        assert 1 < len(dead) <= 2**BLIND_HALVINGS_MAX  # No gene is better off without the others.
    else:
        attempts = 1 if issubclass(case.error, PermanentError) else ATTEMPTS_MAX
        refusals = 0
        if case.error is RateLimited:
            attempts, refusals = 0, REFUSALS_MAX
        assert [(one.attempt, one.refusals) for one in dead] == [(attempts, refusals)]
    assert {(one.state, one.problem["type"]) for one in dead} == {("dead", problem["type"])}
    assert problem in [one.problem for one in dead]
    told = [message for message in desk.published if isinstance(message, BatchDead)]
    assert {(fact.run_id, fact.source) for fact in told} == {(run_id, ill)}
    assert sorted(fact.batch_id for fact in told) == sorted(one.id for one in dead)
    assert sum(isinstance(message, RunCompleted) for message in desk.published) == 1

    assert await read_values(desk) == values
    failed = ASKABLE if ill == "ensembl" else []  # A file says nothing of single genes.
    assert await read_statuses(desk, ill) == statuses | dict.fromkeys(failed, "error")

    monkeypatch.undo()
    assert await end(desk, await desk.order(["hpo", "ensembl"], IDS)) == "completed"
    assert await read_values(desk) == values
    assert await read_statuses(desk, ill) == statuses


async def test_a_run_of_which_everything_failed_is_failed(known: Desk, mirror: Mirror) -> None:
    with mirror.fault("hpo", kind="html"):
        run_id = await known.order(["hpo"], IDS)
        assert await end(known, run_id) == "failed"
    row = await known.row("SELECT problem FROM run_source WHERE run_id = :id", id=run_id)
    assert "answers text/html; accepted is a file" in row.problem["detail"]


async def test_a_fault_that_passes_costs_attempts_and_nothing_else(
    known: Desk, mirror: Mirror
) -> None:
    with mirror.fault("ensembl", path="/lookup/", count=ATTEMPTS_MAX - 1, kind="reset"):
        run_id = await known.order(["ensembl"], IDS)
        assert await end(known, run_id) == "completed"
    row = await known.row("SELECT attempt, state FROM batch WHERE run_id = :id", id=run_id)
    assert (row.attempt, row.state) == (ATTEMPTS_MAX, "done")


async def test_one_dead_page_leaves_the_others_of_its_source(
    loaded_desk: Desk, mirror: Mirror
) -> None:
    desk = loaded_desk
    rows = await desk.rows(
        """SELECT hgnc_id FROM gene WHERE ensembl_gene_id IS NOT NULL AND status = 'approved'
           ORDER BY hgnc_id LIMIT :genes""",
        genes=GENES_IN_TWO_PAGES,
    )
    with mirror.fault("ensembl", path="/lookup/", count=1, kind="status", status=403):
        run_id = await desk.order(["ensembl"], [row.hgnc_id for row in rows])
        assert await end(desk, run_id) == "completed_with_errors"
    row = await desk.row("SELECT * FROM run_source WHERE run_id = :id", id=run_id)
    assert row.state == "completed"
    assert row.failed_count in {PAGE_SIZE, GENES_IN_TWO_PAGES - PAGE_SIZE}
    assert row.done_count + row.no_data_count == GENES_IN_TWO_PAGES - row.failed_count
    assert "answers 403" in row.problem["detail"]


async def test_files_that_fail_at_the_first_load_are_loaded_by_a_later_run(
    loaded_desk: Desk, mirror: Mirror
) -> None:
    """The last file of three is cut off: nothing of the release is stored, and nobody is empty."""
    desk = loaded_desk
    with mirror.fault("hpo", path="/hp.obo", kind="truncated"):
        run_id = await desk.order(["hpo", "ensembl"], IDS)
        assert await end(desk, run_id) == "completed_with_errors"
    assert set((await read_statuses(desk, "hpo")).values()) == {"pending"}
    assert await desk.rows("SELECT 1 FROM release WHERE source = 'hpo'") == []

    assert await end(desk, await desk.order(["hpo"])) == "completed"
    statuses = list((await read_statuses(desk, "hpo")).values())
    assert statuses.count("ok") > 5_000
    assert set(statuses) == {"ok", "empty"}


@pytest.mark.parametrize(
    ("form", "seconds_min", "seconds_max"),
    [
        ("whole", 30.0, 36.0),
        ("fraction", 30.0, 36.0),
        ("date", 28.0, 37.2),  # Whole seconds of the date, and of the clock it is read by.
        ("absent", 0.8, 1.2),  # As after any other failure.
    ],
)
async def test_the_database_says_when_a_rate_limited_batch_is_due(
    known: Desk, mirror: Mirror, form: str, seconds_min: float, seconds_max: float
) -> None:
    with mirror.fault("ensembl", path="/lookup/", kind="rate_limited", seconds=30, form=form):
        await known.order(["ensembl"], IDS)
        before = (await known.row("SELECT clock_timestamp() AS now")).now
        await known.work()
    row = await known.row(
        """SELECT state, problem, clock_timestamp() AS now, next_attempt_at,
                  next_attempt_at > now() AS waits FROM batch WHERE state <> 'done'"""
    )
    assert (row.state, row.waits) == ("pending", True)
    assert row.problem["type"] == f"urn:annobus:problem:{RateLimited.kind}"
    assert (row.next_attempt_at - before).total_seconds() >= seconds_min
    assert (row.next_attempt_at - row.now).total_seconds() <= seconds_max


async def test_batches_that_fail_at_once_do_not_come_back_at_once(
    loaded_desk: Desk, mirror: Mirror
) -> None:
    desk = loaded_desk
    rows = await desk.rows("SELECT hgnc_id FROM gene ORDER BY hgnc_id LIMIT 1000")
    with mirror.fault("ensembl", path="/lookup/", kind="rate_limited", seconds=100):
        await desk.order(["ensembl"], [row.hgnc_id for row in rows])
        before = (await desk.row("SELECT clock_timestamp() AS now")).now
        await desk.work()
    waiting = await desk.rows(
        "SELECT next_attempt_at FROM batch WHERE state = 'pending' ORDER BY next_attempt_at"
    )
    waits = [(row.next_attempt_at - before).total_seconds() for row in waiting]
    assert len(waits) >= 9
    assert waits[0] >= 100
    assert waits[-1] - waits[0] > 3  # Of 20: less would be a chance of one in millions.


class Readers:
    """What the cache makes of what the annotator says, and what is read of it."""

    def __init__(self, desk: Desk, handlers: CacheHandlers) -> None:
        self._desk = desk
        self._handlers = handlers
        self._heard = 0

    async def read(self) -> list[Any]:
        """All documents with their versions, after everything that was said has arrived."""
        await self._desk.relay()
        for message in self._desk.published[self._heard :]:
            if isinstance(message, AnnotationsChanged):
                await self._handlers.on_annotations_changed(message)
            elif isinstance(message, ReleaseStored):
                await self._handlers.on_release_stored(message)
        self._heard = len(self._desk.published)
        rebuilder = Rebuilder(self._handlers.engine)
        while await rebuilder.rebuild_once():
            pass
        async with self._handlers.engine.connect() as connection:
            return list(
                await connection.execute(
                    text("SELECT hgnc_id, version, document FROM gene_v1 ORDER BY hgnc_id")
                )
            )


@pytest.mark.parametrize(
    ("ill", "well", "fault", "requests_max"),
    [
        # Each order costs five requests, and no more.
        ("hpo", "ensembl", {"kind": "status", "status": 503}, 6 * ATTEMPTS_MAX),
        ("ensembl", "hpo", {"kind": "status", "status": 503}, 6 * ATTEMPTS_MAX),
        # Who says when to come back is left alone until then, whatever is ordered.
        ("hpo", "ensembl", {"kind": "rate_limited", "seconds": 900, "form": "date"}, ATTEMPTS_MAX),
        ("ensembl", "hpo", {"kind": "rate_limited", "seconds": 900}, ATTEMPTS_MAX),
    ],
    ids=["hpo 503", "ensembl 503", "hpo 429", "ensembl 429"],
)
async def test_a_source_that_fails_for_an_hour_leaves_readers_and_other_sources_unmoved(
    known: Desk,
    database: Database,
    mirror: Mirror,
    ill: str,
    well: str,
    fault: Mapping[str, Any],
    requests_max: int,
) -> None:
    """Time passes by moving the moments at which the database lets batches be tried again."""
    desk = known
    async with database.engine("cache") as engine:
        cache = CacheHandlers(engine)
        await cache.on_annotations_changed(
            AnnotationsChanged(source=ill, release_id=None, bucket=0, genes=tuple(IDS))
        )
        readers = Readers(desk, cache)
        documents, values = await readers.read(), await read_values(desk)
        assert len(documents) == len(IDS)
        asked = mirror.counters(ill)["requests"]
        ordered: list[UUID] = []
        with mirror.fault(ill, **fault):
            passed = 0.0
            while passed < HOUR_SECONDS:
                ordered.append(await desk.order(["hpo", "ensembl"], IDS))
                await desk.work()
                # The others do not wait for the ill one.
                assert await desk.source_states(ordered[-1]) == {ill: "waiting", well: "completed"}
                next_order = passed + ORDER_SECONDS
                while passed < next_order:
                    passed += await desk.skip(next_order - passed)
                    await desk.work()
                    assert await readers.read() == documents
                    assert await read_values(desk) == values
            requests = mirror.counters(ill)["requests"] - asked
        assert 0 < requests <= requests_max
        assert len(ordered) == 6

        assert await end(desk, await desk.order(["hpo", "ensembl"], IDS)) == "completed"
        rows = await desk.rows("SELECT state FROM run WHERE NOT planned_all OR finished_at IS NULL")
        assert rows == []
        assert await readers.read() == documents


async def test_genes_that_could_not_be_asked_for_an_hour_say_so_once_and_keep_their_values(
    known: Desk, database: Database, mirror: Mirror
) -> None:
    desk = known
    async with database.engine("cache") as engine:
        cache = CacheHandlers(engine)
        await cache.on_annotations_changed(
            AnnotationsChanged(source="ensembl", release_id=None, bucket=0, genes=tuple(IDS))
        )
        readers = Readers(desk, cache)
        before = await readers.read()
        seen = []
        with mirror.fault("ensembl", path="/lookup/", kind="status", status=503):
            for _ in range(int(HOUR_SECONDS / ORDER_SECONDS)):
                run_id = await desk.order(["ensembl"], IDS)
                assert await end(desk, run_id) == "failed"
                seen.append(await readers.read())
    assert seen == [seen[0]] * len(seen)
    for old, new in zip(before, seen[0], strict=True):
        said = new.document["annotations"]["ensembl"]
        if new.hgnc_id in ASKABLE:
            assert (said["status"], new.version) == ("error", old.version + 1)
            said["status"] = "ok"
        assert new.document == old.document
