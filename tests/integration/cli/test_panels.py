"""`annobus panels`: what it asks for, and what a person sees."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.integration.cli.conftest import Annobus
from tests.integration.cli.stub_gateway import RUN_ID, Stub, counters, run_document

ADDRESS = "/api/panels"
PANEL = "0199f000-0000-7000-8000-00000000000c"
ITS = f"{ADDRESS}/{PANEL}"


def panel(**changes: Any) -> dict[str, Any]:
    attributes = {
        "panel_id": PANEL,
        "name": "kidney\x1b[2J",
        "description": "cysts",
        "version": 3,
        "gene_count": 1_200,
        "given_count": 1_203,
        "duplicate_count": 2,
        "left_out_count": 1,
        "renamed_count": 1,
        "withdrawn_count": 0,
        "made_at": "2026-11-28T07:00:00+00:00",
        "made_by": "me",
        "note": "less",
        "archived_at": None,
    }
    links = {"self": ITS, "genes": f"{ITS}/versions/3/genes"}
    return {"type": "panels", "id": PANEL, "attributes": attributes | changes, "links": links}


def version(number: int = 3, **changes: Any) -> dict[str, Any]:
    made = panel(version=number, **changes)
    return made | {"id": f"{PANEL}@{number}", "type": "panel-versions"}


def gene(state: str, **changes: Any) -> dict[str, Any]:
    attributes = {
        "given": "taz",
        "symbol": "TAFAZZIN",
        "symbol_then": "TAZ",
        "state": state,
        "successors": [],
    }
    return {"id": "HGNC:11577", "attributes": attributes | changes}


def said(stub: Stub) -> Any:
    return json.loads(stub.asked[-1][2])


def test_panels_are_listed(stub: Stub, annobus: Annobus) -> None:
    stub.answer(ADDRESS, {"data": [panel()], "links": {"next": None}})
    ended = annobus("panels", "list", "--name", "kid", "--archived", "--url", stub.url)
    assert ended.returncode == 0, ended.stderr
    header, row = ended.stdout.splitlines()
    assert header.split() == ["id", "name", "version", "genes", "made", "by"]
    assert row.split()[:4] == [PANEL, r"kidney\x1b[2J", "3", "1,200"]
    asked = parse_qs(urlsplit(stub.asked[0][1]).query)
    assert asked["filter[name]"] == ["kid"]
    assert asked["filter[archived]"] == ["true"]


def test_a_panel_is_shown_with_what_became_of_its_genes(stub: Stub, annobus: Annobus) -> None:
    heir = {"hgnc_id": "HGNC:9008", "symbol": "PKD1"}
    left_out = {
        "value": "2-Mar",
        "line": 7,
        "place": 3,
        "outcome": "unknown",
        "damage": "spreadsheet_date",
        "candidates": [heir],
    }
    stub.answer(f"{ITS}/versions/3", {"data": version(left_out=[left_out])})
    genes = [gene("renamed"), gene("withdrawn", successors=[heir]), gene("withdrawn")]
    stub.answer(f"{ITS}/versions/3/genes", {"data": genes})
    ended = annobus("panels", "show", f"{PANEL}@3", "--url", stub.url)
    assert ended.returncode == 0, ended.stderr
    assert "since:      1 renamed\n" in ended.stdout
    assert "left out:   1\n" in ended.stdout
    lines = [line.split() for line in ended.stdout.splitlines()]
    assert ["2-Mar", "7", "spreadsheet", "date", "PKD1", "HGNC:9008"] in lines
    assert ["HGNC:11577", "TAFAZZIN", "taz", "renamed", "was", "TAZ"] in lines
    assert lines[-2][-3:] == ["now", "PKD1", "HGNC:9008"]
    assert lines[-1][-2:] == ["no", "successor"]
    assert f"annobus panels genes {PANEL}@3" in ended.stderr


def test_genes_of_the_newest_version_are_listed(stub: Stub, annobus: Annobus) -> None:
    stub.answer(ITS, {"data": panel()})
    stub.answer(f"{ITS}/versions/3/genes", {"data": [gene("current")]})
    ended = annobus("panels", "genes", PANEL, "--gene-state", "current", "--url", stub.url)
    assert ended.stdout.splitlines()[1].split() == ["HGNC:11577", "TAFAZZIN", "taz", "current"]
    assert "filter%5Bstate%5D=current" in stub.asked[-1][1]


def test_versions_are_listed(stub: Stub, annobus: Annobus) -> None:
    stub.answer(f"{ITS}/versions", {"data": [version(3), version(2)]})
    ended = annobus("panels", "versions", PANEL, "--url", stub.url)
    assert [line.split()[0] for line in ended.stdout.splitlines()] == ["version", "3", "2"]


def test_a_panel_is_made_of_names(stub: Stub, annobus: Annobus) -> None:
    stub.answer(ADDRESS, {"data": panel()}, 201)
    options = ("--by", "me", "--note", "n", "--description", "d", "--leave-out")
    ended = annobus("panels", "create", "kidney", "PKD1", "TTN", *options, "--url", stub.url)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == PANEL
    assert "1,200 genes, 2 named again, 1 left out" in ended.stderr
    assert said(stub) == {
        "name": "kidney",
        "description": "d",
        "note": "n",
        "by": "me",
        "unresolved": "leave_out",
        "genes": ["PKD1", "TTN"],
    }


@pytest.mark.parametrize("name", ["genes.xlsx", "genes.CSV", "-"])
def test_a_file_is_sent_as_it_is(stub: Stub, annobus: Annobus, tmp_path: Path, name: str) -> None:
    (tmp_path / "genes.xlsx").write_bytes(b"PK\x03\x04\xff")
    (tmp_path / "genes.CSV").write_bytes(b"gene\xff")
    stub.answer(f"{ADDRESS}/upload", {"data": panel()}, 201)
    options = ("--file", name, "--column", "gene", "--sheet", "S", "--url", stub.url)
    ended = annobus("panels", "create", "kidney", *options, standard_input="PKD1\n")
    assert ended.returncode == 0, ended.stderr
    ((method, address, content),) = stub.asked
    assert method == "POST"
    assert parse_qs(urlsplit(address).query) == {
        "name": ["kidney"],
        "column": ["gene"],
        "sheet": ["S"],
    }
    assert content == {"-": b"PKD1\n"}.get(name) or (tmp_path / name).read_bytes()


def test_a_version_is_made_from_the_newest_or_from_the_one_that_is_named(
    stub: Stub, annobus: Annobus
) -> None:
    stub.answer(ITS, {"data": panel()})
    stub.answer(f"{ITS}/versions", {"data": version(4)}, 201)
    ended = annobus("panels", "add", PANEL, "PKD1", "--note", "more", "--url", stub.url)
    assert ended.stdout.strip() == f"{PANEL}@4"
    assert said(stub) == {"note": "more", "add": ["PKD1"], "base_version": 3}
    annobus("panels", "remove", PANEL, "PKD1", "--base", "2", "--url", stub.url)
    assert said(stub) == {"remove": ["PKD1"], "base_version": 2}
    annobus("panels", "update", PANEL, "PKD1", "--base", "2", "--url", stub.url)
    assert said(stub) == {"genes": ["PKD1"], "base_version": 2}


def test_a_panel_is_renamed_and_archived(stub: Stub, annobus: Annobus) -> None:
    stub.answer(ITS, {"data": panel(name="heart")})
    ended = annobus("panels", "rename", PANEL, "heart", "--url", stub.url)
    assert "is called heart" in ended.stderr
    assert (stub.asked[-1][0], said(stub)) == ("PATCH", {"name": "heart"})
    annobus("panels", "archive", PANEL, "--url", stub.url)
    assert stub.asked[-1][0] == "DELETE"


def test_versions_are_compared(stub: Stub, annobus: Annobus) -> None:
    one = {"hgnc_id": "HGNC:9008", "symbol": "PKD1", "status": "approved", "given": "PBP"}
    found = {"added": [one], "removed": [one | {"hgnc_id": "HGNC:1"}], "kept_count": 7}
    stub.answer(f"{ITS}/versions/1/diff/2", {"data": {"attributes": found}})
    ended = annobus("panels", "diff", PANEL, "1", "2", "--url", stub.url)
    _, added, removed = ended.stdout.splitlines()
    assert added.split() == ["+", "HGNC:9008", "PKD1", "approved", "PBP"]
    assert removed.split()[:2] == ["-", "HGNC:1"]
    assert "1 added, 1 removed, 7 in both" in ended.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["create", "x"],
        ["create", "x", "PKD1", "--file", "-"],
        ["create", "x", "PKD1", "--column", "gene"],
        ["add", PANEL],
        ["update", PANEL, "--base", "1"],
        ["rename", PANEL],
        ["create", "x", "--file", "none.csv"],
    ],
)
def test_what_cannot_be_is_refused_before_it_is_asked(
    stub: Stub, annobus: Annobus, command: list[str]
) -> None:
    ended = annobus("panels", *command, "--url", stub.url)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert stub.asked == []


def test_a_refused_list_is_told_line_by_line(stub: Stub, annobus: Annobus) -> None:
    errors = [{"pointer": "line 7", "value": "2-Mar", "accepted": "an HGNC id"}] * 2
    problem = {"type": "urn:annobus:problem:panel-refused", "title": "T", "errors": errors}
    stub.answer(ADDRESS, problem, 422)
    ended = annobus("panels", "create", "x", "2-Mar", "--url", stub.url)
    assert ended.returncode == 2
    assert "  line 7 '2-Mar': an HGNC id" in ended.stderr.splitlines()
    assert "--leave-out" in ended.stderr.splitlines()[-1]


def test_a_run_is_ordered_over_a_panel(stub: Stub, annobus: Annobus) -> None:
    stub.answer("/api/runs", run_document("planning", 0), 202)
    ended = annobus("runs", "start", "--panel", f"{PANEL}@2", "--url", stub.url)
    assert ended.stdout.strip() == RUN_ID
    assert said(stub) == {"panel": f"{PANEL}@2"}
    both = annobus("runs", "start", "--panel", PANEL, "--all", "--url", stub.url)
    assert both.returncode == 2
    assert "in one way" in both.stderr


def test_a_run_says_whose_genes_it_is_over(stub: Stub, annobus: Annobus) -> None:
    document = run_document("completed", 3, hpo=counters("completed", total=1, done=1))
    document["data"]["attributes"]["panel"] = f"{PANEL}@2"
    stub.answer(f"/api/runs/{RUN_ID}", document)
    shown = annobus("runs", "show", RUN_ID, "--url", stub.url)
    assert shown.stdout.splitlines()[0] == f"run {RUN_ID}: completed (panel {PANEL}@2)"
