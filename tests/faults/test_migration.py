"""`annobus migrate` is killed in the middle of each schema: what it had begun is not there, and the
next one completes it."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from services.annotator.sources import SOURCES
from services.chassis import failpoints
from services.chassis.failpoints import Failpoint
from services.cli.migrate import SERVICES, revisions
from tests.system import ROOT, Database, SharedCluster

# Tables, views and functions with who may use them, columns with their types and defaults.
OBJECTS = """
SELECT n.nspname || '.' || c.relname || ' ' || c.relkind::text
       || ' ' || coalesce(a.attname, '') || ' '
       || coalesce(format_type(a.atttypid, a.atttypmod), '') || ' '
       || coalesce(pg_get_expr(d.adbin, d.adrelid), '') || ' '
       || coalesce((SELECT string_agg(one::text, ',' ORDER BY one::text)
                    FROM unnest(c.relacl) AS one), '')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE n.nspname IN ('annotator', 'cache', 'gateway')
UNION ALL
SELECT p.oid::regprocedure::text || ' ' || md5(p.prosrc)
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname IN ('annotator', 'cache', 'gateway')
ORDER BY 1
"""


@pytest_asyncio.fixture
async def empty(cluster: SharedCluster) -> AsyncIterator[Database]:
    """A database in which nothing was migrated."""
    name = f"migration_{uuid4().hex[:8]}"
    await cluster.create_database(name)
    yield Database(name, cluster.environment(name))
    await cluster.drop_database(name)


async def migrate(database: Database, prefix: str, folder: Path) -> int:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli.migrate"),
        cwd=ROOT,
        env=os.environ
        | database.environment
        | {
            "ANNOBUS_TOPIC_PREFIX": prefix,
            "ANNOBUS_ENVIRONMENT": "test",
            "ANNOBUS_FAILPOINTS_FOLDER": str(folder),
        },
        stdout=asyncio.subprocess.DEVNULL,
    )
    return await process.wait()


async def objects(database: Database) -> list[str]:
    async with database.connect() as owner:
        return [str(row[0]) for row in await owner.fetch(OBJECTS)]


@pytest.mark.parametrize("number", range(len(SERVICES)))
async def test_a_migration_that_was_killed_is_completed_by_the_next_one(
    empty: Database, database: Database, topic_prefix: str, tmp_path: Path, number: int
) -> None:
    failpoints.arm(tmp_path, "migrate", Failpoint.SCHEMA_MIGRATED, number + 1, signal.SIGKILL)
    assert await migrate(empty, topic_prefix, tmp_path) == -signal.SIGKILL
    owner = empty.environment["ANNOBUS_DATABASE_URL"]
    assert sorted(await revisions(owner)) == sorted(SERVICES[:number])

    assert await migrate(empty, topic_prefix, tmp_path) == 0
    assert sorted(await revisions(owner)) == sorted(SERVICES)
    assert await objects(empty) == await objects(database)
    async with empty.connect() as session:
        declared = await session.fetch("SELECT name FROM annotator.source")
    assert {row["name"] for row in declared} == set(SOURCES)
