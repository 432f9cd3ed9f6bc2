"""Tells where runs stand: at once, then at most four times a second each, and always the last."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.messages import ACTIVE_STATES
from services.annotator.store import runs
from services.chassis import database
from services.chassis.bus import Bus

log = structlog.get_logger()

INTERVAL_SECONDS = 0.25


@dataclass
class Progress:
    engine: AsyncEngine
    bus: Bus
    _moved: set[UUID] = field(default_factory=set)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def report(self, run_ids: Iterable[UUID]) -> None:
        """These runs have moved. Never waits: what is told is read when it is told."""
        self._moved.update(run_ids)
        self._wake.set()

    async def tell(self) -> None:
        """Send a snapshot of every run that moved, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            moved, self._moved = self._moved, set()
            for run_id in moved:
                try:
                    await self.tell_once(run_id)
                except (*database.CONNECTION_ERRORS, RuntimeError) as error:
                    # It may be lost: whoever watches the run asks the database when it is silent.
                    log.warning("progress_not_told", run_id=str(run_id), error=repr(error))
            await asyncio.sleep(INTERVAL_SECONDS)

    async def tell_once(self, run_id: UUID) -> None:
        async with self.engine.connect() as connection:
            progress = await runs.get_progress(connection, run_id)
        if progress is None:
            return
        await self.bus.send(progress, f"{run_id}:{progress.seq}")
        if progress.state not in ACTIVE_STATES:
            log.info("run_ended", run_id=str(run_id), state=progress.state)
