"""`annobus changes`: pages of them, and the stream that goes on by itself."""

import json
import os
import signal
import subprocess
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest

from services.cli import changes
from services.cli.client import connect
from services.cli.errors import NotReachable, Refused
from tests.integration.cli.conftest import COMMAND, OURS, Annobus
from tests.integration.cli.stub_gateway import Answer, Ending, Stub
from tests.system import ROOT

ADDRESS = "/api/changes"
UNKNOWN = {"type": "urn:annobus:problem:panel-unknown", "title": "No", "detail": "x"}


def change(**others: Any) -> dict[str, Any]:
    attributes = {
        "kind": "annotation",
        "hgnc_id": "HGNC:9008",
        "symbol": "PKD1\x1b[2J",
        "source": "gnomad",
        "changed_at": "2026-11-28T07:00:00+00:00",
        "cause": "upstream",
        "severity": "clinical",
        "before": {"loeuf": 0.35, "pli": 1.0, "counts": {"p": 1, "b": 2}, "flags": ["a"]},
        "after": {"loeuf": 0.4, "pli": 1.0, "counts": {"p": 1, "b": 3}, "flags": ["b"], "n": None},
        "release_before": "v4.1",
        "release": "v4.1.1",
        "gene_count": 1,
    }
    return {"type": "changes", "id": "7-1", "attributes": attributes | others}


def page(*found: dict[str, Any], cursor: str) -> dict[str, Any]:
    return {"data": list(found), "links": {}, "meta": {"cursor": cursor}}


def stream(*cursors: str, behind: bytes = b"", ending: Ending = "whole") -> Answer:
    events = b"".join(
        b"event: change\nid: %s\ndata: %s\n\n" % (cursor.encode(), orjson.dumps(change()))
        for cursor in cursors
    )
    return Answer(200, b"retry: 2000\n\n: alive\n\n" + events + behind, "text/event-stream", ending)


async def hear(stub: Stub, heard: list[str], *parameters: tuple[str, str]) -> None:
    """Until it raises."""
    async with connect(stub.url) as client:
        async for event in changes.events(client, [*parameters], "start"):
            heard += [event.cursor]


def test_changes_are_listed_with_what_differs(stub: Stub, annobus: Annobus) -> None:
    release = change(
        kind="release", hgnc_id=None, symbol=None, cause=None, severity=None, release_before=None
    )
    release["attributes"]["gene_count"] = 20_139
    found = (release, change(), change(before=None), change(after=None))
    stub.answer(ADDRESS, page(*found, cursor="abc"))
    options = [
        *("--gene", "PKD1", "--severity", "clinical,major", "--cause", "upstream"),
        *("--panel", "P", "--source", "gnomad", "--release", "R", "--since", "xyz"),
    ]
    ended = annobus("changes", *options, "--url", stub.url)
    assert ended.returncode == 0, ended.stderr
    header, first, one, new, gone = ended.stdout.splitlines()
    assert header.split()[:2] == ["when", "gene"]
    assert first.endswith("first     v4.1.1         all of its values: 20,139 genes")
    assert r"PKD1\x1b[2J" in one
    assert one.endswith("v4.1 → v4.1.1  loeuf 0.35 → 0.4, counts.b 2 → 3, flags differs in 1 entry")
    assert new.endswith("has a value now")
    assert gone.endswith("has no value any more")
    assert "that is all; later: the same command with --since abc" in ended.stderr
    asked = parse_qs(urlsplit(stub.asked[0][1]).query)
    assert asked == {
        "filter[gene]": ["PKD1"],
        "filter[panel]": ["P"],
        "filter[source]": ["gnomad"],
        "filter[severity]": ["clinical,major"],
        "filter[cause]": ["upstream"],
        "filter[release]": ["R"],
        "page[size]": ["20"],
        "since": ["xyz"],
    }


def test_as_many_as_are_wanted_are_read_in_pages(stub: Stub, annobus: Annobus) -> None:
    stub.answer(ADDRESS, page(*[change()] * 200, cursor="a"))
    stub.answer(ADDRESS, page(*[change()] * 50, cursor="b"))
    ended = annobus("changes", "--limit", "250", "--json", "--url", stub.url)
    document = json.loads(ended.stdout)
    assert len(document["data"]) == 250
    assert document["meta"]["cursor"] == "b"
    sizes = [parse_qs(urlsplit(path).query) for _, path, _ in stub.asked]
    assert sizes == [{"page[size]": ["200"]}, {"page[size]": ["50"], "since": ["a"]}]


def test_where_nothing_has_changed_that_is_said(stub: Stub, annobus: Annobus) -> None:
    stub.answer(ADDRESS, page(cursor="abc"))
    ended = annobus("changes", "--since", "now", "--url", stub.url)
    assert ended.stdout == ""
    assert "nothing has changed; later: the same command with --since abc" in ended.stderr


async def test_a_stream_goes_on_where_it_broke_off(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has no end was not told, and is told by the next stream."""
    monkeypatch.setattr(changes, "RETRY_SECONDS", 0)
    cut = b"id: c\ndata: {"
    stub.send(
        ADDRESS,
        stream("a", "b", behind=cut, ending="broken"),
        Answer(503, b"{}", "application/problem+json"),
        stream("c"),
        stream(),
        stream("d"),
    )
    stub.answer(ADDRESS, UNKNOWN, 404)
    heard: list[str] = []
    with pytest.raises(Refused, match="No: x"):
        await hear(stub, heard, ("filter[source]", "hpo"))
    assert heard == ["a", "b", "c", "d"]
    lasts = [headers.get("last-event-id") for headers in stub.headers]
    assert lasts == ["start", "b", "b", "c", "c", "d"]
    assert all(path == f"{ADDRESS}?filter%5Bsource%5D=hpo" for _, path, _ in stub.asked)


async def test_a_gateway_that_stays_away_is_given_up(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "RETRY_SECONDS", 0)
    monkeypatch.setattr(changes, "UNREACHABLE_SECONDS_MAX", 0)
    stub.answer(ADDRESS, {"title": "Crowded"}, 503)
    with pytest.raises(NotReachable, match="Crowded"):
        await hear(stub, [])


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_who_follows_gets_a_line_each_until_ctrl_c(stub: Stub, form: list[str]) -> None:
    stub.answer(ADDRESS, page(cursor="start"))
    stub.send(ADDRESS, stream("a", "b", ending="open"))
    inherited = {name: value for name, value in os.environ.items() if name not in OURS}
    with subprocess.Popen(
        [*COMMAND, "changes", "--follow", *form, "--url", stub.url],
        env=inherited | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as following:
        assert following.stdout is not None
        assert following.stderr is not None
        lines = [following.stdout.readline(), following.stdout.readline()]
        following.send_signal(signal.SIGINT)
        rest = following.stdout.read()
        talk = following.stderr.read()
        assert following.wait(30) == 130
    assert rest == ""
    assert "Traceback" not in talk
    assert "to go on here: the same command with --since b" in talk
    if form:
        assert [json.loads(line)["id"] for line in lines] == ["7-1", "7-1"]
    else:
        cells = "HGNC:9008   gnomad    clinical  upstream    v4.1 → v4.1.1  loeuf 0.35 → 0.4"
        assert all(cells in line for line in lines)
    # Now is a place before the stream begins, so that nothing between is missed.
    assert "since=now" in stub.asked[0][1]
    assert stub.headers[1]["last-event-id"] == "start"
