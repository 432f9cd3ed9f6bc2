"""Genes: lists, pages, filters; one gene by any name; documents kept in memory."""

from contracts.messages import DocumentsRebuilt, NamespaceInvalidated
from services.gateway.documents import Held
from services.gateway.domain import fold
from tests.builders import build_release
from tests.integration.gateway.desk import OLD, PKD1, PKD2, SOURCES, TAFAZZIN, WWTR1, Desk

APPROVED = [PKD1, PKD2, TAFAZZIN, WWTR1]
ENSEMBL_ID = "ENSG00000008710"

FILTERED = [
    ("symbol", "pkd2,WWTR1,NOSUCH", [PKD2, WWTR1]),
    ("hgnc_id", "hgnc:9008", [PKD1]),
    ("entrez_id", "NCBIGene:5310,5311", [PKD1, PKD2]),
    ("ensembl_gene_id", "ensg00000008710.2", [PKD1]),
    ("locus_group", "g", APPROVED),
    ("locus_group", "h", []),
    ("locus_type", "x", []),
]

UNFIT = [
    ("filter[pli]=0.9", "filter[symbol]"),
    ("limit=3", "page[size]"),
    ("page[size]=201", "200"),
    ("page[size]=ten", "whole number"),
    ("page[number]=6000", "5000"),
    ("page[number]=2&page[after]=x", "alone"),
    ("page[after]=x", "links.next"),
    ("page[after]=WyJzeW1ib2wiLDEsIkEiXQ", "sort=hgnc_id"),  # The cursor of another sort.
    ("page[total]=yes", "true"),
    ("sort=score", "-symbol"),
    ("fields[genes]=pli", "annotations"),
    ("filter[symbol]=", "1 to 200"),
    ("sort=symbol&sort=hgnc_id", "once"),
]

REFUSED = [
    ("NOSUCH", 404, "gene-unknown", "HGNC"),
    ("HGNC:99999999", 404, "gene-unknown", "HGNC"),
    ("SHARED", 409, "gene-ambiguous", "HGNC:9009 (PKD2)"),
    ("GONE1", 410, "gene-withdrawn", "no successor"),
    ("x" * 101, 400, "parameter-invalid", "100"),
    ("%00", 400, "parameter-invalid", "NUL"),
]


async def ids(desk: Desk, address: str = "/api/genes", **parameters: str) -> list[str]:
    answer = await desk.client.get(address, params=parameters or None)
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["data"]]


async def test_a_list_has_the_stored_documents_of_approved_genes(read_stocked: Desk) -> None:
    answer = await read_stocked.client.get("/api/genes", params={"page[total]": "true"})
    assert answer.headers["content-type"] == "application/vnd.api+json"
    document = answer.json()
    assert [item["id"] for item in document["data"]] == APPROVED
    attributes = document["data"][0]["attributes"]
    assert (attributes["hgnc_id"], attributes["symbol"]) == (PKD1, "PKD1")
    assert document["meta"] == {"total": 4}


async def test_a_gene_has_the_version_of_its_document_however_it_is_asked_for(
    stocked: Desk,
) -> None:
    await stocked.put_document(PKD1, "PKD1", version=7)
    for address in (
        f"/api/genes/{PKD1}",
        f"/api/genes/{PKD1}?fields[genes]=symbol",
        "/api/genes?page[size]=1",
        "/api/genes?filter[symbol]=PKD1",
    ):
        found = (await stocked.client.get(address)).json()["data"]
        gene = found[0] if isinstance(found, list) else found
        assert (gene["id"], gene["meta"]) == (PKD1, {"version": 7}), address


async def test_every_source_has_a_status_whether_it_said_something_or_not(stocked: Desk) -> None:
    said = {"status": "ok", "value": {"count": 3}, "valid_from": "2026-01-01T00:00:00+00:00"}
    await stocked.put_document(PKD1, "PKD1", annotations={"hpo": said, "ensembl": said})
    await stocked.put_document(PKD2, "PKD2", annotations={"ensembl": {**said, "status": "error"}})
    async with stocked.database.begin("annotator") as tx:
        for source in ("hpo", "gnomad", "ensembl"):
            await build_release(tx, source)
    await stocked.execute(
        """INSERT INTO annotator.checked (hgnc_id, source, checked_at, retrieved_at, outcome)
           VALUES ('HGNC:9008', 'ensembl', now() - interval '1 year', now(), 'ok')"""
    )
    answer = await stocked.client.get("/api/genes", params={"page[size]": "2"})
    first, second = (
        {name: one["status"] for name, one in gene["attributes"]["annotations"].items()}
        for gene in answer.json()["data"]
    )
    assert sorted(SOURCES) == sorted(first) == sorted(second)
    assert (first["hpo"], first["gnomad"], first["clinvar"]) == ("ok", "empty", "pending")
    assert (first["ensembl"], second["ensembl"]) == ("stale", "error")
    assert second["hpo"] == "empty"
    for hgnc_id, statuses in ((PKD1, first), (PKD2, second)):
        one = (await stocked.client.get(f"/api/genes/{hgnc_id}")).json()["data"]["attributes"]
        assert {name: a["status"] for name, a in one["annotations"].items()} == statuses
    shown = answer.json()["data"][0]["attributes"]["annotations"]
    assert shown["hpo"].items() >= said.items()
    assert shown["ensembl"]["value"] == {"count": 3}
    assert shown["ensembl"]["as_of"] < shown["hpo"]["as_of"]  # Asked a year ago, and just now.
    assert shown["clinvar"]["as_of"] is None


async def test_a_gene_is_another_when_only_a_status_is(stocked: Desk) -> None:
    before = await stocked.client.get(f"/api/genes/{PKD1}")
    assert before.json()["data"]["attributes"]["annotations"]["hpo"]["status"] == "pending"
    async with stocked.database.begin("annotator") as tx:
        await build_release(tx, "hpo")
    event = NamespaceInvalidated(namespace="genes", epoch=1)  # As the cache tells of a release.
    await stocked.handlers.on_namespace_invalidated(event)
    known = {"If-None-Match": before.headers["etag"]}
    after = await stocked.client.get(f"/api/genes/{PKD1}", headers=known)
    assert after.status_code == 200
    assert after.json()["data"]["attributes"]["annotations"]["hpo"]["status"] == "empty"


async def test_pages_by_key_join_to_the_whole_list(read_stocked: Desk) -> None:
    for sort in ("hgnc_id", "-hgnc_id", "symbol", "-symbol"):
        whole = await ids(read_stocked, sort=sort)
        assert sorted(whole) == sorted(APPROVED)
        found: list[str] = []
        address = f"/api/genes?sort={sort}&page[size]=1"
        while address:
            answer = (await read_stocked.client.get(address)).json()
            found += [item["id"] for item in answer["data"]]
            address = answer["links"]["next"]
        assert found == whole


async def test_a_page_by_number(read_stocked: Desk) -> None:
    assert await ids(read_stocked, **{"page[number]": "2", "page[size]": "3"}) == [WWTR1]


async def test_filters(read_stocked: Desk) -> None:
    for name, value, expected in FILTERED:
        parameters = {f"filter[{name}]": value, "page[total]": "true"}
        answer = (await read_stocked.client.get("/api/genes", params=parameters)).json()
        assert [item["id"] for item in answer["data"]] == expected, name
        assert answer["meta"] == {"total": len(expected)}, name
        assert await ids(read_stocked, **{f"filter[{name}]": value, "sort": "symbol"}) == expected


async def test_fields_choose_attributes(read_stocked: Desk) -> None:
    for address in ("/api/genes", f"/api/genes/{PKD1}"):
        answer = await read_stocked.client.get(address, params={"fields[genes]": "symbol"})
        data = answer.json()["data"]
        item = data[0] if isinstance(data, list) else data
        assert item["attributes"] == {"symbol": "PKD1"}


async def test_a_parameter_that_does_not_fit_is_named(read_stocked: Desk) -> None:
    for parameter, accepted in UNFIT:
        answer = await read_stocked.client.get(f"/api/genes?{parameter}")
        assert answer.status_code == 400, parameter
        problem = answer.json()
        assert accepted in problem["detail"]
        assert problem["errors"][0]["pointer"].startswith("query ")


async def test_a_gene_by_any_of_its_names(read_stocked: Desk) -> None:
    for name in (
        PKD1,
        "hgnc:9008",
        "PKD1",
        "pkd1",
        "PBP",
        "5310",
        "NCBIGene:5310",
        ENSEMBL_ID,
        OLD,
        "OLD1",
    ):
        answer = await read_stocked.client.get(f"/api/genes/{name}")
        assert answer.status_code == 200, answer.text
        assert answer.json()["data"]["id"] == PKD1


async def test_names_are_folded_as_the_catalogue_has_them(read_desk: Desk) -> None:
    names = ["PKD1", "C1orf127", "É", "Groß", "ﬁ", "Ψ", "Ж"]
    (row,) = await read_desk.rows(
        "SELECT array(SELECT lower(n) FROM unnest($1::text[]) n)", names=names
    )
    assert [fold(name) for name in names] == row[0]


async def test_a_name_of_no_gene_or_several_is_refused(read_stocked: Desk) -> None:
    for name, status, kind, says in REFUSED:
        answer = await read_stocked.client.get(f"/api/genes/{name}")
        assert answer.status_code == status, answer.text
        assert answer.json()["type"] == f"urn:annobus:problem:{kind}"
        assert says in answer.json()["detail"]


async def test_a_gene_whose_document_is_not_built_yet_is_not_called_unknown(
    stocked: Desk,
) -> None:
    await stocked.execute("DELETE FROM cache.gene WHERE hgnc_id = $1", PKD2)
    answer = await stocked.client.get(f"/api/genes/{PKD2}")
    assert answer.status_code == 404
    assert answer.json()["type"] == "urn:annobus:problem:gene-not-built"


async def test_an_unchanged_gene_is_answered_with_304(stocked: Desk) -> None:
    first = await stocked.client.get(f"/api/genes/{PKD1}")
    assert first.headers["cache-control"] == "no-cache"
    etag = first.headers["etag"]
    for condition in (etag, f'"other", W/{etag}', "*"):
        again = await stocked.client.get("/api/genes/PKD1", headers={"If-None-Match": condition})
        assert again.status_code == 304
        assert again.content == b""
    await stocked.put_document(PKD1, "PKD1x", version=2)
    await stocked.handlers.on_documents_rebuilt(DocumentsRebuilt(versions={PKD1: 2}))
    changed = await stocked.client.get(f"/api/genes/{PKD1}", headers={"If-None-Match": etag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != etag


async def test_a_kept_document_is_served_until_a_newer_one_is_heard_of(stocked: Desk) -> None:
    before = (await stocked.client.get(f"/api/genes/{PKD1}")).content
    await stocked.put_document(PKD1, "PKD1", version=2, annotations={"hpo": {"status": "ok"}})
    assert (await stocked.client.get(f"/api/genes/{PKD1}")).content == before

    await stocked.handlers.on_documents_rebuilt(DocumentsRebuilt(versions={PKD1: 2}))
    assert (await stocked.client.get(f"/api/genes/{PKD1}")).content != before


async def test_an_invalidated_namespace_is_forgotten_at_once(stocked: Desk) -> None:
    await stocked.client.get(f"/api/genes/{PKD1}")
    assert isinstance(stocked.documents.get(PKD1), Held)
    event = NamespaceInvalidated(namespace="genes", epoch=1)
    await stocked.handlers.on_namespace_invalidated(event)
    assert stocked.documents.get(PKD1) is None


async def test_nothing_is_kept_while_changes_would_not_be_heard_of(stocked: Desk) -> None:
    await stocked.client.get(f"/api/genes/{PKD1}")
    assert isinstance(stocked.documents.get(PKD1), Held)
    stocked.documents.trust(False)
    await stocked.client.get(f"/api/genes/{PKD1}")
    assert stocked.documents.get(PKD1) is None


async def test_sources(stocked: Desk) -> None:
    assert await ids(stocked, "/api/sources") == list(SOURCES)
    source = (await stocked.client.get("/api/sources/hpo")).json()["data"]["attributes"]
    assert (source["annotation_count"], source["release"]) == (0, None)
    async with stocked.database.begin("annotator") as tx:
        await build_release(tx, "hpo", "2025-01-16")
    source = (await stocked.client.get("/api/sources/hpo")).json()["data"]["attributes"]
    assert source["release"] == "2025-01-16"
    assert (await stocked.client.get("/api/sources/nowhere")).status_code == 404


async def test_the_root_and_the_description_of_the_routes(read_desk: Desk) -> None:
    assert (await read_desk.client.get("/")).json()["links"]["api/genes"] == "/api/genes"
    described = (await read_desk.client.get("/openapi.json")).json()
    listed = {item["name"] for item in described["paths"]["/api/genes"]["get"]["parameters"]}
    assert {"page[after]", "filter[symbol]", "sort"} <= listed
    answer = await read_desk.client.get("/api/nothing")
    assert answer.headers["content-type"] == "application/problem+json"
