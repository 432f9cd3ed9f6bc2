"""One connection of a reader that measures: a request at a time, and nothing done twice to it."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

REQUEST_SECONDS_MAX = 5.0
# What breaks an answer off, or makes it none.
BROKEN = (OSError, EOFError, ValueError, asyncio.LimitOverrunError)


def request(url: str, target: str, method: str = "GET", body: bytes = b"") -> bytes:
    """Brackets in a query are sent as they are: httptools and every browser's API take them."""
    content = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    address = urlsplit(url).netloc
    head = f"{method} {target} HTTP/1.1\r\nHost: {address}\r\nAccept: */*\r\n{content}\r\n"
    return head.encode() + body


@dataclass(frozen=True)
class Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, asked: bytes) -> tuple[int, bytes]:
        """Status and body; raises one of BROKEN, a TimeoutError among them."""
        async with asyncio.timeout(REQUEST_SECONDS_MAX):
            self.writer.write(asked)
            head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            status = int(head[9:12])
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            return status, await self.reader.readexactly(length)


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Connection]:
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()


async def until_told(seconds_max: float) -> None:
    """Until standard input ends, which it also does when whoever started this one dies."""
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    standard_input = sys.stdin.fileno()

    def hear() -> None:
        loop.remove_reader(standard_input)
        told.set()

    loop.add_reader(standard_input, hear)
    try:
        async with asyncio.timeout(seconds_max):
            await told.wait()
    except TimeoutError:
        loop.remove_reader(standard_input)
