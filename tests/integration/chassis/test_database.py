"""Locks of a database: instance names, duties that one process has at a time, and time limits."""

import asyncio
import time
from random import Random
from urllib.parse import urlsplit

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import database as chassis_database
from tests.faults.proxy import open_proxy
from tests.system import Database

WAIT_SECONDS = 10


class Slot:
    """A process that bears an instance name, as far as the database can tell."""

    def __init__(self, database: Database, slot: int | None = None) -> None:
        self.name: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        settings = database.settings("annotator", slot=slot)
        self.task = asyncio.create_task(
            chassis_database.hold_slot(settings, "annotator", self.name.set_result)
        )

    async def held(self) -> str:
        async with asyncio.timeout(WAIT_SECONDS):
            return await asyncio.shield(self.name)

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})


async def test_each_process_takes_the_lowest_free_name(database: Database) -> None:
    first, second = Slot(database), Slot(database)
    assert {await first.held(), await second.held()} == {"annotator-0", "annotator-1"}
    zero = first if first.name.result() == "annotator-0" else second
    await zero.end()
    third = Slot(database)
    assert await third.held() == "annotator-0"
    for slot in (first, second, third):
        await slot.end()


async def test_a_named_slot_is_waited_for(database: Database) -> None:
    first = Slot(database, 7)
    assert await first.held() == "annotator-7"
    second = Slot(database, 7)
    await asyncio.wait({second.name}, timeout=0.3)
    assert not second.name.done()
    await first.end()
    assert await second.held() == "annotator-7"
    await second.end()


async def test_a_process_that_loses_its_session_learns_of_it(database: Database) -> None:
    slot = Slot(database)
    await slot.held()
    async with database.connect("annotator") as killer:
        await killer.execute(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE application_name LIKE 'annotator-slot %' AND datname = current_database()"""
        )
    async with asyncio.timeout(WAIT_SECONDS):
        await asyncio.wait({slot.task})
    assert slot.task.exception() is not None


async def test_a_process_whose_session_the_network_has_lost_gives_its_name_up(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody says so: what is asked is not answered any more, and the database has let go."""
    monkeypatch.setattr(chassis_database, "ANSWER_SECONDS_MAX", 1.0)
    address = database.environment["ANNOTATOR_DATABASE_URL"]
    port = urlsplit(address).port
    assert port is not None
    async with open_proxy(port) as proxy:
        url = address.replace(f":{port}/", f":{proxy.port}/")
        far = Slot(Database(database.name, {**database.environment, "ANNOTATOR_DATABASE_URL": url}))
        name = await far.held()
        losing = asyncio.create_task(proxy.suffer("half_open", 60.0, Random(1)))  # noqa: S311
        near = Slot(database, int(name.rpartition("-")[2]))
        assert await near.held() == name
        async with asyncio.timeout(WAIT_SECONDS):
            await asyncio.wait({far.task})
        assert isinstance(far.task.exception(), chassis_database.CONNECTION_ERRORS)
        losing.cancel()
        await near.end()


async def test_a_duty_is_woken_by_a_notification_and_repeats_while_there_is_work(
    database: Database,
) -> None:
    passes: list[int] = []
    idle = asyncio.Event()

    async def work(_: AsyncConnection) -> bool:
        passes.append(1)
        if len(passes) in (1, 2, 4):
            return True
        idle.set()
        return False

    settings = database.settings("cache")
    duty = asyncio.create_task(
        chassis_database.alone(settings, "some-duty", work, period_seconds=60)
    )
    async with asyncio.timeout(WAIT_SECONDS):
        await idle.wait()
    assert len(passes) == 3
    idle.clear()
    async with database.engine("cache") as engine, engine.begin() as tx:
        await chassis_database.notify(tx, "some-duty")
    async with asyncio.timeout(WAIT_SECONDS):
        await idle.wait()
    assert len(passes) == 5
    duty.cancel()
    await asyncio.wait({duty})


async def test_a_duty_works_at_once_after_a_quiet_time_and_once_for_a_burst(
    database: Database,
) -> None:
    coalesce_seconds = 1.0
    began: asyncio.Queue[float] = asyncio.Queue()

    async def work(_: AsyncConnection) -> bool:
        began.put_nowait(time.monotonic())
        return False

    duty = asyncio.create_task(
        chassis_database.alone(
            database.settings("cache"),
            "some-duty",
            work,
            period_seconds=60,
            coalesce_seconds=coalesce_seconds,
        )
    )
    async with asyncio.timeout(WAIT_SECONDS), database.engine("cache") as engine:

        async def wake() -> None:
            async with engine.begin() as tx:
                await chassis_database.notify(tx, "some-duty")

        await began.get()
        await asyncio.sleep(coalesce_seconds)
        woken = time.monotonic()
        await wake()
        first = await began.get()
        for _ in range(4):
            await wake()
        second = await began.get()
        await asyncio.sleep(2 * coalesce_seconds)
    assert first - woken < coalesce_seconds / 2
    assert second - first >= coalesce_seconds
    assert began.empty()
    duty.cancel()
    await asyncio.wait({duty})


class Duty:
    """A duty of the cache that never looks at the session it is given."""

    def __init__(self, database: Database) -> None:
        self._passed = asyncio.Event()
        self._task = asyncio.create_task(
            chassis_database.alone(
                database.settings("cache"), "some-duty", self._work, period_seconds=0.05
            )
        )

    async def _work(self, _: AsyncConnection) -> bool:
        self._passed.set()
        return False

    async def worked(self, within_seconds: float = WAIT_SECONDS) -> None:
        """Return after the next pass. Raises TimeoutError."""
        self._passed.clear()
        async with asyncio.timeout(within_seconds):
            await self._passed.wait()

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})


LOCK = "hashtextextended('duty:some-duty', 0)"


async def sessions(observer: "asyncpg.Connection[asyncpg.Record]", *, holding: bool) -> set[int]:
    """The duty's sessions in the database: all, or those that hold its lock."""
    found = await observer.fetch(
        f"""SELECT pid FROM pg_stat_activity a
            WHERE application_name LIKE 'some-duty %' AND datname = current_database()
              AND (NOT $1 OR EXISTS (
                  SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.granted
                  AND l.locktype = 'advisory'
                  AND (l.classid::bigint << 32) | l.objid::bigint = {LOCK}))""",  # noqa: S608
        holding,
    )
    return {row["pid"] for row in found}


async def kill(observer: "asyncpg.Connection[asyncpg.Record]", pid: int) -> None:
    assert await observer.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)


async def test_a_duty_whose_database_session_is_killed_takes_its_lock_in_a_new_one(
    database: Database,
) -> None:
    duty = Duty(database)
    async with database.connect("cache") as observer:
        await duty.worked()
        (first,) = await sessions(observer, holding=True)
        await kill(observer, first)
        async with asyncio.timeout(WAIT_SECONDS):
            while not await sessions(observer, holding=True):
                await asyncio.sleep(0.02)
        await duty.worked()
        (second,) = await sessions(observer, holding=True)
        assert second != first
    await duty.end()


async def test_a_duty_that_lost_its_lock_to_another_does_not_work(database: Database) -> None:
    duty = Duty(database)
    async with database.connect("cache") as observer, database.connect("cache") as rival:
        await duty.worked()
        (first,) = await sessions(observer, holding=True)
        taking = asyncio.create_task(rival.execute(f"SELECT pg_advisory_lock({LOCK})"))
        async with asyncio.timeout(WAIT_SECONDS):
            while not await observer.fetchval(
                """SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                   WHERE NOT granted AND locktype = 'advisory' AND datname = current_database())"""
            ):
                await asyncio.sleep(0.02)
            await kill(observer, first)
            await taking
            while not await sessions(observer, holding=False):  # It is back, and has no lock.
                await asyncio.sleep(0.02)
        with pytest.raises(TimeoutError):
            await duty.worked(within_seconds=0.3)  # Six of its periods.
        await rival.execute(f"SELECT pg_advisory_unlock({LOCK})")
        await duty.worked()
        assert first not in await sessions(observer, holding=True)
    await duty.end()


async def test_a_transaction_ends_at_its_limit_and_a_long_one_may_go_on(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chassis_database, "TRANSACTION_TIMEOUT", "300ms")
    async with database.engine("annotator") as engine:
        with pytest.raises(DBAPIError):
            async with engine.begin() as tx:
                await tx.execute(text("SELECT pg_sleep(1)"))
        async with engine.begin() as tx:
            await chassis_database.allow_long_transaction(tx)
            await tx.execute(text("SELECT pg_sleep(1)"))


@pytest.mark.parametrize(
    ("found", "is_enough"),
    [("annotator_0000", False), ("annotator_0001", True), ("annotator_0002", True)],
)
async def test_a_service_is_content_with_a_newer_schema_than_it_needs(
    database: Database, found: str, is_enough: bool
) -> None:
    """`annobus migrate` runs before the services are replaced, and they go on meanwhile."""
    async with database.connect() as owner:
        await owner.execute("UPDATE annotator.alembic_version SET version_num = $1", found)
    async with database.engine("annotator") as engine:
        assert await chassis_database.has_revision(engine, "annotator_0001") is is_enough
