"""A real PostgreSQL and a real Kafka: they answer, keep roles apart, keep their data."""

import asyncio
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import UnknownTopicOrPartitionError

from infra.cluster import Cluster
from infra.errors import ClusterError
from infra.roles import ROLES
from infra.state import StateFolder
from infra.supervisor import Supervisor
from tests.system import ROOT

pytestmark = [pytest.mark.embedded, pytest.mark.asyncio(loop_scope="module")]

DEADLINE_SECONDS = 30.0
UNASKED_MILLISECONDS = 2_000  # How long a producer hopes for a topic that nobody has made.
TOPIC = "greetings.v1"


@dataclass(frozen=True)
class Running:
    state: Path
    cluster: Cluster
    supervisor: Supervisor

    @asynccontextmanager
    async def connect(
        self, role: str, database: str = "annobus"
    ) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        url = self.cluster.environment(database)[f"{role.upper()}_DATABASE_URL"]
        connection = await asyncpg.connect(url, ssl=False)
        try:
            yield connection
        finally:
            await connection.close()

    async def kill(self, name: str) -> None:
        """Kills it with SIGKILL and waits until another process is ready in its place."""
        process = next(process for process in self.cluster.processes if process.name == name)
        pid = self.supervisor.pids[name]
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(DEADLINE_SECONDS):
            while self.supervisor.pids.get(name, pid) == pid or not await process.ready():
                await asyncio.sleep(0.01)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    # A space, a comma and a letter outside ASCII: each has broken a start of one of the two.
    state = tmp_path_factory.mktemp("a cluster, größer") / ".annobus"
    cluster = Cluster(state, {})
    await cluster.prepare()
    async with Supervisor() as supervisor:
        await supervisor.add(*cluster.processes)
        await cluster.create_database()
        yield Running(state, cluster, supervisor)
    cluster.close()
    cluster.remove()
    assert not state.exists()


async def send(bootstrap: str, text: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True) as producer:
        await producer.send_and_wait(TOPIC, text)


async def read(bootstrap: str, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(TOPIC, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    async with asyncio.timeout(DEADLINE_SECONDS), consumer:
        return [(await consumer.getone()).value for _ in range(count)]


async def test_postgres_18_answers_with_the_settings_it_was_given(running: Running) -> None:
    expected = {
        "max_connections": "200",
        "fsync": "on",
        "synchronous_commit": "on",
        "jit": "off",
        "TimeZone": "UTC",
        "server_encoding": "UTF8",
        "data_checksums": "on",
        "listen_addresses": "127.0.0.1",
    }
    async with running.connect("annobus") as owner:
        assert (await owner.fetchval("SHOW server_version")).startswith("18.")
        found = {name: await owner.fetchval(f"SHOW {name}") for name in expected}
    assert found == expected


async def test_roles_have_the_passwords_that_the_step_before_migrate_is_given(
    running: Running,
) -> None:
    state = StateFolder(running.state)
    address = urlsplit(running.cluster.environment()["GATEWAY_DATABASE_URL"])
    place = f"127.0.0.1:{address.port}"
    kept = {f"{role.upper()}_PASSWORD": state.password(role) for role in ROLES}
    administrator = f"postgresql://postgres:{state.password('postgres')}@{place}/postgres"

    async def prepare(**changed: str) -> tuple[int | None, str]:
        environment = kept | {"ADMIN_DATABASE_URL": administrator} | changed
        step = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "infra.roles"),
            cwd=ROOT,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await step.communicate()
        return step.returncode, said.decode()

    async def connect(password: str) -> None:
        url = f"postgresql://gateway:{password}@{place}/annobus"
        await (await asyncpg.connect(url, ssl=False)).close()

    another = secrets.token_hex()
    code, said = await prepare(GATEWAY_PASSWORD=another)
    assert code == 0, said
    await connect(another)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await connect(kept["GATEWAY_PASSWORD"])

    code, said = await prepare(ADMIN_DATABASE_URL=administrator.replace("postgres:", "nobody:", 1))
    assert code == 1
    assert said.startswith("annobus: the database was not prepared: ")

    assert (await prepare())[0] == 0
    await connect(kept["GATEWAY_PASSWORD"])


async def test_kafka_keeps_a_message_when_it_is_killed_and_makes_no_topic_unasked(
    running: Running,
) -> None:
    bootstrap = running.cluster.environment()["ANNOBUS_KAFKA_BOOTSTRAP"]
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(TOPIC, num_partitions=1, replication_factor=1)])
        await send(bootstrap, b"before")
        assert await read(bootstrap, 1) == [b"before"]

        restarts = running.supervisor.restarts["kafka"]
        await running.kill("kafka")
        assert running.supervisor.restarts["kafka"] == restarts + 1
    finally:
        await admin.close()

    await send(bootstrap, b"after")
    assert await read(bootstrap, 2) == [b"before", b"after"]
    async with AIOKafkaProducer(
        bootstrap_servers=bootstrap, request_timeout_ms=UNASKED_MILLISECONDS
    ) as producer:
        with pytest.raises(UnknownTopicOrPartitionError):
            await producer.send_and_wait("unasked", b"is anybody there?")
    assert not list((running.state / "kafka" / "data").glob("unasked*"))


async def test_postgres_keeps_a_row_when_it_is_killed_under_sessions_that_work(
    running: Running,
) -> None:
    async with running.connect("annobus") as owner, running.connect("annobus") as busy:
        await owner.execute("CREATE TABLE public.kept (word text)")
        await owner.execute("INSERT INTO public.kept VALUES ('here')")
        # A session that computes does not notice that its server is gone.
        work = asyncio.ensure_future(
            busy.execute(
                "SELECT count(*) FROM generate_series(1, 99999) a, generate_series(1, 99999)"
            )
        )
        await running.kill("postgres")
        with pytest.raises((asyncpg.PostgresError, OSError)):
            await work
    async with running.connect("annobus") as owner:
        assert await owner.fetchval("SELECT word FROM public.kept") == "here"
        await owner.execute("DROP TABLE public.kept")


async def test_a_service_works_in_its_own_schema_and_reads_no_other(running: Running) -> None:
    async with running.connect("annobus") as owner:
        for schema in ("annotator", "cache"):
            await owner.execute(
                f"CREATE TABLE {schema}.note (id int GENERATED BY DEFAULT AS IDENTITY, word text)"
            )
            await owner.execute(f"CREATE SEQUENCE {schema}.number")
    async with running.connect("annotator") as annotator:
        # Without a prefix: its search path is its own schema.
        await annotator.execute("INSERT INTO note (word) VALUES ('mine')")
        await annotator.execute("UPDATE note SET word = 'still mine'")
        assert await annotator.fetchval("SELECT word FROM note") == "still mine"
        assert await annotator.fetchval("SELECT nextval('number')") == 1
        await annotator.execute("DELETE FROM note")
        for forbidden in (
            "SELECT * FROM cache.note",
            "INSERT INTO cache.note (word) VALUES ('not mine')",
            "SELECT nextval('cache.number')",
            "TRUNCATE note",
            "CREATE TABLE mine (id int)",
            "CREATE TABLE public.mine (id int)",
            "CREATE ROLE friend",
            "SET ROLE annobus",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await annotator.execute(forbidden)


async def test_the_owner_is_no_superuser_and_the_services_may_only_log_in(
    running: Running,
) -> None:
    async with running.connect("annobus") as owner:
        rows = await owner.fetch(
            "SELECT rolname, rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication"
            " OR rolbypassrls AS powers, rolcanlogin FROM pg_roles WHERE rolname !~ '^pg_'"
        )
        memberships = await owner.fetchval(
            "SELECT count(*) FROM pg_auth_members JOIN pg_roles ON pg_roles.oid = member"
            " WHERE rolname = ANY($1)",
            ["annobus", "annotator", "cache", "gateway"],
        )
    assert {(row["rolname"], row["powers"], row["rolcanlogin"]) for row in rows} == {
        ("postgres", True, True),
        ("annobus", False, True),
        ("annotator", False, True),
        ("cache", False, True),
        ("gateway", False, True),
    }
    assert memberships == 0


async def test_nobody_enters_without_the_password(running: Running) -> None:
    url = running.cluster.environment()["ANNOBUS_DATABASE_URL"]
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(url, password="guess", ssl=False)  # noqa: S106


async def test_a_database_is_copied_from_a_template_and_made_again_without_harm(
    running: Running,
) -> None:
    cluster = running.cluster
    await cluster.create_database("template_1")
    async with running.connect("annobus", "template_1") as owner:
        await owner.execute("CREATE TABLE gateway.run (id int)")
    await asyncio.gather(
        *(cluster.create_database(name, "template_1") for name in ("copy_1", "copy_2"))
    )
    async with running.connect("gateway", "copy_2") as gateway:
        await gateway.execute("INSERT INTO run VALUES (1)")
        await cluster.create_database("copy_2", "template_1")
        assert await gateway.fetchval("SELECT id FROM run") == 1
        await cluster.drop_database("copy_2")
    await cluster.drop_database("copy_2")
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        async with running.connect("gateway", "copy_2"):
            pass


async def test_a_bad_name_and_a_missing_template_are_named(running: Running) -> None:
    with pytest.raises(ClusterError, match="'no-good' cannot name a database"):
        await running.cluster.create_database("no-good")
    with pytest.raises(ClusterError, match="there is no database 'missing'"):
        await running.cluster.create_database("fine", "missing")


async def test_a_second_user_of_the_state_folder_is_told_who_has_it(running: Running) -> None:
    other = Cluster(running.state, {})
    assert other.holder == os.getpid()
    with pytest.raises(ClusterError, match=f"in use by the process {os.getpid()}"):
        await other.prepare()
    # It may still use what the first one keeps up.
    assert other.environment() == running.cluster.environment()


async def test_what_must_stay_private_is_readable_by_its_owner_alone(running: Running) -> None:
    modes = {
        name: (running.state / name).stat().st_mode & 0o777
        for name in ("", "passwords.json", "ports.json", "logs", "kafka")
    }
    assert modes == {"": 0o700, "passwords.json": 0o600, "ports.json": 0o600} | {
        "logs": 0o700,
        "kafka": 0o700,
    }


async def test_external_servers_are_used_as_they_are(running: Running, tmp_path: Path) -> None:
    environment = running.cluster.environment()
    external = Cluster(tmp_path / "state", environment)
    await external.prepare()
    assert external.processes == []
    await external.create_database()
    assert external.environment() == environment
    with pytest.raises(ClusterError, match="no database 'other'"):
        await external.create_database("other")
    with pytest.raises(ClusterError, match="drops no database"):
        await external.drop_database("annobus")
    external.close()


async def test_external_servers_that_do_not_answer_are_named_without_their_password(
    running: Running, tmp_path: Path
) -> None:
    environment = running.cluster.environment()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        nowhere = f"postgresql://gateway:secret@127.0.0.1:{port}/annobus"
        wrong = {**environment, "GATEWAY_DATABASE_URL": nowhere}
        with pytest.raises(ClusterError, match=rf":{port}/annobus \(GATEWAY_DATABASE_URL") as found:
            await Cluster(tmp_path / "state", wrong).prepare()
        assert "secret" not in str(found.value)
        wrong = {**environment, "ANNOBUS_KAFKA_BOOTSTRAP": f"127.0.0.1:{port}"}
        with pytest.raises(ClusterError, match=f"Kafka .* does not answer: 127.0.0.1:{port}"):
            await Cluster(tmp_path / "state", wrong).prepare()


async def test_an_external_database_needs_an_address_for_each_service(tmp_path: Path) -> None:
    given = {"ANNOBUS_DATABASE_URL": "postgresql://a:b@db/annobus", "CACHE_DATABASE_URL": "x"}
    with pytest.raises(ClusterError, match="ANNOTATOR_DATABASE_URL, GATEWAY_DATABASE_URL must be"):
        Cluster(tmp_path, given)
