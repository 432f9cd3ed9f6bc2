"""What the proxy does to those who talk through it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random

import pytest

from tests.faults.proxy import JITTER_SECONDS, LATENCY_SECONDS, NetworkKind, Proxy, open_proxy
from tests.waiting import until

SAID = b"x" * 10_000
SECONDS = 0.5


@dataclass
class Talk:
    proxy: Proxy
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def echo(self) -> float:
        """Seconds until what is said has come back."""
        began = time.monotonic()
        self.writer.write(SAID)
        assert await self.reader.readexactly(len(SAID)) == SAID
        return time.monotonic() - began

    def suffer(self, kind: NetworkKind) -> "asyncio.Task[None]":
        return asyncio.create_task(self.proxy.suffer(kind, SECONDS, Random(1)))


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while said := await reader.read(1000):
            writer.write(said)
            await writer.drain()
    except OSError:
        pass
    writer.close()


@asynccontextmanager
async def talk() -> AsyncIterator[Talk]:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    async with open_proxy(server.sockets[0].getsockname()[1]) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        one = Talk(proxy, reader, writer)
        await one.echo()
        yield one
        writer.transport.abort()
    server.close()


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [
        ("latency", 2 * (LATENCY_SECONDS - JITTER_SECONDS)),
        ("bandwidth", 0.2),
        ("blackhole", SECONDS - 0.1),
        ("slice", 0.0),
    ],
)
async def test_what_is_said_arrives_whole_and_late(kind: NetworkKind, seconds: float) -> None:
    async with talk() as one:
        suffering = one.suffer(kind)
        await asyncio.sleep(0)
        assert await one.echo() >= seconds
        assert one.proxy.struck
        await suffering
        assert await one.echo() < SECONDS / 2


async def test_a_reset_breaks_off_what_is_there_and_what_comes() -> None:
    async with talk() as one:
        suffering = one.suffer("reset")
        with pytest.raises(OSError, match="reset"):
            await one.reader.readexactly(1)
        reader, writer = await asyncio.open_connection("127.0.0.1", one.proxy.port)
        with pytest.raises(OSError, match="reset"):
            await reader.readexactly(1)
        writer.transport.abort()
        await suffering


async def test_a_half_open_connection_hears_nothing_until_it_is_over_and_a_new_one_works() -> None:
    async with talk() as one:
        suffering = one.suffer("half_open")
        await asyncio.sleep(0)
        one.writer.write(SAID)
        heard = asyncio.create_task(one.reader.read(1))
        reader, writer = await asyncio.open_connection("127.0.0.1", one.proxy.port)
        writer.write(SAID)
        assert await reader.readexactly(len(SAID)) == SAID
        assert not heard.done()
        writer.transport.abort()
        await suffering
        with pytest.raises(OSError, match="reset"):
            await heard


async def test_an_end_is_passed_on() -> None:
    async with talk() as one:
        one.writer.write_eof()
        assert await one.reader.read() == b""
        await until(lambda: not one.proxy._connections, "the connection is forgotten")  # noqa: SLF001
