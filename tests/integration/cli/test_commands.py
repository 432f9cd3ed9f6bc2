"""Exit codes, streams and words of the commands that talk to a gateway."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.integration.cli.conftest import Annobus
from tests.integration.cli.stub_gateway import (
    RUN_ID,
    Answer,
    Stub,
    counters,
    frame,
    run_document,
)

COLOUR = re.compile(r"\x1b\[(?:\d+;)*[349]\d(?:;\d+)*m")  # Of the text or behind it, bold or not.
PROBLEM = {
    "type": "urn:annobus:problem:genes-refused",
    "title": "Genes of the order cannot be resolved",
    "detail": "2 of 3 genes are refused",
    "status": 422,
    "errors": [
        {"pointer": "/genes/1", "value": "FOO", "accepted": "an HGNC id (HGNC:9008)"},
        {"pointer": "/genes/2", "value": "MT1", "accepted": "one of HGNC:7393 (MT1A)"},
    ],
}
GENE = {
    "data": {
        "type": "genes",
        "id": "HGNC:9008",
        "attributes": {
            "symbol": "PKD1",
            "name": "polycystin 1",
            "annotations": {
                "hpo": {"status": "ok", "value": {"term_count": 3}, "release": "2025-01-16"},
                "ensembl": {
                    "status": "ok",
                    "value": {"chromosome": "16"},
                    "release": "115-synthetic",
                    "synthetic": True,
                },
            },
        },
    }
}
GENES = {
    "data": [GENE["data"]],
    "links": {"next": "/api/genes?page%5Bsize%5D=1&page%5Bafter%5D=WyJo"},
}


def test_a_problem_is_shown_in_words_and_the_exit_code_is_2(stub: Stub, annobus: Annobus) -> None:
    stub.answer("/api/runs", PROBLEM, 422)
    ended = annobus("runs", "start", "PKD1", "FOO", "MT1", "--url", stub.url)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.splitlines() == [
        "error: Genes of the order cannot be resolved: 2 of 3 genes are refused",
        "  /genes/1 'FOO': an HGNC id (HGNC:9008)",
        "  /genes/2 'MT1': one of HGNC:7393 (MT1A)",
        "→ Correct what is named above and try again",
    ]


@pytest.mark.parametrize(("status", "code"), [(401, 5), (404, 2), (500, 1), (503, 4)])
def test_the_exit_code_follows_the_status(
    stub: Stub, annobus: Annobus, status: int, code: int
) -> None:
    stub.answer("/api/sources", {"title": "No", "detail": "not today"}, status)
    ended = annobus("sources", "list", ANNOBUS_URL=stub.url)
    assert ended.returncode == code
    assert ended.stderr.startswith("error: No: not today\n→ ")


def test_a_gateway_that_does_not_answer_is_exit_code_4(annobus: Annobus) -> None:
    ended = annobus("genes", "get", "PKD1", "--url", "http://127.0.0.1:1")
    assert ended.returncode == 4
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: http://127.0.0.1:1 does not answer: ")
    assert "annobus up" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_no_proxy_is_asked_for_an_address_of_this_machine(stub: Stub, annobus: Annobus) -> None:
    stub.answer("/api/sources", {"data": []})
    proxy = "http://127.0.0.1:1"
    ended = annobus("sources", "list", "--url", stub.url, HTTP_PROXY=proxy, http_proxy=proxy)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    "command",
    [
        *(["runs", "list"], ["status"], ["migrate"], ["logs"], ["changes"], ["changes", "-f"]),
        *(["statistics", "sources"], ["genes", "export"], ["genes", "export", "genes.csv"]),
    ],
)
def test_where_nothing_runs_that_is_said(annobus: Annobus, command: list[str]) -> None:
    ended = annobus(*command)
    assert ended.returncode == 4
    assert "annobus up" in ended.stderr


def test_down_where_nothing_runs_is_no_error(annobus: Annobus) -> None:
    ended = annobus("down", "--json")
    assert ended.returncode == 0
    assert json.loads(ended.stdout) == {"stopped": False}


def test_whom_a_run_waits_for_is_said_with_time_and_reason(stub: Stub, annobus: Annobus) -> None:
    until = datetime(2026, 11, 25, 13, 3, 10, tzinfo=UTC)
    waits = {"waits_until": until.isoformat(), "waits_because": "429, Retry-After 30 s"}
    none = {"waits_until": None, "waits_because": None}
    document = run_document(
        "running",
        7,
        gnomad=counters("running", total=9) | waits,
        hpo=counters("running", total=9) | none,
    )
    stub.answer(f"/api/runs/{RUN_ID}", document)
    said = annobus("runs", "show", RUN_ID, "--url", stub.url).stdout
    local = f"{until.astimezone():%H:%M:%S}"
    assert f"Waiting for gnomad until {local}: 429, Retry-After 30 s" in said
    assert said.count("Waiting") == 1


def test_a_retired_source_is_listed_as_one(stub: Stub, annobus: Annobus) -> None:
    same = {"title": "T", "kind": "bulk", "annotation_count": 7, "licence": "CC0"}
    data = [
        {"type": "sources", "id": name, "attributes": same | {"is_retired": is_retired}}
        for name, is_retired in (("hpo", False), ("gnomad", True))
    ]
    stub.answer("/api/sources", {"data": data})
    header, *rows = annobus("sources", "list", "--url", stub.url).stdout.splitlines()
    place = header.index("state")
    assert [row[place:].split("  ")[0] for row in rows] == ["in use", "retired"]


def test_what_answers_but_is_no_gateway_is_named(stub: Stub, annobus: Annobus) -> None:
    stub.send("/api/sources", Answer(200, b"<html>hello</html>", "text/html"))
    ended = annobus("sources", "list", "--url", stub.url)
    assert ended.returncode == 4
    assert "<html>hello</html>" in ended.stderr


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["runs", "start"], "in one way"),
        (["runs", "start", "PKD1", "--all"], "in one way"),
        (["runs", "start", "--file", "nothing.txt"], "No such file"),
        (["genes", "list", "--filter", "symbol"], "FIELD=VALUE"),
        (["genes", "list", "--page-size", "201"], "200"),
        (["runs", "list", "--url", "ftp://127.0.0.1"], "http://"),
        (["up", "--no-mirror", "--no-limits"], "--no-limits needs the mirror"),
        (["up", "--state", "not/there"], "does not exist"),
        (["up", "--annotators", "0"], "equal to 1"),
        (["logs", "-f", "--json"], "no end"),
        (["nonsense"], "nonsense"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(
    annobus: Annobus, command: list[str], words: str
) -> None:
    ended = annobus(*command, ANNOBUS_URL="http://127.0.0.1:1")
    assert ended.returncode == 2, ended.stderr
    assert words in ended.stderr


def test_help_names_the_exit_codes(annobus: Annobus) -> None:
    ended = annobus("--help")
    assert ended.returncode == 0
    assert "3 partial" in ended.stdout
    assert "130 interrupted" in ended.stdout


@pytest.mark.parametrize(
    ("command", "path", "document"),
    [
        (["genes", "get", "PKD1"], "/api/genes/PKD1", GENE),
        (["genes", "list"], "/api/genes", GENES),
        (["runs", "show", RUN_ID], f"/api/runs/{RUN_ID}", run_document("running", 4)),
        (["runs", "list"], "/api/runs", {"data": [], "links": {}}),
        (["runs", "start", "--all"], "/api/runs", run_document("planning", 0)),
        (["sources", "list"], "/api/sources", {"data": []}),
    ],
)
def test_json_is_one_object_and_nothing_else(
    stub: Stub, annobus: Annobus, command: list[str], path: str, document: object
) -> None:
    stub.answer(path, document)
    ended = annobus(*command, "--json", "--url", stub.url, FORCE_COLOR="1")
    assert ended.returncode == 0
    assert json.loads(ended.stdout) == document


def test_a_gene_is_asked_by_the_name_that_was_given(stub: Stub, annobus: Annobus) -> None:
    stub.answer("/api/genes/HGNC:9008", GENE)
    ended = annobus("genes", "get", "HGNC:9008", "--source", "ensembl", "--url", stub.url)
    assert ended.returncode == 0
    assert ended.stdout.splitlines()[0] == "PKD1 · polycystin 1 · HGNC:9008"
    assert "ensembl: ok  115-synthetic (synthetic)" in ended.stdout
    assert "hpo" not in ended.stdout
    unknown = annobus("genes", "get", "HGNC:9008", "--source", "nothing", "--url", stub.url)
    assert unknown.returncode == 2
    assert "accepted: hpo, ensembl" in unknown.stderr


def test_filters_and_the_cursor_reach_the_gateway(stub: Stub, annobus: Annobus) -> None:
    stub.answer("/api/genes", GENES)
    options = ["--filter", "symbol=PKD1,PKD2", "--sort", "-symbol", "--page-size", "1"]
    ended = annobus("genes", "list", *options, "--after", "WyJz", "--url", stub.url)
    assert ended.returncode == 0
    _, asked, _ = stub.asked[0]
    assert asked == (
        "/api/genes?page%5Bsize%5D=1&filter%5Bsymbol%5D=PKD1%2CPKD2&sort=-symbol&page%5Bafter%5D=WyJz"
    )
    assert ended.stdout.splitlines()[1].split() == [
        "HGNC:9008",
        "PKD1",
        "polycystin",
        "1",
        "ok",
        "ok",
    ]
    assert "--after WyJo" in ended.stderr


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}])
def test_output_has_no_escape_codes_without_a_terminal_or_with_no_color(
    stub: Stub, annobus: Annobus, environment: dict[str, str]
) -> None:
    stub.answer("/api/sources", {"title": "No", "detail": "[red]not[/red] a colour"}, 404)
    ended = annobus("sources", "list", "--url", stub.url, **environment)
    assert not COLOUR.search(ended.stderr)
    assert "[red]not[/red] a colour" in ended.stderr
    if not environment:
        assert "\x1b" not in ended.stderr


def test_genes_come_from_a_file_or_from_standard_input(stub: Stub, annobus: Annobus) -> None:
    stub.answer("/api/runs", run_document("planning", 0))
    given = "\ufeffPKD1\r\n\n# a panel\n  HGNC:9009\n"
    ended = annobus(
        *("runs", "start", "--file", "-", "--sources", "hpo, ensembl", "--name", "panel"),
        *("--priority", "low", "--idempotency-key", "k1", "--url", stub.url),
        standard_input=given,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"{RUN_ID}\n"
    assert json.loads(stub.asked[0][2]) == {
        "genes": ["PKD1", "HGNC:9009"],
        "sources": ["hpo", "ensembl"],
        "name": "panel",
        "priority": "low",
    }
    empty = annobus("runs", "start", "--file", "-", "--url", stub.url, standard_input="# none\n")
    assert empty.returncode == 2
    assert "it names 0 genes; accepted are 1 to 50000" in empty.stderr


@pytest.mark.parametrize(
    ("state", "code"),
    [("completed", 0), ("completed_with_errors", 3), ("cancelled", 3), ("failed", 1)],
)
def test_watching_ends_with_the_exit_code_of_the_run(
    stub: Stub, annobus: Annobus, state: str, code: int
) -> None:
    path = f"/api/runs/{RUN_ID}"
    final = run_document(state, 9, hpo=counters("completed", 10, done=10))
    stub.answer(path, run_document("planning", 0, hpo=counters("waiting", None)))
    stub.answer(path, final)
    stub.sockets.append(
        [
            frame("running", 3, hpo=counters("running", 10, done=4)),
            {"type": "fact", "run_id": RUN_ID, "seq": 4, "status": "running", "event": "x"},
            frame(state, 9, hpo=counters("completed", 10, done=10)),
        ]
    )
    ended = annobus("runs", "watch", RUN_ID, "--json", "--url", stub.url)
    assert ended.returncode == code
    assert json.loads(ended.stdout) == final
    lines = ended.stderr.splitlines()
    assert lines[0] == "planning: hpo ?% 0 of ? genes"
    assert "hpo 40% 4 of 10 genes" in lines[1]
    assert lines[-1].startswith(f"{state}: hpo 100% 10 of 10 genes")


def test_a_socket_that_breaks_is_replaced_by_asking(stub: Stub, annobus: Annobus) -> None:
    path = f"/api/runs/{RUN_ID}"
    stub.answer(path, run_document("running", 1, hpo=counters("running", 10)))
    stub.answer(path, {"title": "Starting"}, 503)
    stub.answer(path, run_document("running", 5, hpo=counters("running", 10, done=5)))
    stub.answer(path, run_document("completed", 9, hpo=counters("completed", 10, done=10)))
    stub.sockets.append([frame("running", 2, hpo=counters("running", 10, done=2))])
    ended = annobus("runs", "watch", RUN_ID, "--url", stub.url)
    assert ended.returncode == 0, ended.stderr
    assert stub.socket_count == 2
    assert f"run {RUN_ID}: completed" in ended.stdout


@pytest.mark.parametrize("action", ["pause", "resume", "cancel"])
def test_a_run_or_a_source_of_it_is_controlled(stub: Stub, annobus: Annobus, action: str) -> None:
    document = run_document("running", 4)
    for place in (f"/api/runs/{RUN_ID}", f"/api/runs/{RUN_ID}/sources/hpo"):
        stub.answer(f"{place}/{action}", document)
    ended = annobus("runs", action, RUN_ID, "--url", stub.url)
    assert ended.returncode == 0, ended.stderr
    assert f"run {RUN_ID}: {action} is accepted" in ended.stderr
    ended = annobus("runs", action, RUN_ID, "--source", "hpo", "--json", "--url", stub.url)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == document
    assert [(method, path) for method, path, _ in stub.asked] == [
        ("POST", f"/api/runs/{RUN_ID}/{action}"),
        ("POST", f"/api/runs/{RUN_ID}/sources/hpo/{action}"),
    ]


def test_a_retry_is_ordered_of_a_run_or_of_a_source_of_it(stub: Stub, annobus: Annobus) -> None:
    other = "01a201c6-0d50-7337-b027-43817636677b"
    for place in (f"/api/runs/{other}", f"/api/runs/{other}/sources/hpo"):
        stub.answer(f"{place}/retry", run_document("planning", 0))
    ended = annobus("runs", "retry", other, "--name", "again", "--url", stub.url)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"{RUN_ID}\n"
    ended = annobus("runs", "retry", other, "--source", "hpo", "--url", stub.url)
    assert ended.returncode == 0, ended.stderr
    assert [(path, json.loads(body)) for _, path, body in stub.asked] == [
        (f"/api/runs/{other}/retry", {"name": "again"}),
        (f"/api/runs/{other}/sources/hpo/retry", {}),
    ]


def test_a_strategy_is_sent_unless_it_is_the_usual_one(stub: Stub, annobus: Annobus) -> None:
    stub.answer("/api/runs", run_document("planning", 0))
    for strategy in ("stale", "full"):
        ended = annobus("runs", "start", "--all", "--strategy", strategy, "--url", stub.url)
        assert ended.returncode == 0, ended.stderr
    assert [json.loads(body) for _, _, body in stub.asked] == [
        {"all": True, "strategy": "stale"},
        {"all": True},
    ]
    assert annobus("runs", "start", "--all", "--strategy", "fast").returncode == 2


def test_an_order_for_what_is_being_fetched_is_refused_with_the_way_out(
    stub: Stub, annobus: Annobus
) -> None:
    detail = f"run {RUN_ID} asks ensembl for the same genes just now"
    problem = {"type": "urn:annobus:problem:run-identical", "title": "The same", "detail": detail}
    stub.answer("/api/runs", problem, 409)
    ended = annobus("runs", "start", "--all", "--url", stub.url)
    assert ended.returncode == 2
    assert detail in ended.stderr
    assert "annobus runs watch ID" in ended.stderr


def test_a_control_that_comes_too_late_is_refused_in_words(stub: Stub, annobus: Annobus) -> None:
    detail = f"run {RUN_ID} is completed: nobody can pause it any more"
    problem = {
        "type": "urn:annobus:problem:run-ended",
        "title": "The run cannot be controlled any more",
        "detail": detail,
    }
    stub.answer(f"/api/runs/{RUN_ID}/pause", problem, 409)
    ended = annobus("runs", "pause", RUN_ID, "--url", stub.url)
    assert ended.returncode == 2
    assert detail in ended.stderr


def test_what_is_paused_or_cancelled_is_shown(stub: Stub, annobus: Annobus) -> None:
    path = f"/api/runs/{RUN_ID}"
    cut = counters("cancelled", 10, done=4) | {"cancelled_count": 6}
    stub.answer(path, run_document("paused", 3, hpo=counters("paused", 10, done=4)))
    stub.answer(path, run_document("cancelled", 9, hpo=cut))
    ended = annobus("runs", "watch", RUN_ID, "--url", stub.url)
    lines = ended.stderr.splitlines()
    assert lines[0] == "paused: hpo 40% 4 of 10 genes, paused"
    assert lines[-1] == "cancelled: hpo 40% 4 of 10 genes, cancelled"
    header, row = ended.stdout.splitlines()[1:]
    assert header.split() == [
        *("source", "state", "genes", "done", "no", "data", "failed", "cancelled", "release")
    ]
    assert row.split() == ["hpo", "cancelled", "10", "4", "0", "0", "6", "2025-01-16"]


def test_an_unknown_run_is_refused_in_words(stub: Stub, annobus: Annobus) -> None:
    problem = {"type": "urn:annobus:problem:run-unknown", "title": "No such run", "detail": "x"}
    stub.answer("/api/runs/x", problem, 404)
    ended = annobus("runs", "watch", "x", "--url", stub.url)
    assert ended.returncode == 2
    assert "→ See the runs there are: annobus runs list" in ended.stderr


RESOLVED: dict[str, object] = {
    "value": "MARCH2",
    "outcome": "resolved",
    "hgnc_id": "HGNC:28038",
    "symbol": "MARCHF2",
    "matched_by": "previous",
    "successor_of": [],
    "candidates": [],
    "flags": [],
    "note": None,
}
DATE: dict[str, object] = {
    "value": "2-Mar",
    "outcome": "unknown",
    "hgnc_id": None,
    "symbol": None,
    "matched_by": None,
    "successor_of": [],
    "candidates": [
        {"hgnc_id": "HGNC:28038", "symbol": "MARCHF2", "matched_by": "previous", "name": "MARCH2"}
    ],
    "flags": ["spreadsheet_date"],
    "note": "this is a date",
}


def resolutions(*rows: dict[str, object]) -> dict[str, object]:
    found = [row["outcome"] for row in rows]
    outcomes = ("resolved", "unknown", "ambiguous", "withdrawn")
    return {
        "data": [
            {"type": "resolutions", "id": str(place), "attributes": row}
            for place, row in enumerate(rows)
        ],
        "meta": {
            "total": len(rows),
            "outcomes": {outcome: found.count(outcome) for outcome in outcomes},
        },
    }


def test_names_are_resolved_and_what_is_not_is_told_and_partial(
    stub: Stub, annobus: Annobus
) -> None:
    stub.answer("/api/genes/resolve", resolutions(RESOLVED, DATE))
    ended = annobus(
        "genes", "resolve", "--file", "-", "--url", stub.url, standard_input="MARCH2\n\n2-Mar\n"
    )
    assert ended.returncode == 3, ended.stderr
    assert json.loads(stub.asked[0][2]) == {"genes": ["MARCH2", "2-Mar"]}
    _, resolved, date = ended.stdout.splitlines()
    assert resolved.split() == ["MARCH2", "resolved", "HGNC:28038", "MARCHF2", "previous"]
    assert "spreadsheet date; may be MARCHF2 HGNC:28038 (previous MARCH2)" in date
    assert "2 names: 1 resolved, 1 unknown, 0 ambiguous, 0 withdrawn" in ended.stderr


def test_names_that_are_all_resolved_end_well(stub: Stub, annobus: Annobus) -> None:
    stub.answer("/api/genes/resolve", resolutions(RESOLVED))
    ended = annobus("genes", "resolve", "MARCH2", "--json", "--url", stub.url)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == resolutions(RESOLVED)
    neither = annobus("genes", "resolve", "--url", stub.url)
    assert neither.returncode == 2
    assert "in one way" in neither.stderr


RELEASES: dict[str, object] = {
    "data": [
        {
            "id": id_,
            "attributes": {
                "version": version,
                "state": state,
                "synthetic": False,
                "row_count": rows,
                "unmapped_count": unmapped,
                "retrieved_at": "2026-11-25T00:00:00Z",
                "problem": problem,
            },
        }
        for id_, version, state, rows, unmapped, problem in (
            ("r2", None, "rejected", None, None, {"detail": "HTML, no table"}),
            ("r1", "2025-01-16", "stored", 4_900, 51_000, None),
        )
    ],
    "links": {"next": None},
}
UNMAPPED: dict[str, object] = {
    "data": [{"attributes": {"key": "12", "row_count": 3, "reason": "no approved gene has it"}}],
    "links": {"next": "/api/x?page%5Bafter%5D=WyJo"},
    "meta": {"total": 50_000, "unmapped_count": 51_000, "kept_count": 50_000, "truncated": True},
}


def test_releases_are_shown_with_what_became_of_them(stub: Stub, annobus: Annobus) -> None:
    stub.answer("/api/sources/hpo/releases", RELEASES)
    ended = annobus("sources", "releases", "hpo", "--url", stub.url)
    assert ended.returncode == 0, ended.stderr
    _, rejected, stored = ended.stdout.splitlines()
    assert "rejected" in rejected
    assert rejected.endswith("HTML, no table")
    assert stored.split()[:6] == ["r1", "2025-01-16", "stored", "real", "4,900", "51,000"]


def test_a_release_in_quarantine_says_why_and_is_decided(stub: Stub, annobus: Annobus) -> None:
    waiting: dict[str, Any] = json.loads(json.dumps(RELEASES))
    waiting["data"][0]["attributes"] |= {
        "state": "quarantined",
        "doubts": [{"check": "records", "found": "17", "accepted": "4000 to 10000"}],
        "problem": None,
    }
    stub.answer("/api/sources/hpo/releases", waiting)
    ended = annobus("sources", "releases", "hpo", "--url", stub.url)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[1].endswith("records: 17")

    stub.answer("/api/sources/hpo/releases/r2/accept", {"data": waiting["data"][0]}, 202)
    said = ("--by", "r.franklin", "--note", "looked at it")
    ended = annobus("sources", "accept", "hpo", "r2", *said, "--url", stub.url)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(stub.asked[-1][2]) == {"by": "r.franklin", "note": "looked at it"}
    assert annobus("sources", "reject", "hpo", "r2", "--url", stub.url).returncode == 2


def test_the_report_of_the_last_release_that_was_read_is_shown(
    stub: Stub, annobus: Annobus
) -> None:
    stub.answer("/api/sources/hpo/releases", RELEASES)
    stub.answer("/api/sources/hpo/releases/r1/unmapped", UNMAPPED)
    ended = annobus("sources", "unmapped", "hpo", "--reason", "a, b", "--url", stub.url)
    assert ended.returncode == 0, ended.stderr
    assert "filter%5Breason%5D=a%2C+b" in stub.asked[-1][1]
    assert ended.stdout.splitlines()[1].split() == [
        "12",
        "3",
        "no",
        "approved",
        "gene",
        "has",
        "it",
    ]
    assert "50,000 entries here, 51,000 in all, of which 50,000 were kept" in ended.stderr
    assert "--after WyJo" in ended.stderr
    named = annobus("sources", "unmapped", "hpo", "r1", "--json", "--url", stub.url)
    assert json.loads(named.stdout) == UNMAPPED


def test_a_dry_run_is_ordered_and_what_it_found_out_is_said(stub: Stub, annobus: Annobus) -> None:
    stub.answer("/api/runs", run_document("planning", 0))
    ended = annobus("runs", "start", "--all", "--dry-run", "--url", stub.url)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(stub.asked[-1][2]) == {"all": True, "dry_run": True}

    none = counters("completed", 0)
    document = run_document("completed", 3, ensembl=dict(none), hpo=dict(none))
    document["data"]["attributes"]["dry_run"] = True
    sources = document["data"]["attributes"]["sources"]
    sources["ensembl"]["preview"] = {"gene_count": 1200, "request_count": 2, "seconds": 0.1}
    sources["hpo"]["preview"] = {
        "release": "2026-11",
        "is_new_release": True,
        "new_count": 3,
        "changed_count": 5,
        "withdrawn_count": 1,
        "unchanged_count": 5114,
        "severities": {"none": 0, "minor": 4, "major": 0, "clinical": 2},
    }
    stub.answer(f"/api/runs/{RUN_ID}", document)
    shown = annobus("runs", "show", RUN_ID, "--url", stub.url).stdout
    header, columns, *rows = shown.splitlines()
    assert header == f"run {RUN_ID}: completed (dry run)"
    assert columns.split() == ["source", "state", "found"]
    assert [row.split("completed  ")[1] for row in rows] == [
        "would ask for 1,200 genes in 2 requests, which takes 0.1 s at the least",
        (
            "would store release 2026-11: 3 new, 5 changed, 1 withdrawn; of these 2 clinical,"
            " 4 minor; 5,114 unchanged"
        ),
    ]


def test_a_dry_run_is_watched_without_counts_of_genes(stub: Stub, annobus: Annobus) -> None:
    path = f"/api/runs/{RUN_ID}"
    first = run_document("planning", 0, hpo=counters("waiting", None))
    final = run_document("completed", 9, hpo=counters("completed", 0))
    for document in (first, final):
        document["data"]["attributes"]["dry_run"] = True
        stub.answer(path, document)
    stub.sockets.append(
        [
            frame("running", 3, hpo=counters("waiting", 0)),
            frame("completed", 9, hpo=counters("completed", 0)),
        ]
    )
    ended = annobus("runs", "watch", RUN_ID, "--url", stub.url)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stderr.splitlines()
    assert lines[0] == "planning: hpo looks what there is"
    assert lines[-1] == "completed: hpo has been looked at"


def test_what_is_unusual_of_a_run_is_said(stub: Stub, annobus: Annobus) -> None:
    document = run_document("running", 4, hpo=counters("running", 10))
    document["data"]["attributes"] |= {
        "name": "kidneys\x1b[2J",
        "strategy": "stale",
        "priority": "high",
        "desired_state": "paused",
    }
    stub.answer(f"/api/runs/{RUN_ID}", document)
    shown = annobus("runs", "show", RUN_ID, "--url", stub.url).stdout
    assert shown.splitlines()[0] == (
        f"run {RUN_ID}: running"
        r" (kidneys\x1b[2J; strategy stale; priority high; a pause is asked for)"
    )


def test_runs_are_listed_with_what_was_ordered(stub: Stub, annobus: Annobus) -> None:
    usual = run_document("completed", 4, hpo=counters("completed", 10))["data"]
    others = [
        {"dry_run": True},
        {"retries": RUN_ID, "strategy": "full"},
        {"strategy": "stale", "sources": {name: {} for name in "abcd"}},
    ]
    runs = [usual | {"attributes": usual["attributes"] | other} for other in ({}, *others)]
    stub.answer("/api/runs", {"data": runs, "links": {"next": "more"}})
    ended = annobus("runs", "list", "--page", "3", "--url", stub.url)
    header, *rows = ended.stdout.splitlines()
    place = header.index("order")
    assert [row[place:].split("  ")[0].strip() for row in rows] == [
        *("full", "dry run", "retry", "stale")
    ]
    assert "4 sources" in rows[-1]
    assert "more: the same command with --page 4" in ended.stderr


def test_whatever_is_given_as_an_id_is_one_part_of_the_address(
    stub: Stub, annobus: Annobus
) -> None:
    problem = {"type": "urn:annobus:problem:run-unknown", "title": "No such run", "detail": "x"}
    for command in ("show", "watch", "pause"):
        suffix = "/pause" if command == "pause" else ""
        stub.answer(f"/api/runs/../sources?x{suffix}", problem, 404)
        ended = annobus("runs", command, "../sources?x", "--url", stub.url)
        assert ended.returncode == 2, ended.stderr
        assert "annobus runs list" in ended.stderr


def test_one_problem_of_many_sources_is_told_once_and_a_retry_is_named(
    stub: Stub, annobus: Annobus
) -> None:
    problem = {"title": "The catalogue is empty", "detail": "no gene is known"}
    failed = counters("failed", 3, failed=3) | {"problem": problem}
    sources = {"hgnc": failed, "hpo": failed, "ensembl": counters("completed", 3, done=3)}
    stub.answer(f"/api/runs/{RUN_ID}", run_document("completed_with_errors", 9, **sources))
    ended = annobus("runs", "show", RUN_ID, "--url", stub.url)
    assert ended.stdout.splitlines()[-1] == "hgnc, hpo: The catalogue is empty: no gene is known"
    assert ended.stderr.splitlines()[-1] == f"→ annobus runs retry {RUN_ID}"
    dry = run_document("failed", 9, **sources)
    dry["data"]["attributes"]["dry_run"] = True
    stub.answers.clear()
    stub.answer(f"/api/runs/{RUN_ID}", dry)
    assert annobus("runs", "show", RUN_ID, "--url", stub.url).stderr == ""


def test_of_a_paused_run_nothing_goes_on(stub: Stub, annobus: Annobus) -> None:
    states = {"hgnc": "completed", "hpo": "running", "ensembl": "waiting"}
    sources = {name: counters(state, 3) for name, state in states.items()}
    stub.answer(f"/api/runs/{RUN_ID}", run_document("paused", 9, **sources))
    rows = annobus("runs", "show", RUN_ID, "--url", stub.url).stdout.splitlines()[2:]
    assert [row.split()[1] for row in rows] == ["completed", "paused", "paused"]


def test_a_release_that_is_made_up_says_so_once(stub: Stub, annobus: Annobus) -> None:
    made_up = {"synthetic": True}
    sources = {
        "ensembl": counters("completed", 3) | made_up | {"release": "115-synthetic"},
        "hpo": counters("completed", 3) | made_up,
    }
    stub.answer(f"/api/runs/{RUN_ID}", run_document("completed", 9, **sources))
    shown = annobus("runs", "show", RUN_ID, "--url", stub.url).stdout
    assert shown.splitlines()[-2].endswith("  115-synthetic")
    assert shown.splitlines()[-1].endswith("  2025-01-16 (synthetic)")


def test_what_the_detail_of_a_refusal_says_is_not_said_again(stub: Stub, annobus: Annobus) -> None:
    error = {"pointer": "/kind", "value": "parcel", "accepted": "message, batch"}
    problem = {"title": "No", "detail": "kind=parcel; accepted: message, batch", "errors": [error]}
    stub.answer("/api/runs", problem, 422)
    stub.answer("/api/runs", problem | {"detail": "message, batch"}, 422)
    stub.answer("/api/runs", problem | {"errors": [error, error]}, 422)
    told = [annobus("runs", "list", "--url", stub.url).stderr for _ in range(3)]
    assert [said.count("/kind 'parcel'") for said in told] == [0, 1, 2]
