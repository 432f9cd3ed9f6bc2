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
CLOSED_SECONDS = 0.5
CHARACTERS = 5_000


@pytest.mark.parametrize("ended_at", [0, 1_000])
@pytest.mark.parametrize("count", [5, 3_000, 20_000])
async def test_a_copy_fails_soon_when_its_session_is_ended(
    database: Database, count: int, ended_at: int
) -> None:
    """While values are made, the loop does not hear that; a server that is killed says no more."""
    url = database.environment["ANNOTATOR_DATABASE_URL"]

    async def end_session(pid: int) -> None:
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("SELECT pg_terminate_backend($1)", pid)
        await connection.close()

    def rows(pid: int) -> Iterator[staging.Row]:
        release_id, value = uuid4(), f'"{"x" * CHARACTERS}"'
        for number in range(count):
            if number == min(ended_at, count - 1):
                thread = threading.Thread(target=lambda: asyncio.run(end_session(pid)))
                thread.start()
                thread.join()
                time.sleep(CLOSED_SECONDS)  # As long as a big gene takes.
            yield release_id, f"HGNC:{number}", value, b"", 1, number

    async def copy() -> None:
        async with database.engine("annotator") as engine, engine.begin() as tx:
            await staging.copy(tx, rows(await tx.scalar(text("SELECT pg_backend_pid()"))))

    began = time.monotonic()
    with pytest.raises(CONNECTION_ERRORS):
        await asyncio.wait_for(copy(), 3 * NOTICED_SECONDS_MAX)
    assert time.monotonic() - began < NOTICED_SECONDS_MAX
