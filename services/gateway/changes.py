"""The wake-ups of those who follow changes: there may be new ones, which each reads for itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from services.chassis import telemetry

TURNS_MAX = 4


@dataclass
class Changes:
    """A wake-up carries no data, so who is slow costs nothing, and one that is lost, a look."""

    is_over: bool = False  # The gateway stops: who follows comes back to another.
    # However many follow, so many ask the database at once: most connections are for others.
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(TURNS_MAX))
    _followers: set[asyncio.Event] = field(default_factory=set)

    def hear(self) -> None:
        for changed in self._followers:
            changed.set()

    async def end(self) -> None:
        self.is_over = True
        self.hear()

    @property
    def follower_count(self) -> int:
        return len(self._followers)

    @asynccontextmanager
    async def follow(self) -> AsyncIterator[asyncio.Event]:
        """An event that is set when there may be news."""
        changed = asyncio.Event()
        self._followers.add(changed)
        telemetry.CHANGE_STREAMS.set(len(self._followers))
        try:
            yield changed
        finally:
            self._followers.discard(changed)
            telemetry.CHANGE_STREAMS.set(len(self._followers))
