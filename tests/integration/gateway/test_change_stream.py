"""Changes as they happen: nothing is missed or told twice, wherever a stream broke off."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import orjson
import pytest

from contracts.messages import DocumentsRebuilt
from services.gateway.http import changes
from tests.integration.gateway.desk import PKD1, PKD2, Desk
from tests.integration.gateway.storing import Storing
from tests.waiting import until

WAIT_SECONDS = 10
AT_ONCE_SECONDS = 2.0
STREAM = {"Accept": "text/event-stream"}


@dataclass
class Stream:
    lines: AsyncIterator[str]

    async def next(self, seconds: float = WAIT_SECONDS) -> tuple[str, Mapping[str, Any]]:
        """The id and the attributes of the next change."""
        event: dict[str, str] = {}
        async with asyncio.timeout(seconds):
            async for line in self.lines:
                if line:
                    name, _, value = line.partition(": ")
                    event[name] = value
                elif "data" in event:
                    assert event["event"] == "change"
                    return event["id"], orjson.loads(event["data"])["attributes"]
                else:
                    event.clear()
        raise AssertionError("the stream has ended")


@asynccontextmanager
async def streaming(
    desk: Desk, headers: Mapping[str, str] | None = None, **parameters: str
) -> AsyncIterator[Stream]:
    async with desk.client.stream(
        "GET", "/api/changes", params=parameters, headers={**STREAM, **(headers or {})}
    ) as answer:
        assert answer.status_code == httpx2.codes.OK
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Stream(answer.aiter_lines())


async def change(desk: Desk, storing: Storing, version: str, values: Mapping[str, int]) -> None:
    """A release that changes them, and what the cache says when their documents are rebuilt."""
    await storing.store("ensembl", await storing.release("ensembl", version), values)
    await desk.handlers.on_documents_rebuilt(DocumentsRebuilt(versions=dict.fromkeys(values, 1)))


async def test_changes_are_told_as_they_happen_and_a_stream_goes_on_where_it_broke_off(
    desk: Desk, storing: Storing
) -> None:
    await change(desk, storing, "115", {PKD1: 1, PKD2: 1})
    async with streaming(desk) as stream:
        await change(desk, storing, "116", {PKD1: 2, PKD2: 2})
        (first, one), (second, other) = (
            await stream.next(AT_ONCE_SECONDS),
            await stream.next(AT_ONCE_SECONDS),
        )
    assert [told["hgnc_id"] for told in (one, other)] == [PKD1, PKD2]
    await change(desk, storing, "117", {PKD1: 3})
    async with streaming(desk, {"Last-Event-ID": first}) as stream:
        again, _ = await stream.next()
        assert again == second
        assert (await stream.next())[1]["after"]["start"] == 3
    # The header says more of where a client is than the address that it began with.
    async with streaming(desk, {"Last-Event-ID": second}, since=first) as stream:
        assert (await stream.next())[1]["after"]["start"] == 3


async def test_who_begins_now_hears_what_comes_and_no_more_than_was_asked_for(
    desk: Desk, storing: Storing
) -> None:
    await change(desk, storing, "115", {PKD1: 1, PKD2: 1})
    await change(desk, storing, "116", {PKD1: 2, PKD2: 2})
    now = (await desk.client.get("/api/changes?since=now")).json()
    assert now["data"] == []
    wanted = {"since": "now", "filter[gene]": "PKD2"}
    async with streaming(desk, None, **wanted) as stream:
        await until(lambda: _follows(desk), "the stream is there")
        await change(desk, storing, "117", {PKD1: 3, PKD2: 3})
        _, told = await stream.next(AT_ONCE_SECONDS)
    assert (told["hgnc_id"], told["after"]["start"]) == (PKD2, 3)
    page = await desk.client.get("/api/changes", params={"since": now["meta"]["cursor"]})
    assert [one["attributes"]["after"]["start"] for one in page.json()["data"]] == [3, 3]


async def test_the_changes_of_a_panel_are_those_of_its_genes(desk: Desk, storing: Storing) -> None:
    made = await desk.client.post("/api/panels", json={"name": "kidney", "genes": [PKD2]})
    panel_id = made.json()["data"]["id"]
    await change(desk, storing, "115", {PKD1: 1, PKD2: 1})
    await change(desk, storing, "116", {PKD1: 2, PKD2: 2})
    wanted = {"filter[panel]": panel_id}
    page = (await desk.client.get("/api/changes", params=wanted)).json()
    assert [one["attributes"]["hgnc_id"] for one in page["data"]] == [PKD2]
    async with streaming(desk, None, **wanted) as stream:
        _, told = await stream.next()
        assert told["hgnc_id"] == PKD2
    both = {**wanted, "filter[gene]": "PKD1"}
    answer = await desk.client.get("/api/changes", params=both)
    assert answer.status_code == 400
    assert "filter[gene] alone" in answer.json()["detail"]


async def _follows(desk: Desk) -> bool:
    return desk.changes.follower_count == 1


async def test_a_change_that_is_readable_only_later_is_told_soon(
    desk: Desk, storing: Storing
) -> None:
    """An older transaction that is still open may yet tell of something before it."""
    await change(desk, storing, "115", {PKD1: 1})
    async with streaming(desk, since="now") as stream, desk.database.connect() as owner:
        await until(lambda: _follows(desk), "the stream is there")
        async with owner.transaction():
            await owner.execute("SELECT pg_current_xact_id()")
            await change(desk, storing, "116", {PKD1: 2})
            with pytest.raises(TimeoutError):
                await stream.next(0.5)
    async with streaming(desk, since="now") as stream:
        await until(lambda: _follows(desk), "the stream is there")
        async with desk.database.connect() as owner:
            async with owner.transaction():
                await owner.execute("SELECT pg_current_xact_id()")
                await change(desk, storing, "117", {PKD1: 3})
                await asyncio.sleep(changes.PAUSE_SECONDS * 2)
            _, told = await stream.next(changes.SOON_SECONDS + AT_ONCE_SECONDS)
    assert told["after"]["start"] == 3


async def test_a_quiet_stream_gives_signs_of_life(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(changes, "ALIVE_SECONDS", 0.2)
    async with streaming(desk, since="now") as stream, asyncio.timeout(WAIT_SECONDS):
        async for line in stream.lines:
            if line.startswith(":"):
                break


async def test_streams_end_when_the_gateway_stops_and_when_their_client_leaves(
    desk: Desk,
) -> None:
    async with streaming(desk, since="now") as stream:
        await until(lambda: _follows(desk), "the stream is there")
        await desk.changes.end()
        with pytest.raises(AssertionError, match="has ended"):
            await stream.next()
    desk.changes.is_over = False
    async with streaming(desk, since="now"):
        await until(lambda: _follows(desk), "the stream is there")

    async def nobody_follows() -> bool:
        return desk.changes.follower_count == 0

    await until(nobody_follows, "the client has left")


async def test_a_stream_that_cannot_be_is_refused(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for parameters, headers, says in (
        ("since=x", {}, "now"),
        ("page[size]=5", {}, "a stream has no pages"),
        ("", {"Last-Event-ID": "x"}, "Last-Event-ID"),
        ("filter[gene]=NOSUCH", {}, "HGNC"),
    ):
        answer = await desk.client.get(f"/api/changes?{parameters}", headers={**STREAM, **headers})
        assert 400 <= answer.status_code < 500
        assert says in answer.json()["detail"]
    monkeypatch.setattr(changes, "STREAMS_MAX", 0)
    answer = await desk.client.get("/api/changes", headers=STREAM)
    assert answer.status_code == 503
