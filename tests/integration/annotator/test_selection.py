"""What a run works of its genes: what failed in the run that it retries, or what its strategy
picks by the status that readers see."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from contracts.messages import RunCompleted, RunPlanned, SourceCompleted, StartRun, Strategy
from services.annotator.errors import ReleaseMissing, RunUnknown
from services.annotator.store import batches
from tests.builders import ASKABLE, GENES, IDS
from tests.integration.annotator.catalogue import write_catalogue
from tests.integration.annotator.desk import Desk
from tests.integration.annotator.poisoned_server import PoisonedServer, poisoned_server
from tests.integration.annotator.small_release import (
    keep_unchanged,
    write_release,
)
from tests.system import Mirror

HOUR_SECONDS = 3_600.0
PASSES_MAX = 60
ENSEMBL_IDS = {gene[0]: str(gene[3]) for gene in GENES}
PICKED: dict[Strategy, set[str]] = {
    "full": {"ok", "empty", "stale", "error", "pending"},
    "force": {"ok", "empty", "stale", "error", "pending"},
    "stale": {"stale", "error", "pending"},
    "missing": {"error", "pending"},
}


@pytest_asyncio.fixture
async def server(desk: Desk) -> AsyncIterator[PoisonedServer]:
    await write_catalogue(desk)
    async with poisoned_server() as (server, upstream):
        desk.use(upstreams={"ensembl": upstream})
        yield server


async def finish(desk: Desk, run_id: UUID) -> str:
    for _ in range(PASSES_MAX):
        await desk.work()
        state = (await desk.row("SELECT state FROM run WHERE id = :id", id=run_id)).state
        if state not in ("planning", "running"):
            return str(state)
        await desk.skip(HOUR_SECONDS)
    raise AssertionError(f"run {run_id} is {state} after {PASSES_MAX} passes")


async def outcome(desk: Desk, run_id: UUID, source: str) -> tuple[str, int, int, int, int]:
    row = await desk.row(
        "SELECT * FROM run_source WHERE run_id = :id AND source = :source",
        id=run_id,
        source=source,
    )
    return row.state, row.total_count, row.done_count, row.no_data_count, row.failed_count


async def statuses(desk: Desk, source: str) -> dict[str, str]:
    rows = await desk.rows(
        "SELECT hgnc_id, status FROM current_annotation_v1 WHERE source = :source", source=source
    )
    return {row.hgnc_id: row.status for row in rows}


async def rows_of(desk: Desk, run_id: UUID) -> list[Any]:
    return [
        *await desk.rows("SELECT * FROM run WHERE id = :id", id=run_id),
        *await desk.rows("SELECT * FROM run_source WHERE run_id = :id", id=run_id),
        *await desk.rows("SELECT * FROM batch WHERE run_id = :id ORDER BY id", id=run_id),
        *await desk.rows("SELECT * FROM run_fact WHERE run_id = :id ORDER BY seq", id=run_id),
    ]


async def test_a_retry_asks_for_what_failed_and_leaves_the_old_run_as_it_was(
    desk: Desk, server: PoisonedServer
) -> None:
    bad = ASKABLE[2:4]
    server.poison, server.failure = {ENSEMBL_IDS[hgnc_id] for hgnc_id in bad}, "404"
    old = await desk.order(["ensembl"], IDS)
    assert await finish(desk, old) == "completed_with_errors"
    before = await rows_of(desk, old)

    server.poison.clear()
    server.asked.clear()
    retry = await desk.order(["ensembl"], retries=old)
    assert await finish(desk, retry) == "completed"
    assert sorted(one for ids in server.asked for one in ids) == sorted(
        ENSEMBL_IDS[hgnc_id] for hgnc_id in bad
    )
    assert await outcome(desk, retry, "ensembl") == ("completed", 2, 2, 0, 0)
    assert (await desk.row("SELECT gene_count FROM run WHERE id = :id", id=retry)).gene_count == 2
    assert await rows_of(desk, old) == before
    assert set((await statuses(desk, "ensembl")).values()) == {"ok", "empty"}


async def test_a_retry_of_a_run_that_goes_on_works_what_is_dead_by_now(
    desk: Desk, server: PoisonedServer
) -> None:
    server.poison, server.failure = {ENSEMBL_IDS[ASKABLE[0]]}, "404"
    keep_unchanged(desk)
    await write_release(desk, [IDS])
    old = await desk.order(["ensembl", "hpo"], IDS)
    async with desk.engine.begin() as tx:  # Its file is not looked at before long.
        await desk.planner.plan_and_feed()
        await tx.execute(
            text("""UPDATE batch SET state = 'pending', next_attempt_at = now() + interval '1 day'
                    WHERE source = 'hpo'""")
        )
    await desk.work()
    assert await desk.source_states(old) == {"ensembl": "completed", "hpo": "waiting"}

    server.poison.clear()
    retry = await desk.order(["ensembl"], retries=old)
    await desk.work()
    assert await outcome(desk, retry, "ensembl") == ("completed", 1, 1, 0, 0)


async def test_a_retry_of_a_bulk_source_is_over_all_genes_of_the_old_run(
    desk: Desk, mirror: Mirror
) -> None:
    await write_catalogue(desk)
    for genes in (None, IDS[:3]):
        with mirror.fault("hpo", kind="status", status=404):
            old = await desk.order(["hpo"], genes)
            assert await finish(desk, old) == "failed"
        upstreams = desk.handlers.upstreams
        keep_unchanged(desk)
        await write_release(desk, [IDS])
        retry = await desk.order(["hpo"], retries=old)
        assert await finish(desk, retry) == "completed"
        assert (await outcome(desk, retry, "hpo"))[1] == len(genes or IDS)
        desk.use(upstreams=upstreams)


async def test_a_retry_of_both_kinds_is_over_all_genes_for_the_file_alone(
    desk: Desk, server: PoisonedServer, mirror: Mirror
) -> None:
    server.poison, server.failure = {ENSEMBL_IDS[hgnc_id] for hgnc_id in ASKABLE[:2]}, "404"
    with mirror.fault("hpo", kind="status", status=404):
        old = await desk.order(["ensembl", "hpo"], IDS)
        assert await finish(desk, old) == "completed_with_errors"
    server.poison.clear()
    server.asked.clear()
    keep_unchanged(desk)
    await write_release(desk, [IDS])
    retry = await desk.order(["ensembl", "hpo"], retries=old)
    assert await finish(desk, retry) == "completed"
    assert await outcome(desk, retry, "ensembl") == ("completed", 2, 2, 0, 0)
    assert (await outcome(desk, retry, "hpo"))[1] == len(IDS)
    assert sum(len(ids) for ids in server.asked) == 2


async def test_genes_that_are_withdrawn_since_are_not_retried(
    desk: Desk, server: PoisonedServer
) -> None:
    bad = ASKABLE[:2]
    server.poison, server.failure = {ENSEMBL_IDS[hgnc_id] for hgnc_id in bad}, "404"
    old = await desk.order(["ensembl"], IDS)
    assert await finish(desk, old) == "completed_with_errors"
    server.poison.clear()
    for withdrawn, (state, total) in (
        (bad[0], ("completed", 1)),
        (bad[1], ("failed", 0)),
    ):
        async with desk.engine.begin() as tx:
            await tx.execute(
                text("UPDATE gene SET status = 'withdrawn' WHERE hgnc_id = :id"), {"id": withdrawn}
            )
        retry = await desk.order(["ensembl"], retries=old)
        assert await finish(desk, retry) == state
        assert (await outcome(desk, retry, "ensembl"))[1] == total


async def test_a_retry_of_a_run_that_never_was_is_refused(desk: Desk) -> None:
    with pytest.raises(RunUnknown, match="never noted"):
        await desk.order(["hpo"], retries=uuid4())


async def test_a_retry_that_comes_twice_is_one_run(desk: Desk, server: PoisonedServer) -> None:
    server.poison, server.failure = {ENSEMBL_IDS[ASKABLE[0]]}, "404"
    old = await desk.order(["ensembl"], IDS)
    await finish(desk, old)
    command = StartRun(run_id=uuid4(), sources=("ensembl",), retries=old)
    for _ in range(2):
        await desk.handlers.on_start_run(command)
    row = await desk.row("SELECT count(*) FROM run WHERE retries = :id", id=old)
    assert row.count == 1


async def mix(desk: Desk, server: PoisonedServer) -> None:
    """Genes of every status: pending, error, stale, empty and ok."""
    server.poison, server.failure = {ENSEMBL_IDS[ASKABLE[0]]}, "404"
    await finish(desk, await desk.order(["ensembl"], [*ASKABLE[:5], IDS[-1]]))
    async with desk.engine.begin() as tx:
        await tx.execute(
            text("""UPDATE checked SET checked_at = now() - interval '1 year'
                    WHERE source = 'ensembl' AND hgnc_id = ANY (:ids)"""),
            {"ids": list(ASKABLE[1:3])},
        )
    server.poison.clear()
    server.asked.clear()


@pytest.mark.parametrize("strategy", list(PICKED))
async def test_an_api_is_asked_for_what_the_strategy_picks_by_the_published_status(
    desk: Desk, server: PoisonedServer, strategy: Strategy
) -> None:
    await mix(desk, server)
    found = await statuses(desk, "ensembl")
    assert set(found.values()) == {"ok", "empty", "stale", "error", "pending"}
    picked = {hgnc_id for hgnc_id, status in found.items() if status in PICKED[strategy]}

    run_id = await desk.order(["ensembl"], IDS, strategy=strategy)
    assert await finish(desk, run_id) == "completed"
    asked = {one for ids in server.asked for one in ids}
    assert asked == {ENSEMBL_IDS[hgnc_id] for hgnc_id in picked & set(ASKABLE)}
    row = await desk.row("SELECT * FROM run_source WHERE run_id = :id", id=run_id)
    assert row.total_count == len(picked) == row.done_count + row.no_data_count


@pytest.mark.parametrize("strategy", ["stale", "missing"])
async def test_a_source_with_nothing_to_do_completes_at_once_and_asks_nobody(
    desk: Desk, server: PoisonedServer, strategy: Strategy
) -> None:
    keep_unchanged(desk)
    await write_release(desk, [IDS])
    assert await finish(desk, await desk.order(["ensembl", "hpo"], IDS)) == "completed"
    looks = await desk.row("SELECT count(*) FROM batch")
    await desk.relay()
    desk.published.clear()
    server.asked.clear()

    run_id = await desk.order(["ensembl", "hpo"], IDS, strategy=strategy)
    assert await desk.planner.plan_once() == 1
    await desk.relay()
    assert [type(message) for message in desk.published] == [
        *(RunPlanned, SourceCompleted, SourceCompleted, RunCompleted)
    ]
    for source in ("ensembl", "hpo"):
        assert await outcome(desk, run_id, source) == ("completed", 0, 0, 0, 0)
    assert (await desk.row("SELECT state FROM run WHERE id = :id", id=run_id)).state == "completed"
    assert (await desk.row("SELECT count(*) FROM batch")) == looks
    assert server.asked == []


@pytest.mark.parametrize(
    ("strategy", "what", "is_worked"),
    [
        ("stale", "a look that is older than the time to live", True),
        ("missing", "a look that is older than the time to live", False),
        ("stale", "a gene that is listed since", True),
        ("missing", "a gene that is listed since", True),
        ("missing", "no release", True),
        ("stale", "no release", True),
    ],
)
async def test_a_file_is_looked_at_when_the_strategy_finds_something(
    desk: Desk, strategy: Strategy, what: str, is_worked: bool
) -> None:
    await write_catalogue(desk)
    keep_unchanged(desk)
    await write_release(desk, [IDS])
    assert await finish(desk, await desk.order(["hpo"], IDS)) == "completed"
    change = {
        "a look that is older than the time to live": """
            UPDATE release SET checked_at = now() - interval '1 year' WHERE source = 'hpo'""",
        "a gene that is listed since": """
            UPDATE gene SET listed_at = now() + interval '1 day' WHERE symbol = 'UGT1A'""",
        "no release": "UPDATE release SET readable_since = NULL, state = 'fetched',"
        " accepted_at = NULL, stored_at = NULL WHERE source = 'hpo'",
    }[what]
    async with desk.engine.begin() as tx:
        await tx.execute(text(change))
    run_id = await desk.order(["hpo"], IDS, strategy=strategy)
    await desk.planner.plan_once()
    states = await desk.source_states(run_id)
    assert states == {"hpo": "waiting" if is_worked else "completed"}


async def test_force_downloads_and_matches_what_has_not_changed(
    loaded_desk: Desk, mirror: Mirror
) -> None:
    desk = loaded_desk
    assert await finish(desk, await desk.order(["hpo"])) == "completed"
    values = await desk.rows("SELECT xid, id FROM annotation WHERE source = 'hpo' ORDER BY xid, id")
    (release,) = await desk.rows("SELECT * FROM release WHERE source = 'hpo'")

    def sent() -> int:
        counted = mirror.counters("hpo")
        return int(counted["requests"] - counted["not_modified"])

    async def run(strategy: Strategy) -> tuple[int, int]:
        """Files that were sent, and slices that were stored."""
        before = sent()
        slices = set(await desk.rows("SELECT id FROM batch WHERE source = 'hpo'"))
        run_id = await desk.order(["hpo"], strategy=strategy)
        assert await finish(desk, run_id) == "completed"
        done = await desk.rows(
            "SELECT id FROM batch WHERE source = 'hpo' AND kind = 'store' AND state = 'done'"
        )
        return sent() - before, len(set(done) - slices)

    assert await run("full") == (0, 0)
    files, slices = await run("force")
    assert files == 3
    assert slices >= 10
    assert (
        await desk.rows("SELECT xid, id FROM annotation WHERE source = 'hpo' ORDER BY xid, id")
        == values
    )
    (again,) = await desk.rows("SELECT * FROM release WHERE source = 'hpo'")
    assert (again.id, again.state) == (release.id, "stored")
    assert again.checked_at > release.checked_at


async def test_force_of_the_catalogue_reads_it_anew(loaded_desk: Desk) -> None:
    genes = await loaded_desk.rows("SELECT * FROM gene ORDER BY hgnc_id")
    run_id = await loaded_desk.order(["hgnc"], strategy="force")
    assert await finish(loaded_desk, run_id) == "completed"
    assert len(await loaded_desk.rows("SELECT * FROM gene ORDER BY hgnc_id")) == len(genes)
    assert await loaded_desk.rows("SELECT 1 FROM gene_event") == []


async def test_who_has_begun_to_look_when_a_run_is_forced_begins_anew(desk: Desk) -> None:
    await write_catalogue(desk)
    keep_unchanged(desk)
    await write_release(desk, [IDS])
    await desk.order(["hpo"], IDS)
    await desk.planner.plan_once()
    (look,) = await desk.rows("SELECT id FROM batch WHERE kind = 'release' AND state <> 'done'")
    async with desk.engine.begin() as tx:
        batch = await batches.claim_batch(tx, look.id, "annotator-0")
    assert batch is not None
    forced = await desk.order(["hpo"], IDS, strategy="force")
    await desk.planner.plan_once()
    with pytest.raises(ReleaseMissing, match="anew"):
        await desk.releases.prepare_release(batch)
    row = await desk.row("SELECT state, is_forced FROM batch WHERE id = :id", id=look.id)
    assert (row.state, row.is_forced) == ("leased", True)
    assert await desk.source_states(forced) == {"hpo": "waiting"}


async def test_the_table_refuses_a_retry_with_a_strategy(desk: Desk) -> None:
    old = await desk.order(["hpo"], IDS)
    with pytest.raises(IntegrityError):
        async with desk.engine.begin() as tx:
            await tx.execute(
                text("""INSERT INTO run (id, strategy, retries, all_genes, awaits_catalogue,
                            open_sources)
                        VALUES (:id, 'stale', :old, true, false, 1)"""),
                {"id": uuid4(), "old": old},
            )
