"""Statistics as people and pages get them: of one time, with their age, and counted once."""

from typing import Any

import pytest_asyncio

from contracts.messages import NamespaceInvalidated
from services.cache.statistics import VIEWS
from services.gateway.store import statistics
from tests.builders import build_release
from tests.integration.gateway.desk import PKD1, PKD2, WWTR1, Desk


@pytest_asyncio.fixture
async def counted(stocked: Desk) -> Desk:
    async with stocked.database.begin("annotator") as tx:
        await build_release(tx, "gnomad", "v4.1.1")
    for hgnc_id, symbol, values in (
        (PKD1, "PKD1", {"gnomad": {"loeuf": 0.2, "pli": 1.0}, "hpo": {"term_count": 3}}),
        (PKD2, "PKD2", {"gnomad": {"loeuf": 0.4, "pli": 0.5}}),
    ):
        said = {
            source: {"status": "ok", "value": value, "valid_from": "2026-01-01T00:00:00+00:00"}
            for source, value in values.items()
        }
        await stocked.put_document(hgnc_id, symbol, version=2, annotations=said)
    for view in VIEWS:
        await stocked.execute(f"REFRESH MATERIALIZED VIEW cache.{view}")
    return stocked


async def data(desk: Desk, address: str) -> dict[str, Any]:
    answer = await desk.client.get(address)
    assert answer.status_code == 200, answer.text
    assert int(answer.headers["age"]) >= 0
    return {item["id"]: item["attributes"] for item in answer.json()["data"]}


async def test_each_source_has_its_counts_and_the_mean_of_its_score(counted: Desk) -> None:
    found = await data(counted, "/api/statistics/sources")
    assert next(iter(found)) == "hgnc"
    assert (found["gnomad"]["release"], found["gnomad"]["gene_count"]) == ("v4.1.1", 4)
    assert found["gnomad"]["score"] is not None
    fields = await data(counted, "/api/statistics/fields")
    score = fields[f"gnomad.{found['gnomad']['score']}"]
    assert found["gnomad"]["score_mean"] == score["mean"]
    assert found["gnomad"]["score_count"] == score["known_count"] == 2
    unscored = [one for one in found.values() if one["score"] is None]
    assert unscored
    assert {one["score_mean"] for one in unscored} == {None}
    assert fields["gnomad.loeuf"]["mean"] == (0.2 + 0.4) / 2


async def test_overlaps_are_of_the_sources_that_are_asked_for(counted: Desk) -> None:
    found = await data(counted, "/api/statistics/overlaps")
    assert {name: one["gene_count"] for name, one in found.items()} == {
        "none": 2,
        "gnomad": 1,
        "gnomad+hpo": 1,
    }
    found = await data(counted, "/api/statistics/overlaps?filter[source]=gnomad")
    assert {name: one["gene_count"] for name, one in found.items()} == {"none": 2, "gnomad": 2}
    answer = await counted.client.get("/api/statistics/overlaps?filter[source]=nowhere")
    assert answer.status_code == 400
    assert "gnomad" in answer.json()["detail"]


async def test_statistics_are_read_once_until_the_cache_says_that_there_are_new_ones(
    counted: Desk, monkeypatch: Any
) -> None:
    counted.entries.trust(True)
    asked = 0
    read = statistics.list_sources

    async def noted(connection: Any) -> Any:
        nonlocal asked
        asked += 1
        return await read(connection)

    monkeypatch.setattr(statistics, "list_sources", noted)
    first = await counted.client.get("/api/statistics/sources")
    again = await counted.client.get(
        "/api/statistics/sources", headers={"If-None-Match": first.headers["etag"]}
    )
    assert (again.status_code, again.content, asked) == (304, b"", 1)
    epoch = await counted.rows(
        """UPDATE cache.namespace SET epoch = epoch + 1, floor = epoch + 1
           WHERE namespace = 'statistics' RETURNING epoch"""
    )
    event = NamespaceInvalidated(namespace="statistics", epoch=epoch[0][0])
    await counted.handlers.on_namespace_invalidated(event)
    await counted.client.get("/api/statistics/sources")
    assert asked == 2


async def test_a_panel_is_covered_by_the_sources_that_have_values_of_its_genes(
    counted: Desk,
) -> None:
    body = {"name": "kidney", "genes": [PKD1, PKD2, "WWTR1"]}
    made = await counted.client.post("/api/panels", json=body)
    address = f"/api/statistics/panels/{made.json()['data']['id']}"
    answer = await counted.client.get(address)
    assert answer.status_code == 200, answer.text
    assert answer.json()["meta"]["panel"]["gene_count"] == 3
    found = {item["id"]: item["attributes"] for item in answer.json()["data"]}
    assert (found["gnomad"]["annotation_count"], found["gnomad"]["gene_count"]) == (2, 3)
    assert found["gnomad"]["without"] == [WWTR1]
    assert found["hpo"]["without"] == [PKD2, WWTR1]
    answer = await counted.client.get("/api/statistics/panels/nothing")
    assert answer.status_code == 404


async def test_what_is_shared_is_not_as_the_first_who_asked_wrote_it(counted: Desk) -> None:
    address = "/api/statistics/overlaps?filter[source]="
    first = await counted.client.get(f"{address}hpo,,,gnomad")
    other = await counted.client.get(f"{address}gnomad,hpo")
    assert first.content == other.content
    assert first.json()["links"]["self"].endswith("=gnomad%2Chpo")
