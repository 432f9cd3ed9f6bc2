"""What holds for every public route."""

import pytest

from tests.integration.gateway.desk import Desk
from tests.integration.gateway.everything import one_of_everything


async def test_head_is_answered_like_get_without_content(
    stocked: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in stocked.database.environment.items():
        monkeypatch.setenv(name, value)  # For the process that writes an export.
    named = await one_of_everything(stocked)
    described = (await stocked.client.get("/openapi.json")).json()["paths"]
    addresses = [path.format(**named) for path, methods in described.items() if "get" in methods]
    assert len(addresses) > 5
    for address in (*addresses, "/openapi.json", "/livez", "/api/runs/seven", "/nowhere"):
        get = await stocked.client.get(address)
        head = await stocked.client.head(address)
        assert get.status_code < 500, address
        assert (head.status_code, head.content) == (get.status_code, b""), address
        for header in ("content-type", "content-length", "etag"):
            assert head.headers.get(header) == get.headers.get(header), (address, header)


async def test_head_is_refused_where_get_is(desk: Desk) -> None:
    answer = await desk.client.head("/api/progress/trigger/hpo")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
