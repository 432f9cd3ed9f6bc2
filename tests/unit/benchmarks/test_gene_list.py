"""The reader of the gene list, against small servers that answer well or badly."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from benchmarks.gene_list import PAGE_SIZE, WARM_UP_ANSWERS, reading

WAIT_SECONDS_MAX = 30.0
PAGE = b'{"type":"genes"}' * PAGE_SIZE
SHORT_PAGE = b'{"type":"genes"}'


@dataclass(frozen=True)
class Server:
    url: str
    has_answered: asyncio.Event


@asynccontextmanager
async def answering(status: str, body: bytes, *, answers: int) -> AsyncIterator[Server]:
    """A server that gives every request the same answer, and tells after so many of them."""
    left = answers
    has_answered = asyncio.Event()
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(head + body)
                left -= 1
                if left == 0:
                    has_answered.set()
        except (EOFError, OSError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, asyncio.timeout(WAIT_SECONDS_MAX):
        yield Server(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", has_answered)


async def test_a_reader_that_is_told_to_finish_says_what_it_saw_so_far() -> None:
    enough = WARM_UP_ANSWERS + 100
    async with answering("200 OK", PAGE, answers=enough) as server, reading(server.url) as reader:
        await server.has_answered.wait()
        seen = await reader.finish()
    assert seen.requests > 50
    assert seen.failed == 0
    assert 0 < seen.p50_ms <= seen.p95_ms <= seen.p99_ms <= seen.max_ms


@pytest.mark.parametrize(("status", "body"), [("503 No", PAGE), ("200 OK", SHORT_PAGE)])
async def test_an_answer_that_is_no_whole_page_is_no_latency(status: str, body: bytes) -> None:
    async with answering(status, body, answers=8) as server, reading(server.url) as reader:
        await server.has_answered.wait()
        with pytest.raises(RuntimeError, match="ended with 1"):
            await reader.finish()
