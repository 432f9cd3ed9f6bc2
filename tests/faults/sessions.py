"""Faults that sessions of PostgreSQL make for each other: none is left, locks are held, and
transactions are given up."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from tests.system import Database

CONNECTIONS_MAX = 400
CONNECTIONS_AT_ONCE = 20
POLL_SECONDS = 0.05
LOCK_TIMEOUT = "10s"
# Tables of which somebody wants something all the time.
LOCKED = ("annotator.batch", "annotator.outbox", "cache.outbox", "gateway.outbox")
GIVEN_UP = ("annotator.batch", "annotator.run_source", "cache.gene", "gateway.run")
# As PostgreSQL gives up the one of two whom it finds waiting for each other, or whom another was
# quicker than. A sequence counts what is rolled back, too.
GIVE_UP = """
CREATE SEQUENCE IF NOT EXISTS audit.given_up;
CREATE OR REPLACE FUNCTION audit.give_up() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF random() < 0.3 THEN
        PERFORM nextval('audit.given_up');
        IF random() < 0.5 THEN
            RAISE deadlock_detected;
        END IF;
        RAISE serialization_failure;
    END IF;
    RETURN new;
END $$;
"""


async def exhaust(database: Database, seconds: float) -> bool:
    """Take all connections that are left, and hold them for so long. Whether there came an end to
    them."""
    url = database.environment["ANNOBUS_DATABASE_URL"]
    taken: list[asyncpg.Connection[asyncpg.Record]] = []
    refused = False
    try:
        while not refused and len(taken) < CONNECTIONS_MAX:
            connecting = (asyncpg.connect(url, ssl=False) for _ in range(CONNECTIONS_AT_ONCE))
            for one in await asyncio.gather(*connecting, return_exceptions=True):
                if isinstance(one, asyncpg.TooManyConnectionsError):
                    refused = True
                elif isinstance(one, BaseException):
                    raise one
                else:
                    taken.append(one)
        await asyncio.sleep(seconds)
    finally:
        for connection in taken:
            connection.terminate()
    return refused


async def lock(database: Database, table: str, seconds: float) -> int:
    """Keep everybody from a table. Returns how many waited for it at once."""
    async with database.connect() as owner, owner.transaction():
        await owner.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        await owner.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        waiting, until = 0, time.monotonic() + seconds
        while time.monotonic() < until:
            waits = await owner.fetchval(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = $1::regclass",
                table,
            )
            waiting = max(waiting, waits)
            await asyncio.sleep(POLL_SECONDS)
    return waiting


async def give_up(database: Database, table: str, seconds: float) -> int:
    """Let many transactions that write a table fail, as of a deadlock. Returns how many did."""
    async with _giving_up(database, table) as before:
        await asyncio.sleep(seconds)
    async with database.connect() as owner:
        return int(await owner.fetchval("SELECT last_value FROM audit.given_up")) - before


@asynccontextmanager
async def _giving_up(database: Database, table: str) -> AsyncIterator[int]:
    async with database.connect() as owner:
        await owner.execute(GIVE_UP)
        before = int(await owner.fetchval("SELECT nextval('audit.given_up')"))
        await owner.execute(
            f"""CREATE TRIGGER give_up BEFORE INSERT OR UPDATE ON {table}
                FOR EACH ROW EXECUTE FUNCTION audit.give_up()"""
        )
    try:
        yield before
    finally:
        await _insist_on_dropping(database, table)


async def _insist_on_dropping(database: Database, table: str) -> None:
    """Another fault may have the server down, or hold the table."""
    while True:
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            async with database.connect() as owner:
                await owner.execute(f"DROP TRIGGER IF EXISTS give_up ON {table}")
                return
        await asyncio.sleep(POLL_SECONDS)
