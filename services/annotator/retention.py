"""Lets go of raw files that nobody needs: those that are old, and more where the disk is scarce."""

from dataclasses import dataclass
from datetime import timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.annotator.errors import RawStoreUnavailable
from services.annotator.raw_store import RawStore
from services.annotator.store import raw_files

log = structlog.get_logger()

PERIOD_SECONDS = 3_600.0
AT_ONCE = 1_000  # Files in one transaction.


@dataclass(frozen=True)
class Retention:
    """What nobody needs goes after `age`, and before, the oldest first, while all files together
    take more than `bytes_max`. What is needed stays, whatever it takes."""

    engine: AsyncEngine
    raw_store: RawStore
    age: timedelta
    bytes_max: int

    async def work(self, _: AsyncConnection) -> bool:
        try:
            await self.sweep()
        except RawStoreUnavailable as error:  # Room is less urgent than work.
            log.warning("raw_files_not_removed", problem=str(error))
        return False

    async def sweep(self) -> None:
        """Raises RawStoreUnavailable."""
        async with self.engine.begin() as tx:
            old = await raw_files.list_droppable(tx, self.age)
            rest = await raw_files.list_droppable(tx, timedelta(0))
        await self._remove(old)
        sizes = await self.raw_store.sizes()
        excess = sum(sizes.values()) - self.bytes_max
        more = []
        for sha256 in rest:
            if excess <= 0:
                break
            if sha256 in sizes:
                more.append(sha256)
                excess -= sizes[sha256]
        await self._remove(more)
        if excess > 0:
            log.warning("raw_store_full", excess_bytes=excess, bytes_max=self.bytes_max)

    async def _remove(self, sha256s: list[bytes]) -> None:
        for start in range(0, len(sha256s), AT_ONCE):
            part = sha256s[start : start + AT_ONCE]
            # Noted first: a file that is there though nobody knows is found again, by its hash.
            async with self.engine.begin() as tx:
                await raw_files.mark_removed(tx, part)
            try:
                await self.raw_store.remove(part)
            except RawStoreUnavailable:  # Or nobody would ever look for them again.
                async with self.engine.begin() as tx:
                    await raw_files.mark_kept(tx, part)
                raise
        if sha256s:
            log.info("raw_files_removed", count=len(sha256s))
