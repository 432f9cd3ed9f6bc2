"""What holds for every public route."""

from tests.builders import build_release
from tests.integration.gateway.desk import PKD1, Desk
from tests.integration.gateway.test_dead_letters import keep, letter


async def test_head_is_answered_like_get_without_content(stocked: Desk) -> None:
    run_id = await stocked.start()
    async with stocked.database.begin("annotator") as tx:
        release_id = await build_release(tx, "hpo")
    (letter_id,) = await keep(stocked, letter())
    named = {
        "run_id": run_id,
        "gene": PKD1,
        "name": "hpo",
        "source": "hpo",
        "namespace": "genes",
        "release_id": release_id,
        "letter_id": letter_id,
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
