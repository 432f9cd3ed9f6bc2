"""What `annobus doctor` asks of the cluster and of the services' databases and topics."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import asyncpg
from aiokafka.errors import KafkaError

from contracts.topics import topics
from infra.cluster import Cluster
from infra.kafka import kafka_answers
from services.annotator.sources import SOURCES
from services.cli import migrate, state
from services.cli.findings import NOT_RUNNING, UNREACHABLE, Finding, Site, ok, problem, warning

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

CONNECT_TIMEOUT_SECONDS = 5.0
CLOCK_SECONDS_MAX = 2.0  # What a person would notice who reads two logs side by side.
CONNECTION_ERRORS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


@dataclass(frozen=True)
class Connections:
    """What one process of a service may open: its pool, and its sessions for slot and duties."""

    pool_size: int
    pool_overflow: int
    sessions: int


CONNECTIONS = {
    "annotator": Connections(5, 5, sessions=4),
    "cache": Connections(5, 5, sessions=3),
    "gateway": Connections(20, 10, sessions=1),
}


async def cluster(site: Site) -> Finding:
    if site.running is not None:
        what = f"{site.running.command}, process {site.running.pid}"
        return ok(f"runs ({what})" if site.running.ready else f"starts or stops ({what})")
    if site.holder is not None:
        return ok(f"process {site.holder} starts or stops one")
    left = [*map(str, Cluster(site.folder, variables={}).left_behind())]
    if left:
        return warning(
            f"a first start was killed and left {', '.join(left)} half-written",
            "Nothing is lost, the next start makes it anew: annobus up",
        )
    if (site.folder / state.STATE_FILE).exists():
        return warning(
            "an earlier run was killed and did not stop in order",
            "Nothing is lost, the next start goes on from there: annobus up",
        )
    return Finding("not running", f"nothing runs in {site.folder}")


def _asks_database(
    ask: Callable[[Site, Connection], Awaitable[Finding]],
) -> Callable[[Site], Awaitable[Finding]]:
    """Gives a check a connection; a database that does not answer is said by `postgresql`."""

    async def check(site: Site) -> Finding:
        if site.database_url is None:
            return NOT_RUNNING
        try:
            connection = await _connect(site.database_url)
        except CONNECTION_ERRORS:
            return UNREACHABLE
        try:
            return await ask(site, connection)
        finally:
            await connection.close(timeout=CONNECT_TIMEOUT_SECONDS)

    return check


async def _connect(url: str) -> Connection:
    return await asyncpg.connect(
        url, timeout=CONNECT_TIMEOUT_SECONDS, command_timeout=CONNECT_TIMEOUT_SECONDS
    )


async def postgresql(site: Site) -> Finding:
    if site.database_url is None:
        return NOT_RUNNING
    try:
        connection = await _connect(site.database_url)
        try:
            version = await connection.fetchval("SHOW server_version")
        finally:
            await connection.close(timeout=CONNECT_TIMEOUT_SECONDS)
    except CONNECTION_ERRORS as error:
        return problem(f"it does not answer: {error or type(error).__name__}", _log("postgres"))
    return ok(f"{version} answers")


async def kafka(site: Site) -> Finding:
    if site.kafka_bootstrap is None:
        return NOT_RUNNING
    reason = await kafka_answers(site.kafka_bootstrap)
    if reason is not None:
        return problem(f"it does not answer: {reason}", _log("kafka"))
    return ok(f"{site.kafka_bootstrap} answers")


@_asks_database
async def schemas(site: Site, _connection: Connection) -> Finding:
    assert site.database_url is not None
    found = await migrate.revisions(site.database_url)
    wrong = [
        f"{service} is at {found.get(service, 'none')}, needed is {needed}"
        for service, needed in migrate.needed_revisions().items()
        if found.get(service) != needed
    ]
    if wrong:
        return problem("; ".join(wrong), "Bring them there: annobus migrate")
    return ok(", ".join(found.values()))


async def topic_shapes(site: Site) -> Finding:
    if site.kafka_bootstrap is None:
        return NOT_RUNNING
    wanted = topics(SOURCES, site.environment.get("ANNOBUS_TOPIC_PREFIX", ""))
    try:
        wrong = await migrate.compare_topics(site.kafka_bootstrap, wanted)
    except KafkaError:
        return UNREACHABLE
    if wrong:
        return problem(
            "; ".join(wrong),
            "Missing ones are made by annobus migrate; one that differs is drained and deleted "
            "first",
        )
    return ok(f"{len(wanted)}, as they should be")


@_asks_database
async def connections(site: Site, connection: Connection) -> Finding:
    if site.running is None:
        return Finding("not running", "it is not known which services use this database")
    accepted = int(await connection.fetchval("SHOW max_connections"))
    reserved = int(await connection.fetchval("SHOW superuser_reserved_connections"))
    may_open = sum(_may_open(name, process) for name, process in site.running.processes.items())
    found = f"the services may open {may_open}, the server accepts {accepted - reserved}"
    if may_open > accepted - reserved:
        return problem(
            found,
            "Start fewer annotators, or raise max_connections on a server of your own",
        )
    return ok(found)


def _may_open(name: str, process: state.ProcessState) -> int:
    """What the process was started with counts, not what is set now."""
    service = name.partition("-")[0]
    declared = CONNECTIONS.get(service)
    if declared is None:
        return 0
    given = _environment(process.pid)
    size = given.get(f"{service.upper()}_POOL_SIZE", declared.pool_size)
    overflow = given.get(f"{service.upper()}_POOL_OVERFLOW", declared.pool_overflow)
    return int(size) + int(overflow) + declared.sessions


def _environment(pid: int | None) -> dict[str, str]:
    """Empty where the process has ended, or belongs to another account."""
    try:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return {}
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


@_asks_database
async def clock(_site: Site, connection: Connection) -> Finding:
    before = time.time()
    theirs = float(await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())"))
    difference = theirs - (before + time.time()) / 2
    found = f"the database's is {abs(difference):.2f} s {'ahead' if difference > 0 else 'behind'}"
    if abs(difference) > CLOCK_SECONDS_MAX:
        return warning(found, "Let both machines keep time, for example with chrony")
    return ok(found)


def _log(process: str) -> str:
    return f"See annobus logs {process}; then annobus down, annobus up"
