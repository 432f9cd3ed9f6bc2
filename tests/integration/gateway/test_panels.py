"""Panels: made from names or files, kept in versions that never change, and used."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx2
import pytest
from sqlalchemy import text as sql
from sqlalchemy.exc import DBAPIError

from services.gateway import uploads
from services.gateway.domain import Member, PanelVersion
from services.gateway.store import names, panels
from services.gateway.store.panels import NewVersion
from tests.integration.gateway.desk import GONE, OLD, PKD1, PKD2, TAFAZZIN, WWTR1, Desk
from tests.waiting import until
from tests.workbooks import number, rows, text, workbook

XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
ADDRESS = "/api/panels"


async def make(desk: Desk, genes: Sequence[str] = ("PKD1", "PKD2"), **said: Any) -> dict[str, Any]:
    answer = await desk.client.post(ADDRESS, json={"name": "kidney", "genes": genes, **said})
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == answer.json()["data"]["links"]["self"]
    found: dict[str, Any] = answer.json()["data"]
    return found


async def revise(desk: Desk, panel: str, base: int, **said: Any) -> httpx2.Response:
    body = {"base_version": base, **said}
    return await desk.client.post(f"{ADDRESS}/{panel}/versions", json=body)


async def get(desk: Desk, address: str, **parameters: str) -> Any:
    answer = await desk.client.get(address, params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


async def ids(desk: Desk, panel: str, version: int) -> list[str]:
    genes = await get(desk, f"{ADDRESS}/{panel}/versions/{version}/genes")
    return [gene["id"] for gene in genes]


def refused(answer: httpx2.Response, status: int, kind: str) -> Mapping[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: Mapping[str, Any] = answer.json()
    assert problem["type"] == f"urn:annobus:problem:{kind}"
    return problem


# ----------------------------------------------------------------------------------- making


async def test_a_panel_has_the_genes_that_its_names_mean_in_their_order(stocked: Desk) -> None:
    given = ["pkd2", "5310", "HGNC:24042", "OLD1", "PBP"]  # Three of them are PKD1.
    panel = await make(stocked, given, description="cysts", note="the first", by="me")
    attributes = panel["attributes"]
    assert (attributes["version"], attributes["gene_count"]) == (1, 3)
    assert (attributes["given_count"], attributes["duplicate_count"]) == (5, 2)
    assert (attributes["description"], attributes["created_by"]) == ("cysts", "me")
    genes = await get(stocked, panel["links"]["genes"])
    assert [(one["id"], one["attributes"]["given"]) for one in genes] == [
        (PKD2, "pkd2"),
        (PKD1, "5310"),
        (WWTR1, "HGNC:24042"),
    ]
    assert {one["attributes"]["state"] for one in genes} == {"current"}
    version = await get(stocked, panel["links"]["version"])
    assert version["attributes"]["note"] == "the first"
    assert version["id"] == f"{panel['id']}@1"


async def test_names_that_are_no_gene_are_reported_each_with_its_place(stocked: Desk) -> None:
    await stocked.execute(
        "INSERT INTO annotator.gene_name (folded, name, kind, hgnc_id) "
        "VALUES ('march2', 'MARCH2', 'previous', $1)",
        WWTR1,
    )
    given = ["PKD1", "NOSUCH", "SHARED", "GONE1", "2-Mar"]
    answer = await stocked.client.post(ADDRESS, json={"name": "kidney", "genes": given})
    problem = refused(answer, 422, "panel-refused")
    assert "4 of 5 genes cannot be resolved" in problem["detail"]
    assert [
        (one["pointer"], one["value"], one["code"], one["outcome"], len(one["candidates"]))
        for one in problem["errors"]
    ] == [
        ("/genes/1", "NOSUCH", "gene-unknown", "unknown", 0),
        ("/genes/2", "SHARED", "gene-ambiguous", "ambiguous", 2),
        ("/genes/3", "GONE1", "gene-withdrawn", "withdrawn", 1),
        ("/genes/4", "2-Mar", "spreadsheet_date", "unknown", 1),
    ]
    assert await get(stocked, ADDRESS) == []

    panel = await make(stocked, given, unresolved="leave_out")
    assert panel["attributes"]["left_out_count"] == 4
    for address in (panel["links"]["version"], panel["links"]["report"]):
        left_out = (await get(stocked, address))["attributes"]["left_out"]
        assert [(one["place"], one["value"], one["damage"]) for one in left_out] == [
            (1, "NOSUCH", None),
            (2, "SHARED", None),
            (3, "GONE1", None),
            (4, "2-Mar", "spreadsheet_date"),
        ]
    none = {"name": "none", "genes": ["NOSUCH"], "unresolved": "leave_out"}
    refused(await stocked.client.post(ADDRESS, json=none), 422, "panel-refused")


async def test_a_panel_needs_a_catalogue(desk: Desk) -> None:
    answer = await desk.client.post(ADDRESS, json={"name": "kidney", "genes": ["PKD1"]})
    refused(answer, 409, "catalogue-empty")


async def test_a_name_is_that_of_one_panel_until_it_is_archived(stocked: Desk) -> None:
    first = await make(stocked)
    answer = await stocked.client.post(ADDRESS, json={"name": "Kidney", "genes": ["PKD1"]})
    problem = refused(answer, 409, "panel-name-taken")
    assert problem["errors"][0]["panel"] == f"{ADDRESS}/{first['id']}"

    address = f"{ADDRESS}/{first['id']}"
    for _ in range(2):
        archived = (await stocked.client.delete(address)).json()["data"]
        assert archived["attributes"]["archived_at"] is not None
    second = await make(stocked)
    assert [one["id"] for one in await get(stocked, ADDRESS)] == [second["id"]]
    listed = await get(stocked, ADDRESS, **{"filter[archived]": "true"})
    assert [one["id"] for one in listed] == [first["id"]]
    assert await ids(stocked, first["id"], 1) == [PKD1, PKD2]  # It stays readable.
    refused(await revise(stocked, first["id"], 1, genes=["PKD1"]), 409, "panel-archived")
    refused(await stocked.client.patch(address, json={"name": "x"}), 409, "panel-archived")
    order = {"panel": first["id"]}
    refused(await stocked.client.post("/api/runs", json=order), 409, "panel-archived")


async def test_two_panels_of_one_name_are_not_made_at_once(stocked: Desk) -> None:
    body = {"name": "kidney", "genes": ["PKD1"]}
    answers = await asyncio.gather(*(stocked.client.post(ADDRESS, json=body) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]


async def test_a_panel_is_renamed_and_described(stocked: Desk) -> None:
    panel = await make(stocked)
    other = await make(stocked, name="heart")
    address = f"{ADDRESS}/{panel['id']}"
    changed = await stocked.client.patch(address, json={"name": "Kidney", "description": "d"})
    assert changed.json()["data"]["attributes"]["name"] == "Kidney"
    cleared = await stocked.client.patch(address, json={"description": None})
    attributes = cleared.json()["data"]["attributes"]
    assert (attributes["name"], attributes["description"]) == ("Kidney", None)
    problem = refused(
        await stocked.client.patch(address, json={"name": "HEART"}), 409, "panel-name-taken"
    )
    assert other["id"] in problem["detail"]
    for nothing in ({}, {"name": None}):
        answer = await stocked.client.patch(address, json=nothing)
        refused(answer, 422, "panel-invalid")


async def test_panels_are_listed_by_name_in_pages(stocked: Desk) -> None:
    for name in ("heart 100%", "Kidney", "eye"):
        await make(stocked, name=name)
    listed = await get(stocked, ADDRESS)
    assert [one["attributes"]["name"] for one in listed] == ["eye", "heart 100%", "Kidney"]
    listed = await get(stocked, ADDRESS, sort="-name", **{"filter[name]": "E"})
    assert [one["attributes"]["name"] for one in listed] == ["Kidney", "heart 100%", "eye"]
    listed = await get(stocked, ADDRESS, **{"filter[name]": "%"})
    assert [one["attributes"]["name"] for one in listed] == ["heart 100%"]
    answer = await stocked.client.get(ADDRESS, params={"page[size]": "2", "sort": "created_at"})
    following = await stocked.client.get(answer.json()["links"]["next"])
    assert [one["attributes"]["name"] for one in following.json()["data"]] == ["eye"]
    answer = await stocked.client.get(ADDRESS, params={"filter[archived]": "perhaps"})
    refused(answer, 400, "parameter-invalid")


async def test_a_key_makes_one_panel_and_one_version(stocked: Desk) -> None:
    body = {"name": "kidney", "genes": ["PKD1"]}
    key = {"Idempotency-Key": "k1"}
    first = await stocked.client.post(ADDRESS, json=body, headers=key)
    again = await stocked.client.post(ADDRESS, json=body, headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["data"]["id"] == again.json()["data"]["id"]
    assert again.headers["idempotent-replayed"] == "true"
    other = await stocked.client.post(ADDRESS, json=body | {"name": "x"}, headers=key)
    refused(other, 422, "idempotency-mismatch")
    order = {"all": True, "sources": ["hpo"]}
    run = await stocked.client.post("/api/runs", json=order, headers=key)
    refused(run, 422, "idempotency-mismatch")

    address = f"{ADDRESS}/{first.json()['data']['id']}/versions"
    change = {"base_version": 1, "add": ["PKD2"]}
    for _ in range(2):
        answer = await stocked.client.post(address, json=change, headers={"Idempotency-Key": "k2"})
        assert answer.status_code == 201, answer.text
        assert answer.json()["data"]["attributes"]["version"] == 2


# --------------------------------------------------------------------------------- versions


async def test_a_version_is_made_from_the_newest_one(stocked: Desk) -> None:
    panel = (await make(stocked))["id"]
    answer = await revise(stocked, panel, 1, add=["TAZ", "WWTR1"], unresolved="leave_out")
    assert answer.status_code == 201
    assert answer.headers["location"] == f"{ADDRESS}/{panel}/versions/2"
    assert answer.json()["data"]["attributes"]["left_out_count"] == 0
    assert await ids(stocked, panel, 2) == [PKD1, PKD2, TAFAZZIN, WWTR1]
    await revise(stocked, panel, 2, remove=["5310", "WWTR1"], add=["pkd2"], note="less")
    assert await ids(stocked, panel, 3) == [PKD2, TAFAZZIN]
    await revise(stocked, panel, 3, genes=["PKD1"])
    assert await ids(stocked, panel, 4) == [PKD1]
    assert await ids(stocked, panel, 1) == [PKD1, PKD2]
    versions = await get(stocked, f"{ADDRESS}/{panel}/versions")
    assert [one["attributes"]["version"] for one in versions] == [4, 3, 2, 1]
    assert versions[1]["attributes"]["note"] == "less"
    report = await get(stocked, f"{ADDRESS}/{panel}/versions/3/report")
    assert report["attributes"]["removed_count"] == 2
    assert report["attributes"]["already_count"] == 1


async def test_what_changes_nothing_makes_no_version(stocked: Desk) -> None:
    panel = (await make(stocked))["id"]
    for said in ({"genes": ["PKD2", "PKD1"]}, {"add": ["PKD2"]}):
        answer = await revise(stocked, panel, 1, **said)
        assert answer.status_code == 200
        assert answer.json()["data"]["attributes"]["version"] == 1


IMPOSSIBLE: list[tuple[dict[str, Any], int, str, str]] = [
    ({}, 422, "panel-invalid", "which genes"),
    ({"genes": ["PKD1"], "add": ["PKD1"]}, 422, "panel-invalid", "which genes"),
    ({"add": ["WWTR1"], "remove": ["WWTR1"]}, 422, "panel-refused", "WWTR1"),
    ({"add": ["PKD1"], "remove": ["PKD1"]}, 422, "panel-invalid", "added and removed"),
    ({"remove": ["PKD1", "PKD2"]}, 422, "panel-invalid", "0 genes"),
    ({"remove": ["NOSUCH"]}, 422, "panel-refused", "no gene of"),
    ({"add": ["NOSUCH"]}, 422, "panel-refused", "cannot be resolved"),
    ({"genes": ["PKD1"], "colour": 1}, 422, "panel-invalid", "colour"),
]


async def test_a_version_that_cannot_be_is_refused(stocked: Desk) -> None:
    panel = (await make(stocked))["id"]
    for said, status, kind, shows in IMPOSSIBLE:
        problem = refused(await revise(stocked, panel, 1, **said), status, kind)
        assert shows in problem["detail"]
        assert len(await get(stocked, f"{ADDRESS}/{panel}/versions")) == 1


async def test_of_two_editors_one_is_told_of_the_other(stocked: Desk) -> None:
    panel = (await make(stocked))["id"]
    answers = await asyncio.gather(
        *(revise(stocked, panel, 1, add=[name]) for name in ("TAFAZZIN", "WWTR1", "HGNC:24042"))
    )
    lost = [answer for answer in answers if answer.status_code != 201]
    assert len(lost) == 2
    for answer in lost:
        problem = refused(answer, 409, "panel-changed")
        (error,) = problem["errors"]
        assert error["pointer"] == "/base_version"
        assert error["newest"] == f"{ADDRESS}/{panel}/versions/2"
    assert len(await ids(stocked, panel, 2)) == 3


async def test_an_editor_waits_for_the_one_who_came_first(stocked: Desk) -> None:
    panel = (await make(stocked))["id"]
    async with stocked.engine.begin() as tx:
        await panels.get_panel(tx, panel, lock=True)
        second = asyncio.create_task(revise(stocked, panel, 1, add=["WWTR1"]))

        async def is_waiting() -> bool:
            (row,) = await stocked.rows("SELECT count(*) FROM pg_locks WHERE NOT granted")
            return bool(row[0])

        await until(is_waiting, "the second editor")
        counts = dict.fromkeys(("given_count", "duplicate_count", "left_out_count"), 0)
        first = NewVersion([Member(PKD2, "PKD2", "PKD2")], None, "the first", counts)
        await panels.insert_version(tx, PanelVersion(UUID(panel), 2), first)
    refused(await second, 409, "panel-changed")
    assert await ids(stocked, panel, 2) == [PKD2]


async def test_versions_differ_by_genes_and_not_by_names(stocked: Desk) -> None:
    panel = (await make(stocked, ["PKD1", "PBP", "PKD2"]))["id"]
    await revise(stocked, panel, 1, genes=["TAFAZZIN", "5310"])
    found = (await get(stocked, f"{ADDRESS}/{panel}/versions/1/diff/2"))["attributes"]
    assert [one["hgnc_id"] for one in found["added"]] == [TAFAZZIN]
    assert [(one["hgnc_id"], one["symbol"]) for one in found["removed"]] == [(PKD2, "PKD2")]
    assert found["kept_count"] == 1
    back = (await get(stocked, f"{ADDRESS}/{panel}/versions/2/diff/1"))["attributes"]
    assert (back["added"], back["removed"]) == (found["removed"], found["added"])


async def test_what_is_not_there_is_unknown(stocked: Desk) -> None:
    panel = (await make(stocked))["id"]
    for address in (
        f"{uuid4()}",
        "kidney",
        f"{panel}/versions/2",
        f"{panel}/versions/0",
        f"{panel}/versions/1x",
        f"{panel}/versions/99999999999999999999",
        f"{panel}/versions/1/diff/2",
        f"{panel}/versions/2/genes",
        f"{panel}/versions/2/report",
        f"{uuid4()}/versions",
    ):
        refused(await stocked.client.get(f"{ADDRESS}/{address}"), 404, "panel-unknown")
    refused(await revise(stocked, str(uuid4()), 1, genes=["PKD1"]), 404, "panel-unknown")


IMMUTABLE = [
    "UPDATE gateway.panel_version SET note = 'other'",
    "DELETE FROM gateway.panel_version",
    "UPDATE gateway.panel_gene SET hgnc_id = 'HGNC:1'",
    "DELETE FROM gateway.panel_gene",
    "TRUNCATE gateway.panel_gene",
    "TRUNCATE gateway.panel_version CASCADE",
    "INSERT INTO gateway.panel_gene SELECT id, 1, 'HGNC:1', 'x', 'x', 9 FROM gateway.panel",
]


async def test_nobody_changes_a_version(stocked: Desk) -> None:
    panel = (await make(stocked))["id"]
    for statement in IMMUTABLE:
        with pytest.raises(asyncpg.RaiseError, match="version of a panel"):
            await stocked.execute(statement)  # As the owner.
        with pytest.raises(DBAPIError):
            async with stocked.engine.begin() as tx:
                await tx.execute(sql(statement))
    assert await ids(stocked, panel, 1) == [PKD1, PKD2]
    assert (await get(stocked, f"{ADDRESS}/{panel}"))["attributes"]["note"] is None


# ------------------------------------------------------------------------ what becomes of it


async def test_a_gene_that_is_renamed_stays_and_is_shown(stocked: Desk) -> None:
    panel = (await make(stocked))["id"]
    await stocked.execute("UPDATE annotator.gene SET symbol = 'PKD1X' WHERE hgnc_id = $1", PKD1)
    address = f"{ADDRESS}/{panel}/versions/1/genes"
    (gene,) = await get(stocked, address, **{"filter[state]": "renamed"})
    attributes = gene["attributes"]
    assert (gene["id"], attributes["given"], attributes["symbol_then"], attributes["symbol"]) == (
        *(PKD1, "PKD1", "PKD1"),
        "PKD1X",
    )
    found = await get(stocked, f"{ADDRESS}/{panel}")
    assert found["attributes"]["renamed_count"] == 1
    run_id = await stocked.start(panel=panel, sources=["hpo"])
    (command,) = await stocked.outbox()
    assert (command["run_id"], set(command["genes"])) == (str(run_id), {PKD1, PKD2})
    # What it was called when it was put there still names it.
    answer = await revise(stocked, panel, 1, remove=["PKD1"])
    assert answer.status_code == 201
    assert await ids(stocked, panel, 2) == [PKD2]
    refused(
        await stocked.client.get(address, params={"filter[state]": "new"}),
        *(400, "parameter-invalid"),
    )


async def withdraw(desk: Desk, hgnc_id: str, *successors: str) -> None:
    """As a release of the catalogue does."""
    await desk.execute(
        "UPDATE annotator.gene SET status = $2, successors = $3 WHERE hgnc_id = $1",
        *(hgnc_id, "merged" if successors else "withdrawn", list(successors)),
    )
    await desk.execute("DELETE FROM annotator.gene_name WHERE hgnc_id = $1", hgnc_id)
    await desk.execute(
        "UPDATE cache.gene_summary SET status = 'withdrawn' WHERE hgnc_id = $1", hgnc_id
    )


async def test_a_gene_that_is_withdrawn_is_shown_with_its_successors(stocked: Desk) -> None:
    panel = (await make(stocked, ["WWTR1", "PKD2"]))["id"]
    await withdraw(stocked, PKD2, OLD)  # Which stands for PKD1: two steps.
    genes = await get(stocked, f"{ADDRESS}/{panel}/versions/1/genes")
    attributes = genes[1]["attributes"]
    assert (attributes["state"], attributes["status"]) == ("withdrawn", "merged")
    assert attributes["successors"] == [{"hgnc_id": PKD1, "symbol": "PKD1"}]
    assert genes[0]["attributes"]["successors"] == []
    version = await get(stocked, f"{ADDRESS}/{panel}/versions/1")
    assert version["attributes"]["withdrawn_count"] == 1

    await stocked.start(panel=panel, sources=["hpo"])  # The successor stands for it.
    (command,) = await stocked.outbox()
    assert sorted(command["genes"]) == [WWTR1, PKD1]
    answer = await revise(stocked, panel, 1, remove=[PKD2])
    assert answer.status_code == 201
    assert await ids(stocked, panel, 2) == [WWTR1]


async def test_a_gene_that_nobody_succeeded_stops_a_run_and_is_told_to_readers(
    stocked: Desk,
) -> None:
    panel = (await make(stocked, ["PKD1", "PKD2", "WWTR1"]))["id"]
    await withdraw(stocked, PKD2)
    await withdraw(stocked, WWTR1, PKD1, TAFAZZIN)
    order = {"panel": panel, "sources": ["hpo"]}
    problem = refused(await stocked.client.post("/api/runs", json=order), 422, "genes-refused")
    assert [(one["value"], one["code"]) for one in problem["errors"]] == [
        (PKD2, "gene-withdrawn"),
        (WWTR1, "gene-ambiguous"),
    ]
    answer = await stocked.client.get("/api/genes", params={"filter[panel]": panel})
    assert [one["id"] for one in answer.json()["data"]] == [PKD1]
    told = answer.json()["meta"]["panel"]
    assert (told["withdrawn_count"], told["withdrawn"]) == (2, [PKD2, WWTR1])


# ----------------------------------------------------------------------------------- use


async def test_a_run_over_a_panel_says_which_version(stocked: Desk) -> None:
    panel = (await make(stocked))["id"]
    await revise(stocked, panel, 1, add=["WWTR1"])
    newest = await stocked.start(panel=panel, sources=["hpo"])
    first = await stocked.start(panel=f"{panel}@1", sources=["ensembl"])
    runs = [(await get(stocked, f"/api/runs/{run_id}")) for run_id in (newest, first)]
    assert [run["attributes"]["panel"] for run in runs] == [f"{panel}@2", f"{panel}@1"]
    assert [run["attributes"]["gene_count"] for run in runs] == [3, 2]
    assert runs[1]["links"]["panel"] == f"{ADDRESS}/{panel}/versions/1"
    commands = await stocked.outbox()
    assert [set(one["genes"]) for one in commands] == [{PKD1, PKD2, WWTR1}, {PKD1, PKD2}]
    # The same genes, whoever names them.
    same = await stocked.client.post(
        "/api/runs", json={"genes": ["PKD2", "PKD1"], "sources": ["ensembl"]}
    )
    refused(same, 409, "run-identical")


ORDERS: list[tuple[dict[str, Any], int, str]] = [
    ({"panel": "kidney"}, 404, "panel-unknown"),
    ({"panel": str(uuid4())}, 404, "panel-unknown"),
    ({"panel": f"{uuid4()}@0"}, 404, "panel-unknown"),
    ({"panel": ""}, 422, "invalid-request"),
    ({"panel": "x", "all": True}, 422, "order-invalid"),
    ({"panel": "x", "genes": ["PKD1"]}, 422, "order-invalid"),
]


async def test_an_order_names_one_panel_that_there_is(stocked: Desk) -> None:
    for order, status, kind in ORDERS:
        problem = refused(await stocked.client.post("/api/runs", json=order), status, kind)
        assert "/panel" in [one["pointer"] for one in problem["errors"]]


async def test_lists_and_facets_are_those_of_a_panel(stocked: Desk) -> None:
    panel = (await make(stocked))["id"]
    await revise(stocked, panel, 1, genes=["WWTR1"])
    for named, found in ((panel, [WWTR1]), (f"{panel}@1", [PKD1, PKD2]), (f"{panel}@2", [WWTR1])):
        parameters = {"filter[panel]": named, "page[total]": "true"}
        answer = (await stocked.client.get("/api/genes", params=parameters)).json()
        assert [one["id"] for one in answer["data"]] == found
        assert answer["meta"]["total"] == len(found)
        assert answer["meta"]["panel"]["id"].startswith(f"{panel}@")
        facets = {"filter[panel]": named, "facets": "locus_group"}
        (facet,) = await get(stocked, "/api/genes/facets", **facets)
        assert facet["attributes"]["values"] == [{"value": "g", "count": len(found)}]
    asked = await stocked.client.post(
        "/api/genes/query",
        params={"filter[panel]": f"{panel}@1"},
        json={"genes": ["PKD1", "WWTR1"]},
    )
    assert [one["id"] for one in asked.json()["data"]] == [PKD1]
    paged = {"filter[panel]": f"{panel}@1", "page[size]": "1"}
    first = (await stocked.client.get("/api/genes", params=paged)).json()
    second = (await stocked.client.get(first["links"]["next"])).json()
    assert [one["id"] for one in second["data"]] == [PKD2]


FILTERED = [("kidney", 404), (str(uuid4()), 404), ("a,b", 400), (f"{uuid4()}@x", 404)]


async def test_a_file_has_the_genes_of_a_panel_and_says_which_version(
    stocked: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in stocked.database.environment.items():
        monkeypatch.setenv(name, value)  # A child reads the same settings as its gateway.
    panel = (await make(stocked))["id"]
    parameters = {"filter[panel]": panel, "format": "csv", "columns": "hgnc_id"}
    answer = await stocked.client.get("/api/export", params=parameters, timeout=30)
    assert answer.status_code == 200, answer.text
    lines = answer.text.splitlines()
    assert [line for line in lines if line.startswith("HGNC:")] == [PKD1, PKD2]
    assert f"{panel}%401" in answer.text
    answer = await stocked.client.get("/api/export", params={"filter[panel]": str(uuid4())})
    refused(answer, 404, "panel-unknown")


async def test_a_filter_names_one_panel_that_there_is(stocked: Desk) -> None:
    for named, status in FILTERED:
        for address in ("/api/genes", "/api/genes/facets?facets=location"):
            answer = await stocked.client.get(address, params={"filter[panel]": named})
            if "facets" in address:
                answer = await stocked.client.get(f"{address}&filter[panel]={named}")
            assert answer.status_code == status, answer.text
            assert answer.json()["errors"][0]["pointer"] == "query filter[panel]"


# --------------------------------------------------------------------------------- uploads

CSV = b"note,Gene\nx,PKD1\ny,pkd2\n"
BOOK = workbook({"Genes": rows([text("A1", "Gene")], [text("A2", "PKD1")], [text("A3", "PKD2")])})


FILES = [
    (CSV, "text/csv"),
    (CSV.decode().encode("utf-16"), "text/csv; charset=utf-16"),
    (CSV.replace(b",", b"\t"), "text/tab-separated-values"),
    (b"# kidney\nPKD1\n\npkd2\n", "text/plain"),
    (BOOK, XLSX),
]


async def test_a_panel_is_made_from_a_file(stocked: Desk) -> None:
    for place, (content, media) in enumerate(FILES):
        answer = await stocked.client.post(
            f"{ADDRESS}/upload",
            params={"name": f"kidney {place}", "by": "me"},
            content=content,
            headers={"content-type": media},
        )
        assert answer.status_code == 201, answer.text
        panel = answer.json()["data"]
        assert await ids(stocked, panel["id"], 1) == [PKD1, PKD2]
        assert panel["attributes"]["created_by"] == "me"


async def test_a_form_has_one_file(stocked: Desk) -> None:
    files = {"file": ("kidney.csv", CSV, "application/vnd.ms-excel")}  # As some browsers say.
    answer = await stocked.client.post(f"{ADDRESS}/upload?name=kidney", files=files)
    assert answer.status_code == 201, answer.text
    panel = answer.json()["data"]["id"]
    files = {"file": ("kidney.xlsx", BOOK, "application/octet-stream")}
    address = f"{ADDRESS}/{panel}/versions/upload?base_version=1"
    answer = await stocked.client.post(address, files=files)
    assert (answer.status_code, answer.json()["data"]["id"]) == (200, f"{panel}@1")
    for form in (
        {"files": [("a", ("a.txt", b"PKD1")), ("b", ("b.txt", b"PKD2"))]},
        {"files": files, "data": {"name": "other"}},
    ):
        answer = await stocked.client.post(address, **form)
        refused(answer, 422, "upload-unreadable")
    answer = await stocked.client.post(
        address, content=b"--x\r\n", headers={"content-type": "multipart/form-data"}
    )
    refused(answer, 422, "upload-unreadable")
    answer = await stocked.client.post(address, files={"file": ("a.pdf", b"PKD1", "x/pdf")})
    refused(answer, 415, "media-unknown")


async def test_a_version_is_made_from_a_file_with_a_report_by_line(stocked: Desk) -> None:
    panel = (await make(stocked))["id"]
    await stocked.execute(
        "INSERT INTO annotator.gene_name (folded, name, kind, hgnc_id) "
        "VALUES ('march2', 'MARCH2', 'previous', $1)",
        WWTR1,
    )
    sheet = rows([text("A1", "Gene")], [text("A2", "WWTR1")], [number("A3", 45718, 1)], [])
    parameters = {"base_version": "1"}
    address = f"{ADDRESS}/{panel}/versions/upload"

    async def send(**more: str) -> httpx2.Response:
        return await stocked.client.post(
            address,
            params=parameters | more,
            content=workbook({"Genes": sheet}),
            headers={"content-type": XLSX},
        )

    problem = refused(await send(), 422, "panel-refused")
    (error,) = problem["errors"]
    assert (error["pointer"], error["value"], error["line"]) == ("line 3", "2025-03-02", 3)
    assert error["code"] == "spreadsheet_date"
    assert error["candidates"] == [{"hgnc_id": WWTR1, "symbol": "WWTR1"}]
    answer = await send(unresolved="leave_out")
    assert answer.status_code == 201
    report = await get(stocked, answer.json()["data"]["links"]["report"])
    attributes = report["attributes"]
    assert (attributes["format"], attributes["column"], attributes["sheet"]) == (
        *("xlsx", "Gene"),
        "Genes",
    )
    refused(await send(), 409, "panel-changed")


SAID: list[tuple[dict[str, str], int, str]] = [
    ({}, 400, "query name"),
    ({"name": " "}, 400, "query name"),
    ({"name": "x" * 201}, 400, "query name"),
    ({"name": "x", "unresolved": "guess"}, 400, "query unresolved"),
    ({"name": "x", "colour": "red"}, 400, "query colour"),
    ({"name": "x", "base_version": "1"}, 400, "query base_version"),
    ({"name": "x", "column": "Symbol"}, 422, "query column"),
    ({"name": "x", "column": "\x00"}, 422, "query column"),
]


async def test_what_is_said_of_a_file_is_checked(stocked: Desk) -> None:
    for parameters, status, pointer in SAID:
        answer = await stocked.client.post(
            f"{ADDRESS}/upload",
            params=parameters,
            content=CSV,
            headers={"content-type": "text/csv"},
        )
        assert answer.status_code == status, answer.text
        (error,) = answer.json()["errors"]
        assert error["pointer"] == pointer
        if pointer == "query column":
            assert error["accepted"] == "one of note, Gene"


FAR = "".join(f'<row r="{n}"><c r="XFD{n}"/></row>' for n in range(1, 60_000))


HOSTILE = [
    BOOK[:500],
    b"\xd0\xcf\x11\xe0" * 100,  # As XLS begins, and what is locked by a password.
    workbook({"Genes": rows([text("A1", "PKD1")])}, doctype="<!DOCTYPE x>"),
]


async def test_a_hostile_file_is_refused(stocked: Desk) -> None:
    for content in HOSTILE:
        answer = await stocked.client.post(
            f"{ADDRESS}/upload?name=x", content=content, headers={"content-type": XLSX}
        )
        refused(answer, 422, "upload-unreadable")


async def test_a_file_that_takes_too_much_ends_with_its_reader(
    stocked: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop goes on meanwhile, and the next file is read."""
    monkeypatch.setattr(uploads, "READING_SECONDS_MAX", 1)
    content = workbook({"Genes": FAR})
    assert len(content) < 1_000_000
    reading = asyncio.create_task(
        stocked.client.post(
            f"{ADDRESS}/upload?name=x", content=content, headers={"content-type": XLSX}, timeout=30
        )
    )
    asked = 0
    while not reading.done():
        answer = await stocked.client.get("/livez")
        assert answer.status_code == 200
        asked += 1
    problem = refused(await reading, 422, "upload-unreadable")
    assert "more than can be read" in problem["detail"]
    assert asked > 10
    answer = await stocked.client.post(
        f"{ADDRESS}/upload?name=x", content=BOOK, headers={"content-type": XLSX}
    )
    assert answer.status_code == 201


async def test_a_large_panel_is_made_and_used(stocked: Desk) -> None:
    """As many genes as a list may have."""
    count = 50_000
    await stocked.execute(
        """INSERT INTO annotator.gene (hgnc_id, symbol, status, successors)
           SELECT 'HGNC:' || n, 'G' || n, 'approved', '{}' FROM generate_series(100001, 150000) n"""
    )
    lines = "\n".join(f"HGNC:{number}" for number in range(100_001, 100_001 + count))
    answer = await stocked.client.post(
        f"{ADDRESS}/upload?name=all",
        content=lines.encode(),
        headers={"content-type": "text/plain"},
        timeout=60,
    )
    assert answer.status_code == 201, answer.text
    panel = answer.json()["data"]
    assert panel["attributes"]["gene_count"] == count > names.SHORT_LIST_MAX
    last = {"page[size]": "1", "page[number]": str(count)}
    (gene,) = await get(stocked, panel["links"]["genes"], **last)
    assert gene["id"] == f"HGNC:{100_000 + count}"
    await stocked.start(panel=panel["id"], sources=["hpo"])
    (command,) = await stocked.outbox()
    assert len(command["genes"]) == count


async def test_what_was_withdrawn_can_be_named_by_what_was_given(stocked: Desk) -> None:
    panel = (await make(stocked, ["PKD1", "taz", "WWTR1"], unresolved="leave_out"))["id"]
    await withdraw(stocked, WWTR1)
    answer = await revise(stocked, panel, 1, remove=["wwtr1"])
    assert answer.status_code == 201, answer.text
    assert GONE not in await ids(stocked, panel, 2)
