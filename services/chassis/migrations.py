"""Run by Alembic inside `annobus migrate`: one schema, as its owner, in one transaction."""

import asyncio
from pathlib import Path

from alembic import context, op
from sqlalchemy import Connection, NullPool, text
from sqlalchemy.ext.asyncio import create_async_engine

from services.chassis import failpoints
from services.chassis.failpoints import Failpoint

OUTBOX = Path(__file__).with_name("outbox.sql")  # Each service has its own outbox.


def run_migrations(schema: str) -> None:
    """Bring one schema up to date; the configuration carries the owner's database address."""
    asyncio.run(_migrate(schema, context.config.attributes["database_url"]))


async def _migrate(schema: str, database_url: str) -> None:
    engine = create_async_engine(
        database_url.replace("postgresql://", "postgresql+asyncpg://", 1), poolclass=NullPool
    )
    async with engine.begin() as tx:
        # Two migrations at once would both find nothing done.
        await tx.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('migrate', 0))"))
        await tx.execute(text("SET LOCAL lock_timeout = '30s'"))
        await tx.execute(text(f"SET LOCAL search_path = {schema}"))
        await tx.run_sync(_run, schema)
        # A service has its own tables; which revision they are at is not its to say.
        await tx.execute(
            text(f"REVOKE INSERT, UPDATE, DELETE ON {schema}.alembic_version FROM {schema}")
        )
        failpoints.hit(Failpoint.SCHEMA_MIGRATED)
    await engine.dispose()


def _run(connection: Connection, schema: str) -> None:
    context.configure(connection=connection, version_table_schema=schema)
    context.run_migrations()


def run_script(path: Path) -> None:
    """Run a file of SQL statements in the migration's transaction."""
    script = path.read_text(encoding="utf-8")
    connection = op.get_bind().connection
    connection.run_async(lambda driver: driver.execute(script))
