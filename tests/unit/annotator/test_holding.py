"""What a worker knows of controls: which of them count for a batch, what becomes of its call."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

import pytest
from pydantic import ValidationError

from contracts.messages import EPOCH_MAX, ControlAction, ControlRun
from services.annotator import holding
from services.annotator.domain import Batch, Page
from services.annotator.errors import BatchCancelled, BatchHeld
from services.annotator.holding import Holding

RUN_ID = UUID(int=1)
PAGE = Page("http://made.up", b"{}", [])


def build_batch(control_epoch: int = 0, run_id: UUID = RUN_ID) -> Batch:
    return Batch(
        id=UUID(int=2),
        kind="fetch",
        source="ensembl",
        run_id=run_id,
        release_id=None,
        genes=["HGNC:9008"],
        checkpoint=0,
        attempt=1,
        lease_token=1,
        claimed_at=datetime(2026, 11, 25, tzinfo=UTC),
        control_epoch=control_epoch,
    )


def build_control(
    action: ControlAction, epoch: int, source: str | None = None, run_id: UUID = RUN_ID
) -> ControlRun:
    return ControlRun(run_id=run_id, action=action, source=source, epoch=epoch)


@pytest.mark.parametrize(
    ("controls", "known", "expected"),
    [
        ([], 0, None),
        ([("pause", 1, None)], 0, "pause"),
        ([("pause", 1, None)], 1, None),  # The claim knew of it, and of what came after.
        ([("pause", 1, None), ("resume", 2, None)], 0, None),
        ([("resume", 2, None), ("pause", 1, None)], 0, None),  # In the wrong order.
        ([("pause", 1, None), ("pause", 1, None)], 0, "pause"),
        ([("pause", 1, "ensembl")], 0, "pause"),
        ([("pause", 1, "hpo")], 0, None),
        ([("pause", 1, "ensembl"), ("resume", 2, None)], 0, "pause"),
        ([("pause", 1, None), ("cancel", 2, "ensembl")], 0, "cancel"),
        ([("cancel", 1, None), ("pause", 2, "ensembl")], 0, "cancel"),
    ],
)
def test_the_newest_control_of_the_run_and_of_its_source_count(
    controls: list[tuple[ControlAction, int, str | None]], known: int, expected: str | None
) -> None:
    held = Holding()
    for action, epoch, source in controls:
        held.hear(build_control(action, epoch, source))
    assert held.action_for(build_batch(known)) == expected
    assert held.action_for(build_batch(known, run_id=UUID(int=9))) is None


def test_no_more_controls_are_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "CONTROLS_KEPT_MAX", 2)
    held = Holding()
    for number in (1, 2, 3):
        held.hear(build_control("pause", 1, run_id=UUID(int=number)))
    kept = [held.action_for(build_batch(run_id=UUID(int=number))) for number in (1, 2, 3)]
    assert kept == [None, "pause", "pause"]


async def test_a_pause_lets_the_call_in_flight_end_and_begins_no_other() -> None:
    heard = Holding()
    with heard.hold(build_batch()) as held:
        go_on = asyncio.Event()
        calls = 0

        async def call(sent: Callable[[], None]) -> Page:
            nonlocal calls
            calls += 1
            sent()
            await go_on.wait()
            return PAGE

        asking = asyncio.create_task(held.ask(call))
        await asyncio.sleep(0.01)
        heard.hear(build_control("pause", 1))
        go_on.set()
        assert await asking == PAGE
        with pytest.raises(BatchHeld):
            await held.ask(call)
        heard.hear(build_control("resume", 2))
        assert await held.ask(call) == PAGE
        assert calls == 2


async def test_a_cancel_gives_the_call_in_flight_up_and_begins_no_other() -> None:
    heard = Holding()
    given_up = asyncio.Event()

    async def call(sent: Callable[[], None]) -> Page:
        sent()
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()
        return PAGE

    with heard.hold(build_batch()) as held:
        asking = asyncio.create_task(held.ask(call))
        await asyncio.sleep(0.01)
        heard.hear(build_control("cancel", 1))
        with pytest.raises(BatchCancelled):
            await asking
        assert given_up.is_set()
        with pytest.raises(BatchCancelled):
            await held.ask(call)


async def never(_: Callable[[], None]) -> Page:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize(("action", "error"), [("pause", BatchHeld), ("cancel", BatchCancelled)])
async def test_a_call_that_still_waits_for_its_turn_is_given_up_at_once(
    action: ControlAction, error: type[Exception]
) -> None:
    heard = Holding()
    with heard.hold(build_batch()) as held:
        asking = asyncio.create_task(held.ask(never))
        await asyncio.sleep(0)
        heard.hear(build_control(action, 1))
        heard.hear(build_control("resume", 2))  # Before it has had its turn to stop.
        with pytest.raises(error):
            await asking


async def test_a_worker_that_is_to_end_is_not_taken_for_a_cancelled_run() -> None:
    with Holding().hold(build_batch()) as held:
        asking = asyncio.create_task(held.ask(never))
        await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


def test_an_epoch_that_no_row_can_have_is_heard_by_nobody() -> None:
    """What was heard would outdo every control to come, and no row would say so."""
    assert build_control("pause", EPOCH_MAX).epoch == EPOCH_MAX
    for epoch in (0, EPOCH_MAX + 1):
        with pytest.raises(ValidationError, match="epoch"):
            build_control("pause", epoch)
