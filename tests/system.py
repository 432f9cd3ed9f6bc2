"""What tests run on: a database of their own, a name for their topics, and the mirror."""

import asyncio
import itertools
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import asyncpg
import httpx2
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from infra import ports
from infra.addresses import DATABASE
from services.annotator.sources import UPSTREAMS
from services.chassis import database
from services.chassis.settings import ServiceSettings, SharedSettings

HTTP_SECONDS_MAX = 5.0
ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_SECONDS = 60


def http_client(url: str = "", seconds: float = HTTP_SECONDS_MAX) -> httpx2.AsyncClient:
    """For what serves without TLS here: to read the certificates takes 20 ms of a processor, and
    some ask for a process's readiness a hundred times a second."""
    return httpx2.AsyncClient(base_url=url, timeout=seconds, trust_env=False, verify=False)


class SharedCluster(Protocol):
    """The PostgreSQL and the Kafka of a session, whichever backend keeps them."""

    async def create_database(self, name: str = DATABASE, template: str | None = None) -> None: ...

    async def drop_database(self, name: str) -> None: ...

    def environment(self, database: str = DATABASE) -> dict[str, str]: ...


@dataclass(frozen=True)
class Database:
    """A migrated database that no other test uses, with an address for each role."""

    name: str
    environment: dict[str, str]

    def settings(self, service: str, **overrides: Any) -> ServiceSettings:
        shared = SharedSettings(
            kafka_bootstrap=self.environment["ANNOBUS_KAFKA_BOOTSTRAP"], environment="test"
        )
        url = self.environment[f"{service.upper()}_DATABASE_URL"]
        return ServiceSettings.model_validate({"database_url": url, "shared": shared, **overrides})

    @asynccontextmanager
    async def engine(self, service: str) -> AsyncIterator[AsyncEngine]:
        """The engine a service has, with its role and its limits."""
        async with database.open_engine(self.settings(service), f"test-{service}") as engine:
            yield engine

    @asynccontextmanager
    async def begin(self, service: str) -> AsyncIterator[AsyncConnection]:
        """One transaction of a service."""
        async with self.engine(service) as engine, engine.begin() as tx:
            yield tx

    @asynccontextmanager
    async def connect(
        self, role: str = "annobus"
    ) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        """A plain connection; by default the owner's, who sees every schema."""
        connection = await asyncpg.connect(self.environment[f"{role.upper()}_DATABASE_URL"])
        try:
            yield connection
        finally:
            await connection.close()


@dataclass(frozen=True)
class Mirror:
    """The upstreams as this session sees them."""

    url: str

    def upstreams(self) -> dict[str, dict[str, str | float]]:
        """As ANNOTATOR_UPSTREAMS takes them: all at the mirror, as fast as it answers."""
        return {
            name: {"base_url": f"{self.url}/{name}", "requests_per_second": 0} for name in UPSTREAMS
        }

    @contextmanager
    def fault(self, upstream: str, **fault: Any) -> Iterator[None]:
        """Make one upstream fail in a way of `infra/mirror/faults.py`; at the end it is healed.

        Fails when the fault struck nobody: then whatever was to be shown, was not.
        """
        kind = fault["kind"]
        control = f"{self.url}/_control/{upstream}"
        before = self.counters(upstream)["faults"].get(kind, 0)
        answer = httpx2.post(control, json=fault, verify=False)
        assert answer.status_code == 200, answer.text
        try:
            yield
        finally:
            httpx2.delete(control, verify=False).raise_for_status()
        assert self.counters(upstream)["faults"].get(kind, 0) > before, f"{fault} struck nobody"

    def counters(self, upstream: str) -> dict[str, Any]:
        """What this upstream was asked so far, by outcome."""
        answer = httpx2.get(f"{self.url}/_requests/{upstream}", verify=False)
        counted: dict[str, Any] = answer.json()
        return counted


@dataclass(frozen=True)
class Keeper:
    """The process that keeps a cluster up, whose account it is, and who works for it by name."""

    process: "subprocess.Popen[str]"
    uid: int
    pids: Mapping[str, int]


@contextmanager
def keep_cluster(state: Path, prefix: Sequence[str] = ()) -> Iterator[Keeper]:
    """PostgreSQL and Kafka, kept by a process that ends with this one; `prefix` is a command that
    starts it."""
    command = [*prefix, sys.executable, "-m", "tests.cluster_keeper", str(state)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the cluster did not start; see {state}/logs")
        try:
            yield Keeper(process, **json.loads(line))
        finally:
            process.stdin.close()
            process.wait(START_TIMEOUT_SECONDS)


@contextmanager
def keep_mirror(cache: Path, *options: str) -> Iterator[Mirror]:
    command = [sys.executable, "-m", "infra.mirror", "--port", "0", "--cache", str(cache)]
    with subprocess.Popen(
        [*command, *options], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline().split()
        if line[:2] != ["mirror", "ready"]:
            raise RuntimeError(f"the mirror did not start: {line}")
        try:
            yield Mirror(line[2])
        finally:
            process.terminate()
            process.wait(START_TIMEOUT_SECONDS)


def free_ports(count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        found.append(ports.find_free(found))
    return found


_numbers = itertools.count(1)


def fresh_database(cluster: SharedCluster, template: str) -> Iterator[Database]:
    """A copy of a template that one test uses and that is gone afterwards."""
    name = f"test_{next(_numbers)}"
    asyncio.run(cluster.create_database(name, template))
    yield Database(name, cluster.environment(name))
    asyncio.run(cluster.drop_database(name))


def database_to_read(
    cluster: SharedCluster, template: str, fill: Callable[[Database], Awaitable[None]] | None = None
) -> Iterator[Database]:
    """A copy for tests that read alone, with what `fill` writes. Whoever writes after it is
    refused: what one of them finds there is what all find, in whichever order."""

    async def prepare(copy: Database) -> None:
        if fill is not None:
            await fill(copy)
        async with copy.connect() as owner:
            await owner.execute(
                f'ALTER DATABASE "{copy.name}" SET default_transaction_read_only = on'
            )

    for copy in fresh_database(cluster, template):
        asyncio.run(prepare(copy))
        yield copy


@asynccontextmanager
async def open_database(
    cluster: SharedCluster, name: str, template: str
) -> AsyncIterator[Database]:
    """The same, for several tests that share a loop."""
    await cluster.create_database(name, template)
    try:
        yield Database(name, cluster.environment(name))
    finally:
        await cluster.drop_database(name)
