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
    _is_sent: bool = False
    _given_up: ControlAction | None = None  # Why the call was; it may be wanted again since.

    @property
    def is_cancelled(self) -> bool:
        return self.action == "cancel"

    def obey(self, action: ControlAction | None) -> None:
        """A call in flight is finished when its run is paused, and given up when cancelled; one
        that waits for its turn is given up for either."""
        self.action = action
        if self._call is None or self._call.done() or action not in ("pause", "cancel"):
            return
        if self.is_cancelled or not self._is_sent:
            self._given_up = action
            self._call.cancel()

    async def ask(self, call: Callable[[Callable[[], None]], Awaitable[Page]]) -> Page:
        """The call is handed what to say when it is sent. Raises BatchHeld, BatchCancelled and
        what the call raises."""
        if self.action in ("pause", "cancel"):
            raise self._stop(self.action)
        self._is_sent, self._given_up = False, None
        self._call = asyncio.ensure_future(call(self._note_sent))
        try:
            return await self._call
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._given_up is None or (task is not None and task.cancelling()):
                raise  # It is the worker that is to end.
            raise self._stop(self._given_up) from None
        finally:
            self._call = None

    def _note_sent(self) -> None:
        self._is_sent = True

    def _stop(self, action: ControlAction) -> BatchHeld | BatchCancelled:
        if action == "cancel":
            return BatchCancelled(f"the run of batch {self.batch.id} is cancelled")
        return BatchHeld(f"the run of batch {self.batch.id} is paused")


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
