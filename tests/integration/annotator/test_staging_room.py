"""However many releases are new at once, an annotator reads two; the others wait their turn."""

import asyncio
import multiprocessing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from contracts.messages import AnnotateBatch
from services.annotator import handlers, stager
from services.annotator.domain import RemoteFile, is_api
from services.annotator.sources import SOURCES
from services.annotator.stager import STAGINGS_MAX
from services.annotator.store import batches
from services.annotator.upstream import Downloaded, Upstream
from tests.integration.annotator.desk import Desk

BULK = ["clingen", "clinvar", "gnomad", "hpo"]
LOOK_SECONDS = 0.005
WAIT_SECONDS_MAX = 30


async def order(desk: Desk, sources: list[str]) -> dict[str, AnnotateBatch]:
    await desk.order(sources, ["HGNC:9008"])
    await desk.planner.plan_and_feed()
    return {m.source: m for m in await desk.relay() if isinstance(m, AnnotateBatch)}


async def look(desk: Desk, source: str) -> Any:
    return await desk.row(
        """SELECT b.state, b.attempt, b.lease_until, b.problem->>'type' AS problem, (
               SELECT r.state FROM release r WHERE r.source = b.source
               ORDER BY r.retrieved_at DESC LIMIT 1) AS release
           FROM batch b WHERE b.source = :source AND b.kind = 'release'""",
        source=source,
    )


async def until_fetched(desk: Desk, source: str) -> None:
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while (await look(desk, source)).release != "fetched":
            await asyncio.sleep(LOOK_SECONDS)


async def test_four_releases_at_once_are_read_by_two_children_at_a_time(
    loaded_desk: Desk,
) -> None:
    desk, most = loaded_desk, 0
    hints = await order(desk, BULK)
    assert [*sorted(hints)] == BULK

    async def count() -> None:
        nonlocal most
        while True:
            children = [p for p in multiprocessing.active_children() if "staging" in p.name]
            most = max(most, len(children))
            await asyncio.sleep(LOOK_SECONDS)

    counting = asyncio.create_task(count())
    await asyncio.gather(*map(desk.handlers.on_annotate_batch, hints.values()))
    counting.cancel()
    assert most == STAGINGS_MAX == 2
    for source in BULK:
        found = await look(desk, source)
        assert (found.state, found.attempt) == ("done", 1), source


async def test_who_waits_for_room_keeps_its_lease_and_its_place(
    loaded_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = loaded_desk
    monkeypatch.setattr(batches, "LEASE", timedelta(seconds=1))
    monkeypatch.setattr(handlers, "RENEW_SECONDS", 0.2)
    for _ in range(STAGINGS_MAX):
        await desk.releases.room.acquire()
    hints = await order(desk, ["hpo", "clingen"])
    first = asyncio.create_task(desk.handlers.on_annotate_batch(hints["hpo"]))
    await until_fetched(desk, "hpo")
    second = asyncio.create_task(desk.handlers.on_annotate_batch(hints["clingen"]))
    await until_fetched(desk, "clingen")

    begun = await look(desk, "hpo")
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while (await look(desk, "hpo")).lease_until < begun.lease_until + timedelta(seconds=2):
            await asyncio.sleep(LOOK_SECONDS)
    await desk.planner.sweep_once()
    for source in ("hpo", "clingen"):  # Nobody else may have them.
        async with desk.engine.begin() as tx:
            assert await batches.claim_batch(tx, hints[source].batch_id, "annotator-9") is None

    desk.releases.room.release()
    await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
    assert (first.done(), second.done()) == (True, False)
    await second
    for source in ("hpo", "clingen"):
        found = await look(desk, source)
        assert (found.state, found.attempt) == ("done", 1)
    desk.releases.room.release()
    assert not desk.releases.room.locked()


async def test_who_finds_no_room_in_time_comes_again_and_has_lost_no_attempt(
    loaded_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = loaded_desk
    for _ in range(STAGINGS_MAX):
        await desk.releases.room.acquire()
    hint = (await order(desk, ["clingen"]))["clingen"]
    with monkeypatch.context() as patch:
        patch.setattr(stager, "ROOM_SECONDS_MAX", 0.1)
        await desk.handlers.on_annotate_batch(hint)
    found = await look(desk, "clingen")
    assert (found.state, found.attempt) == ("pending", 0)
    assert found.problem == "urn:annobus:problem:staging-crowded"
    for _ in range(STAGINGS_MAX):
        desk.releases.room.release()
    await desk.make_due()
    await desk.work()
    assert (await desk.row("SELECT state FROM run WHERE NOT all_genes")).state == "completed"


@dataclass
class HeldBack(Upstream):
    """Gives all of a release's files but the last one, which comes when the test says so."""

    upstream: Upstream
    last: RemoteFile
    go_on: asyncio.Event
    held: asyncio.Event = field(default_factory=asyncio.Event)

    async def download(
        self, file: RemoteFile, into: Path, etag: str | None, last_modified: str | None
    ) -> Downloaded | None:
        if file is self.last:
            self.held.set()
            await self.go_on.wait()
        return await self.upstream.download(file, into, etag, last_modified)


async def test_nobody_waits_for_room_behind_an_upstream_that_is_slow(loaded_desk: Desk) -> None:
    desk, go_on = loaded_desk, asyncio.Event()
    slow = {}
    for name in ("clinvar", "hpo"):
        source = SOURCES[name]
        assert not is_api(source)
        slow[name] = HeldBack(desk.releases.upstreams[name], source.files[-1], go_on)
    desk.use(upstreams=slow)
    hints = await order(desk, ["clingen", *slow])
    waiting = [asyncio.create_task(desk.handlers.on_annotate_batch(hints[name])) for name in slow]
    for one in slow.values():
        await one.held.wait()
    await desk.handlers.on_annotate_batch(hints["clingen"])
    assert (await look(desk, "clingen")).state == "done"
    go_on.set()
    await asyncio.gather(*waiting)
    assert [(await look(desk, name)).state for name in slow] == ["done", "done"]
