"""What every service answers: problem documents, health, and a limit on bodies."""

from collections.abc import AsyncIterator

import httpx2
import pytest_asyncio
from pydantic import BaseModel

from services.chassis.errors import RequestError, field_error
from services.chassis.http import BODY_BYTES_MAX, create_app


class Order(BaseModel):
    count: int


class TeapotRefused(RequestError):
    """No coffee here."""

    kind = "teapot"
    status = 418


async def well() -> list[str]:
    return []


async def ill() -> list[str]:
    return ["the database does not answer"]


async def broken() -> list[str]:
    raise OSError("connection refused")


@pytest_asyncio.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    app = create_app("test", {"well": well})

    @app.post("/orders")
    async def order(body: Order) -> dict[str, int]:
        return {"count": body.count}

    @app.get("/coffee")
    async def coffee() -> None:
        raise TeapotRefused("ask for tea", [field_error("drink", "coffee", "tea")])

    @app.get("/crash")
    async def crash() -> None:
        raise KeyError("secret")

    @app.get("/gone")
    async def gone() -> None:
        raise ConnectionRefusedError("5432")

    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_a_refusal_names_field_value_and_what_is_accepted(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/coffee")
    assert answer.status_code == 418
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["type"] == "urn:annobus:problem:teapot"
    assert document["title"] == "No coffee here"
    assert document["errors"] == [{"pointer": "drink", "value": "coffee", "accepted": "tea"}]


async def test_a_wrong_type_is_named_by_its_pointer(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/orders", json={"count": "many"})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["pointer"], error["value"]) == ("/count", "many")


async def test_malformed_json_is_a_bad_request(client: httpx2.AsyncClient) -> None:
    answer = await client.post(
        "/orders", content=b"{", headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400


async def test_an_unknown_path_is_a_problem_document(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/nothing")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_crash_says_nothing_of_its_inside(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/crash")
    assert answer.status_code == 500
    assert "secret" not in answer.text


async def test_a_database_that_is_down_is_worth_another_try(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/gone")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"


async def test_a_body_over_the_limit_is_refused_announced_or_not(
    client: httpx2.AsyncClient,
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(BODY_BYTES_MAX // 65_536 + 1):
            yield b" " * 65_536

    announced = await client.post("/orders", content=b" " * (BODY_BYTES_MAX + 1))
    chunked = await client.post("/orders", content=chunks())
    assert announced.status_code == chunked.status_code == 413


async def test_readiness_tells_which_check_fails_and_why() -> None:
    app = create_app("test", {"well": well, "ill": ill, "broken": broken})
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/readyz")).status_code == 503
        report = (await client.get("/readyz?verbose")).json()
    assert not report["ready"]
    assert report["checks"]["well"]["problems"] == []
    assert report["checks"]["ill"]["problems"] == ["the database does not answer"]
    assert "connection refused" in report["checks"]["broken"]["problems"][0]
