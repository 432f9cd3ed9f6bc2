"""What the sockets ask the database, each time in a connection of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.messages import RunProgress
from services.gateway.frames import Fact
from services.gateway.store import runs


@dataclass(frozen=True)
class Reads:
    engine: AsyncEngine

    async def progress(self, run_id: UUID) -> RunProgress:
        """Raises RunUnknown."""
        async with self.engine.connect() as connection:
            return (await runs.get_run(connection, run_id)).progress

    async def facts(self, run_id: UUID, after: int, up_to: int) -> Sequence[Fact]:
        async with self.engine.connect() as connection:
            return await runs.list_facts(connection, run_id, after=after, up_to=up_to)

    async def active(self) -> Sequence[UUID]:
        async with self.engine.connect() as connection:
            return await runs.list_active_ids(connection)
