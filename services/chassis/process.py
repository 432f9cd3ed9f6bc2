"""The life of a service's process: start in order, run, stop in reverse; die rather than limp."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

import structlog
import uvloop
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis import database, failpoints, http, telemetry
from services.chassis.failpoints import Failpoint
from services.chassis.settings import ServiceSettings

log = structlog.get_logger()

T = TypeVar("T")

WAIT_SECONDS = 0.5
# What a supervisor grants: the message in flight 10 s, open requests 5 s. Without an end of its
# own a stop would wait for a broker that does not answer, as an idempotent producer does, for ever.
STOP_SECONDS = 15.0
FAILED_STOP_SECONDS = 3.0  # Of who ends because it is ill: what it waits for may never come.
PROBE_SECONDS = 0.25


class Process:
    """What a composition root builds its service in.

    `enter` starts a resource now and stops it in reverse order at the end; `keep` runs a loop,
    and a loop that ends ends the process: whoever supervises it starts a clean one.
    """

    def __init__(self, service: str, settings: ServiceSettings) -> None:
        telemetry.configure_logging(settings.shared, service)
        failpoints.switch_on(settings.shared, service)
        self.service = service
        self.settings = settings
        self._stack = AsyncExitStack()
        self._stopping = asyncio.Event()
        self._failure: BaseException | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        self.keep("loop-lag", probe_lag())
        return self

    def _on_signal(self) -> None:
        if self._stopping.is_set():  # Asked twice: do not wait for anything.
            signal.raise_signal(signal.SIGKILL)
        self._stopping.set()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        log.info("stopping", error=repr(error) if error else None)
        failpoints.hit(Failpoint.STOP_BEGUN)
        seconds = STOP_SECONDS if self._failure is None else FAILED_STOP_SECONDS
        late = asyncio.get_running_loop().call_later(seconds, _give_up, seconds)
        await self._stack.aclose()
        late.cancel()
        log.info("stopped")
        if self._failure is not None:
            raise self._failure

    async def enter(self, resource: AbstractAsyncContextManager[T]) -> T:
        return await self._stack.enter_async_context(resource)

    def keep(self, name: str, loop: Coroutine[Any, Any, None]) -> None:
        """Run a loop until the end of the process, and end the process with the loop."""
        task = asyncio.create_task(loop, name=name)
        task.add_done_callback(self._on_ended)
        self._stack.push_async_callback(_cancel, task)

    def at_stop(self, stop: Callable[[], Awaitable[None]]) -> None:
        self._stack.push_async_callback(stop)

    def _on_ended(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled() or self._stopping.is_set():
            return
        error = task.exception()
        log.error("loop_ended", loop=task.get_name(), exc_info=error)
        self._failure = error or RuntimeError(f"{task.get_name()} ended")
        self._stopping.set()

    async def take_slot(self) -> str:
        """This process's instance name; it ends when it loses it."""
        name: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def held(slot: str) -> None:
            if not name.done():
                name.set_result(slot)

        async def hold() -> None:
            while not name.done():  # Before it is held, a database that is down is only waited for.
                try:
                    await database.hold_slot(self.settings, self.service, held)
                except database.CONNECTION_ERRORS as error:
                    log.warning("slot_waits", error=repr(error))
                    await asyncio.sleep(WAIT_SECONDS)
            raise SlotLost(name.result())

        self.keep("slot", hold())
        slot = await self.unless_stopped(name)
        structlog.contextvars.bind_contextvars(instance=slot)
        return slot

    async def unless_stopped(self, awaitable: Awaitable[T]) -> T:
        """Wait for something that may take for ever; ends the process when it is told to stop."""
        waited = asyncio.ensure_future(awaitable)
        stopped = asyncio.ensure_future(self._stopping.wait())
        both: set[asyncio.Future[Any]] = {waited, stopped}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if waited.done():
            return waited.result()
        waited.cancel()
        await asyncio.wait({waited})
        raise SystemExit(0)

    def schema_check(self, engine: AsyncEngine, revision: str) -> http.Check:
        """Readiness: the database answers, and its schema is at least what this service needs."""

        async def check() -> list[str]:
            if await database.has_revision(engine, revision):
                return []
            return [f"the schema is not at {revision}: run `annobus migrate`"]

        return check

    async def wait_for_schema(self, engine: AsyncEngine, revision: str) -> None:
        """Only `annobus migrate` changes a schema; a service waits for the one it needs."""
        await self.unless_stopped(_until_revision(engine, revision))

    async def until_stopped(self) -> None:
        log.info("started")
        await self._stopping.wait()


async def _until_revision(engine: AsyncEngine, revision: str) -> None:
    while True:
        try:
            if await database.has_revision(engine, revision):
                return
            log.info("schema_missing", needed=revision)
        except database.CONNECTION_ERRORS as error:
            log.warning("database_waits", error=repr(error))
        await asyncio.sleep(WAIT_SECONDS)


class SlotLost(Exception):
    """Another process may bear this process's name now."""


def _give_up(seconds: float) -> None:
    log.error("stop_given_up", seconds=seconds)
    signal.raise_signal(signal.SIGKILL)


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait({task})


async def probe_lag() -> None:
    """Measure how late the loop wakes a sleeper: what blocks it shows here."""
    while True:
        due = time.perf_counter() + PROBE_SECONDS
        await asyncio.sleep(PROBE_SECONDS)
        telemetry.LOOP_LAG.set(time.perf_counter() - due)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a composition root on uvloop."""
    uvloop.run(main)
