"""Makes statistics anew when genes have changed, off the way of who reads."""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.messages import NamespaceInvalidated
from services.cache import namespaces
from services.chassis import outbox
from services.chassis.database import allow_long_transaction

STATISTICS = "statistics"  # The duty of making them, and their namespace.
PERIOD_SECONDS = 5.0
PAUSE_SECONDS = 30.0  # At least, between two times: it takes two seconds of a processor.
AGE_SECONDS_MAX = 600.0  # What is stale, time alone makes so.
VIEWS = ("source_statistics", "field_statistics", "overlap")


@dataclass(frozen=True)
class Statistics:
    engine: AsyncEngine

    async def refresh(self, session: AsyncConnection) -> bool:
        """For `database.alone`, which hands in its session. Nothing is ever left to do at once."""
        change = await _change_to_include(session)
        if change is None:
            return False
        async with self.engine.begin() as tx:
            # For the planner, which looks for itself once a minute: after a first run it takes a
            # table that was empty for one that still is.
            await tx.execute(text("ANALYZE gene_summary"))
        for view in VIEWS:  # One transaction each: none of them is long.
            async with self.engine.begin() as tx:
                await allow_long_transaction(tx)
                await tx.execute(text(f"REFRESH MATERIALIZED VIEW CONCURRENTLY {view}"))
        async with self.engine.begin() as tx:
            await tx.execute(
                text("UPDATE statistics_made SET change = :change, at = now()"), {"change": change}
            )
            epoch = await namespaces.invalidate(tx, STATISTICS)
            await outbox.add(tx, NamespaceInvalidated(namespace=STATISTICS, epoch=epoch))
        return False


async def _change_to_include(connection: AsyncConnection) -> int | None:
    """The newest change, if statistics are to be made anew; what comes meanwhile is another."""
    change = await connection.scalar(
        text("""
            SELECT last_value FROM document_change, statistics_made m
            WHERE (last_value > m.change AND m.at < now() - make_interval(secs => :pause))
               OR m.at < now() - make_interval(secs => :age_max)
        """),
        {"pause": PAUSE_SECONDS, "age_max": AGE_SECONDS_MAX},
    )
    return None if change is None else int(change)
