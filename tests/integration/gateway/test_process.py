"""The gateway's process: it serves without Kafka, relays with it, and hears what is said there."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import GroupCoordinatorNotAvailableError

from contracts.messages import DocumentsRebuilt
from contracts.topics import topics
from services.chassis.outbox import envelope
from services.gateway.handlers import DEAD_LETTER_GROUP
from tests.system import ROOT, Database, SharedCluster, free_ports, http_client
from tests.waiting import until

DEADLINE_SECONDS = 30
READY_SECONDS_MAX = 5.0  # Less than the 6 s after which a group misses a member that was killed.
# The port "discard": nothing listens there.
UNHEARD = {"ANNOBUS_KAFKA_BOOTSTRAP": "127.0.0.1:9"}


@asynccontextmanager
async def running(
    database: Database, environment: Mapping[str, str], ended_by: signal.Signals = signal.SIGTERM
) -> AsyncIterator[httpx2.AsyncClient]:
    (port,) = free_ports(1)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.gateway"),
        cwd=ROOT,
        env={
            **os.environ,
            "GATEWAY_DATABASE_URL": database.environment["GATEWAY_DATABASE_URL"],
            "GATEWAY_PORT": str(port),
            **environment,
        },
    )
    url = f"http://127.0.0.1:{port}"
    async with http_client(url) as client:
        try:
            await until(lambda: _answers(client, "/livez"), "it lives")
            yield client
        finally:
            process.send_signal(ended_by)
            async with asyncio.timeout(DEADLINE_SECONDS):
                code = await process.wait()
    assert code == (0 if ended_by == signal.SIGTERM else -ended_by)


async def _answers(client: httpx2.AsyncClient, path: str) -> bool:
    try:
        return (await client.get(path)).status_code == httpx2.codes.OK
    except httpx2.TransportError:
        return False


async def test_commands_are_accepted_and_reads_answered_without_kafka(database: Database) -> None:
    async with running(database, UNHEARD) as client:
        assert (await client.post("/api/runs", json={"all": True})).status_code == 202
        assert (await client.get("/api/genes")).status_code == 200
        ready = await client.get("/readyz?verbose")
        assert ready.status_code == 503
        checks = ready.json()["checks"]
        assert checks["kafka"]["problems"] == ["Kafka is not reached yet"]
        assert checks["schema"]["problems"] == []
    async with database.connect("gateway") as connection:
        assert await connection.fetchval("SELECT count(*) FROM outbox") == 1


async def test_a_database_that_is_gone_is_503_with_a_time_to_come_back(
    database: Database,
) -> None:
    nobody = database.environment["GATEWAY_DATABASE_URL"].rsplit("@", 1)[0] + "@127.0.0.1:9/x"
    gone = Database("gone", database.environment | {"GATEWAY_DATABASE_URL": nobody})
    async with running(gone, UNHEARD) as client:
        for request in (client.get("/api/genes"), client.post("/api/runs", json={"all": True})):
            answer = await request
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
            assert answer.headers["content-type"] == "application/problem+json"


async def test_commands_reach_kafka_and_rebuilt_documents_are_heard_of(
    cluster: SharedCluster, database: Database, topic_prefix: str
) -> None:
    bootstrap = cluster.environment()["ANNOBUS_KAFKA_BOOTSTRAP"]
    async with topics_of(bootstrap, topic_prefix), database.connect() as connection:
        await connection.execute(
            """INSERT INTO cache.gene (hgnc_id, version, document, status)
               VALUES ('HGNC:9008', 1, '{"annotations": {}}', 'approved')"""
        )
        settings = {"ANNOBUS_KAFKA_BOOTSTRAP": bootstrap, "ANNOBUS_TOPIC_PREFIX": topic_prefix}
        async with running(database, settings) as client:
            await until(lambda: _answers(client, "/readyz"), "it is ready")
            started = await client.post("/api/runs", json={"all": True})
            (record,) = await _records(bootstrap, f"{topic_prefix}pipeline.commands.v1", 1)
            assert record.key.decode() == started.json()["data"]["id"]
            assert dict(record.headers)["ce_type"] == b"annobus.run.start.v1"

            async def etag() -> str:
                return str((await client.get("/api/genes/HGNC:9008")).headers["etag"])

            async def is_kept() -> bool:
                """Whether the document is in memory: there is a newer one, and nobody said so."""
                before = await etag()
                await connection.execute(
                    """UPDATE cache.gene SET version = version + 1,
                           document = json_build_object('new', version,
                               'annotations', '{}'::json)"""
                )
                return await etag() == before

            await until(is_kept, "the gateway knows that it hears the bus")
            kept = await etag()
            version = await connection.fetchval("SELECT version FROM cache.gene")
            rebuilt = DocumentsRebuilt(versions={"HGNC:9008": version})
            await _publish(bootstrap, topic_prefix, rebuilt)

            async def changed() -> bool:
                return await etag() != kept

            await until(changed, "the new document is answered")


async def test_who_follows_a_gateway_that_was_killed_waits_for_no_group(
    cluster: SharedCluster, database: Database, topic_prefix: str
) -> None:
    bootstrap = cluster.environment()["ANNOBUS_KAFKA_BOOTSTRAP"]
    settings = {"ANNOBUS_KAFKA_BOOTSTRAP": bootstrap, "ANNOBUS_TOPIC_PREFIX": topic_prefix}
    async with topics_of(bootstrap, topic_prefix) as admin:

        async def has_joined() -> bool:
            group = f"{topic_prefix}{DEAD_LETTER_GROUP}"
            try:
                (answer,) = await admin.describe_consumer_groups([group])
            except GroupCoordinatorNotAvailableError:  # The first group of a cluster is waited for.
                return False
            return bool(answer.groups[0][1:3] == (group, "Stable"))

        async with running(database, settings, signal.SIGKILL):
            await until(has_joined, "the first one reads dead letters", DEADLINE_SECONDS)
        killed = time.monotonic()
        async with running(database, settings) as client:
            await until(lambda: _answers(client, "/readyz"), "the second is ready")
            assert time.monotonic() - killed < READY_SECONDS_MAX
            await client.post("/api/runs", json={"all": True})
            await _records(bootstrap, f"{topic_prefix}pipeline.commands.v1", 1)
            assert time.monotonic() - killed < READY_SECONDS_MAX


@asynccontextmanager
async def topics_of(bootstrap: str, prefix: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics(
            [NewTopic(topic.name, topic.partitions, 1) for topic in topics([], prefix)]
        )
        yield admin
    finally:
        await admin.close()


async def _records(bootstrap: str, topic: str, count: int) -> list[Any]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return [await anext(consumer) for _ in range(count)]
    finally:
        await consumer.stop()


async def _publish(bootstrap: str, prefix: str, message: DocumentsRebuilt) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    headers = [(name, value.encode()) for name, value in envelope(message).items()]
    await producer.send_and_wait(
        prefix + message.topic, message.model_dump_json().encode(), headers=headers
    )
    await producer.stop()
