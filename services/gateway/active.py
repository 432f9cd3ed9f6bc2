"""Which runs are active, for those who watch all of them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import structlog

from services.chassis.database import CONNECTION_ERRORS

log = structlog.get_logger()

REFRESH_SECONDS = 1.0  # What a message that got lost costs.

Read = Callable[[], Awaitable[Sequence[UUID]]]


class ActiveRuns:
    """One list and one question a second for all sockets; runs that are heard of join at once."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._watchers: set[asyncio.Event] = set()
        self._refresher: asyncio.Task[None] | None = None
        self.ids: list[UUID] = []

    def hear_of(self, run_id: UUID) -> None:
        if self._watchers and run_id not in self.ids:
            self._set([*self.ids, run_id])

    @asynccontextmanager
    async def watch(self, changed: asyncio.Event) -> AsyncIterator[None]:
        """Set `changed` when a run begins or ends."""
        self._watchers.add(changed)
        try:
            if self._refresher is None:
                self._set(list(await self._read()))
            if self._refresher is None:  # Somebody else may have been faster.
                self._refresher = asyncio.create_task(self._refresh())
            yield
        finally:
            self._watchers.discard(changed)
            if not self._watchers and self._refresher is not None:
                self._refresher.cancel()
                self._refresher = None

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                self._set(list(await self._read()))
            except CONNECTION_ERRORS as error:
                log.warning("active_runs_unknown", error=repr(error))
            except Exception:
                log.exception("active_runs_unknown")  # The sockets stay open.

    def _set(self, ids: list[UUID]) -> None:
        if ids != self.ids:
            self.ids = ids
            for changed in self._watchers:
                changed.set()
