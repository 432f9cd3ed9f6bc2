"""The other backend of the tests: the PostgreSQL and the Kafka of infra/compose.yaml, by
testcontainers, where `ANNOBUS_TEST_BACKEND=docker` asks for them."""

import asyncio
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import yaml
from testcontainers.core.container import DockerContainer

from infra import databases
from infra.addresses import DATABASE, DATABASE_URLS, KAFKA_BOOTSTRAP
from infra.kafka import kafka_answers
from tests.system import ROOT, START_TIMEOUT_SECONDS, free_ports

ADMINISTRATOR = "postgres"
POLL_SECONDS = 0.1
LOG_CHARACTERS_MAX = 2_000


class EngineMissing(Exception):
    """No Docker engine answers, so there are no containers."""


@dataclass(frozen=True)
class ContainerCluster:
    """What `infra.cluster.Cluster` is for tests, in containers."""

    postgres: str  # host:port
    kafka: str
    passwords: Mapping[str, str]

    async def create_database(self, name: str = DATABASE, template: str | None = None) -> None:
        roles = {role: self.passwords[role] for role in DATABASE_URLS.values()}
        await databases.create_database(self._url(ADMINISTRATOR), name, template, roles)

    async def drop_database(self, name: str) -> None:
        await databases.drop_database(self._url(ADMINISTRATOR), name)

    def environment(self, database: str = DATABASE) -> dict[str, str]:
        urls = {name: self._url(role, database) for name, role in DATABASE_URLS.items()}
        return {**urls, KAFKA_BOOTSTRAP: self.kafka}

    def _url(self, role: str, database: str = ADMINISTRATOR) -> str:
        return f"postgresql://{role}:{self.passwords[role]}@{self.postgres}/{database}"

    async def problem(self) -> str | None:
        """Why it cannot be used yet."""
        try:
            connection = await asyncpg.connect(self._url(ADMINISTRATOR), timeout=POLL_SECONDS * 10)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            return f"PostgreSQL: {error!r}"
        await connection.close()
        return await kafka_answers(self.kafka)


@contextmanager
def keep_containers() -> Iterator[ContainerCluster]:
    """Raises EngineMissing."""
    _find_engine()
    services = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text())["services"]
    passwords = {role: secrets.token_hex() for role in (ADMINISTRATOR, *DATABASE_URLS.values())}
    # Kafka tells its clients where it is, so its port is known before it starts.
    postgres_port, kafka_port = free_ports(2)
    postgres, kafka = f"127.0.0.1:{postgres_port}", f"127.0.0.1:{kafka_port}"
    containers = (
        _container(
            services["postgres"], 5432, postgres_port, POSTGRES_PASSWORD=passwords[ADMINISTRATOR]
        ),
        _container(
            services["kafka"],
            9092,
            kafka_port,
            KAFKA_ADVERTISED_LISTENERS=f"PLAINTEXT://{kafka}",
        ),
    )
    with containers[0], containers[1]:
        cluster = ContainerCluster(postgres, kafka, passwords)
        _await_ready(cluster, containers)
        yield cluster


def _find_engine() -> None:
    """In a process of its own: a client that finds no engine leaves sockets open."""
    ask = "from testcontainers.core.docker_client import DockerClient; DockerClient().client.ping()"
    asked = subprocess.run(
        [sys.executable, "-c", ask],
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_SECONDS,
        check=False,
    )
    if asked.returncode != 0:
        raise EngineMissing(f"no Docker engine answers: {asked.stderr.strip().splitlines()[-1]}")


def _container(service: Mapping[str, Any], inside: int, port: int, **own: str) -> DockerContainer:
    """As the compose file has it, at a port of loopback."""
    container = DockerContainer(
        service["image"], env=service["environment"] | own, shm_size=service.get("shm_size")
    )
    if "command" in service:
        container.with_command(service["command"])
    # The library's own method takes a port only, which would be open on every address.
    container.ports[str(inside)] = ("127.0.0.1", port)  # type: ignore[assignment]
    return container


def _await_ready(cluster: ContainerCluster, containers: tuple[DockerContainer, ...]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while (problem := asyncio.run(cluster.problem())) is not None:
        if time.monotonic() > deadline:
            logs = [b"".join(one.get_logs()).decode()[-LOG_CHARACTERS_MAX:] for one in containers]
            raise RuntimeError("\n".join([f"the containers were not ready: {problem}", *logs]))
        time.sleep(POLL_SECONDS)
