"""Connections: an engine per service and role, one long-lived session for locks and wake-ups."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog
from asyncpg import InterfaceError, PostgresError
from sqlalchemy import AdaptedConnection, NullPool, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import (
    DBAPIError,
    DisconnectionError,
    IntegrityError,
    NotSupportedError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolExhausted
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from services.chassis.settings import ServiceSettings

log = structlog.get_logger()

CONNECT_TIMEOUT_SECONDS = 5
COMMAND_TIMEOUT_SECONDS = 30
TRANSACTION_TIMEOUT = "5s"  # A store that takes longer is stuck, and others wait for its locks.
LONG_TRANSACTION_TIMEOUT = "120s"  # For the few that read or write a table as a whole.
POOL_TIMEOUT_SECONDS = 10
LOCK_RETRY_SECONDS = 0.5
# Of a session that holds a lock. Longer than a database stands still that comes back; who does not
# hear of it that the network has lost the session would believe as long that the lock is its own.
ANSWER_SECONDS_MAX = 15.0
RECONNECT_SECONDS = 0.5
MISTAKE_SECONDS = 5.0  # Before work is tried again that another try will hardly mend.

# What a lost, refused or restarting database raises; all of it is worth another try.
CONNECTION_ERRORS = (OSError, DBAPIError, PoolExhausted, InterfaceError, PostgresError)
# Among them, because asyncpg's classes are mapped so: what no other try would mend.
OUR_MISTAKES = (ProgrammingError, IntegrityError, NotSupportedError)
# By SQLSTATE: values that no column takes, as a text with NUL or a number that is too large, for
# which SQLAlchemy has no class here; and a row that a CHECK forbids.
REFUSED = ("22", "23514")
BROKEN_OFF = "57014"  # A statement, by its time limit or by somebody's wish.


def is_worth_another_try(error: Exception) -> bool:
    is_mistake = isinstance(error, OUR_MISTAKES) or is_refused(error)
    return isinstance(error, CONNECTION_ERRORS) and not is_mistake


def is_refused(error: Exception) -> bool:
    """Whether it is the values that the database does not take, whenever it is asked."""
    return _sqlstate(error).startswith(REFUSED)


def is_broken_off(error: Exception) -> bool:
    return _sqlstate(error) == BROKEN_OFF


def _sqlstate(error: Exception) -> str:
    said = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(said, "sqlstate", None))


def _arguments(application: str) -> dict[str, Any]:
    return {
        "timeout": CONNECT_TIMEOUT_SECONDS,
        "command_timeout": COMMAND_TIMEOUT_SECONDS,
        "server_settings": {
            # With the process: whose lock is it that others wait for?
            "application_name": f"{application} {os.getpid()}",
            "transaction_timeout": TRANSACTION_TIMEOUT,
            "idle_in_transaction_session_timeout": TRANSACTION_TIMEOUT,
            # A plan cached while a table was empty scans it for every batch.
            "plan_cache_mode": "force_custom_plan",
            "jit": "off",
        },
    }


def _url(settings: ServiceSettings) -> str:
    scheme, _, rest = settings.database_url.get_secret_value().partition("://")
    if scheme not in ("postgresql", "postgres"):
        # Never the value: it holds a password.
        raise ValueError("database_url does not start with postgresql://")
    return f"postgresql+asyncpg://{rest}"


@asynccontextmanager
async def open_engine(settings: ServiceSettings, application: str) -> AsyncIterator[AsyncEngine]:
    """The service's pool, with its role and its time limits."""
    engine = create_async_engine(
        _url(settings),
        pool_size=settings.pool_size,
        max_overflow=settings.pool_overflow,
        pool_timeout=POOL_TIMEOUT_SECONDS,
        hide_parameters=True,
        connect_args=_arguments(application),
    )
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    try:
        yield engine
    finally:
        await engine.dispose()


def _refuse_closed(connection: DBAPIConnection, _record: object, _proxy: object) -> None:
    """A connection that the server has closed is replaced before anybody uses it. The driver
    knows without asking; a question at each checkout cost as much as the statements."""
    assert isinstance(connection, AdaptedConnection)
    if connection.driver_connection.is_closed():
        raise DisconnectionError


@asynccontextmanager
async def open_session(
    settings: ServiceSettings, application: str
) -> AsyncIterator[AsyncConnection]:
    """One connection outside the pool, in autocommit: what holds session locks and listens."""
    engine = create_async_engine(
        _url(settings),
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
        connect_args=_arguments(application),
    )
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


async def allow_long_transaction(tx: AsyncConnection) -> None:
    """From now on this transaction has LONG_TRANSACTION_TIMEOUT."""
    # Switched off first: PostgreSQL does not move the end of a timeout that runs already.
    await tx.execute(text("SET LOCAL transaction_timeout = 0"))
    await tx.execute(text(f"SET LOCAL transaction_timeout = '{LONG_TRANSACTION_TIMEOUT}'"))


async def limit_statements(session: AsyncConnection, seconds: float | None) -> None:
    """In autocommit: statements that take longer are broken off from now on; None: no more."""
    ms = 0 if seconds is None else int(seconds * 1000)
    await session.execute(text(f"SET statement_timeout = {ms}"))


async def get_pid(session: AsyncConnection) -> int:
    """Of the process of PostgreSQL that serves this session."""
    return int(await session.scalar(text("SELECT pg_backend_pid()")) or 0)


async def try_lock(connection: AsyncConnection, name: str) -> bool:
    """Take a session lock of this database, or say that somebody has it."""
    locked = await connection.scalar(
        text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))"), {"name": name}
    )
    return bool(locked)


async def listen(connection: AsyncConnection, channel: str) -> asyncio.Event:
    """An event that is set at each notification on this channel."""
    heard = asyncio.Event()
    raw = await connection.get_raw_connection()
    assert raw.driver_connection is not None
    await raw.driver_connection.add_listener(channel, lambda *_: heard.set())
    return heard


async def notify(tx: AsyncConnection, channel: str) -> None:
    """Wake who listens on this channel, when the transaction commits."""
    await tx.execute(text("SELECT pg_notify(:channel, '')"), {"channel": channel})


async def hold_slot(settings: ServiceSettings, service: str, held: Callable[[str], None]) -> None:
    """Hold the lowest free instance name, such as `annotator-0`, or the one the settings name.

    Calls `held` once it has it and returns when the session that holds it is lost: then
    somebody else may bear the name, and this process must end.
    """
    async with open_session(settings, f"{service}-slot") as connection:
        slots = range(100) if settings.slot is None else [settings.slot]
        while True:
            for slot in slots:
                name = f"{service}-{slot}"
                if await try_lock(connection, f"slot:{name}"):
                    held(name)
                    await _until_lost(connection)
                    return
            log.info("slot_taken", slots=str(slots))
            await asyncio.sleep(LOCK_RETRY_SECONDS)


async def _until_lost(connection: AsyncConnection) -> None:
    while True:
        await asyncio.sleep(LOCK_RETRY_SECONDS)
        await _check_held(connection)


async def _check_held(connection: AsyncConnection) -> None:
    """A lock is held as long as its session. Raises one of CONNECTION_ERRORS."""
    async with asyncio.timeout(ANSWER_SECONDS_MAX):
        await connection.execute(text("SELECT 1"))


async def alone(
    settings: ServiceSettings,
    duty: str,
    work: Callable[[AsyncConnection], Awaitable[bool]],
    *,
    period_seconds: float,
    coalesce_seconds: float = 0,
) -> None:
    """Repeat `work` for ever, in one process at a time per database.

    `duty` names the session lock and the channel that wakes it; the period is what a lost
    wake-up costs. Work that comes after a quiet time is done at once, and then one piece at most
    in `coalesce_seconds`: what wakes it comes in bursts. `work` gets the session that holds the
    lock, in autocommit, and returns whether it left something to do. A database that is gone ends
    the session, and the lock.
    """
    while True:
        try:
            async with open_session(settings, duty) as connection:
                heard = await listen(connection, duty)
                while not await try_lock(connection, f"duty:{duty}"):
                    await asyncio.sleep(LOCK_RETRY_SECONDS)
                log.info("duty_taken", duty=duty)
                while True:
                    heard.clear()
                    await _check_held(connection)
                    if await work(connection):
                        continue
                    ended = time.monotonic()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(period_seconds):
                            await heard.wait()
                    await asyncio.sleep(ended + coalesce_seconds - time.monotonic())
        except CONNECTION_ERRORS as error:
            if not is_worth_another_try(error):
                log.exception("duty_failed", duty=duty)
                await asyncio.sleep(MISTAKE_SECONDS)
                continue
            log.warning("duty_interrupted", duty=duty, error=repr(error))
            await asyncio.sleep(RECONNECT_SECONDS)


async def has_revision(engine: AsyncEngine, revision: str) -> bool:
    """Whether `annobus migrate` has brought this service's schema to the revision it needs, such
    as `annotator_0002`, or beyond: what it needs is still there then."""
    async with engine.connect() as connection:
        if await connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
            return False
        found = await connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found is not None and _number(found) >= _number(revision)


def _number(revision: str) -> int:
    return int(revision.rpartition("_")[2])
