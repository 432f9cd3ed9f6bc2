"""A few genes are asked for one by one while the files of their source cannot be had."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from services.annotator import domain
from tests.builders import GENES
from tests.integration.annotator.catalogue import write_catalogue
from tests.integration.annotator.desk import Desk
from tests.system import Mirror

PKD1, BRCA2, UGT1A = "HGNC:9008", "HGNC:1101", "HGNC:12547"  # The last has no Ensembl id.
FEW = [PKD1, BRCA2, UGT1A]


@pytest.fixture
def without_files(mirror: Mirror) -> Iterator[Mirror]:
    with mirror.fault("gnomad", kind="status", status=503):
        yield mirror


async def try_again(desk: Desk, times: int) -> None:
    for _ in range(times):
        await desk.work()
        await desk.make_due()


async def statuses(desk: Desk) -> dict[str, str]:
    rows = await desk.rows(
        "SELECT hgnc_id, status FROM current_annotation_v1 WHERE source = 'gnomad'"
    )
    return {row.hgnc_id: row.status for row in rows}


async def test_a_few_genes_are_answered_one_by_one_when_the_files_failed_twice(
    desk: Desk, without_files: Mirror
) -> None:
    await write_catalogue(desk)
    before = without_files.counters("gnomad_api")["requests"]
    run_id = await desk.order(["gnomad"], FEW)
    await try_again(desk, 1)
    assert without_files.counters("gnomad_api")["requests"] == before
    assert (await desk.row("SELECT state FROM run_source")).state == "waiting"

    await try_again(desk, 1)

    assert without_files.counters("gnomad_api")["requests"] == before + 2  # Version, one page.
    row = await desk.row("SELECT * FROM run_source WHERE run_id = :run_id", run_id=run_id)
    assert (row.state, row.done_count, row.no_data_count, row.failed_count) == (
        *("completed", 2, 1),
        0,
    )
    assert (await desk.row("SELECT state FROM run")).state == "completed"
    rows = await desk.rows("""
        SELECT a.hgnc_id, a.value, a.position, r.version, r.synthetic, r.state, f.url
        FROM annotation a JOIN release r ON r.id = a.release_id
        JOIN release_file f ON f.id = a.file_id ORDER BY a.position
    """)
    assert [(row.hgnc_id, row.position) for row in rows] == [(BRCA2, 0), (PKD1, 1)]
    for row in rows:
        assert (row.version, row.synthetic) == ("v4 by GraphQL-synthetic", True)
        assert row.state == "fetched"
        assert row.url.endswith("/gnomad_api/api")
        assert row.value["loeuf"] is not None
        assert (row.value["transcript"], row.value["is_constrained"]) == (None, None)
    # Nothing was said of the genes that nobody asked for.
    assert await statuses(desk) == {
        gene[0]: "ok" if gene[0] in (PKD1, BRCA2) else "pending" for gene in GENES
    }


async def test_a_blocked_download_is_not_tried_twice_before_genes_are_asked_for(
    desk: Desk, mirror: Mirror
) -> None:
    await write_catalogue(desk)
    await desk.order(["gnomad"], FEW)
    with mirror.fault("gnomad", kind="status", status=403):
        await try_again(desk, 1)
    assert (await desk.row("SELECT done_count FROM run_source")).done_count == 2
    batch = await desk.row("SELECT * FROM batch WHERE kind = 'release'")
    assert (batch.state, batch.problem["title"]) == ("dead", "The upstream shuts us out")


@pytest.mark.usefixtures("without_files")
async def test_runs_over_more_genes_wait_for_the_files_and_fail_without_them(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_catalogue(desk)
    monkeypatch.setattr(domain, "FALLBACK_GENES_MAX", 3)
    few = await desk.order(["gnomad"], FEW)
    more = await desk.order(["gnomad"], [gene[0] for gene in GENES[:4]])
    every = await desk.order(["gnomad"])
    await try_again(desk, domain.ATTEMPTS_MAX)

    rows = await desk.rows("SELECT * FROM run_source")
    found = {row.run_id: (row.state, row.done_count, row.failed_count) for row in rows}
    assert found == {
        few: ("completed", 2, 0),
        more: ("failed", 0, 4),
        every: ("failed", 0, len(GENES)),
    }


async def test_a_service_that_fails_too_is_asked_again_with_the_files(
    desk: Desk, without_files: Mirror
) -> None:
    await write_catalogue(desk)
    await desk.order(["gnomad"], FEW)
    with without_files.fault("gnomad_api", kind="status", status=500):
        await try_again(desk, 3)
    assert (await desk.row("SELECT state FROM run_source")).state == "waiting"
    assert await desk.rows("SELECT 1 FROM release WHERE source = 'gnomad'") == []

    await try_again(desk, 1)
    assert (await desk.row("SELECT state, done_count FROM run_source")).done_count == 2


async def test_a_service_that_refuses_does_not_end_the_look_for_the_files(
    desk: Desk, without_files: Mirror
) -> None:
    await write_catalogue(desk)
    every = await desk.order(["gnomad"])
    await desk.order(["gnomad"], FEW)
    with without_files.fault("gnomad_api", kind="status", status=400):
        await try_again(desk, domain.FALLBACK_ATTEMPT + 1)
    batch = await desk.row("SELECT * FROM batch WHERE kind = 'release'")
    assert (batch.state, batch.attempt) == ("pending", domain.FALLBACK_ATTEMPT + 1)
    assert "503" in batch.problem["detail"]
    assert await desk.source_states(every) == {"gnomad": "waiting"}

    await try_again(desk, 1)
    states = {row.state for row in await desk.rows("SELECT state FROM run_source")}
    assert states == {"waiting", "completed"}


async def test_the_files_are_tried_again_before_a_service_that_is_shut_for_long_may_be_asked(
    desk: Desk, without_files: Mirror
) -> None:
    await write_catalogue(desk)
    await desk.order(["gnomad"], FEW)
    await try_again(desk, 1)
    with without_files.fault("gnomad_api", kind="rate_limited", seconds=3_600):
        await desk.work()
    batch = await desk.row("SELECT *, next_attempt_at - now() AS wait FROM batch")
    assert (batch.state, batch.attempt) == ("pending", 1)  # None is lost to who is waited for.
    assert batch.wait <= timedelta(seconds=domain.BACKOFF_SECONDS_MAX + 1)


async def test_genes_are_asked_for_at_once_when_the_files_are_shut_for_long(
    desk: Desk, mirror: Mirror
) -> None:
    await write_catalogue(desk)
    run_id = await desk.order(["gnomad"], FEW)
    with mirror.fault("gnomad", kind="rate_limited", seconds=3_600):
        await desk.work()
    assert await desk.source_states(run_id) == {"gnomad": "completed"}
    batch = await desk.row("SELECT *, next_attempt_at - now() AS wait FROM batch")
    assert (batch.state, batch.refusals) == ("pending", 1)
    assert batch.wait > timedelta(minutes=50)  # The files are not asked for before they said.


@pytest.mark.usefixtures("without_files")
async def test_who_lost_the_lease_meanwhile_stores_nothing(desk: Desk) -> None:
    await write_catalogue(desk)
    await desk.order(["gnomad"], FEW)
    await try_again(desk, 1)
    api = desk.handlers.upstreams["gnomad_api"]
    ask = api.post

    async def ask_slowly(path: str, body: object, _: object = None) -> domain.Response:
        async with desk.engine.begin() as tx:
            await tx.execute(text("UPDATE batch SET lease_token = lease_token + 1"))
        return await ask(path, body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "post", ask_slowly)
        await desk.planner.plan_and_feed()
        for hint in await desk.relay():
            await desk.handlers.on_annotate_batch(hint)  # type: ignore[arg-type]  # Hints only.
    assert await desk.rows("SELECT 1 FROM annotation") == []
    assert await desk.rows("SELECT 1 FROM release WHERE source = 'gnomad'") == []
    assert (await desk.row("SELECT state FROM run_source")).state == "waiting"


async def value_of(desk: Desk, hgnc_id: str) -> Any:
    row = await desk.row(
        """SELECT value FROM current_annotation_v1
           WHERE source = 'gnomad' AND hgnc_id = :hgnc_id""",
        hgnc_id=hgnc_id,
    )
    return row.value


async def test_the_files_replace_what_was_asked_for_meanwhile(
    loaded_desk: Desk, mirror: Mirror
) -> None:
    desk = loaded_desk
    await desk.order(["gnomad"], [PKD1, BRCA2])
    with mirror.fault("gnomad", kind="status", status=503):
        await try_again(desk, 2)
    asked = await desk.rows("SELECT hgnc_id, value FROM annotation WHERE source = 'gnomad'")
    assert len(asked) == 2

    await desk.order(["gnomad"])
    await try_again(desk, 3)

    rows = await desk.rows("""
        SELECT hgnc_id, value, release FROM current_annotation_v1
        WHERE source = 'gnomad' AND status = 'ok'
    """)
    assert len(rows) > 19_000
    assert {row.release for row in rows} == {"v4.1.1-synthetic"}
    whole = {row.hgnc_id: row.value for row in rows}
    for row in asked:  # The same numbers, and now with transcript and verdict.
        assert whole[row.hgnc_id]["pli"] == row.value["pli"]
        assert whole[row.hgnc_id]["loeuf"] == row.value["loeuf"]
        assert whole[row.hgnc_id]["transcript"].startswith("ENST")
    assert set((await statuses(desk)).values()) == {"ok", "empty"}

    # Away once more, and back as it was: what stood in for the files is not taken for them, and
    # what they said is not replaced by an answer that says less.
    run_id = await desk.order(["gnomad"], [PKD1])
    with mirror.fault("gnomad", kind="status", status=503):
        await try_again(desk, 2)
    run = await desk.row("SELECT * FROM run_source_v1 WHERE run_id = :run_id", run_id=run_id)
    assert (run.state, run.done_count, run.changed_count) == ("completed", 1, 0)
    assert await value_of(desk, PKD1) == whole[PKD1]
    before = mirror.counters("gnomad")["not_modified"]
    await try_again(desk, 1)
    assert mirror.counters("gnomad")["not_modified"] == before + 1
    releases = await desk.rows("SELECT state FROM release WHERE source = 'gnomad' ORDER BY id")
    assert [row.state for row in releases] == ["fetched", "stored", "fetched"]
