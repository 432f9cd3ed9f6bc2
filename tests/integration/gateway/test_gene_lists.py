"""Lists of genes, filtered and sorted by what sources say of them."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import pytest_asyncio

from contracts.views import SummaryKind
from services.gateway import gene_queries
from services.gateway.gene_queries import Summaries
from services.gateway.store import catalogue
from tests.integration.gateway.desk import PKD1, PKD2, TAFAZZIN, WWTR1, Desk

# Two genes have the same value, one has none, one nobody has said anything of.
VALUES: Mapping[str, Mapping[str, Any]] = {
    PKD1: {
        "gnomad": {"loeuf": 0.35, "is_constrained": True, "constraint_flags": ["no_exp_lof"]},
        "hpo": {"term_count": 12, "diseases": [{"id": "OMIM:173900"}, {"id": "ORPHA:730"}]},
        "clinvar": {"last_evaluated_max": "2026-01-31", "has_p_lp": True},
        "clingen": {"strongest": "Definitive"},
    },
    PKD2: {
        "gnomad": {"loeuf": 0.35, "is_constrained": False, "constraint_flags": []},
        "hpo": {"term_count": 3, "diseases": [{"id": "OMIM:613095"}]},
        "clinvar": {"last_evaluated_max": "2025-01-31", "has_p_lp": True},
        "clingen": {"strongest": "Strong"},
    },
    TAFAZZIN: {"gnomad": {"loeuf": None, "is_constrained": None, "constraint_flags": None}},
    WWTR1: {},
}
SORTS = (
    *("gnomad.loeuf", "hpo.term_count", "gnomad.is_constrained", "clingen.strongest"),
    *("clinvar.last_evaluated_max", "annotation_count", "locus_group", "location"),
)

FILTERED: Sequence[tuple[Mapping[str, str], Sequence[str]]] = [
    ({"filter[gnomad.loeuf][lt]": "0.6"}, [PKD1, PKD2]),
    ({"filter[gnomad.loeuf][lt]": "0.35"}, []),
    ({"filter[gnomad.loeuf][lte]": "0.35", "filter[hpo.term_count][gt]": "3"}, [PKD1]),
    ({"filter[hpo.term_count]": "3,12"}, [PKD1, PKD2]),
    ({"filter[hpo.term_count][ne]": "3"}, [PKD1]),
    ({"filter[gnomad.loeuf][known]": "false"}, [TAFAZZIN, WWTR1]),
    ({"filter[gnomad.loeuf][known]": "true"}, [PKD1, PKD2]),
    ({"filter[gnomad.loeuf][known]": "true,false"}, [PKD1, PKD2, TAFAZZIN, WWTR1]),
    ({"filter[gnomad.is_constrained]": "false"}, [PKD2]),
    ({"filter[clinvar.last_evaluated_max][gte]": "2026-01-01"}, [PKD1]),
    ({"filter[clingen.strongest]": "Definitive,Strong"}, [PKD1, PKD2]),
    ({"filter[clingen.strongest][ne]": "Strong"}, [PKD1]),
    ({"filter[hpo.diseases]": "OMIM:173900,OMIM:613095"}, [PKD1, PKD2]),
    ({"filter[hpo.diseases][all]": "OMIM:173900,ORPHA:730"}, [PKD1]),
    ({"filter[hpo.diseases][ne]": "OMIM:173900"}, [PKD2]),
    ({"filter[gnomad.constraint_flags][known]": "true"}, [PKD1]),
    ({"filter[sources]": "hpo"}, [PKD1, PKD2]),
    ({"filter[sources][all]": "hpo,gnomad"}, [PKD1, PKD2]),
    ({"filter[annotation_count][gte]": "1"}, [PKD1, PKD2, TAFAZZIN]),
    ({"filter[text]": "kd"}, [PKD1, PKD2]),
    ({"filter[text]": "PBP"}, [PKD1]),  # An alias.
    ({"filter[text]": "%"}, []),
    ({"filter[text]": "_KD1"}, []),
    ({"filter[text]": "\\"}, []),
    ({"filter[symbol]": "PKD1,PKD2", "filter[hpo.term_count][lt]": "5"}, [PKD2]),
]


@pytest_asyncio.fixture
async def annotated(stocked: Desk) -> Desk:
    for hgnc_id, values in VALUES.items():
        said = {
            source: {"status": "ok", "value": value, "valid_from": "2026-01-01T00:00:00+00:00"}
            for source, value in values.items()
        }
        symbol = {PKD1: "PKD1", PKD2: "PKD2", TAFAZZIN: "TAFAZZIN", WWTR1: "WWTR1"}[hgnc_id]
        await stocked.put_document(hgnc_id, symbol, version=2, annotations=said)
    return stocked


def number(hgnc_id: str) -> int:
    return int(hgnc_id.partition(":")[2])


async def ids(desk: Desk, parameters: Mapping[str, str]) -> list[str]:
    answer = await desk.client.get("/api/genes", params=dict(parameters))
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["data"]]


async def test_genes_are_filtered_by_what_sources_say(annotated: Desk) -> None:
    for parameters, expected in FILTERED:
        assert await ids(annotated, parameters) == expected, parameters
        counted = await annotated.client.get(
            "/api/genes", params={**parameters, "page[total]": "true", "page[size]": "1"}
        )
        assert counted.json()["meta"] == {"total": len(expected)}, parameters


async def test_genes_are_sorted_by_what_sources_say_and_those_without_come_last(
    annotated: Desk,
) -> None:
    for sort in ("gnomad.loeuf", "hpo.term_count", "clinvar.last_evaluated_max"):
        source, name = sort.split(".")
        known = {gene: values.get(source, {}).get(name) for gene, values in VALUES.items()}
        having = sorted((gene for gene in known if known[gene] is not None), key=number)
        lacking = sorted((gene for gene in known if known[gene] is None), key=number)
        rising = sorted(having, key=lambda gene: known[gene])
        falling = sorted(having, key=lambda gene: known[gene], reverse=True)
        assert await ids(annotated, {"sort": sort}) == [*rising, *lacking]
        assert await ids(annotated, {"sort": f"-{sort}"}) == [*falling, *lacking]


@pytest.mark.parametrize("size", [1, 3])
async def test_pages_by_key_join_to_the_whole_list_whatever_it_is_sorted_by(
    annotated: Desk, size: int
) -> None:
    for sort in (f"{sign}{name}" for name in SORTS for sign in ("", "-")):
        whole = await ids(annotated, {"sort": sort})
        assert sorted(whole) == sorted(VALUES)
        found: list[str] = []
        address = f"/api/genes?sort={sort}&page[size]={size}"
        while address:
            answer = (await annotated.client.get(address)).json()
            found += [item["id"] for item in answer["data"]]
            address = answer["links"]["next"]
        assert found == whole, sort


async def test_a_field_that_nobody_declared_is_refused_with_those_there_are(
    annotated: Desk,
) -> None:
    answer = await annotated.client.get("/api/genes?filter[gnomad.nothing]=1")
    assert answer.status_code == 400
    assert "filter[gnomad.loeuf]" in answer.json()["detail"]


async def test_genes_are_asked_for_by_any_name_and_what_is_none_is_told(annotated: Desk) -> None:
    names = ["pkd1", "HGNC:9008", "PKD2", "NOSUCH", "SHARED", "GONE1", "WWTR1"]
    answer = await annotated.client.post(
        "/api/genes/query?sort=-hpo.term_count&page[size]=2", json={"genes": names}
    )
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert [item["id"] for item in document["data"]] == [PKD1, PKD2]
    meta = document["meta"]
    assert (meta["asked_count"], meta["gene_count"], meta["total"]) == (7, 3, 3)
    assert [(row["place"], row["value"]) for row in meta["not_found"]] == [(3, "NOSUCH")]
    assert {row["value"] for row in meta["ambiguous"]} == {"SHARED"}
    assert len(meta["ambiguous"][0]["candidates"]) > 1
    assert [row["value"] for row in meta["withdrawn"]] == ["GONE1"]
    more = await annotated.client.post(document["links"]["next"], json={"genes": names})
    assert [item["id"] for item in more.json()["data"]] == [WWTR1]
    assert "not_found" not in more.json()["meta"]
    filtered = await annotated.client.post(
        "/api/genes/query?filter[gnomad.loeuf][lt]=1&fields[genes]=symbol", json={"genes": names}
    )
    attributes = [item["attributes"] for item in filtered.json()["data"]]
    assert attributes == [{"symbol": "PKD1"}, {"symbol": "PKD2"}]


async def test_facets_count_the_genes_of_a_list_by_value(annotated: Desk) -> None:
    fields = "clingen.strongest,hpo.diseases,gnomad.loeuf,gnomad.is_constrained,sources"
    answer = await annotated.client.get(
        f"/api/genes/facets?facets={fields}&filter[symbol]=PKD1,PKD2,WWTR1"
    )
    assert answer.status_code == 200, answer.text
    found = {item["id"]: item["attributes"] for item in answer.json()["data"]}
    assert list(found) == fields.split(",")
    counted = {
        name: {value["value"]: value["count"] for value in facet.get("values", ())}
        for name, facet in found.items()
    }
    assert counted["clingen.strongest"] == {"Definitive": 1, "Strong": 1}
    assert counted["hpo.diseases"] == {"OMIM:173900": 1, "OMIM:613095": 1, "ORPHA:730": 1}
    assert counted["gnomad.is_constrained"] == {True: 1, False: 1}
    assert counted["sources"] == dict.fromkeys(("clingen", "clinvar", "gnomad", "hpo"), 2)
    loeuf = found["gnomad.loeuf"]
    assert (loeuf["known_count"], loeuf["unknown_count"]) == (2, 1)
    assert (loeuf["least"], loeuf["greatest"]) == (0.35, 0.35)


@pytest.mark.parametrize("facets", ["", "nothing", ",".join(f"f{n}" for n in range(11))])
async def test_facets_that_there_are_none_of_are_refused(annotated: Desk, facets: str) -> None:
    answer = await annotated.client.get(f"/api/genes/facets?facets={facets}")
    assert answer.status_code == 400
    assert "clingen.strongest" in answer.json()["detail"]


async def test_fields_stay_known_while_the_database_does_not_answer(
    annotated: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gene_queries, "DECLARED_SECONDS", 0.0)
    asked = 0

    async def gone(_: object) -> dict[str, SummaryKind]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        raise OSError("the database is gone for a moment")

    async with annotated.database.engine("gateway") as engine:
        summaries = Summaries(engine)
        known = await summaries.of_lists()
        assert "gnomad.loeuf" in known.compared
        monkeypatch.setattr(catalogue, "summary_fields", gone)
        assert await asyncio.gather(*(summaries.of_lists() for _ in range(10))) == [known] * 10
        assert asked == 1  # Once for all who asked meanwhile.
        with pytest.raises(OSError, match="gone"):
            await Summaries(engine).of_lists()  # Whose fields it would have to guess.
