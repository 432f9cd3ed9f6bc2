"""The list of active runs: asked for again and again, whatever went wrong the last time."""

import asyncio
from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest

from services.gateway import active
from services.gateway.active import ActiveRuns

WAIT_SECONDS = 5


@pytest.mark.parametrize("mishap", [ConnectionError("no database"), KeyError("a mistake of ours")])
async def test_a_question_that_failed_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, mishap: Exception
) -> None:
    monkeypatch.setattr(active, "REFRESH_SECONDS", 0.01)
    run_id = uuid4()
    asked = 0

    async def read() -> Sequence[UUID]:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise mishap
        return [] if asked == 1 else [run_id]

    runs, changed = ActiveRuns(read), asyncio.Event()
    async with runs.watch(changed):
        async with asyncio.timeout(WAIT_SECONDS):
            while not runs.ids:
                await changed.wait()
                changed.clear()
    assert runs.ids == [run_id]
