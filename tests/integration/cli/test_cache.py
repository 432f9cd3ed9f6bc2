"""`annobus cache`: what it asks for, and what a person sees."""

import json
from typing import Any

import pytest

from services.cli import cache
from services.cli.errors import CommandFailed
from tests.integration.cli.conftest import Annobus
from tests.integration.cli.stub_gateway import Stub

NAMESPACES = "/api/cache/namespaces"
GENES = f"{NAMESPACES}/genes"
OUTCOMES = ("hit", "shared", "miss", "stale", "made", "failed", "refused")


def namespace(name: str, **changes: Any) -> dict[str, Any]:
    attributes = {
        "namespace": name,
        "epoch": 3,
        "floor": 2,
        "invalidated_at": "2026-11-28T07:00:00+00:00",
        "ttl_seconds": 60.0,
        "entry_count": 12_345,
        "entry_bytes": 1_000_000,
        "reclaimable_count": 10,
        "dirty_count": None,
    }
    return {"type": "namespaces", "id": name, "attributes": attributes | changes}


def test_namespaces_are_listed_with_what_is_in_them(stub: Stub, annobus: Annobus) -> None:
    genes = namespace("genes", ttl_seconds=None, reclaimable_count=0, dirty_count=7)
    stub.answer(NAMESPACES, {"data": [genes, namespace("lists")]})
    ended = annobus("cache", "namespaces", "--url", stub.url)
    assert ended.returncode == 0, ended.stderr
    header, *lines = (line.split() for line in ended.stdout.splitlines())
    assert header == [
        *("namespace", "epoch", "invalidated", "ttl", "s", "entries", "bytes", "to", "reclaim")
    ]
    assert [line[:2] + line[4:] for line in lines] == [
        ["genes", "3", "12,345", "1,000,000", "7"],
        ["lists", "3", "60", "12,345", "1,000,000", "10"],
    ]


def test_statistics_tell_how_much_was_found(stub: Stub, annobus: Annobus) -> None:
    counts = dict.fromkeys(OUTCOMES, 0)
    all_of_them = counts | {"hit": 1_500, "shared": 400, "miss": 100}
    here = counts | {"hit": 1, "miss": 3}
    item = {"id": "lists", "attributes": {"here": here, "all": all_of_them}}
    unused = {"id": "facets", "attributes": {"here": counts, "all": counts}}
    stub.answer("/api/cache/statistics", {"data": [unused, item]})
    shown = annobus("cache", "statistics", "--url", stub.url).stdout.splitlines()
    assert shown[0].split() == ["namespace", *OUTCOMES, "found", "%"]
    assert shown[1].split() == ["facets", *(["0"] * 7)]
    assert shown[2].split() == ["lists", "1,500", "400", "100", "0", "0", "0", "0", "95.0"]
    shown = annobus("cache", "statistics", "--here", "--url", stub.url).stdout.splitlines()
    assert shown[2].split()[-1] == "25.0"
    whole = annobus("cache", "statistics", "--json", "--url", stub.url)
    assert json.loads(whole.stdout)["data"][1] == item


def test_parts_or_all_of_a_namespace_are_forgotten(stub: Stub, annobus: Annobus) -> None:
    stub.answer(
        f"{NAMESPACES}/lists/invalidate",
        {"data": namespace("lists"), "meta": {"parts": ["source=hpo", "key=a"]}},
        202,
    )
    stub.answer(
        f"{NAMESPACES}/lists/invalidate", {"data": namespace("lists"), "meta": {"parts": []}}, 202
    )
    parts = ("--key", "a", "--gene", "PKD1", "--gene", "PKD2", "--source", "hpo")
    ended = annobus("cache", "invalidate", "lists", *parts, "--url", stub.url)
    assert ended.returncode == 0, ended.stderr
    assert "2 parts of lists will be forgotten; its epoch was 3" in ended.stderr
    ended = annobus("cache", "invalidate", "lists", "--url", stub.url)
    assert "all of lists will be forgotten" in ended.stderr
    assert [json.loads(body) for _, _, body in stub.asked] == [
        {"keys": ["a"], "genes": ["PKD1", "PKD2"], "sources": ["hpo"]},
        {},
    ]


def test_an_unknown_namespace_has_a_way_out(stub: Stub, annobus: Annobus) -> None:
    problem = {"type": "urn:annobus:problem:namespace-unknown", "title": "No", "detail": "x"}
    stub.answer(f"{NAMESPACES}/a?b/invalidate", problem, 404)
    ended = annobus("cache", "invalidate", "a?b", "--url", stub.url)
    assert ended.returncode == 2
    assert "annobus cache namespaces" in ended.stderr.splitlines()[-1]


def test_documents_are_warmed(stub: Stub, annobus: Annobus) -> None:
    meta = {"wanted_count": 2_000, "warmed_count": 1_999}
    stub.answer(f"{GENES}/warm", {"data": namespace("genes"), "meta": meta})
    ended = annobus("cache", "warm", "--count", "2000", "--url", stub.url)
    assert ended.returncode == 0, ended.stderr
    assert "1,999 of 2,000 genes are in memory now" in ended.stderr
    annobus("cache", "warm", "genes", "--gene", "PKD1", "--url", stub.url)
    assert [json.loads(body) for _, _, body in stub.asked] == [
        {"count": 2_000},
        {"genes": ["PKD1"]},
    ]


def test_a_rebuild_is_waited_for_and_its_progress_told(stub: Stub, annobus: Annobus) -> None:
    before = {"data": namespace("genes", dirty_count=0)}
    stub.answer(f"{GENES}/invalidate", before, 202)
    stub.answer(GENES, before)  # The cache has not heard of it: nothing is built yet.
    for left in (44_000, 1_000, 0):
        stub.answer(GENES, {"data": namespace("genes", epoch=4, dirty_count=left)})
    ended = annobus("cache", "rebuild", "--json", "--url", stub.url)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.splitlines() == [
        *("44,000 documents left", "1,000 documents left", "all documents are built")
    ]
    assert json.loads(ended.stdout)["data"]["attributes"]["dirty_count"] == 0
    assert [method for method, _, _ in stub.asked] == ["POST", *(["GET"] * 4)]


@pytest.mark.parametrize(
    ("epoch", "says"), [(3, "the cache has not heard of it"), (4, "nothing has gone on")]
)
async def test_a_rebuild_that_stands_still_is_given_up(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, epoch: int, says: str
) -> None:
    monkeypatch.setattr(cache, "QUIET_SECONDS_MAX", 0)
    monkeypatch.setattr(cache, "POLL_SECONDS", 0)
    stub.answer(f"{GENES}/invalidate", {"data": namespace("genes")}, 202)
    stub.answer(GENES, {"data": namespace("genes", epoch=epoch, dirty_count=5)})
    with pytest.raises(CommandFailed, match=says):
        await cache.wait_until_rebuilt(stub.url)
