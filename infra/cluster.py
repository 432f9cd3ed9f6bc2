"""PostgreSQL and Kafka for one state folder: embedded as child processes, or external ones.

Set ANNOBUS_DATABASE_URL (with the URL of each service beside it) to use a PostgreSQL that runs
already, and ANNOBUS_KAFKA_BOOTSTRAP for a Kafka. Whatever is set, the services get the same
variables from `environment`.
"""

import asyncio
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from infra import databases, ports
from infra.addresses import DATABASE, DATABASE_URLS, KAFKA_BOOTSTRAP, OWNER_URL
from infra.errors import ClusterError
from infra.jars import wrong_jars
from infra.kafka import EmbeddedKafka, kafka_answers
from infra.postgres import EmbeddedPostgres
from infra.processes import Process, together
from infra.state import StateFolder

PORTS = ("postgres", "kafka", "kafka-controller")
CONNECT_TIMEOUT_SECONDS = 10.0


class Cluster:
    """First `prepare`, then supervise `processes`, then `create_database`.

    `variables` says what is external. `environment` (the services' addresses) and the databases
    need no lock on the state folder: a command may use the cluster another process keeps up.
    """

    def __init__(self, state: Path, variables: Mapping[str, str] = os.environ) -> None:
        self._state = StateFolder(state)
        self._postgres = EmbeddedPostgres(self._state)
        self._kafka = EmbeddedKafka(self._state)
        self._creating = asyncio.Lock()
        self._external_urls: dict[str, str] = {}
        if variables.get(OWNER_URL):
            missing = [name for name in DATABASE_URLS if not variables.get(name)]
            if missing:
                raise ClusterError(
                    f"{OWNER_URL} names an external PostgreSQL, "
                    f"so {', '.join(missing)} must be set too"
                )
            self._external_urls = {name: variables[name] for name in DATABASE_URLS}
        self._external_kafka = variables.get(KAFKA_BOOTSTRAP)

    @property
    def holder(self) -> int | None:
        """The process id of whoever keeps this cluster up now."""
        return self._state.holder

    def left_behind(self) -> list[Path]:
        """What a killed first start made by half; asked while nobody keeps the cluster up."""
        return [*self._postgres.left_behind(), *self._kafka.left_behind()]

    def wrong_jars(self) -> tuple[Path, list[str]] | None:
        """The folder of Kafka's jars and those that are not as locked; None before the fetch."""
        return wrong_jars(self._state)

    async def prepare(self) -> None:
        """Makes what is missing and takes the state folder for this process until `close`.

        Raises ClusterError when another process uses the folder, or when an external server does
        not answer.
        """
        self._state.acquire()
        try:
            await self._prepare()
        except BaseException:
            self._state.release()
            raise

    async def _prepare(self) -> None:
        self._state.make_passwords()
        # Their ports count as taken until they are gone.
        await together(
            self._postgres.wait_for_earlier_server(), self._kafka.wait_for_earlier_broker()
        )
        ports.choose(self._state.ports_file, PORTS)
        await together(
            self._check_external_databases() if self._external_urls else self._postgres.prepare(),
            self._check_external_kafka(self._external_kafka)
            if self._external_kafka
            else self._kafka.prepare(),
        )

    @property
    def ports(self) -> set[int]:
        """Those of its servers, whether they run or not."""
        return set(self._state.ports().values())

    @property
    def processes(self) -> list[Process]:
        """What must run; the two may start at once."""
        embedded = []
        if not self._external_urls:
            embedded.append(self._postgres.process())
        if not self._external_kafka:
            embedded.append(self._kafka.process())
        return embedded

    async def create_database(self, name: str = DATABASE, template: str | None = None) -> None:
        """With schemas and roles; one that exists stays. `template` must have no sessions."""
        if self._external_urls:
            _only_the_given_database(name)
            return
        passwords = {role: self._state.password(role) for role in DATABASE_URLS.values()}
        # Roles belong to all databases, and PostgreSQL refuses two changes of one role at once.
        async with self._creating:
            await databases.create_database(self._admin_url, name, template, passwords)

    async def drop_database(self, name: str) -> None:
        if self._external_urls:
            raise ClusterError(
                f"{name!r} is in an external PostgreSQL: annobus drops no database there"
            )
        await databases.drop_database(self._admin_url, name)

    def environment(self, database: str = DATABASE) -> dict[str, str]:
        """The addresses, by the names that services and `annobus migrate` read."""
        if self._external_urls:
            _only_the_given_database(database)
            urls = self._external_urls
        else:
            urls = {
                name: self._postgres.url(role, database) for name, role in DATABASE_URLS.items()
            }
        return {**urls, KAFKA_BOOTSTRAP: self._external_kafka or self._kafka.bootstrap}

    def close(self) -> None:
        """Lets others use the state folder; to be called when the processes have ended."""
        self._state.release()

    def remove(self) -> None:
        """Deletes the state folder and what belongs to it elsewhere; nothing of it may run."""
        self._state.acquire()
        self._postgres.remove()
        shutil.rmtree(self._state.path)
        self._state.release()

    @property
    def _admin_url(self) -> str:
        return self._postgres.url("postgres", "postgres")

    async def _check_external_databases(self) -> None:
        for variable, url in self._external_urls.items():
            # The URL holds a password, which no message may show.
            address = urlsplit(url)
            where = f"{address.hostname}:{address.port or 5432}{address.path} ({variable})"
            try:
                connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_SECONDS)
            except TimeoutError:
                raise ClusterError(
                    f"the external PostgreSQL at {where} did not answer "
                    f"within {CONNECT_TIMEOUT_SECONDS:g} s"
                ) from None
            except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                raise ClusterError(
                    f"the external PostgreSQL at {where} cannot be used: {error}"
                ) from None
            await connection.close(timeout=CONNECT_TIMEOUT_SECONDS)

    async def _check_external_kafka(self, bootstrap: str) -> None:
        reason = await kafka_answers(bootstrap)
        if reason is not None:
            raise ClusterError(f"the external Kafka of {KAFKA_BOOTSTRAP} does not answer: {reason}")


def _only_the_given_database(name: str) -> None:
    if name != DATABASE:
        raise ClusterError(
            f"the external PostgreSQL is used as it is, so there is no database {name!r}: "
            f"only the one in its URLs, called {DATABASE!r} here"
        )
