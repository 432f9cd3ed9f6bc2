"""Brings the schemas, the declared sources and the topics to what this checkout needs.

Run as `python -m services.cli.migrate`: the one process that is given the owner's address.
"""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import asyncpg
import orjson
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError

import services
from contracts.topics import Topic, topics
from infra.addresses import KAFKA_BOOTSTRAP, OWNER_URL
from services.annotator.domain import Source, fallback, is_api, kind, severities, summary_fields
from services.annotator.sources import SOURCES
from services.chassis import failpoints
from services.chassis.settings import SharedSettings
from services.cli import output
from services.cli.errors import CommandFailed, NotReachable, Refused

SERVICES = ("annotator", "cache", "gateway")  # A later one reads the views of an earlier one.
CONNECT_TIMEOUT_SECONDS = 10
TOPICS_TIMEOUT_SECONDS = 20
TOPICS_POLL_SECONDS = 0.1
REPLICAS_MAX = 3  # Copies of each topic; fewer where there are fewer brokers.

DECLARE = """
INSERT INTO annotator.source (name, title, kind, is_catalogue, identifier, joins, homepage, licence,
                              citation, wire_format, ttl, parser_version, requests_per_second,
                              concurrency, page_size, score, value_schema, severities,
                              summary_fields, expected, fallback)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
        $21)
ON CONFLICT (name) DO UPDATE SET
    title = excluded.title, kind = excluded.kind, is_catalogue = excluded.is_catalogue,
    identifier = excluded.identifier, joins = excluded.joins, homepage = excluded.homepage,
    licence = excluded.licence, citation = excluded.citation,
    wire_format = excluded.wire_format, ttl = excluded.ttl,
    parser_version = excluded.parser_version,
    requests_per_second = excluded.requests_per_second, concurrency = excluded.concurrency,
    page_size = excluded.page_size, score = excluded.score, value_schema = excluded.value_schema,
    severities = excluded.severities, summary_fields = excluded.summary_fields,
    expected = excluded.expected, fallback = excluded.fallback,
    is_retired = false
WHERE (source.*) IS DISTINCT FROM (excluded.*)
RETURNING name
"""
RETIRE = """
UPDATE annotator.source SET is_retired = true
WHERE name <> ALL ($1::text[]) AND NOT is_retired RETURNING name
"""


@dataclass(frozen=True)
class Migrated:
    """What was changed; empty where all was as it should be. `problems` are for a person."""

    schemas: Mapping[str, str] = field(default_factory=dict)  # Service → its new revision.
    sources: Sequence[str] = ()
    retired: Sequence[str] = ()  # Sources that this checkout does not have.
    topics: Sequence[str] = ()
    problems: Sequence[str] = ()

    def lines(self) -> list[str]:
        changes = [f"schema {name} is now at {revision}" for name, revision in self.schemas.items()]
        changes += [f"source {name} declared" for name in self.sources]
        changes += [f"source {name} retired: nobody asks it" for name in self.retired]
        changes += [f"topic {name} created" for name in self.topics]
        return changes or ["schemas, sources and topics are as they should be"]


def migrate(database_url: str, kafka_bootstrap: str, topic_prefix: str = "") -> Migrated:
    """Everything, in order: a source is declared when its topic is there, so that no work is
    announced before. Changes nothing where nothing is missing."""
    schemas = migrate_schemas(database_url)
    created, problems = asyncio.run(create_topics(kafka_bootstrap, topics(SOURCES, topic_prefix)))
    sources, retired = asyncio.run(declare_sources(database_url))
    return Migrated(schemas, sources, retired, created, problems)


def migrate_schemas(database_url: str) -> dict[str, str]:
    """Each service's schema to its newest revision; returns the revisions of those that changed.

    Alembic runs a loop of its own: from a coroutine, call this in a thread.
    """
    before = asyncio.run(revisions(database_url))
    for service in SERVICES:
        config = _migrations(service)
        config.attributes["database_url"] = database_url
        command.upgrade(config, "head")
    after = asyncio.run(revisions(database_url))
    return {name: after[name] for name in after if after[name] != before.get(name)}


def _migrations(service: str) -> Config:
    config = Config()
    folder = Path(services.__path__[0]) / service / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    return config


def needed_revisions() -> dict[str, str | None]:
    """Service → the revision of its schema that this checkout needs."""
    return {
        service: ScriptDirectory.from_config(_migrations(service)).get_current_head()
        for service in SERVICES
    }


async def revisions(database_url: str) -> dict[str, str]:
    """Service → the revision its schema is at; a service without a schema is left out."""
    connection = await asyncpg.connect(database_url, timeout=CONNECT_TIMEOUT_SECONDS)
    try:
        present = await connection.fetch(
            "SELECT schemaname FROM pg_tables WHERE tablename = 'alembic_version'"
        )
        found = {}
        for service in SERVICES:
            if service in {row["schemaname"] for row in present}:
                statement = f"SELECT version_num FROM {service}.alembic_version"  # noqa: S608
                found[service] = await connection.fetchval(statement)
        return found
    finally:
        await connection.close()


async def declare_sources(database_url: str) -> tuple[list[str], list[str]]:
    """Write what the sources declare into `annotator.source`, retire those that are there alone,
    and give the summaries of genes their fields; returns the names of those that were changed, and
    of those that were retired."""
    connection = await asyncpg.connect(database_url, timeout=CONNECT_TIMEOUT_SECONDS)
    try:
        async with connection.transaction():
            changed = [
                await connection.fetchval(DECLARE, *_declared(source))
                for source in SOURCES.values()
            ]
            retired = await connection.fetch(RETIRE, list(SOURCES))
            await connection.execute("SELECT cache.shape_summaries()")
        # Too few rows for autovacuum; unanalysed, a join with every source is planned as huge.
        await connection.execute("ANALYZE annotator.source")
    finally:
        await connection.close()
    return [name for name in changed if name is not None], [row["name"] for row in retired]


def _declared(source: Source) -> Sequence[object]:
    """A row of `annotator.source`, in the order of the statement."""
    declared = source.declaration
    expected, stands_in = declared.expected, fallback(source)
    return (
        declared.name,
        declared.title,
        kind(source),
        declared.is_catalogue,
        declared.identifier,
        declared.joins,
        declared.homepage,
        declared.licence,
        declared.citation,
        declared.wire_format,
        declared.ttl,
        declared.parser_version,
        declared.requests_per_second,
        declared.concurrency,
        source.page_size if is_api(source) else None,
        declared.score,
        _json(declared.value.model_json_schema(mode="serialization")),
        _json(severities(declared.value)),
        _json(summary_fields(declared.value)),
        None if expected is None else _json(expected),
        None if stands_in is None else stands_in.declaration.name,
    )


def _json(content: object) -> str:
    return orjson.dumps(content).decode()


async def create_topics(
    kafka_bootstrap: str, wanted: Iterable[Topic]
) -> tuple[list[str], list[str]]:
    """Create the missing topics, then compare all of them; returns those created, and what is
    wrong with any that was there before: it is never changed, for it may hold messages."""
    wanted = list(wanted)
    async with _admin(kafka_bootstrap) as admin:
        missing = await _missing(admin, wanted)
        if missing:
            await _create(admin, missing)
        return [topic.name for topic in missing], await _differences(admin, wanted)


async def compare_topics(kafka_bootstrap: str, wanted: Iterable[Topic]) -> list[str]:
    """What is wrong with the topics; changes nothing."""
    wanted = list(wanted)
    async with _admin(kafka_bootstrap) as admin:
        missing = await _missing(admin, wanted)
        present = [topic for topic in wanted if topic not in missing]
        problems = [f"topic {topic.name} is missing" for topic in missing]
        return problems + (await _differences(admin, present) if present else [])


@asynccontextmanager
async def _admin(kafka_bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(
        bootstrap_servers=kafka_bootstrap, request_timeout_ms=CONNECT_TIMEOUT_SECONDS * 1000
    )
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def _missing(admin: AIOKafkaAdminClient, wanted: Iterable[Topic]) -> list[Topic]:
    present = set(await admin.list_topics())
    return [topic for topic in wanted if topic.name not in present]


async def _create(admin: AIOKafkaAdminClient, missing: Sequence[Topic]) -> None:
    brokers = (await admin.describe_cluster())["brokers"]
    replicas = min(len(brokers), REPLICAS_MAX)
    new = [
        NewTopic(topic.name, topic.partitions, replicas, topic_configs=topic.settings())
        for topic in missing
    ]
    answer = await admin.create_topics(new, timeout_ms=TOPICS_TIMEOUT_SECONDS * 1000)
    for name, code, *message in answer.topic_errors:
        if code not in (0, TopicAlreadyExistsError.errno):  # It is compared, whoever made it.
            raise CommandFailed(f"Kafka did not create topic {name}: error {code}, {message}")
    async with asyncio.timeout(TOPICS_TIMEOUT_SECONDS):
        while not await _partitions(admin, missing):
            await asyncio.sleep(TOPICS_POLL_SECONDS)


async def _partitions(admin: AIOKafkaAdminClient, wanted: Sequence[Topic]) -> dict[str, int]:
    """How many partitions each topic has; nothing while the broker does not yet know them all."""
    described = await admin.describe_topics([topic.name for topic in wanted])
    counts = {found["topic"]: len(found["partitions"]) for found in described}
    return counts if all(counts.values()) else {}


async def _differences(admin: AIOKafkaAdminClient, wanted: Sequence[Topic]) -> list[str]:
    partitions = await _partitions(admin, wanted)
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic.name) for topic in wanted]
    settings: dict[str, dict[str, str]] = {}
    for answer in await admin.describe_configs(resources):
        for _code, _message, _kind, name, entries in answer.resources:
            settings[name] = {entry[0]: entry[1] for entry in entries}
    return [
        f"topic {topic.name}: {what} is {found}, wanted is {expected}"
        for topic in wanted
        for what, found, expected in [
            ("partitions", partitions.get(topic.name), topic.partitions),
            *((key, settings[topic.name].get(key), to) for key, to in topic.settings().items()),
        ]
        if found != expected
    ]


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Exit code 0 when everything is as it should be afterwards."""
    # What it says of refused connections is said by the errors below, once and in words.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    failpoints.switch_on(SharedSettings(), "migrate")
    missing = [name for name in (OWNER_URL, KAFKA_BOOTSTRAP) if not environment.get(name)]
    try:
        if missing:
            raise Refused(f"annobus migrate needs {' and '.join(missing)}")
        migrated = _connected(environment)
    except CommandFailed as error:
        output.show_failure(error)
        return error.exit_code
    if "--json" in arguments:
        output.print_json(asdict(migrated))
    for line in migrated.lines():
        output.say(line)
    if migrated.problems:
        output.show_failure(
            CommandFailed(
                "some topics are not as this checkout needs them",
                migrated.problems,
                "Nothing was changed. Drain and delete such a topic, then migrate again",
            )
        )
    return 1 if migrated.problems else 0


def _connected(environment: Mapping[str, str]) -> Migrated:
    bootstrap = environment[KAFKA_BOOTSTRAP]
    prefix = environment.get("ANNOBUS_TOPIC_PREFIX", "")
    try:
        return migrate(environment[OWNER_URL], bootstrap, prefix)
    except KafkaError as error:
        raise NotReachable(f"Kafka does not answer at {bootstrap}: {error}") from error
    except OSError as error:  # A refused connection, a name nobody knows, a time-out.
        raise NotReachable(f"the database does not answer: {error}") from error
    except (asyncpg.PostgresError, DBAPIError) as error:
        raise CommandFailed(
            f"the database refused: {error}",
            advice="On a database of your own, infra/roles.sql is run first, by its administrator",
        ) from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
