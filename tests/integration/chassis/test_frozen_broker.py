"""A broker that takes connections and answers nothing: unknown is not lost, and nobody waits for
ever. It is a second one, which only these tests freeze."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio
from sqlalchemy import text

from contracts.messages import InvalidateNamespace
from contracts.topics import DEAD_LETTERS
from infra.cluster import Cluster
from infra.supervisor import Supervisor
from services.chassis import liveness, outbox
from services.chassis.bus import Bus
from services.chassis.database import open_session
from tests.integration.chassis.desk import (
    COMMANDS,
    WAIT_SECONDS,
    Broker,
    Heard,
    open_broker,
    started,
)
from tests.integration.chassis.listener import SAY
from tests.integration.chassis.supervised import (
    AT_ONCE_SECONDS,
    SHORT_SECONDS,
    ended,
    supervised,
)
from tests.system import Database, SharedCluster
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


class OtherKafka:
    def __init__(self, bootstrap: str, pid: int) -> None:
        self.bootstrap = bootstrap
        self._pid = pid

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        os.kill(self._pid, signal.SIGSTOP)
        try:
            await until(self._is_stopped, "Kafka is stopped")
            yield
        finally:
            os.kill(self._pid, signal.SIGCONT)

    def _is_stopped(self) -> bool:
        """Each thread of it: under load some go on for a while, and may answer."""
        stats = [task.read_text() for task in Path(f"/proc/{self._pid}/task").glob("*/stat")]
        return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)

    @asynccontextmanager
    async def broker(self) -> AsyncIterator[Broker]:
        prefix = f"test-{uuid4().hex[:8]}."
        async with open_broker(self.bootstrap, prefix, COMMANDS, DEAD_LETTERS) as broker:
            yield broker


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def other_kafka(
    cluster: SharedCluster, template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[OtherKafka]:
    """With the session's PostgreSQL as an external one, it is Kafka alone."""
    environment = cluster.environment(template)
    del environment["ANNOBUS_KAFKA_BOOTSTRAP"]
    other = Cluster(tmp_path_factory.mktemp("other") / "state", environment)
    await other.prepare()
    async with Supervisor() as supervisor:
        await supervisor.add(*other.processes)
        bootstrap = other.environment()["ANNOBUS_KAFKA_BOOTSTRAP"]
        yield OtherKafka(bootstrap, supervisor.pids["kafka"])
    other.close()


async def test_what_the_relay_could_not_send_in_time_is_sent_again_in_order_under_the_same_ids(
    other_kafka: OtherKafka, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = database.settings("gateway")
    sent = [("a", 1), ("b", 1), ("a", 2), ("c", 1), ("b", 2), ("a", 3)]
    async with (
        other_kafka.broker() as broker,
        database.engine("gateway") as engine,
        open_session(settings, "test-relay") as session,
        started(bus := Bus(broker.settings, "gateway")),
    ):
        async with engine.begin() as tx:
            await outbox.add(tx, InvalidateNamespace(namespace="first"))
        assert await outbox.relay_once(session, bus.publish) == 1  # It knows the topic now.

        async with engine.begin() as tx:
            for key, number in sent:
                await outbox.add(tx, InvalidateNamespace(namespace=f"{key}{number}"))
            await tx.execute(text("UPDATE outbox SET key = left(key, 1)"))
            rows = (await tx.execute(text("SELECT event_id FROM outbox ORDER BY id"))).all()
        ids = [str(row.event_id) for row in rows]
        with monkeypatch.context() as patch:
            patch.setattr(outbox, "PUBLISH_TIMEOUT_SECONDS", 0.5)
            async with other_kafka.frozen():
                for _ in range(2):
                    assert await outbox.relay_once(session, bus.publish) == 0
                    assert await session.scalar(text("SELECT count(*) FROM outbox")) == len(sent)
        assert await outbox.relay_once(session, bus.publish) == len(sent)
        assert await session.scalar(text("SELECT count(*) FROM outbox")) == 0
        records = await broker.records(COMMANDS, 1 + len(sent))

    found: dict[str, str] = {}  # ce_id → namespace, in the order of the first arrival.
    for record in records:
        name = InvalidateNamespace.model_validate_json(record.value).namespace
        assert found.setdefault(dict(record.headers)["ce_id"].decode(), name) == name
    by_id = dict(zip(ids, (f"{key}{number}" for key, number in sent), strict=True))
    assert {ce_id: name for ce_id, name in found.items() if name != "first"} == by_id
    for key in "abc":
        arrived = [name for name in found.values() if name.startswith(key)]
        assert arrived == [name for name in by_id.values() if name.startswith(key)]


async def test_a_listener_outlives_a_broker_that_answers_nothing_for_a_while(
    other_kafka: OtherKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DEAD_SECONDS", "STUCK_SECONDS", "NOTED_SECONDS"):
        monkeypatch.setattr(liveness, name, 0.3)
    heard = Heard()
    async with other_kafka.broker() as broker, broker.listen(heard) as bus:
        await broker.command("before")
        await heard.until("before")
        watching = asyncio.create_task(bus.watch())
        async with other_kafka.frozen():
            assert "Kafka does not answer" in await bus.problems()
        await broker.command("after")
        await heard.until("after")
        assert not watching.done()
        watching.cancel()
        async with asyncio.timeout(WAIT_SECONDS):
            while await bus.problems():
                await asyncio.sleep(0.02)
    assert heard.names == ["before", "after"]


async def test_a_process_stops_in_time_though_its_broker_does_not_answer(
    other_kafka: OtherKafka, tmp_path: Path
) -> None:
    """An idempotent producer waits for ever for what it was given."""
    async with (
        other_kafka.broker() as broker,
        supervised(broker, tmp_path, SHORT_SECONDS) as listener,
    ):
        pid = listener.pid
        await broker.command(SAY)
        await listener.until(lambda: "said before" in listener.noted())
        async with other_kafka.frozen():
            os.kill(pid, signal.SIGUSR1)
            await listener.until(lambda: f"handled {SAY}" in listener.noted())
            assert await ended(pid, signal.SIGTERM) < SHORT_SECONDS + AT_ONCE_SECONDS
        await broker.command("next")
        await listener.until(lambda: "handled next" in listener.noted())
    assert "stop_given_up" in listener.log_file.read_text()
