"""What holds for every public route."""

import pytest

from tests.builders import build_release
from tests.integration.gateway.desk import PKD1, Desk
from tests.integration.gateway.test_dead_letters import keep, letter


async def test_head_is_answered_like_get_without_content(
    stocked: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in stocked.database.environment.items():
        monkeypatch.setenv(name, value)  # For the process that writes an export.
    run_id = await stocked.start()
    async with stocked.database.begin("annotator") as tx:
        release_id = await build_release(tx, "hpo")
    (letter_id,) = await keep(stocked, letter())
    panel = await stocked.client.post("/api/panels", json={"name": "kidney", "genes": [PKD1]})
    named = {
        "run_id": run_id,
        "gene": PKD1,
        "name": "hpo",
        "source": "hpo",
        "namespace": "genes",
        "release_id": release_id,
        "letter_id": letter_id,
        "panel_id": panel.json()["data"]["id"],
        "version": 1,
        "other": 1,
    }
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
