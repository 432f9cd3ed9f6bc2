"""Answers that are sent before a route is looked for: the same, counted, and never outlived."""

from collections.abc import Awaitable, Callable

import httpx2
import pytest

from contracts.messages import DocumentsRebuilt, NamespaceInvalidated
from services.gateway.jsonapi import Allowed
from tests.integration.gateway.desk import PKD1, Desk

ONE, PAGE = f"/api/genes/{PKD1}", "/api/genes?page[number]=1&page[size]=3"
ADDRESSES = (ONE, PAGE)
ROUTES = {ONE: "/api/genes/{gene}", PAGE: "/api/genes"}
ENOUGH = 3  # Readings: one fills the memory, one answers from it, one is ready.


async def make_ready(desk: Desk, address: str) -> httpx2.Response:
    for _ in range(ENOUGH):
        answer = await desk.client.get(address)
        assert answer.status_code == 200
    return answer


@pytest.fixture
def no_route_works(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def refuse(*_: object) -> None:
        raise AssertionError("a route was asked")

    return lambda: monkeypatch.setattr(Allowed, "parse", refuse)


def without_date(answer: httpx2.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name != "date"}


@pytest.mark.parametrize("address", ADDRESSES)
async def test_a_ready_answer_is_the_one_that_its_route_gave(
    stocked: Desk, no_route_works: Callable[[], None], address: str
) -> None:
    first = await stocked.client.get(address)
    await make_ready(stocked, address)
    no_route_works()
    ready = await stocked.client.get(address)
    assert (ready.status_code, ready.content) == (200, first.content)
    assert without_date(ready) == without_date(first)
    head = await stocked.client.head(address)
    assert (head.status_code, head.content) == (200, b"")
    assert without_date(head) == without_date(first)


@pytest.mark.parametrize("address", ADDRESSES)
async def test_who_has_a_ready_answer_is_told_that_it_holds(
    stocked: Desk, no_route_works: Callable[[], None], address: str
) -> None:
    known = {"If-None-Match": (await stocked.client.get(address)).headers["etag"]}
    by_route = await stocked.client.get(address, headers=known)
    await make_ready(stocked, address)
    no_route_works()
    ready = await stocked.client.get(address, headers=known)
    assert (ready.status_code, ready.content) == (304, b"")
    assert without_date(ready) == without_date(by_route)
    other = await stocked.client.get(address, headers={"If-None-Match": '"other"'})
    assert other.status_code == 200


async def hear_a_newer_version(desk: Desk) -> None:
    await desk.handlers.on_documents_rebuilt(DocumentsRebuilt(versions={PKD1: 2}))


async def forget_the_documents(desk: Desk) -> None:
    event = NamespaceInvalidated(namespace="genes", epoch=1)
    await desk.handlers.on_namespace_invalidated(event)


async def forget_the_gene(desk: Desk) -> None:
    event = NamespaceInvalidated(namespace="genes", epoch=1, parts=(f"gene={PKD1}",))
    await desk.handlers.on_namespace_invalidated(event)


async def hear_nothing_any_more(desk: Desk) -> None:
    desk.documents.trust(False)
    desk.entries.trust(False)


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize(
    "forget",
    [hear_a_newer_version, forget_the_documents, forget_the_gene, hear_nothing_any_more],
)
async def test_a_ready_answer_does_not_outlive_what_it_was_made_of(
    stocked: Desk, address: str, forget: Callable[[Desk], Awaitable[None]]
) -> None:
    before = await make_ready(stocked, address)
    await stocked.put_document(PKD1, "PKD1x", version=2)
    assert (await stocked.client.get(address)).content == before.content
    await forget(stocked)
    after = await stocked.client.get(address)
    assert b'"PKD1x"' in after.content
    assert after.headers["etag"] != before.headers["etag"]


async def test_a_page_is_made_anew_when_the_lists_are_forgotten(stocked: Desk) -> None:
    await make_ready(stocked, PAGE)
    await stocked.execute("DELETE FROM cache.gene_summary WHERE hgnc_id = $1", PKD1)
    await stocked.execute("UPDATE cache.namespace SET epoch = 1, floor = 1")
    assert PKD1.encode() in (await stocked.client.get(PAGE)).content
    event = NamespaceInvalidated(namespace="lists", epoch=1)
    await stocked.handlers.on_namespace_invalidated(event)
    assert PKD1.encode() not in (await stocked.client.get(PAGE)).content


@pytest.mark.parametrize("address", ADDRESSES)
async def test_ready_answers_are_counted_as_all_are(stocked: Desk, address: str) -> None:
    await make_ready(stocked, address)
    route = f'{{method="GET",route="{ROUTES[address]}",status="200"}}'

    async def counted() -> float:
        page = (await stocked.client.get("/metrics")).text
        name = f"annobus_http_request_duration_seconds_count{route} "
        return next(float(line.split()[-1]) for line in page.splitlines() if line.startswith(name))

    hits = stocked.entries.tally.counts["genes", "hit"]
    answers = await counted()
    genes = (await stocked.client.get(address)).content.count(b'"type":"genes"')
    assert await counted() == answers + 1
    assert stocked.entries.tally.counts["genes", "hit"] == hits + genes


@pytest.mark.parametrize("query", ["?page[size]=2", "?page[size]=1", ""])
async def test_another_query_is_another_answer(stocked: Desk, query: str) -> None:
    await make_ready(stocked, PAGE)
    page = await make_ready(stocked, f"/api/genes{query}")
    expected = int(query[-1]) if query else 4
    assert len(page.json()["data"]) == expected


async def test_a_page_without_a_document_that_is_not_built_yet_is_not_kept(stocked: Desk) -> None:
    await stocked.execute("DELETE FROM cache.gene WHERE hgnc_id = $1", PKD1)
    before = await make_ready(stocked, PAGE)
    await stocked.put_document(PKD1, "PKD1", version=2)
    await hear_a_newer_version(stocked)
    after = await stocked.client.get(PAGE)
    assert len(after.json()["data"]) == len(before.json()["data"]) + 1


async def test_a_page_with_another_next_page_has_another_tag(stocked: Desk) -> None:
    whole = "/api/genes?page[size]=4"
    before = await make_ready(stocked, whole)
    assert before.json()["links"]["next"] is None
    await stocked.put_document("HGNC:99999", "ZZZ")
    event = NamespaceInvalidated(namespace="lists", epoch=1)
    await stocked.execute("UPDATE cache.namespace SET epoch = 1, floor = 1")
    await stocked.handlers.on_namespace_invalidated(event)
    after = await stocked.client.get(whole, headers={"If-None-Match": before.headers["etag"]})
    assert after.status_code == 200
    assert after.json()["links"]["next"] is not None
