"""The reader of the bench, against small servers that answer well, slowly or badly."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from benchmarks.reader import PAGE_SIZE, Reading, reading

WAIT_SECONDS_MAX = 30.0
PAGE = b'{"type":"genes"}' * PAGE_SIZE
SHORT_PAGE = b'{"type":"genes"}'


@dataclass(frozen=True)
class Server:
    url: str
    has_answered: asyncio.Event


@asynccontextmanager
async def answering(
    status: str, body: bytes, *, answers: int, seconds: float = 0
) -> AsyncIterator[Server]:
    """A server that gives every request the same answer after so many seconds, and tells when it
    has given so many."""
    left = answers
    has_answered = asyncio.Event()
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(seconds)
                writer.write(head + body)
                left -= 1
                if left == 0:
                    has_answered.set()
        except (EOFError, OSError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, asyncio.timeout(WAIT_SECONDS_MAX):
        yield Server(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", has_answered)


async def test_a_reader_that_is_told_to_finish_says_what_it_saw_so_far() -> None:
    what = Reading()
    enough = what.warm_up + 100
    async with (
        answering("200 OK", PAGE, answers=enough) as server,
        reading(server.url, what) as reader,
    ):
        await server.has_answered.wait()
        seen = await reader.finish()
    assert seen.requests > 50
    assert seen.failed == 0
    assert 0 < seen.p50_ms <= seen.p95_ms <= seen.p99_ms <= seen.max_ms


@pytest.mark.parametrize(("status", "body"), [("503 No", PAGE), ("200 OK", SHORT_PAGE)])
async def test_an_answer_that_is_no_whole_page_is_no_latency(status: str, body: bytes) -> None:
    async with (
        answering(status, body, answers=8) as server,
        reading(server.url, Reading()) as reader,
    ):
        await server.has_answered.wait()
        with pytest.raises(RuntimeError, match="ended with 1"):
            await reader.finish()


async def test_a_reader_at_a_pace_does_not_ask_more_often() -> None:
    what = Reading(per_second=50, warm_up=0)
    async with (
        answering("200 OK", PAGE, answers=40) as server,
        reading(server.url, what) as reader,
    ):
        await server.has_answered.wait()
        seen = await reader.finish()
    assert seen.per_second < 60


async def test_who_has_to_ask_late_has_waited_since_the_time_to_ask() -> None:
    answer_seconds, answers = 0.05, 20
    what = Reading(per_second=2 / answer_seconds, connections=1, warm_up=0)
    async with (
        answering("200 OK", PAGE, answers=answers, seconds=answer_seconds) as server,
        reading(server.url, what) as reader,
    ):
        await server.has_answered.wait()
        seen = await reader.finish()
    # The last of them could have been asked for after half the time that all took.
    assert seen.max_ms > answers * answer_seconds / 2 * 1_000 * 0.8
