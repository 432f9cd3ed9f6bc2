"""A service reads the published views of others, writes its own schema, and can do no more."""

from collections.abc import Iterator

import asyncpg
import pytest

from tests.system import Database, SharedCluster, fresh_database

FORBIDDEN = [
    ("gateway", "SELECT * FROM annotator.run"),
    ("gateway", "SELECT * FROM cache.gene"),
    ("gateway", "UPDATE annotator.run SET state = 'failed'"),
    ("gateway", "DELETE FROM cache.gene"),
    (
        "gateway",
        "INSERT INTO annotator.outbox (topic, key, headers, payload) VALUES ('','','{}','')",
    ),
    ("gateway", "UPDATE annotator.batch SET state = 'pending'"),
    (
        "gateway",
        "INSERT INTO annotator.batch (kind, source) VALUES ('release', 'hpo')",
    ),
    ("annotator", "SELECT * FROM gateway.dead_letter"),
    ("cache", "INSERT INTO gateway.dead_letter (kind) VALUES ('message')"),
    ("cache", "SELECT * FROM annotator.annotation"),
    ("cache", "SELECT * FROM gateway.run"),
    ("annotator", "SELECT * FROM gateway.run"),
    ("annotator", "SELECT * FROM cache.gene_v1"),
    ("annotator", "DROP TABLE annotator.batch"),
    ("gateway", "CREATE TABLE gateway.mine (id integer)"),
    ("cache", "CREATE TABLE public.mine (id integer)"),
    ("gateway", "CREATE ROLE somebody"),
    ("annotator", "UPDATE annotator.alembic_version SET version_num = 'annotator_9999'"),
    ("cache", "DELETE FROM cache.alembic_version"),
    ("gateway", "INSERT INTO gateway.alembic_version VALUES ('gateway_9999')"),
    ("annotator", "UPDATE source SET parser_version = 0"),
    ("annotator", "DELETE FROM source"),
    ("annotator", "INSERT INTO source SELECT * FROM source"),
]


@pytest.fixture(scope="module")
def database(cluster: SharedCluster, template: str) -> Iterator[Database]:
    """One for all: what is denied changes nothing, and what is allowed is rolled back."""
    yield from fresh_database(cluster, template)


@pytest.mark.parametrize(("role", "statement"), FORBIDDEN)
async def test_permission_is_denied(role: str, statement: str, database: Database) -> None:
    async with database.connect(role) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)


ALLOWED = [
    ("gateway", "SELECT * FROM annotator.run_v1"),
    ("gateway", "SELECT * FROM cache.gene_v1"),
    ("gateway", "DELETE FROM gateway.idempotency_key"),
    ("gateway", "SELECT genes_left FROM annotator.batch_v1"),
    ("cache", "SELECT * FROM annotator.current_annotation_v1"),
    ("cache", "DELETE FROM dirty_gene"),
    ("annotator", "SELECT * FROM source"),
    ("annotator", "SELECT * FROM alembic_version"),
    ("annotator", "DELETE FROM staged"),
    ("annotator", "ANALYZE staged"),
]


@pytest.mark.parametrize(("role", "statement"), ALLOWED)
async def test_its_own_work_is_allowed(role: str, statement: str, database: Database) -> None:
    async with database.connect(role) as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(statement)
        await transaction.rollback()
