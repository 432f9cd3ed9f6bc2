"""How many statements each route asks of the database: a route that asks once more for each row it
shows would be slow where there are many, and nothing else here would notice."""

import pytest

from tests.integration.gateway.desk import PKD1, Desk
from tests.integration.gateway.everything import one_of_everything
from tests.integration.gateway.statements import STATEMENTS_MAX, counted

# The first time: which fields and which catalogue there are, then a page that is in no memory.
MORE = {"/api/genes": 6}


async def test_each_route_asks_few_statements(
    stocked: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in stocked.database.environment.items():
        monkeypatch.setenv(name, value)
    named = await one_of_everything(stocked)
    described = (await stocked.client.get("/openapi.json")).json()["paths"]
    asked: dict[str, int] = {}
    for path, methods in described.items():
        if "get" in methods:
            with counted() as statements:
                answer = await stocked.client.get(path.format(**named))
            assert answer.status_code < 500, path
            asked[path] = len(statements)
    too_many = {
        path: count for path, count in asked.items() if count > MORE.get(path, STATEMENTS_MAX)
    }
    assert too_many == {}


async def test_what_is_in_memory_is_answered_without_a_statement(stocked: Desk) -> None:
    for path in (
        f"/api/genes/{PKD1}",
        "/api/genes/PKD1",
        "/api/genes?page[number]=1&page[size]=20",
    ):
        first = await stocked.client.get(path)
        with counted() as statements:
            again = await stocked.client.get(path)
        assert again.content == first.content
        assert statements == [], path
