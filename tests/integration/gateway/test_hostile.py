"""What nobody who means well sends: every public route answers it in words, and with no 5xx."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from urllib.parse import quote

import pytest
import pytest_asyncio

from tests.integration.gateway.desk import Desk, open_desk
from tests.integration.gateway.everything import Names, one_of_everything
from tests.system import Database, SharedCluster, fresh_database

DEEP = 100_000
BODIES = {
    "no JSON": b"{",
    "a number": b"7",
    "a list": b"[]",
    "a text": b'"all"',
    "not a number": b'{"all": NaN, "max": NaN, "by": NaN}',
    "infinity": b'{"max": Infinity, "by": "me", "note": "x", "all": true}',
    "a huge number": b'{"max": ' + b"9" * 5_000 + b', "by": "me", "note": "x"}',
    "a float": b'{"max": 5.0, "by": "me", "note": "x", "all": true}',
    "a truth": b'{"max": true, "by": "me", "note": "x", "all": true}',
    "NUL": b'{"by": "\\u0000", "note": "\\u0000", "name": "\\u0000", "genes": ["\\u0000"]}',
    "half a pair": b'{"by": "\\ud800", "note": "\\ud800", "name": "\\ud800", "all": true}',
    "half a pair as a name": b'{"\\ud800": 1}',
    "no UTF-8": b'{"by": "\xff\xfe"}',
    "a deep list": b'{"genes": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "a list as deep as is read": b'{"genes": ' + b"[" * 900 + b"]" * 900 + b', "all": 7}',
    "a deep object": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "the same name twice": b'{"all": true, "all": 7, "by": 1}',
    "very many names": b"{" + b",".join(b'"f%d":1' % n for n in range(200_000)) + b"}",
    "much": b'{"note": "' + b"x" * 7_000_000 + b'", "by": "me", "max": 1, "all": true, "k": 1}',
}
TYPES = ("application/json", "text/plain", "application/x-www-form-urlencoded", "")
QUERIES = (
    *("page[size]=0", "page[size]=-1", "page[size]=201", "page[size]=1e3", "page[size]=٣"),
    *("page[number]=0", "page[number]=99999999999999999999", "page[number]=100000", "page[size]="),
    *("page[size]=1&page[size]=2", "colour=red", "%00=1", "filter[state]=%00", "filter[run]=%25"),
    *(
        "filter[type]=%27%3B--",
        "filter[topic]=%25",
        "filter[source]=_",
        "sort=%00",
        "a=" + "x" * 9_000,
    ),
)
ANY_TEXT = ("filter[type]", "filter[source]")  # Where there are such filters.
NAMES = ("%00", "seven", "..%2F..", quote("'; DROP TABLE run; --"), "%F0%9F", "x" * 5_000, "%25")


@pytest.fixture(scope="module")
def filled_database(cluster: SharedCluster, template: str) -> Iterator[tuple[Database, Names]]:
    """In which there is one of everything that a path names, for all: nothing that is sent here is
    accepted."""
    names: Names = {}

    async def fill(database: Database) -> None:
        async with open_desk(database) as desk:
            await desk.add_genes()
            names.update(await one_of_everything(desk))

    for database in fresh_database(cluster, template):
        asyncio.run(fill(database))
        yield database, names


@pytest.fixture
def names(filled_database: tuple[Database, Names]) -> Names:
    return filled_database[1]


@pytest_asyncio.fixture
async def filled(filled_database: tuple[Database, Names]) -> AsyncIterator[Desk]:
    async with open_desk(filled_database[0]) as desk:
        yield desk


async def addresses(desk: Desk, method: str) -> AsyncIterator[str]:
    described = (await desk.client.get("/openapi.json")).json()["paths"]
    for path, methods in described.items():
        if method in methods:
            yield path


@pytest.mark.parametrize("what", BODIES)
async def test_no_body_is_too_strange_to_be_refused(filled: Desk, names: Names, what: str) -> None:
    before = await filled.rows("SELECT count(*) FROM gateway.outbox")
    asked = [("post", path) async for path in addresses(filled, "post")]
    asked += [("patch", path) async for path in addresses(filled, "patch")]
    for method, path in asked:
        for kind in TYPES:
            answer = await filled.client.request(
                method, path.format(**names), content=BODIES[what], headers={"content-type": kind}
            )
            assert 400 <= answer.status_code < 500, (path, kind, answer.text[:200])
            assert answer.headers["content-type"] == "application/problem+json", path
            assert len(answer.content) < 20_000, path
    assert await filled.rows("SELECT count(*) FROM gateway.outbox") == before


@pytest.mark.parametrize("query", QUERIES)
async def test_no_query_is_ignored(filled: Desk, names: Names, query: str) -> None:
    async for path in addresses(filled, "get"):
        answer = await filled.client.get(f"{path.format(**names)}?{query}")
        assert answer.status_code in (200, 400), (path, answer.text[:200])
        assert len(answer.content) < 50_000, path
        if not query.startswith(ANY_TEXT):
            assert answer.status_code == 400, path
    async for path in addresses(filled, "post"):
        answer = await filled.client.post(f"{path.format(**names)}?{query}", json={})
        assert answer.status_code in (400, 422), (path, answer.text[:200])


@pytest.mark.parametrize("name", NAMES)
async def test_no_path_is_too_strange_to_be_unknown(filled: Desk, names: Names, name: str) -> None:
    for method in ("get", "post", "patch", "delete"):
        async for path in addresses(filled, method):
            for part in names:
                if f"{{{part}}}" not in path:
                    continue
                address = path.format(**names | {part: name})
                body: dict[str, object] | None = {} if method in ("post", "patch") else None
                answer = await filled.client.request(method, address, json=body)
                assert 400 <= answer.status_code < 500, (address, answer.text[:200])
                assert len(answer.content) < 20_000, address
