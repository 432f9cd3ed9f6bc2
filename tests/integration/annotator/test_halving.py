"""A gene that makes its page fail: its neighbours are stored, and an upstream that is down is not
asked more often for it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from math import ceil, log2
from uuid import UUID

import pytest
import pytest_asyncio

from contracts.messages import AnnotateBatch, BatchAnnotated, BatchDead, RunCompleted
from services.annotator.domain import ATTEMPTS_MAX, BLIND_HALVINGS_MAX, WHOLE_ATTEMPTS
from services.annotator.sources.ensembl import PAGE_SIZE
from services.annotator.upstream import Upstream
from tests.builders import Gene, build_catalogue
from tests.integration.annotator.desk import Desk
from tests.integration.annotator.poisoned_server import PoisonedServer, poisoned_server

HOUR_SECONDS = 3_600.0
PASSES_MAX = 200


def made_up(count: int) -> list[Gene]:
    return [(f"HGNC:{n}", f"GENE{n}", None, f"ENSG{n:011}") for n in range(1, count + 1)]


@dataclass
class Ward:
    desk: Desk
    server: PoisonedServer

    async def order(self, genes: list[Gene]) -> UUID:
        async with self.desk.engine.begin() as tx:
            await build_catalogue(tx, genes)
        return await self.desk.order(["ensembl"], [gene[0] for gene in genes])

    async def finish(self, run_id: UUID) -> str:
        for _ in range(PASSES_MAX):
            await self.desk.work()
            state = (await self.desk.row("SELECT state FROM run WHERE id = :id", id=run_id)).state
            if state not in ("planning", "running"):
                return str(state)
            await self.desk.skip(HOUR_SECONDS)
        raise AssertionError(f"run {run_id} is {state} after {PASSES_MAX} passes")

    async def statuses(self) -> dict[str, str]:
        rows = await self.desk.rows(
            "SELECT hgnc_id, status FROM current_annotation_v1 WHERE source = 'ensembl'"
        )
        return {row.hgnc_id: row.status for row in rows}


@pytest_asyncio.fixture
async def ward(desk: Desk) -> AsyncIterator[Ward]:
    async with poisoned_server() as (server, upstream):
        desk.use(upstreams={"ensembl": upstream})
        yield Ward(desk, server)


def calls_max(count: int, whole: int, single: int) -> int:
    """Of a page with one bad gene: the page, on each way down both halves, and the gene."""
    levels = ceil(log2(count))
    return whole + 2 * levels - 1 + single


@pytest.mark.parametrize(
    ("failure", "whole", "single", "kind"),
    [
        ("500", WHOLE_ATTEMPTS, ATTEMPTS_MAX, "upstream-unavailable"),
        ("binary", WHOLE_ATTEMPTS, ATTEMPTS_MAX, "upstream-unavailable"),
        ("unreadable", WHOLE_ATTEMPTS, ATTEMPTS_MAX, "upstream-truncated"),
        ("404", 1, 1, "upstream-refused"),
        ("another schema", 1, 1, "schema-changed"),
    ],
)
async def test_one_gene_that_always_fails_is_dead_and_its_99_neighbours_are_stored(
    ward: Ward, failure: str, whole: int, single: int, kind: str
) -> None:
    genes = made_up(100)
    bad = genes[41]
    ward.server.poison, ward.server.failure = {str(bad[3])}, failure
    run_id = await ward.order(genes)
    assert await ward.finish(run_id) == "completed_with_errors"

    assert await ward.statuses() == {gene[0]: "error" if gene is bad else "ok" for gene in genes}
    row = await ward.desk.row("SELECT * FROM run_source")
    assert (row.state, row.total_count, row.done_count, row.failed_count) == (
        "completed",
        100,
        99,
        1,
    )
    (dead,) = await ward.desk.rows("SELECT * FROM batch WHERE state = 'dead'")
    assert (dead.genes, dead.attempt) == ([bad[0]], single)
    assert dead.problem["type"] == f"urn:annobus:problem:{kind}"
    # A part that fails before another is answered waits for that once.
    levels = ceil(log2(100))
    assert len(ward.server.asked) <= calls_max(100, whole, single) + levels
    assert ward.server.calls_for(str(bad[3])) <= whole + 2 * levels + single

    told = [m for m in ward.desk.published if isinstance(m, BatchAnnotated)]
    rows = await ward.desk.rows("SELECT id, genes FROM batch WHERE state = 'done' AND halvings > 0")
    assert sorted(fact.batch_id for fact in told) == sorted(row.id for row in rows)
    assert sorted(hgnc_id for row in rows for hgnc_id in row.genes) == sorted(
        gene[0] for gene in genes if gene is not bad
    )
    (ended,) = [m for m in ward.desk.published if isinstance(m, RunCompleted)]
    assert (ended.done_count, ended.failed_count) == (99, 1)


async def test_several_bad_genes_of_several_pages_leave_all_others(ward: Ward) -> None:
    genes = made_up(2 * PAGE_SIZE)
    bad = {genes[place][0]: str(genes[place][3]) for place in (0, 1, 77, 2 * PAGE_SIZE - 1)}
    ward.server.poison, ward.server.failure = set(bad.values()), "404"
    assert await ward.finish(await ward.order(genes)) == "completed_with_errors"

    statuses = await ward.statuses()
    assert {hgnc_id for hgnc_id, status in statuses.items() if status != "ok"} == set(bad)
    told = [m for m in ward.desk.published if isinstance(m, BatchDead)]
    assert sorted(fact.failed_count for fact in told) == [1] * len(bad)


@pytest.mark.parametrize("failure", ["500", "404"])
async def test_pages_of_an_upstream_that_fails_for_all_genes_do_not_multiply(
    ward: Ward, failure: str
) -> None:
    """One after the other is quartered, to see whether it is the genes; none of it is."""
    pages = 6
    genes = made_up(pages * PAGE_SIZE)
    ward.server.poison, ward.server.failure = {str(gene[3]) for gene in genes}, failure
    assert await ward.finish(await ward.order(genes)) == "failed"

    rows = await ward.desk.rows("SELECT state, genes FROM batch WHERE kind = 'fetch'")
    assert {row.state for row in rows} == {"dead"}
    assert len(rows) <= 2**BLIND_HALVINGS_MAX * pages
    assert min(len(row.genes) for row in rows) == PAGE_SIZE // 2**BLIND_HALVINGS_MAX
    assert len(ward.server.asked) <= 4 * pages * ATTEMPTS_MAX


async def test_pages_of_an_upstream_that_is_not_there_stay_whole(ward: Ward) -> None:
    away = Upstream(ward.desk.handlers.sources["ensembl"].declaration, "http://127.0.0.1:9")
    run_id = await ward.order(made_up(2 * PAGE_SIZE))
    await ward.desk.planner.plan_and_feed()
    (look,) = [m for m in await ward.desk.relay() if isinstance(m, AnnotateBatch)]
    await ward.desk.handlers.on_annotate_batch(look)
    try:
        ward.desk.use(upstreams={"ensembl": away})
        assert await ward.finish(run_id) == "failed"
    finally:
        await away.close()
    rows = await ward.desk.rows("SELECT genes, attempt FROM batch WHERE kind = 'fetch'")
    assert [(len(row.genes), row.attempt) for row in rows] == [(PAGE_SIZE, ATTEMPTS_MAX)] * 2
