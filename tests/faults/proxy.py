"""A TCP proxy between services and what they talk to, that does what networks do."""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Literal

NetworkKind = Literal[
    "latency",  # Everything arrives later, by a time that varies.
    "bandwidth",  # So many bytes a second and no more, in each direction of each connection.
    "blackhole",  # Nothing arrives until it is over; then all of it, as TCP sends it again.
    "half_open",  # The other side is gone, and nobody says so: what is sent is lost.
    "reset",  # Connections are broken off, new ones too.
    "slice",  # A few bytes at a time.
]

PIECE_BYTES = 64 * 1024
PIECES_MAX = 32  # Of a connection's direction, read and not passed on.
LATENCY_SECONDS, JITTER_SECONDS = 0.2, 0.1
BANDWIDTH_BYTES_PER_SECOND = 50_000
SLICE_BYTES = 128
POLL_SECONDS = 0.02
LINGER_NOT = struct.pack("ii", 1, 0)  # On, for 0 s: closing sends RST instead of FIN.


@dataclass(eq=False)
class _Connection:
    near: asyncio.StreamWriter  # To the service.
    far: asyncio.StreamWriter  # To what it talks to.
    is_lost: bool = False  # What is said on it is heard by nobody.

    def reset(self) -> None:
        for writer in (self.near, self.far):
            raw = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
            writer.transport.abort()


@dataclass
class Proxy:
    """One address for another. `struck` counts the pieces and connections that a fault met."""

    target_port: int
    port: int = 0
    struck: int = 0
    _kind: NetworkKind | None = None
    _random: Random = field(default_factory=Random)
    _connections: set[_Connection] = field(default_factory=set)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    async def suffer(self, kind: NetworkKind, seconds: float, random: Random) -> None:
        """For so long; then the network is as it was, and half-open connections are broken off."""
        self.struck, self._random = 0, random
        self._kind = kind
        lost = []
        if kind == "reset":
            self._reset(self._connections)
        elif kind == "half_open":
            lost = [*self._connections]
            for connection in lost:
                connection.is_lost = True
                connection.far.transport.abort()
            self.struck += len(lost)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._kind = None
            for connection in lost:
                connection.reset()

    def _reset(self, connections: set[_Connection]) -> None:
        self.struck += len(connections)
        for connection in connections:
            connection.reset()

    async def accept(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:  # As without a proxy: nobody listens there.
            near.transport.abort()
            return
        connection = _Connection(near, far)
        self._connections.add(connection)
        if self._kind == "reset":
            self._reset({connection})
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(connection, reader, far))
                group.create_task(self._pump(connection, far_reader, near))
        except* OSError:
            pass
        finally:
            self._connections.discard(connection)
            near.transport.abort()
            far.transport.abort()

    async def _pump(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One direction. What is late keeps its order, and does not delay what is read behind."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(PIECES_MAX)
        passing = asyncio.create_task(self._pass_on(connection, pieces, writer))
        try:
            while not passing.done():
                try:
                    piece = await reader.read(PIECE_BYTES)
                except OSError:
                    piece = b""
                if not piece and connection.is_lost:
                    await _until_reset(connection)
                await pieces.put((time.monotonic() + self._late_seconds(), piece))
                if not piece:
                    break
            await passing
        finally:
            passing.cancel()

    async def _pass_on(
        self,
        connection: _Connection,
        pieces: "asyncio.Queue[tuple[float, bytes]]",
        writer: asyncio.StreamWriter,
    ) -> None:
        while True:
            due, piece = await pieces.get()
            await asyncio.sleep(due - time.monotonic())
            while self._kind == "blackhole":
                self.struck += 1
                await asyncio.sleep(POLL_SECONDS)
            if not piece:
                with contextlib.suppress(OSError, RuntimeError):
                    writer.write_eof()
                return
            if connection.is_lost:
                self.struck += 1
                continue
            await self._write(writer, piece)

    def _late_seconds(self) -> float:
        if self._kind != "latency":
            return 0.0
        self.struck += 1
        return LATENCY_SECONDS + self._random.uniform(-JITTER_SECONDS, JITTER_SECONDS)

    async def _write(self, writer: asyncio.StreamWriter, piece: bytes) -> None:
        while self._kind in ("slice", "bandwidth") and piece:
            self.struck += 1
            writer.write(piece[:SLICE_BYTES])
            await writer.drain()
            piece = piece[SLICE_BYTES:]
            slow = SLICE_BYTES / BANDWIDTH_BYTES_PER_SECOND
            await asyncio.sleep(slow if self._kind == "bandwidth" else 0)
        if piece:
            writer.write(piece)
            await writer.drain()

    async def close(self) -> None:
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _until_reset(connection: _Connection) -> None:
    while not connection.near.transport.is_closing():
        await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def open_proxy(target_port: int, port: int = 0) -> AsyncIterator[Proxy]:
    proxy = Proxy(target_port)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", port)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
