"""Genes with their sources: compound documents."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import pytest_asyncio

from tests.builders import build_release
from tests.integration.gateway.desk import PKD1, PKD2, TAFAZZIN, Desk
from tests.integration.gateway.statements import STATEMENTS_MAX, counted

OF = {PKD1: ["gnomad", "hpo"], PKD2: ["hpo"]}  # Which have a value, of which gene.


@pytest_asyncio.fixture
async def annotated(stocked: Desk) -> Desk:
    async with stocked.database.begin("annotator") as tx:
        await build_release(tx, "hpo", "2025-01-16")
    for hgnc_id, sources in OF.items():
        said: dict[str, Any] = {
            source: {"status": "ok", "value": {}, "valid_from": "2026-01-01T00:00:00+00:00"}
            for source in sources
        }
        said["clinvar"] = {"status": "empty", "value": None, "valid_from": None}
        await stocked.put_document(
            hgnc_id, "PKD1" if hgnc_id == PKD1 else "PKD2", version=2, annotations=said
        )
    return stocked


async def ask(desk: Desk, path: str, **parameters: str) -> Any:
    answer = await desk.client.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


def linked(gene: Mapping[str, Any]) -> list[str]:
    data: Sequence[Mapping[str, str]] = gene["relationships"]["sources"]["data"]
    assert all(one["type"] == "sources" for one in data)
    return [one["id"] for one in data]


def names(document: Mapping[str, Any]) -> list[str]:
    return [one["id"] for one in document["included"]]


async def test_a_gene_comes_with_the_sources_that_it_has_values_of(annotated: Desk) -> None:
    document = await ask(annotated, "/api/genes/PKD1", include="sources")
    assert linked(document["data"]) == ["gnomad", "hpo"]
    assert names(document) == ["gnomad", "hpo"]
    assert document["links"]["self"] == f"/api/genes/{PKD1}?include=sources"
    for included in document["included"]:
        alone = await ask(annotated, f"/api/sources/{included['id']}")
        assert included == alone["data"]
    assert document["included"][1]["attributes"]["release"] == "2025-01-16"
    plain = await ask(annotated, "/api/genes/PKD1")
    assert document["data"]["attributes"] == plain["data"]["attributes"]


async def test_of_a_list_each_source_comes_once(annotated: Desk) -> None:
    for ask_for in (
        annotated.client.get("/api/genes?include=sources&sort=symbol"),
        annotated.client.post(
            "/api/genes/query?include=sources&sort=symbol",
            json={"genes": ["PKD1", "PKD2", "TAFAZZIN"]},
        ),
    ):
        answer = await ask_for
        assert answer.status_code == 200, answer.text
        document = answer.json()
        found = {gene["id"]: linked(gene) for gene in document["data"]}
        assert {PKD1: found[PKD1], PKD2: found[PKD2]} == OF
        assert found[TAFAZZIN] == []
        assert names(document) == ["gnomad", "hpo"]
    only = await ask(annotated, "/api/genes", include="sources", **{"filter[symbol]": "PKD2"})
    assert names(only) == ["hpo"]


async def test_a_page_has_the_sources_of_its_own_genes(annotated: Desk) -> None:
    """And not those of the gene behind it, which is read to know whether there is one."""
    page = await ask(
        annotated, "/api/genes", include="sources", sort="-symbol", **{"page[size]": "3"}
    )
    assert PKD1 not in [gene["id"] for gene in page["data"]]
    assert names(page) == ["hpo"]
    assert "include=sources" in page["links"]["next"]


async def test_without_it_answers_are_as_they_were(annotated: Desk) -> None:
    for path in (f"/api/genes/{PKD1}", "/api/genes", f"/api/genes/{PKD1}?fields[genes]=symbol"):
        first = await annotated.client.get(path)
        await annotated.client.get(path.partition("?")[0], params={"include": "sources"})
        again = await annotated.client.get(path)
        assert again.content == first.content
        assert b"relationships" not in again.content
        assert b"included" not in again.content


async def test_what_is_included_is_chosen_by_fields_as_well(annotated: Desk) -> None:
    """A relationship is a field: one that is left out is not told, and its resources still are."""
    path = f"/api/genes/{PKD1}"
    gene = await ask(
        annotated, path, include="sources", **{"fields[genes]": "symbol,sources,annotations"}
    )
    assert linked(gene["data"]) == OF[PKD1]
    assert gene["data"]["attributes"].keys() == {"symbol", "annotations"}
    without = await ask(annotated, path, include="sources", **{"fields[genes]": "symbol"})
    assert "relationships" not in without["data"]
    assert names(without) == OF[PKD1]
    alone = await ask(annotated, path, **{"fields[genes]": "symbol,sources"})
    assert linked(alone["data"]) == OF[PKD1]
    assert "included" not in alone


async def test_nothing_may_be_included(annotated: Desk) -> None:
    plain = await ask(annotated, f"/api/genes/{PKD1}")
    assert (await ask(annotated, f"/api/genes/{PKD1}", include=""))["data"] == plain["data"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/api/genes?include=runs", "include=runs does not fit; accepted: some of sources"),
        (f"/api/genes/{PKD1}?include=sources.releases", "accepted: some of sources"),
        (f"/api/genes/{PKD1}?include=sources&as_of=2026-01-01", "include is not known"),
        ("/api/genes?include=sources&as_of=2026-01-01", "include is not known"),
        ("/api/sources?include=genes", "include is not known"),
    ],
)
async def test_what_cannot_be_included_is_refused(annotated: Desk, path: str, says: str) -> None:
    answer = await annotated.client.get(path)
    assert answer.status_code == 400
    assert says in answer.json()["detail"]


async def test_an_answer_with_its_sources_is_known_by_its_tag(annotated: Desk) -> None:
    path = f"/api/genes/{PKD1}?include=sources"
    first = await annotated.client.get(path)
    tag = {"If-None-Match": first.headers["etag"]}
    assert (await annotated.client.get(path, headers=tag)).status_code == 304
    async with annotated.database.begin("annotator") as tx:
        await build_release(tx, "hpo", "2025-02-01")
    again = await annotated.client.get(path, headers=tag)
    assert again.status_code == 200
    assert "2025-02-01" in again.text


async def test_few_statements_are_asked_however_many_genes_there_are(annotated: Desk) -> None:
    for path in (f"/api/genes/{PKD1}", "/api/genes"):
        await annotated.client.get(path)  # Which fields there are is known then.
        with counted() as statements:
            await annotated.client.get(path, params={"include": "sources"})
        assert len(statements) == 2, path
    with counted() as statements:
        await annotated.client.post(
            "/api/genes/query?include=sources", json={"genes": ["PKD1", "PKD2", "WWTR1"]}
        )
    assert len(statements) <= STATEMENTS_MAX
