"""Following a run: frames of its socket, and what the gateway reads where the socket breaks."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from urllib.parse import quote

import orjson
from pydantic import BaseModel, ConfigDict
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from contracts.messages import ACTIVE_STATES, RunState, SourceProgress
from services.cli.client import Client, Document, is_local
from services.cli.errors import NotReachable, Refused

SILENCE_SECONDS_MAX = 5.0  # An active run has a frame at least every 0.75 s.
POLL_SECONDS = 1.0
UNREACHABLE_SECONDS_MAX = 30.0  # A gateway that is restarted is back sooner.
RUN_UNKNOWN = 4404  # The code a socket is closed with.

SOCKET_ERRORS = (OSError, TimeoutError, ConnectionClosed, InvalidHandshake, InvalidMessage)


class Snapshot(BaseModel):
    """Where a run stands; an absolute statement, so a newer one replaces an older one."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    run_id: str
    seq: int
    status: RunState
    progress: float | None = None
    message: str = ""
    sources: Mapping[str, SourceProgress] = {}
    dry_run: bool = False  # What a frame does not say, and who asks over HTTP is told.

    @property
    def is_final(self) -> bool:
        return self.status not in ACTIVE_STATES


def address(run_id: str) -> str:
    return f"/api/runs/{quote(run_id, safe='')}"


async def follow(client: Client, run_id: str) -> AsyncIterator[Snapshot]:
    """Snapshots of a run up to its last one, by its socket while there is one, else by asking.

    Raises NotReachable when the gateway is gone for longer than a restart takes.
    """
    newest = await read(client, run_id)  # An unknown run is refused here, in words.
    yield newest
    while not newest.is_final:
        async with aclosing(_frames(client, run_id)) as frames:
            async for snapshot in frames:
                if snapshot.seq >= newest.seq:
                    newest = snapshot.model_copy(update={"dry_run": newest.dry_run})
                    yield newest
                if newest.is_final:
                    return
        newest = await _read_patiently(client, run_id)
        yield newest


async def read(client: Client, run_id: str) -> Snapshot:
    return snapshot_of(await client.get(address(run_id)))


def snapshot_of(document: Document) -> Snapshot:
    """The snapshot within a run's JSON:API document."""
    attributes = document["data"]["attributes"]
    values = attributes | {"run_id": document["data"]["id"], "status": attributes["state"]}
    return Snapshot.model_validate(values)


async def _frames(client: Client, run_id: str) -> AsyncGenerator[Snapshot]:
    """The socket's snapshots until it breaks or falls silent."""
    url = f"ws{client.url.removeprefix('http')}/ws/jobs/{quote(run_id, safe='')}"
    try:
        async with connect(url, proxy=None if is_local(client.url) else True) as socket:
            while True:
                async with asyncio.timeout(SILENCE_SECONDS_MAX):
                    frame = orjson.loads(await socket.recv())
                if frame["type"] == "snapshot":
                    yield Snapshot.model_validate(frame)
    except ConnectionClosed as error:
        if error.rcvd is not None and error.rcvd.code == RUN_UNKNOWN:
            raise Refused(f"there is no run {run_id}") from error
    except SOCKET_ERRORS:
        return  # The caller asks over HTTP, where a gateway that is gone has its own words.


async def _read_patiently(client: Client, run_id: str) -> Snapshot:
    deadline = asyncio.get_running_loop().time() + UNREACHABLE_SECONDS_MAX
    while True:
        await asyncio.sleep(POLL_SECONDS)
        try:
            return await read(client, run_id)
        except NotReachable:
            if asyncio.get_running_loop().time() > deadline:
                raise
