"""Orders of runs: what is accepted, what is refused and why, and the same order twice."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.gateway.domain import NewRun
from services.gateway.store import runs
from tests.integration.gateway.desk import GONE, OLD, PKD1, PKD2, SOURCES, TAFAZZIN, Desk

NAMES = [
    ("hgnc:9008", PKD1),
    ("hgnc:HGNC:9008", PKD1),
    ("pkd1", PKD1),  # Approved before the alias of another.
    ("TAZ", TAFAZZIN),  # Previous before alias.
    ("PBP", PKD1),
    ("5310", PKD1),
    ("NCBIGene:5310", PKD1),
    ("ENSG00000008710.17", PKD1),
    ("ensembl:ENSG00000008710", PKD1),
    (OLD, PKD1),  # Its one successor.
    ("old1", PKD1),
]

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"genes": []}, "/genes"),
    ({"genes": ["PKD1"] * 50_001}, "50000"),
    ({"genes": [5310]}, "/genes/0"),
    ({"genes": "PKD1"}, "/genes"),
    ({"genes": ["PKD1"], "all": True}, "either /genes"),
    ({}, "either /genes"),
    ({"all": False}, "/all"),
    ({"all": "true"}, "/all"),
    ({"all": True, "panel": 3}, "/panel"),
    ({"all": True, "sources": ["hpo", "uniprot"]}, "ensembl"),
    ({"all": True, "sources": []}, "/sources"),
    ({"all": True, "name": "\x00"}, "/name"),
    ({"all": True, "priority": "urgent"}, "/priority"),
]


async def refused(desk: Desk, status: int, **order: Any) -> dict[str, Any]:
    answer = await desk.client.post("/api/runs", json=order)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    return found


async def test_an_order_is_a_run_and_a_command_in_one_transaction(stocked: Desk) -> None:
    answer = await stocked.client.post(
        "/api/runs", json={"genes": ["PKD1", "pkd2"], "sources": ["hpo"], "name": "kidneys"}
    )

    assert answer.status_code == 202
    assert answer.headers["content-type"] == "application/vnd.api+json"
    run = answer.json()["data"]
    assert answer.headers["location"] == f"/api/runs/{run['id']}"
    assert run["attributes"]["state"] == "planning"
    assert run["attributes"]["name"] == "kidneys"
    assert list(run["attributes"]["sources"]) == ["hpo"]
    (command,) = await stocked.outbox()
    assert command["topic"] == "pipeline.commands.v1"
    assert command["key"] == run["id"]
    assert sorted(command["genes"]) == [PKD1, PKD2]
    assert command["sources"] == ["hpo"]


async def test_all_genes_need_no_catalogue(desk: Desk) -> None:
    await desk.start(all=True)
    (command,) = await desk.outbox()
    assert command["genes"] is None
    assert command["sources"] == list(SOURCES)


async def test_a_source_that_was_retired_is_shown_and_not_ordered(desk: Desk) -> None:
    await desk.execute("UPDATE annotator.source SET is_retired = true WHERE name = 'gnomad'")
    await desk.start(all=True)
    (command,) = await desk.outbox()
    assert command["sources"] == [name for name in SOURCES if name != "gnomad"]
    problem = await refused(desk, 422, all=True, sources=["gnomad"])
    assert problem["type"] == "urn:annobus:problem:sources-refused"
    shown = (await desk.client.get("/api/sources/gnomad")).json()["data"]["attributes"]
    assert shown["is_retired"] is True


async def test_both_triggers_order_all_genes(desk: Desk) -> None:
    for name in ("annotation_pipeline", "hpo"):
        answer = await desk.client.post(f"/api/progress/trigger/{name}")
        assert answer.status_code == 202, answer.text
    assert [list(command["sources"]) for command in await desk.outbox()] == [
        list(SOURCES),
        ["hpo"],
    ]
    answer = await desk.client.post("/api/progress/trigger/uniprot")
    assert answer.status_code == 404
    assert "hpo" in answer.json()["detail"]


async def test_a_gene_is_found_by_what_people_call_it(stocked: Desk) -> None:
    for written, meant in NAMES:
        run_id = await stocked.start(genes=[written, f" {written} "], sources=["hpo"])
        (command,) = [row for row in await stocked.outbox() if row["key"] == str(run_id)]
        assert command["genes"] == [meant], written


async def test_each_gene_that_cannot_be_resolved_is_named_with_what_would_do(
    read_stocked: Desk,
) -> None:
    genes = ["PKD1", "NOSUCH", "SHARED", "GONE1"]
    problem = await refused(read_stocked, 422, genes=genes)

    assert problem["type"] == "urn:annobus:problem:genes-refused"
    unknown, ambiguous, withdrawn = problem["errors"]
    assert unknown["pointer"] == "/genes/1"
    assert unknown["value"] == "NOSUCH"
    assert unknown["code"] == "gene-unknown"
    assert ambiguous["accepted"] == f"one of {PKD1} (PKD1), {PKD2} (PKD2)"
    assert withdrawn["accepted"] == f"another gene: {GONE} (GONE1) has no successor"
    assert await read_stocked.outbox() == []
    assert await read_stocked.rows("SELECT FROM gateway.run") == []


async def test_a_gene_list_on_an_empty_catalogue_is_refused(read_desk: Desk) -> None:
    problem = await refused(read_desk, 409, genes=["PKD1"])
    assert problem["type"] == "urn:annobus:problem:catalogue-empty"


async def test_a_wrong_field_is_named(read_desk: Desk) -> None:
    for order, named in WRONG:
        problem = await refused(read_desk, 422, **order)
        assert named in problem["detail"]
        assert problem["errors"]


async def test_malformed_json_and_a_large_body_are_refused(read_desk: Desk) -> None:
    json = {"content-type": "application/json"}
    answer = await read_desk.client.post("/api/runs", content=b'{"all": tru', headers=json)
    assert answer.status_code == 400
    for body in (rb'{"all": true, "name": "\ud800"}', rb'{"all": true, "\ud800": 1}'):
        answer = await read_desk.client.post("/api/runs", content=body, headers=json)
        assert answer.status_code == 422
    answer = await read_desk.client.post(
        "/api/runs", content=b" " * (8 * 1024**2 + 1), headers=json
    )
    assert answer.status_code == 413


async def test_fifty_thousand_genes_are_accepted(stocked: Desk) -> None:
    await stocked.start(genes=["PKD1", "PKD2"] * 25_000)
    (command,) = await stocked.outbox()
    assert sorted(command["genes"]) == [PKD1, PKD2]


async def test_the_same_key_and_order_is_the_same_run(desk: Desk) -> None:
    key = {"Idempotency-Key": "once"}
    first = await desk.client.post("/api/runs", json={"all": True}, headers=key)
    again = await desk.client.post("/api/runs", json={"all": True}, headers=key)
    other = await desk.client.post("/api/runs", json={"all": True, "sources": ["hpo"]}, headers=key)

    assert "idempotent-replayed" not in first.headers
    assert again.status_code == 202
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["data"]["id"] == first.json()["data"]["id"]
    assert other.status_code == 422
    assert other.json()["type"] == "urn:annobus:problem:idempotency-mismatch"
    assert len(await desk.outbox()) == 1


async def test_one_key_sent_ten_times_at_once_is_one_run(desk: Desk) -> None:
    key = {"Idempotency-Key": "race"}
    answers = await asyncio.gather(
        *(desk.client.post("/api/runs", json={"all": True}, headers=key) for _ in range(10))
    )
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["data"]["id"] for answer in answers}) == 1
    assert len(await desk.outbox()) == 1


async def test_a_key_that_does_not_fit_is_refused(read_desk: Desk) -> None:
    for key in ("", "a b", "x" * 256):
        answer = await read_desk.client.post(
            "/api/runs", json={"all": True}, headers={"Idempotency-Key": key}
        )
        assert answer.status_code == 400
        assert "255" in answer.json()["detail"]


async def test_a_run_shows_what_the_annotator_publishes(stocked: Desk) -> None:
    run_id = await stocked.start()
    await stocked.plan(run_id, total=200)
    await stocked.work(run_id, done=90, no_data=10, failed=100)

    answer = await stocked.client.get(f"/api/runs/{run_id}")
    run = answer.json()["data"]["attributes"]
    assert run["state"] == "running"
    assert run["total_count"] == 200 * len(SOURCES) == 1_200
    assert run["progress"] == 8.3  # Failures do not count.
    assert run["sources"]["ensembl"]["failed_count"] == 100
    listed = (await stocked.client.get("/api/progress/status")).json()["data"]
    assert [item["id"] for item in listed] == [str(run_id)]

    await stocked.finish(run_id)
    assert (await stocked.client.get("/api/progress/status")).json()["data"] == []


async def test_runs_are_listed_newest_first_in_pages(desk: Desk) -> None:
    ids = [str(await desk.start(all=True, sources=["hpo"])) for _ in range(3)]
    first = (await desk.client.get("/api/runs", params={"page[size]": "2"})).json()
    assert [item["id"] for item in first["data"]] == [ids[2], ids[1]]
    second = (await desk.client.get(first["links"]["next"])).json()
    assert [item["id"] for item in second["data"]] == [ids[0]]
    assert second["links"]["next"] is None
    assert (await desk.client.get(second["links"]["prev"])).json()["data"] == first["data"]


async def test_an_unknown_run_and_an_unknown_parameter_are_refused(read_desk: Desk) -> None:
    for run_id in ("0190b3c4-0000-7000-8000-000000000000", "seven"):
        answer = await read_desk.client.get(f"/api/runs/{run_id}")
        assert answer.status_code == 404
        assert answer.json()["type"] == "urn:annobus:problem:run-unknown"
    answer = await read_desk.client.get("/api/runs", params={"limit": "3"})
    assert answer.status_code == 400
    assert "page[size]" in answer.json()["detail"]


async def test_who_asks_which_runs_are_active_reads_those_and_none_that_ended(desk: Desk) -> None:
    """Each second, while somebody watches, however many runs there were."""
    await desk.execute(
        """WITH ended AS (
               INSERT INTO gateway.run (sources, scope, requested_at)
               SELECT ARRAY['hpo'], '', now() - interval '30 days' FROM generate_series(1, 2000)
               RETURNING id)
           INSERT INTO annotator.run (id, all_genes, awaits_catalogue, open_sources, state,
                                      started_at, finished_at)
           SELECT id, true, false, 0, 'completed', now() - interval '30 days', now() FROM ended"""
    )
    await desk.execute("ANALYZE")
    noted, unheard_of = [await desk.start(all=True, sources=["hpo"]) for _ in range(2)]
    await desk.plan(noted, total=10)
    async with desk.engine.connect() as connection:
        assert await runs.list_active_ids(connection) == [unheard_of, noted]
        read = await connection.scalar(
            text("""
                SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))
                FROM pg_stat_xact_all_tables
                WHERE schemaname IN ('gateway', 'annotator') AND relname = 'run'
            """)
        )
        assert 2 <= read <= 50  # Planning a statement reads the ends of an index.
        active = await runs.list_active_runs(connection)
    assert [run.id for run in active] == [unheard_of, noted]


async def test_whom_a_run_waits_for_is_shown_with_the_reason_until_it_is_over(desk: Desk) -> None:
    run_id = await desk.start(all=True)
    await desk.plan(run_id, total=10)
    await desk.execute("""
        INSERT INTO annotator.upstream (name, blocked_until, blocked_reason)
        SELECT source, now() + interval '30 s', '429, Retry-After 30 s'
        FROM annotator.run_source
    """)

    async def waits() -> list[tuple[str | None, str | None]]:
        answer = await desk.client.get(f"/api/runs/{run_id}")
        sources = answer.json()["data"]["attributes"]["sources"]
        assert len(sources) == len(SOURCES)
        return [(one["waits_until"], one["waits_because"]) for one in sources.values()]

    for until, because in await waits():
        assert until is not None
        rest = datetime.fromisoformat(until) - datetime.now(UTC)
        assert timedelta(seconds=15) < rest <= timedelta(seconds=30)
        assert because == "429, Retry-After 30 s"

    await desk.execute("""
        UPDATE annotator.upstream SET blocked_until = '-infinity',
            open_until = now() + interval '60 s', open_reason = '5 failures in a row'
    """)
    assert {because for _, because in await waits()} == {"5 failures in a row"}

    await desk.execute("UPDATE annotator.upstream SET open_until = now() - interval '1 s'")
    assert set(await waits()) == {(None, None)}


async def test_whom_a_run_waits_for_instead_is_shown_when_it_is_asked(desk: Desk) -> None:
    """gnomAD's own service stands in for its files, and may be left alone for a while, too."""
    run_id = await desk.start(sources=["gnomad"], all=True)
    await desk.plan(run_id, total=10)
    await desk.execute("""
        INSERT INTO annotator.upstream (name, blocked_until, blocked_reason)
        VALUES ('gnomad_api', now() + interval '30 s', '429')
    """)

    async def waits_for() -> str | None:
        answer = await desk.client.get(f"/api/runs/{run_id}")
        said: str | None = answer.json()["data"]["attributes"]["sources"]["gnomad"]["waits_for"]
        return said

    assert await waits_for() is None  # Its files may come.
    await desk.execute("""
        INSERT INTO annotator.batch (kind, source, attempt, problem)
        VALUES ('release', 'gnomad', 2, '{"title": "The upstream refuses our request"}')
    """)
    assert await waits_for() == "gnomad_api"
    answer = await desk.client.get(f"/api/runs/{run_id}")
    message = answer.json()["data"]["attributes"]["message"]
    assert re.search(r"gnomad: 0 of 10 genes, waits for gnomad_api until .* UTC: 429", message)


@pytest.mark.parametrize("priority", ["high", "normal", "low"])
async def test_a_run_has_the_priority_it_was_ordered_with(desk: Desk, priority: str) -> None:
    run_id = await desk.start(all=True, priority=priority)
    (command,) = await desk.outbox()
    assert command["priority"] == priority
    answer = await desk.client.get(f"/api/runs/{run_id}")
    assert answer.json()["data"]["attributes"]["priority"] == priority


async def test_a_trigger_says_it_all_by_its_path(read_desk: Desk) -> None:
    for name in ("annotation_pipeline", "hpo"):
        answer = await read_desk.client.post(
            f"/api/progress/trigger/{name}", json={"genes": ["PKD1"]}
        )
        assert answer.status_code == 422
        assert answer.json()["type"] == "urn:annobus:problem:body-unexpected"
    assert await read_desk.outbox() == []


async def test_a_long_name_of_a_source_is_cut_in_the_answer(read_desk: Desk) -> None:
    answer = await read_desk.client.post(f"/api/progress/trigger/{'x' * 5_000}")
    assert answer.status_code == 404
    assert len(answer.content) < 1_000


async def add_ended(desk: Desk, count: int) -> None:
    """Runs over all genes that ended long ago."""
    await desk.execute(
        """WITH ended AS (
               INSERT INTO gateway.run (sources, scope, requested_at)
               SELECT ARRAY['hpo', 'ensembl'], $1, now() - n * interval '1 day'
               FROM generate_series(30, 29 + $2::integer) n RETURNING id
           ), noted AS (
               INSERT INTO annotator.run (id, all_genes, awaits_catalogue, open_sources, state,
                                          started_at, finished_at)
               SELECT id, true, false, 0, 'completed', now() - interval '30 days', now()
               FROM ended RETURNING id)
           INSERT INTO annotator.run_source (run_id, source, state, total_count, finished_at)
           SELECT id, source, 'completed', 0, now()
           FROM noted, unnest(ARRAY['hpo', 'ensembl']) source""",
        *(ALL_GENES.scope, count),
    )
    await desk.execute("ANALYZE")


ALL_GENES = NewRun(sources=("ensembl",), genes=None, gene_count=None)


async def rows_read(connection: AsyncConnection, *tables: str) -> int:
    """By this transaction, so far."""
    read = await connection.scalar(
        text("""
            SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))
            FROM pg_stat_xact_all_tables
            WHERE schemaname IN ('gateway', 'annotator') AND relname = ANY (:tables)
        """),
        {"tables": list(tables)},
    )
    return int(read or 0)


async def test_an_order_is_compared_with_active_runs_and_with_none_that_ended(desk: Desk) -> None:
    await add_ended(desk, 2_000)
    run_id = await desk.start(all=True, sources=["ensembl"])
    await desk.plan(run_id, total=10)
    async with desk.engine.connect() as connection:
        found = await runs.find_fetching(connection, ALL_GENES.scope, ALL_GENES.sources)
        assert found is not None
        assert found.run_id == run_id
        assert await rows_read(connection, "run", "run_source") <= 100


async def test_pages_that_are_skipped_are_not_joined_with_what_became_of_their_runs(
    desk: Desk,
) -> None:
    await add_ended(desk, 2_000)
    async with desk.engine.connect() as connection:
        (run,) = await runs.list_runs(connection, limit=1, offset=1_500)
        assert set(run.progress.sources) == {"hpo", "ensembl"}
        assert await rows_read(connection, "run_source") <= 10
