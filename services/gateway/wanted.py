"""Documents that were forgotten and will be asked for again: those that somebody read lately."""

import asyncio
import time
from collections.abc import Iterable
from heapq import nlargest
from itertools import islice

IN_USE_SECONDS = 60.0
WANTED_MAX = 8_000  # At once; the others are read when they are asked for.


class Wanted:
    """First come, first served; of those that come together, what was read last."""

    def __init__(self) -> None:
        self._read_at: dict[str, float] = {}
        self._has_some = asyncio.Event()

    def add(self, forgotten: Iterable[tuple[str, float]]) -> None:
        """Ids of genes, and when they were read last."""
        since = time.monotonic() - IN_USE_SECONDS
        in_use = ((read_at, hgnc_id) for hgnc_id, read_at in forgotten if read_at > since)
        for read_at, hgnc_id in nlargest(WANTED_MAX - len(self._read_at), in_use):
            self._read_at[hgnc_id] = read_at
        if self._read_at:
            self._has_some.set()

    def discard(self, hgnc_id: str) -> None:
        self._read_at.pop(hgnc_id, None)

    def clear(self) -> None:
        self._read_at.clear()

    async def until_some(self) -> None:
        while not self._read_at:
            self._has_some.clear()
            await self._has_some.wait()

    def take(self, number: int) -> dict[str, float]:
        """So many at most, with when they were read last."""
        taken = dict(islice(self._read_at.items(), number))
        for hgnc_id in taken:
            del self._read_at[hgnc_id]
        return taken
