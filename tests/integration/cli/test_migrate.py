"""`annobus migrate` on a real PostgreSQL and a real Kafka."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from contracts.topics import topics
from services.annotator.sources import SOURCES
from tests.system import ROOT, SharedCluster


@dataclass(frozen=True)
class Ended:
    code: int
    report: dict[str, object]
    talk: str


async def migrate(environment: dict[str, str], prefix: str) -> Ended:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli.migrate", "--json"),
        cwd=ROOT,
        env=os.environ | environment | {"ANNOBUS_TOPIC_PREFIX": prefix},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, talk = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, json.loads(out) if out else {}, talk.decode())


async def test_a_second_migrate_changes_nothing(cluster: SharedCluster) -> None:
    await cluster.create_database("twice")
    environment = cluster.environment("twice")

    first = await migrate(environment, "twice.")
    assert (first.code, first.talk) == (0, first.talk)
    assert first.report["schemas"] == {
        "annotator": "annotator_0001",
        "cache": "cache_0001",
        "gateway": "gateway_0001",
    }
    assert first.report["sources"] == list(SOURCES)
    assert first.report["topics"] == [topic.name for topic in topics(SOURCES, "twice.")]

    second = await migrate(environment, "twice.")
    assert second.code == 0
    assert set(second.report) == {"schemas", "sources", "retired", "topics", "problems"}
    assert not any(second.report.values())
    assert "as they should be" in second.talk


async def test_a_changed_declaration_is_written_again(cluster: SharedCluster) -> None:
    await cluster.create_database("declared")
    environment = cluster.environment("declared")
    assert (await migrate(environment, "declared.")).code == 0
    connection = await asyncpg.connect(environment["ANNOBUS_DATABASE_URL"])
    try:
        await connection.execute("UPDATE annotator.source SET title = 'old' WHERE name = 'hpo'")
        again = await migrate(environment, "declared.")
        assert again.report["sources"] == ["hpo"]
        rows = await connection.fetch("SELECT * FROM annotator.source ORDER BY name")
    finally:
        await connection.close()
    assert {row["name"]: row["title"] for row in rows} == {
        name: source.declaration.title for name, source in SOURCES.items()
    }
    assert [row["name"] for row in rows if row["is_catalogue"]] == ["hgnc"]


async def test_a_topic_that_differs_is_reported_and_not_changed(cluster: SharedCluster) -> None:
    await cluster.create_database("differs")
    environment = cluster.environment("differs")
    admin = AIOKafkaAdminClient(bootstrap_servers=environment["ANNOBUS_KAFKA_BOOTSTRAP"])
    await admin.start()
    try:
        await admin.create_topics(
            [
                NewTopic("differs.pipeline.commands.v1", 2, 1),
                NewTopic(
                    *("differs.dlq.v1", 3, 1),
                    topic_configs={"retention.ms": "1000", "cleanup.policy": "delete"},
                ),
            ]
        )
        ended = await migrate(environment, "differs.")
        described = await admin.describe_topics(["differs.pipeline.commands.v1"])
    finally:
        await admin.close()

    assert ended.code == 1
    assert ended.report["problems"] == [
        "topic differs.pipeline.commands.v1: partitions is 2, wanted is 6",
        "topic differs.dlq.v1: retention.ms is 1000, wanted is 2592000000",
        "topic differs.dlq.v1: max.message.bytes is 1048588, wanted is 2097152",
    ]
    assert "partitions is 2, wanted is 6" in ended.talk
    assert len(described[0]["partitions"]) == 2


async def test_a_source_that_is_gone_is_retired_until_it_comes_back(cluster: SharedCluster) -> None:
    """Its rows refer to it, so it stays, and is not ordered any more."""
    await cluster.create_database("retired")
    environment = cluster.environment("retired")
    assert (await migrate(environment, "retired.")).code == 0
    connection = await asyncpg.connect(environment["ANNOBUS_DATABASE_URL"])
    try:
        await connection.execute("""
            INSERT INTO annotator.source SELECT (jsonb_populate_record(s, '{"name": "exac"}')).*
            FROM annotator.source s WHERE name = 'hpo'""")
        await connection.execute("UPDATE annotator.source SET is_retired = true WHERE name = 'hpo'")
        again = await migrate(environment, "retired.")
        rows = await connection.fetch("SELECT name, is_retired FROM annotator.source_v1")
    finally:
        await connection.close()
    assert (again.report["sources"], again.report["retired"]) == (["hpo"], ["exac"])
    assert {row["name"] for row in rows if row["is_retired"]} == {"exac"}


async def test_no_source_is_declared_before_its_topic_is_there(cluster: SharedCluster) -> None:
    """Work of a source that is declared is announced, and its topic must take that."""
    await cluster.create_database("early")
    environment = cluster.environment("early")
    broken = environment | {"ANNOBUS_KAFKA_BOOTSTRAP": "127.0.0.1:1"}
    assert (await migrate(broken, "early.")).code == 4
    connection = await asyncpg.connect(environment["ANNOBUS_DATABASE_URL"])
    try:
        assert await connection.fetchval("SELECT count(*) FROM annotator.source") == 0
    finally:
        await connection.close()


async def test_the_owner_makes_tables_that_a_service_may_use(cluster: SharedCluster) -> None:
    await cluster.create_database("owned")
    environment = cluster.environment("owned")
    assert (await migrate(environment, "owned.")).code == 0
    gateway = await asyncpg.connect(environment["GATEWAY_DATABASE_URL"])
    try:
        assert await gateway.fetchval("SELECT count(*) FROM run") == 0
        assert await gateway.fetchval("SELECT count(*) FROM annotator.source_v1") == len(SOURCES)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await gateway.fetchval("SELECT count(*) FROM annotator.source")
    finally:
        await gateway.close()


async def test_a_database_without_roles_and_schemas_is_refused_in_words(
    cluster: SharedCluster,
) -> None:
    await cluster.create_database("bare")
    environment = cluster.environment("bare")
    connection = await asyncpg.connect(environment["ANNOBUS_DATABASE_URL"])
    try:
        await connection.execute("DROP SCHEMA annotator CASCADE")
    finally:
        await connection.close()
    ended = await migrate(environment, "bare.")
    assert ended.code == 1
    assert "infra/roles.sql" in ended.talk
    assert "Traceback" not in ended.talk


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        ({"ANNOBUS_DATABASE_URL": ""}, 2, "needs ANNOBUS_DATABASE_URL"),
        ({"ANNOBUS_DATABASE_URL": "postgresql://a:b@127.0.0.1:1/c"}, 4, "does not answer"),
        ({"ANNOBUS_KAFKA_BOOTSTRAP": "127.0.0.1:1"}, 4, "Kafka does not answer"),
    ],
)
async def test_what_is_not_reachable_is_said(
    cluster: SharedCluster, changed: dict[str, str], code: int, words: str
) -> None:
    await cluster.create_database("unreachable")
    ended = await migrate(cluster.environment("unreachable") | changed, "unreachable.")
    assert ended.code == code, ended.talk
    assert words in ended.talk
    assert "Traceback" not in ended.talk
