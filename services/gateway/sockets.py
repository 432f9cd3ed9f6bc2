"""The WebSockets of progress: one run, or all that are active."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from services.chassis import telemetry
from services.chassis.database import CONNECTION_ERRORS
from services.chassis.errors import field_error
from services.gateway import frames, jsonapi
from services.gateway.active import ActiveRuns
from services.gateway.domain import parse_run_id
from services.gateway.errors import ParameterInvalid, ParameterUnknown, RunUnknown
from services.gateway.live import Live, Seat

SOCKETS_MAX = 10_000
SEND_SECONDS_MAX = 5
CLOSE_SECONDS_MAX = 5
LINGER_SECONDS = 60  # A run that is over: the client may leave before that.
SEQ_MAX = 2**63 - 1
REASON_BYTES_MAX = 120  # What a close frame holds.

_AFTER = jsonapi.Allowed(others=("after",))
_NOTHING = jsonapi.Allowed()

NORMAL, TRY_AGAIN, BAD_PARAMETER, UNKNOWN_RUN = 1000, 1013, 4400, 4404


class SlowReader(Exception):
    """A client that does not take its frames: let it come back and start from the truth."""


Send = Callable[[WebSocket], Coroutine[Any, Any, None]]


@dataclass
class Sockets:
    live: Live
    active: ActiveRuns
    _open: set[WebSocket] = field(default_factory=set)

    async def watch_run(self, websocket: WebSocket) -> None:
        """`after` asks for the facts with a higher seq as well."""
        await self._serve(websocket, self._send_run)

    async def watch_all(self, websocket: WebSocket) -> None:
        await self._serve(websocket, self._send_all)

    async def _serve(self, websocket: WebSocket, send: Send) -> None:
        await websocket.accept()
        if len(self._open) >= SOCKETS_MAX:
            await _close(websocket, TRY_AGAIN, "too many sockets are open here")
            return
        self._open.add(websocket)
        telemetry.SOCKETS.set(len(self._open))
        try:
            await _converse(websocket, send(websocket))
        finally:
            self._open.discard(websocket)
            telemetry.SOCKETS.set(len(self._open))

    async def _send_run(self, websocket: WebSocket) -> None:
        run_id, after = _asked(websocket)
        changed = asyncio.Event()
        async with self.live.watch(run_id, changed, after) as seat:
            while not seat.is_over:
                changed.clear()
                await _send(websocket, await seat.news())
                if not seat.is_behind and not seat.is_over:
                    await _wait(changed, seat.due_seconds())
            await asyncio.sleep(LINGER_SECONDS)

    async def _send_all(self, websocket: WebSocket) -> None:
        _NOTHING.parse(websocket.query_params)
        changed = asyncio.Event()
        seats: dict[UUID, tuple[Seat, AsyncExitStack]] = {}
        over: set[UUID] = set()
        idle_told = False
        async with AsyncExitStack() as everything:
            await everything.enter_async_context(self.active.watch(changed))
            everything.push_async_callback(_leave_all, seats)
            while True:
                changed.clear()
                over &= set(self.active.ids)
                for run_id in self.active.ids:
                    if run_id not in over and run_id not in seats:
                        try:
                            seats[run_id] = await self._take_seat(run_id, changed)
                        except RunUnknown:  # Ordered past the gateway: not a run users know.
                            over.add(run_id)
                for run_id, (seat, place) in list(seats.items()):
                    await _send(websocket, await seat.news())
                    if seat.is_over:
                        over.add(run_id)
                        del seats[run_id]
                        await place.aclose()
                if not seats and not idle_told:
                    await _send(websocket, [frames.idle()])
                idle_told = not seats
                if not any(seat.is_behind for seat, _ in seats.values()):
                    due = min((seat.due_seconds() for seat, _ in seats.values()), default=None)
                    await _wait(changed, due)

    async def _take_seat(self, run_id: UUID, changed: asyncio.Event) -> tuple[Seat, AsyncExitStack]:
        async with AsyncExitStack() as place:
            seat = await place.enter_async_context(self.live.watch(run_id, changed))
            return seat, place.pop_all()

    def router(self) -> APIRouter:
        router = APIRouter()
        router.add_api_websocket_route("/ws/jobs/{run_id}", self.watch_run)
        router.add_api_websocket_route("/api/progress/ws", self.watch_all)
        return router


def _asked(websocket: WebSocket) -> tuple[UUID, int | None]:
    """Raises RunUnknown, ParameterUnknown and ParameterInvalid."""
    run_id = parse_run_id(websocket.path_params["run_id"])
    after = _AFTER.parse(websocket.query_params).given.get("after")
    if after is None:
        return run_id, None
    if not (after.isascii() and after.isdigit() and len(after) < 20 and int(after) <= SEQ_MAX):
        accepted = f"a whole number from 0 to {SEQ_MAX}"
        error = field_error("query after", after, accepted)
        # What is accepted comes first: a close frame holds few bytes.
        raise ParameterInvalid(f"after: accepted is {accepted}, not {error['value']!r}", [error])
    return run_id, int(after)


async def _send(websocket: WebSocket, told: list[str]) -> None:
    for frame in told:
        try:
            async with asyncio.timeout(SEND_SECONDS_MAX):
                await websocket.send_text(frame)
        except TimeoutError:
            raise SlowReader from None


async def _wait(changed: asyncio.Event, seconds: float | None) -> None:
    endless = seconds is None or seconds == float("inf")
    with suppress(TimeoutError):
        async with asyncio.timeout(None if endless else seconds):
            await changed.wait()


async def _leave_all(seats: dict[UUID, tuple[Seat, AsyncExitStack]]) -> None:
    for _, place in seats.values():
        await place.aclose()


async def _converse(websocket: WebSocket, sending: Coroutine[Any, Any, None]) -> None:
    """Send until the client leaves, or until there is nothing more to send."""
    writing = asyncio.create_task(sending)
    leaving = asyncio.create_task(_until_left(websocket))
    try:
        await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        writing.cancel()
        leaving.cancel()
        await asyncio.wait({writing, leaving})
    if writing.cancelled():
        return
    match writing.exception():
        case None:
            await _close(websocket, NORMAL, "the run is over")
        case RunUnknown() as error:
            await _close(websocket, UNKNOWN_RUN, str(error))
        case (ParameterInvalid() | ParameterUnknown()) as error:
            await _close(websocket, BAD_PARAMETER, str(error))
        case SlowReader():
            await _close(websocket, TRY_AGAIN, "too slow: come back and start from the snapshot")
        case WebSocketDisconnect():
            return
        case error if isinstance(error, CONNECTION_ERRORS):
            await _close(websocket, TRY_AGAIN, "the database does not answer")
        case error:
            raise error


async def _until_left(websocket: WebSocket) -> None:
    """Take what the client sends, which means nothing here, until it leaves."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    """A client that does not read cannot be told either: then the connection just ends."""
    with suppress(TimeoutError, WebSocketDisconnect):
        async with asyncio.timeout(CLOSE_SECONDS_MAX):
            await websocket.close(code, reason.encode()[:REASON_BYTES_MAX].decode(errors="ignore"))
