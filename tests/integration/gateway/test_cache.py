"""The routes of the cache: namespaces, statistics, forgetting and warming."""

from typing import Any

import pytest

from contracts.messages import NamespaceInvalidated
from services.gateway.handlers import subscriptions
from services.gateway.http import cache
from services.gateway.store import entries
from tests.builders import IDS
from tests.integration.gateway.desk import GONE, OLD, PKD1, PKD2, TAFAZZIN, WWTR1, Desk

NAMES = ["facets", "genes", "lists", "resolutions", "statistics"]
INVALIDATE = "/api/cache/namespaces/lists/invalidate"


async def attributes(desk: Desk, address: str) -> dict[str, dict[str, Any]]:
    answer = await desk.client.get(address)
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    listed = data if isinstance(data, list) else [data]
    return {item["id"]: item["attributes"] for item in listed}


async def test_namespaces_are_listed_with_their_limits_and_what_is_in_them(desk: Desk) -> None:
    found = await attributes(desk, "/api/cache/namespaces")
    assert list(found) == NAMES
    assert found["genes"]["ttl_seconds"] is None
    assert found["genes"]["dirty_count"] == 0
    lists = found["lists"]
    assert (lists["epoch"], lists["entry_count"], lists["dirty_count"]) == (0, 0, None)
    assert 0 < lists["negative_ttl_seconds"] <= lists["ttl_seconds"]
    assert await attributes(desk, "/api/cache/namespaces/lists") == {"lists": lists}


async def test_parts_are_named_by_whatever_names_their_genes(stocked: Desk) -> None:
    for body, parts in [
        (None, []),
        ({}, []),
        ({"keys": ["a b", "a b"]}, ["key=a b"]),
        ({"genes": ["pkd1", "OLD1", "5311"]}, [f"gene={PKD1}", f"gene={PKD2}"]),
        ({"sources": ["hpo"]}, ["source=hpo"]),
        (
            {"keys": ["x"], "genes": ["PKD1"], "sources": ["hpo", "gnomad"]},
            ["key=x", f"gene={PKD1} source=hpo", f"gene={PKD1} source=gnomad"],
        ),
    ]:
        await stocked.execute("DELETE FROM gateway.outbox")
        answer = await stocked.client.post(INVALIDATE, json=body)
        assert answer.status_code == 202, answer.text
        assert answer.headers["location"] == "/api/cache/namespaces/lists"
        assert answer.json()["meta"] == {"parts": parts}
        (command,) = await stocked.outbox()
        assert (command["namespace"], command["parts"]) == ("lists", parts)
    answer = await stocked.client.post(INVALIDATE)  # Without a body at all.
    assert answer.status_code == 202


UNFIT: list[tuple[Any, str, str]] = [
    ({"genes": ["NOSUCH"]}, "genes-refused", "/genes/0"),
    ({"genes": ["PKD1", "SHARED"]}, "genes-refused", "/genes/1"),
    ({"sources": ["hpo", "nowhere"]}, "sources-refused", "/sources/1"),
    ({"colour": "red"}, "invalidation-invalid", "keys, genes, sources"),
    ({"keys": []}, "invalid-request", "/keys"),
    ({"keys": ["x" * 251]}, "invalid-request", "/keys/0"),
    ({"keys": ["\0"]}, "invalid-request", "/keys/0"),
    ({"keys": "all"}, "invalid-request", "/keys"),
    ([], "invalid-request", "/"),
]


async def test_parts_that_there_are_not_are_refused(stocked: Desk) -> None:
    for body, kind, says in UNFIT:
        answer = await stocked.client.post(INVALIDATE, json=body)
        assert answer.status_code == 422, answer.text
        assert answer.json()["type"] == f"urn:annobus:problem:{kind}"
        assert says in answer.text
    assert await stocked.outbox() == []


async def test_too_many_parts_are_refused_by_their_number(
    stocked: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "PARTS_MAX", 3)
    body = {"genes": ["PKD1", "PKD2"], "sources": ["hpo", "gnomad"]}
    answer = await stocked.client.post(INVALIDATE, json=body)
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:annobus:problem:invalidation-invalid"
    assert "at most 3 keys and genes × sources" in answer.json()["detail"]
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/genes", "/sources"]


async def test_an_unknown_namespace_is_told_with_those_there_are(desk: Desk) -> None:
    for method, path in (("get", ""), ("post", "/invalidate"), ("post", "/warm")):
        answer = await desk.client.request(method, f"/api/cache/namespaces/coffee{path}")
        assert answer.status_code == 404
        assert answer.json()["type"] == "urn:annobus:problem:namespace-unknown"
        assert ", ".join(NAMES) in answer.json()["detail"]


async def test_documents_are_warmed(stocked: Desk) -> None:
    address = "/api/cache/namespaces/genes/warm"
    for body, warm in [
        ({"genes": ["PKD2", "OLD1"]}, {PKD1, PKD2}),
        ({"count": 3}, {PKD1, PKD2, TAFAZZIN}),
        (None, {PKD1, PKD2, TAFAZZIN, WWTR1}),
    ]:
        stocked.documents.forget()
        answer = await stocked.client.post(address, json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["meta"]["warmed_count"] == len(warm)
        assert {one for one in (*warm, OLD, GONE) if stocked.documents.get(one)} == warm
    kept = stocked.documents.get(PKD1)
    assert kept is not None
    stocked.documents.forget()
    assert (await stocked.client.get(f"/api/genes/{PKD1}")).content == kept.body
    stocked.documents.trust(False)
    answer = await stocked.client.post(address)
    assert answer.json()["meta"] == {"wanted_count": cache.WARMED, "warmed_count": 0}


async def test_pages_of_warming_join_to_the_whole(
    stocked: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "PAGE_SIZE_MAX", 1)
    for body in ({"count": 3}, {"genes": ["PKD1", "PKD2", "WWTR1"]}):
        stocked.documents.forget()
        answer = await stocked.client.post("/api/cache/namespaces/genes/warm", json=body)
        assert answer.json()["meta"] == {"wanted_count": 3, "warmed_count": 3}


NOT_WARMED: list[tuple[str, Any, int, str]] = [
    ("lists", None, 409, "namespace-not-warmable"),
    ("genes", {"genes": ["NOSUCH"]}, 422, "genes-refused"),
    ("genes", {"genes": ["PKD1"], "count": 1}, 422, "warming-invalid"),
    ("genes", {"all": True}, 422, "warming-invalid"),
    ("genes", {"count": 5_001}, 422, "invalid-request"),
]


async def test_what_cannot_be_warmed_is_told(stocked: Desk) -> None:
    for namespace, body, status, kind in NOT_WARMED:
        answer = await stocked.client.post(f"/api/cache/namespaces/{namespace}/warm", json=body)
        assert answer.status_code == status, answer.text
        assert answer.json()["type"] == f"urn:annobus:problem:{kind}"


async def test_what_a_name_means_is_found_out_once_until_it_is_forgotten(stocked: Desk) -> None:
    async def meant(name: str) -> str:
        answer = await stocked.client.get(f"/api/genes/{name}")
        found = answer.json()
        return str(found["data"]["id"] if answer.status_code == 200 else found["type"])

    names = {
        "PBP": PKD1,
        "NOSUCH": "urn:annobus:problem:gene-unknown",
        "SHARED": "urn:annobus:problem:gene-ambiguous",
        "GONE1": "urn:annobus:problem:gene-withdrawn",
        OLD: PKD1,
    }
    for _ in range(2):
        assert {name: await meant(name) for name in names} == names
    ambiguous = await stocked.client.get("/api/genes/SHARED")
    assert f"{PKD2} (PKD2)" in ambiguous.json()["detail"]
    counts = stocked.entries.tally.counts
    assert (counts["resolutions", "made"], counts["resolutions", "hit"]) == (5, 6)

    await stocked.execute("UPDATE annotator.gene_name SET hgnc_id = $1 WHERE name = 'PBP'", PKD2)
    assert await meant("PBP") == PKD1
    await stocked.execute("UPDATE cache.namespace SET epoch = 1, floor = 1")
    event = NamespaceInvalidated(namespace="resolutions", epoch=1)
    await stocked.handlers.on_namespace_invalidated(event)
    assert await meant("PBP") == PKD2


async def test_statistics_tell_how_a_namespace_is_used_here_and_by_all(stocked: Desk) -> None:
    for _ in range(3):
        await stocked.client.get(f"/api/genes/{PKD1}")
    await stocked.client.get("/api/genes/PKD1")
    found = await attributes(stocked, "/api/cache/statistics")
    assert list(found) == NAMES
    genes, resolutions = found["genes"], found["resolutions"]
    assert (genes["here"]["hit"], genes["here"]["miss"]) == (3, 1)
    assert (genes["memory_count"], genes["all"]["hit"]) == (1, 0)
    assert genes["memory_bytes"] > 400
    assert (resolutions["here"]["miss"], resolutions["memory_count"]) == (1, 1)
    assert resolutions["oldest_seconds"] is None  # Nobody has counted yet.

    for _ in range(2):  # The second time there is nothing left to tell.
        async with stocked.engine.begin() as tx:
            await entries.count_reads(tx, stocked.entries.tally.take_unsent())
    async with stocked.engine.begin() as tx:  # Another gateway.
        await entries.count_reads(tx, {("genes", "hit"): 10, ("coffee", "hit"): 1})
    found = await attributes(stocked, "/api/cache/statistics")
    assert found["genes"]["all"] == genes["here"] | {"hit": 13}
    assert found["genes"]["here"]["hit"] == 3


async def test_genes_that_are_forgotten_alone_leave_the_others_in_memory(stocked: Desk) -> None:
    async def kept(epoch: int, *parts: str) -> set[str]:
        for hgnc_id in (PKD1, PKD2):
            await stocked.client.get(f"/api/genes/{hgnc_id}")
        event = NamespaceInvalidated(namespace="genes", epoch=epoch, parts=parts)
        await stocked.handlers.on_namespace_invalidated(event)
        return {hgnc_id for hgnc_id in (PKD1, PKD2) if stocked.documents.get(hgnc_id)}

    assert await kept(1, f"gene={PKD1}") == {PKD2}
    assert await kept(2, f"key={PKD2}") == {PKD1}
    assert await kept(3, f"gene={PKD1} source=hpo", f"gene={IDS[3]}") == {PKD2}
    assert await kept(4, "source=hpo", f"gene={PKD1}") == set()
    assert await kept(5) == set()


def test_every_gateway_hears_of_invalidations_by_itself(desk: Desk) -> None:
    (heard,) = [one for one in subscriptions(desk.handlers) if NamespaceInvalidated in one.handlers]
    assert heard.group is None
