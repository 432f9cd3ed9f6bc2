"""The connection that a request came by: a fault may break it off, and wait until it is gone."""

import asyncio
import socket
import struct
from typing import Final, Self

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

KEY: Final = "connection"
LINGER_NOT: Final = struct.pack("ii", 1, 0)  # On, for 0 s: closing sends RST instead of FIN.


class Connection(HttpToolsProtocol):
    """What the server makes of each connection; it puts itself into the scope of its requests."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._gone = asyncio.Event()
        self.app_state = {**self.app_state, KEY: self}

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._gone.set()

    @classmethod
    def of(cls, scope: Scope) -> Self:
        connection = scope["state"][KEY]
        assert isinstance(connection, cls)
        return connection

    async def close(self) -> None:
        """End it after what was sent so far, complete or not."""
        self.transport.close()
        await self._gone.wait()

    async def reset(self) -> None:
        """Break it off: the other side reads an error instead of an end."""
        listening = self.transport.get_extra_info("socket")
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        self.transport.abort()
        await self._gone.wait()

    async def is_gone_within(self, seconds: float) -> bool:
        """Wait so long, or until the other side has left."""
        try:
            async with asyncio.timeout(seconds):
                await self._gone.wait()
        except TimeoutError:
            return False
        return True
