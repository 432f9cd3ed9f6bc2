"""The session of the child that reads a release ends while it copies."""

import asyncio
import threading
import time
from collections.abc import Iterator
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import text

from services.annotator import staging
from services.chassis.database import CONNECTION_ERRORS
from tests.system import Database

NOTICED_SECONDS_MAX = 10.0
GONE_MS_MAX = 5_000
CHARACTERS = 5_000
ROWS = 3_000  # More than the driver sends before it waits for room.


async def test_a_copy_fails_soon_when_its_session_is_ended(database: Database) -> None:
    """While values are made, the loop does not hear that; a server that is killed says no more."""
    url = database.environment["ANNOTATOR_DATABASE_URL"]

    async def end_session(pid: int) -> None:
        connection = await asyncpg.connect(url)
        # True when it is gone, not when it has been told.
        assert await connection.fetchval("SELECT pg_terminate_backend($1, $2)", pid, GONE_MS_MAX)
        await connection.close()

    def rows(pid: int) -> Iterator[staging.Row]:
        release_id, value = uuid4(), f'"{"x" * CHARACTERS}"'
        thread = threading.Thread(target=lambda: asyncio.run(end_session(pid)))
        thread.start()
        thread.join()
        for number in range(ROWS):
            yield release_id, f"HGNC:{number}", value, b"", 1, number, "hgnc_id"

    async def copy() -> None:
        async with database.engine("annotator") as engine, engine.begin() as tx:
            await staging.copy(tx, rows(await tx.scalar(text("SELECT pg_backend_pid()"))))

    began = time.monotonic()
    with pytest.raises(CONNECTION_ERRORS):
        await asyncio.wait_for(copy(), 3 * NOTICED_SECONDS_MAX)
    assert time.monotonic() - began < NOTICED_SECONDS_MAX
