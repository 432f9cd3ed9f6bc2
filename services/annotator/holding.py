"""What people want of the runs whose batches are worked here, heard before their rows say it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

from contracts.messages import ControlAction, ControlRun
from services.annotator.domain import Batch, Page
from services.annotator.errors import BatchCancelled, BatchHeld

CONTROLS_KEPT_MAX = 1_000  # The newest ones. A claim that knows of a control does not need it.


@dataclass
class Held:
    """A batch that asks its upstream, page by page, unless it is to stop."""

    batch: Batch
    action: ControlAction | None = None
    _call: asyncio.Future[Page] | None = None

    @property
    def is_cancelled(self) -> bool:
        return self.action == "cancel"

    def obey(self, action: ControlAction | None) -> None:
        """A call in flight is finished when its run is paused, and given up when cancelled."""
        self.action = action
        if self.is_cancelled and self._call is not None:
            self._call.cancel()

    async def ask(self, call: Callable[[], Awaitable[Page]]) -> Page:
        """Raises BatchHeld, BatchCancelled and what the call raises."""
        if self.action == "pause":
            raise BatchHeld(f"the run of batch {self.batch.id} is paused")
        if self.is_cancelled:
            raise self._cancelled()
        self._call = asyncio.ensure_future(call())
        try:
            return await self._call
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self.is_cancelled or (task is not None and task.cancelling()):
                raise  # It is the worker that is to end.
            raise self._cancelled() from None
        finally:
            self._call = None

    def _cancelled(self) -> BatchCancelled:
        return BatchCancelled(f"the run of batch {self.batch.id} is cancelled")


@dataclass
class Holding:
    """Every annotator hears every control, so a call that is in flight anywhere is reached."""

    _controls: dict[tuple[UUID, str | None], ControlRun] = field(default_factory=dict)
    _held: dict[UUID, Held] = field(default_factory=dict)

    def hear(self, command: ControlRun) -> None:
        """The last writer by epoch wins."""
        place = (command.run_id, command.source)
        known = self._controls.get(place)
        if known is not None and known.epoch >= command.epoch:
            return
        self._controls.pop(place, None)  # To the end, as the newest.
        self._controls[place] = command
        while len(self._controls) > CONTROLS_KEPT_MAX:
            del self._controls[next(iter(self._controls))]
        for held in self._held.values():
            if held.batch.run_id == command.run_id:
                held.obey(self.action_for(held.batch))

    def find(self, batch: Batch, action: ControlAction | None) -> None:
        """The rows say so, whatever was heard."""
        held = self._held.get(batch.id)
        if held is not None and action is not None:
            held.obey(action)

    def action_for(self, batch: Batch) -> ControlAction | None:
        """What was heard since the claim: it knew of all up to its epoch."""
        if batch.run_id is None:
            return None
        places = ((batch.run_id, None), (batch.run_id, batch.source))
        heard = {
            control.action
            for control in map(self._controls.get, places)
            if control is not None and control.epoch > batch.control_epoch
        }
        if "cancel" in heard:
            return "cancel"
        return "pause" if "pause" in heard else None

    @contextmanager
    def hold(self, batch: Batch) -> Iterator[Held]:
        held = Held(batch, self.action_for(batch))
        self._held[batch.id] = held
        try:
            yield held
        finally:
            del self._held[batch.id]
