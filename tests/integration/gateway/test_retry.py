"""Retries of what failed, and orders for what another run is fetching just now."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from tests.integration.gateway.desk import PKD2, SOURCES, TAFAZZIN, Desk, open_desk
from tests.system import Database, SharedCluster, database_to_read


async def post(desk: Desk, path: str, status: int, key: str | None = None, **body: Any) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    answer = await desk.client.post(path, json=body, headers=headers)
    assert answer.status_code == status, answer.text
    return answer


async def fail(desk: Desk, run_id: UUID, *sources: str) -> None:
    for source in sources:
        await desk.execute(
            """UPDATE annotator.run_source SET failed_count = 3, problem = '{"type": "about:blank"}'
               WHERE run_id = $1 AND source = $2""",
            *(run_id, source),
        )


async def ordered(desk: Desk, *failed: str) -> UUID:
    """A run over all genes and sources that has ended, and of which these failed."""
    run_id = await desk.start(all=True)
    await desk.plan(run_id)
    await fail(desk, run_id, *failed)
    await desk.finish(run_id)
    return run_id


@pytest.fixture(scope="module")
def completed_database(cluster: SharedCluster, template: str) -> Iterator[Database]:
    """In which a run has ended, of which nothing failed."""

    async def complete(database: Database) -> None:
        async with open_desk(database) as desk:
            await ordered(desk)

    yield from database_to_read(cluster, template, complete)


@pytest_asyncio.fixture
async def completed(completed_database: Database) -> AsyncIterator[Desk]:
    async with open_desk(completed_database) as desk:
        yield desk


async def test_a_retry_is_a_new_run_over_the_sources_that_failed(desk: Desk) -> None:
    old = await ordered(desk, "ensembl", "hpo")
    before = (await desk.client.get(f"/api/runs/{old}")).json()
    answer = await post(desk, f"/api/runs/{old}/retry", 202, name="again")
    run = answer.json()["data"]
    assert run["id"] != str(old)
    assert answer.headers["location"] == f"/api/runs/{run['id']}"
    assert (run["attributes"]["retries"], run["attributes"]["name"]) == (str(old), "again")
    assert sorted(run["attributes"]["sources"]) == ["ensembl", "hpo"]
    command = (await desk.outbox())[-1]
    assert (command["retries"], command["genes"], command["strategy"]) == (str(old), None, "full")
    assert command["key"] == run["id"]
    assert (await desk.client.get(f"/api/runs/{old}")).json() == before


async def test_a_retry_may_be_of_some_sources_and_has_as_many_genes_as_failed(desk: Desk) -> None:
    old = await ordered(desk, "ensembl", "hpo")
    run = (await post(desk, f"/api/runs/{old}/retry", 202, sources=["ensembl"])).json()["data"]
    assert list(run["attributes"]["sources"]) == ["ensembl"]
    assert run["attributes"]["gene_count"] == 3
    answer = await post(desk, f"/api/runs/{old}/sources/hpo/retry", 202)
    assert list(answer.json()["data"]["attributes"]["sources"]) == ["hpo"]
    assert answer.json()["data"]["attributes"]["gene_count"] is None


async def test_a_run_that_goes_on_can_be_retried_and_a_body_is_not_needed(desk: Desk) -> None:
    old = await desk.start(all=True)
    await desk.plan(old)
    await fail(desk, old, "ensembl")
    answer = await desk.client.post(f"/api/runs/{old}/retry")
    assert answer.status_code == 202, answer.text


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "says"),
    [
        ("retry", {}, 409, "run-not-failed", "nothing of it has failed so far"),
        ("retry", {"sources": ["hpo"]}, 409, "run-not-failed", "nothing of it has failed"),
        ("sources/hpo/retry", {}, 409, "run-not-failed", "nothing of it has failed so far"),
        ("sources/uniprot/retry", {}, 404, "source-unknown", "it has hgnc"),
        ("retry", {"sources": ["uniprot"]}, 422, "sources-refused", "accepted: some of hgnc"),
        ("retry", {"genes": ["PKD1"]}, 422, "retry-invalid", "accepted: sources, name"),
        ("sources/hpo/retry", {"sources": ["hpo"]}, 422, "retry-invalid", "accepted: name"),
    ],
)
async def test_what_has_not_failed_is_not_retried(
    completed: Desk, path: str, body: dict[str, Any], status: int, kind: str, says: str
) -> None:
    (run,) = await completed.rows("SELECT id FROM gateway.run")
    problem = (await post(completed, f"/api/runs/{run['id']}/{path}", status, **body)).json()
    assert problem["type"] == f"urn:annobus:problem:{kind}"
    assert says in problem["detail"]
    assert len(await completed.outbox()) == 1


async def test_a_source_that_did_not_fail_is_named_beside_those_that_did(desk: Desk) -> None:
    old = await ordered(desk, "ensembl")
    problem = (await post(desk, f"/api/runs/{old}/retry", 409, sources=["ensembl", "hpo"])).json()
    assert "hpo has not failed so far; accepted: some of ensembl" in problem["detail"]
    (error,) = problem["errors"]
    assert (error["value"], error["accepted"]) == ("hpo", "some of ensembl")


async def test_an_unknown_run_is_not_retried(desk: Desk) -> None:
    await post(desk, f"/api/runs/{uuid4()}/retry", 404)


async def test_a_retry_with_the_same_key_is_one_run(desk: Desk) -> None:
    old = await ordered(desk, "ensembl", "hpo")
    place = f"/api/runs/{old}/retry"
    first = await post(desk, place, 202, key="k1", sources=["hpo"])
    again = await post(desk, place, 202, key="k1", sources=["hpo"])
    assert again.json()["data"]["id"] == first.json()["data"]["id"]
    assert again.headers["idempotent-replayed"] == "true"
    await post(desk, place, 422, key="k1", sources=["ensembl"])
    await post(desk, f"/api/runs/{old}/sources/hpo/retry", 422, key="k1")
    assert len(await desk.outbox()) == 2


# Identical runs


async def test_an_order_for_what_another_run_is_fetching_is_refused_and_names_it(
    stocked: Desk,
) -> None:
    first = await stocked.start(genes=["PKD1", "PKD2"], sources=["hpo", "ensembl"])
    answer = await post(stocked, "/api/runs", 409, genes=[PKD2, "pkd1"])
    problem = answer.json()
    assert problem["type"] == "urn:annobus:problem:run-identical"
    assert f"run {first} (/api/runs/{first}) asks ensembl for the same genes" in problem["detail"]
    (error,) = problem["errors"]
    assert (error["value"], error["run"]) == ("ensembl", f"/api/runs/{first}")
    assert len(await stocked.outbox()) == 1


async def test_other_genes_and_files_alone_are_not_identical(stocked: Desk) -> None:
    await stocked.start(genes=["PKD1", "PKD2"], sources=["hpo", "ensembl"])
    await stocked.start(genes=["PKD1", "PKD2"], sources=["hpo"])
    await stocked.start(genes=["PKD1", TAFAZZIN], sources=["ensembl"])
    await stocked.start(all=True)
    await post(stocked, "/api/progress/trigger/ensembl", 409)
    await post(stocked, "/api/progress/trigger/hpo", 202)


@pytest.mark.parametrize("end", ["run ends", "source ends", "run is cancelled", "source is"])
async def test_what_another_run_has_fetched_or_will_not_fetch_may_be_ordered(
    desk: Desk, end: str
) -> None:
    first = await desk.start(all=True)
    await desk.plan(first)
    await post(desk, "/api/runs", 409, all=True)
    if end == "run ends":
        await desk.finish(first)
    elif end == "source ends":
        await desk.execute(
            """UPDATE annotator.run_source SET state = 'completed', done_count = total_count,
                   finished_at = now() WHERE source = 'ensembl'"""
        )
    elif end == "run is cancelled":
        await post(desk, f"/api/runs/{first}/cancel", 202)
    else:
        await post(desk, f"/api/runs/{first}/sources/ensembl/cancel", 202)
    await post(desk, "/api/runs", 202, all=True)


async def test_a_paused_run_is_still_fetching(desk: Desk) -> None:
    first = await desk.start(all=True)
    await desk.plan(first)
    await post(desk, f"/api/runs/{first}/pause", 202)
    await post(desk, f"/api/runs/{first}/sources/ensembl/pause", 202)
    await post(desk, "/api/runs", 409, all=True)


async def test_an_order_that_nobody_will_hear_any_more_holds_up_no_other(desk: Desk) -> None:
    await desk.start(all=True)
    await desk.execute("UPDATE gateway.run SET requested_at = now() - interval '60 days'")
    await desk.start(all=True)


async def test_two_retries_of_one_run_are_identical(desk: Desk) -> None:
    old = await ordered(desk, "ensembl", "hpo")
    await post(desk, f"/api/runs/{old}/retry", 202)
    problem = (await post(desk, f"/api/runs/{old}/sources/ensembl/retry", 409)).json()
    assert problem["type"] == "urn:annobus:problem:run-identical"
    await post(desk, f"/api/runs/{old}/sources/hpo/retry", 202)


async def test_the_same_key_replays_while_its_run_is_fetching(desk: Desk) -> None:
    first = await post(desk, "/api/runs", 202, key="k1", all=True)
    again = await post(desk, "/api/runs", 202, key="k1", all=True)
    assert again.json()["data"]["id"] == first.json()["data"]["id"]


async def test_of_identical_orders_that_come_together_one_is_accepted(stocked: Desk) -> None:
    answers = await asyncio.gather(
        *(
            stocked.client.post("/api/runs", json={"genes": ["PKD1"], "sources": ["ensembl"]})
            for _ in range(8)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 7
    assert len(await stocked.outbox()) == 1


# Strategies


@pytest.mark.parametrize("strategy", ["full", "stale", "missing", "force"])
async def test_the_strategy_of_an_order_is_shown_and_sent(desk: Desk, strategy: str) -> None:
    answer = await post(desk, "/api/runs", 202, all=True, strategy=strategy)
    assert answer.json()["data"]["attributes"]["strategy"] == strategy
    (command,) = await desk.outbox()
    assert command["strategy"] == strategy


async def test_an_unknown_strategy_is_refused_with_those_that_are_known(desk: Desk) -> None:
    problem = (await post(desk, "/api/runs", 422, all=True, strategy="fast")).json()
    (error,) = problem["errors"]
    assert error["pointer"] == "/strategy"
    for accepted in ("full", "stale", "missing", "force"):
        assert accepted in error["accepted"]


async def test_a_run_with_nothing_to_do_is_whole(desk: Desk) -> None:
    run_id = await desk.start(all=True, strategy="missing")
    await desk.plan(run_id, total=0)
    await desk.finish(run_id)
    run = (await desk.client.get(f"/api/runs/{run_id}")).json()["data"]["attributes"]
    assert (run["progress"], run["total_count"]) == (100.0, 0)
    assert run["message"] == "completed: nothing was fetched"
    assert len(run["sources"]) == len(SOURCES)


async def test_a_dry_run_is_no_order_that_another_would_repeat(desk: Desk) -> None:
    dry = (await post(desk, "/api/runs", 202, all=True, dry_run=True)).json()["data"]
    assert dry["attributes"]["dry_run"] is True
    assert (await desk.outbox())[-1]["dry_run"] is True
    real = (await post(desk, "/api/runs", 202, all=True)).json()["data"]
    assert real["attributes"]["dry_run"] is False
    await post(desk, "/api/runs", 409, all=True)
    await post(desk, "/api/runs", 202, all=True, dry_run=True)


async def test_what_a_dry_run_has_found_out_is_shown_and_nobody_retries_it(desk: Desk) -> None:
    run_id = await desk.start(all=True, dry_run=True)
    await desk.plan(run_id)
    preview = {"gene_count": 7, "request_count": 1, "seconds": 0.1}
    await desk.execute(
        """UPDATE annotator.run_source SET total_count = 0, preview = $2
           WHERE run_id = $1 AND source = 'ensembl'""",
        run_id,
        json.dumps(preview),
    )
    shown = (await desk.client.get(f"/api/runs/{run_id}")).json()["data"]["attributes"]
    assert shown["sources"]["ensembl"]["preview"] == preview
    assert shown["sources"]["hpo"]["preview"] is None
    problem = (await post(desk, f"/api/runs/{run_id}/retry", 409)).json()
    assert "was a dry run, which nobody retries" in problem["detail"]


async def test_an_error_names_the_place_where_the_source_was_named(desk: Desk) -> None:
    old = await ordered(desk, "ensembl")
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("sources/hpo/retry", {}, "path source"),
        ("retry", {"sources": ["ensembl", "hpo"]}, "/sources"),
    ]
    for path, body, pointer in cases:
        (error,) = (await post(desk, f"/api/runs/{old}/{path}", 409, **body)).json()["errors"]
        assert (error["pointer"], error["value"]) == (pointer, "hpo")
    await post(desk, f"/api/runs/{old}/retry", 202)
    problem = (await post(desk, f"/api/runs/{old}/sources/ensembl/retry", 409)).json()
    assert problem["errors"][0]["pointer"] == "path source"
