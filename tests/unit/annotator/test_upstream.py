"""The HTTP client of the sources, against a real server that misbehaves as upstreams do."""

import asyncio
import gzip
import hashlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from pydantic import BaseModel

from services.annotator import upstream as client
from services.annotator.domain import Declaration, RemoteFile
from services.annotator.errors import (
    RateLimited,
    UpstreamBlocked,
    UpstreamOversized,
    UpstreamRefused,
    UpstreamTruncated,
    UpstreamUnavailable,
)
from services.annotator.upstream import Downloaded, Upstream, parse_retry_after

FILE = RemoteFile("table.txt", "files/table.txt", 1_000_000)
TABLE = b"".join(b"%d\tvalue %d\n" % (n, n * n) for n in range(20_000))


class Server:
    """Answers every request with the same bytes, or with those set for its path."""

    def __init__(self) -> None:
        self.answer = b""
        self.by_path: dict[str, bytes] = {}
        self.requests: list[bytes] = []
        self.arrivals: list[float] = []
        self.open_now = 0
        self.open_max = 0
        self.held: asyncio.Event | None = None
        self.address = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()
            return
        self.arrivals.append(time.perf_counter())
        self.requests.append(head)
        self.open_now += 1
        self.open_max = max(self.open_max, self.open_now)
        if self.held is not None:
            await self.held.wait()
        self.open_now -= 1
        path = head.split(b" ")[1].decode()
        writer.write(self.by_path.get(path, self.answer))
        writer.close()

    def header(self, name: str) -> str | None:
        """What the newest request says under a name."""
        for line in self.requests[-1].decode().split("\r\n")[1:]:
            key, _, text = line.partition(": ")
            if key.lower() == name:
                return text
        return None


def answer(status: str, content: bytes = b"", length: int | None = None, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Connection: close"]
    lines.append(f"Content-Length: {len(content) if length is None else length}")
    lines += [f"{name.replace('_', '-')}: {text}" for name, text in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    server.address = f"http://127.0.0.1:{port}"
    async with listening:
        yield server


@asynccontextmanager
async def connected(server: Server, concurrency: int = 1) -> AsyncIterator[Upstream]:
    declaration = Declaration(
        name="example",
        title="Example",
        base_url="https://upstream.example",
        homepage="https://upstream.example",
        licence="none",
        citation="none",
        wire_format="none",
        identifier="hgnc_id",
        joins=("hgnc_id",),
        value=BaseModel,
        ttl=timedelta(days=1),
        parser_version=1,
        requests_per_second=1,
        concurrency=concurrency,
    )
    upstream = Upstream(declaration, server.address + "/base/")
    try:
        yield upstream
    finally:
        await upstream.close()


Download = Callable[..., Awaitable[Downloaded | None]]


@pytest.fixture
async def download(server: Server, tmp_path: Path) -> AsyncIterator[Download]:
    async with connected(server) as upstream:

        async def download(
            file: RemoteFile = FILE, etag: str | None = None, last_modified: str | None = None
        ) -> Downloaded | None:
            return await upstream.download(file, tmp_path, etag, last_modified)

        yield download


async def test_a_file_is_fetched_whole_with_what_identifies_it(
    server: Server, download: Download, tmp_path: Path
) -> None:
    date = "Fri, 24 Apr 2026 03:00:00 GMT"
    server.answer = answer(
        "200 OK", TABLE, Content_Type="Text/Plain; charset=utf-8", ETag='"v1"', Last_Modified=date
    )
    found = await download()
    assert found == Downloaded(
        path=tmp_path / "table.txt",
        url=f"{server.address}/base/files/table.txt",
        sha256=hashlib.sha256(TABLE).digest(),
        bytes=len(TABLE),
        etag='"v1"',
        last_modified=date,
        media_type="text/plain",
        synthetic=False,
    )
    assert found.path.read_bytes() == TABLE
    assert server.header("if-none-match") is server.header("if-modified-since") is None
    assert (server.header("user-agent") or "").startswith("annobus/")


async def test_an_unchanged_file_is_not_fetched_again(server: Server, download: Download) -> None:
    server.answer = answer("304 Not Modified")
    date = "Fri, 24 Apr 2026 03:00:00 GMT"
    assert await download(etag='"v1"', last_modified=date) is None
    assert server.header("if-none-match") == '"v1"'
    assert server.header("if-modified-since") == date


async def test_unchanged_is_no_answer_to_who_has_nothing(
    server: Server, download: Download
) -> None:
    server.answer = answer("304 Not Modified")
    with pytest.raises(UpstreamUnavailable, match="304, unchanged, to a call without a condition"):
        await download()


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(TABLE),
        gzip.compress(TABLE[:5_000]) + gzip.compress(TABLE[5_000:]),
    ],
    ids=["one", "two behind each other"],
)
async def test_a_packed_file_is_kept_unpacked(
    server: Server, download: Download, packed: bytes
) -> None:
    server.answer = answer("200 OK", packed, Content_Encoding="gzip")
    found = await download()
    assert found is not None
    assert found.path.read_bytes() == TABLE
    assert (found.bytes, found.sha256) == (len(TABLE), hashlib.sha256(TABLE).digest())
    assert server.header("accept-encoding") == "gzip"


@pytest.mark.parametrize("kept", [0.99, 0.5, 0.0001])
async def test_a_packed_file_without_its_end_is_truncated(
    server: Server, download: Download, kept: float
) -> None:
    """As a proxy leaves it that lost its upstream: the length fits, the stream does not end."""
    packed = gzip.compress(TABLE)
    packed = packed[: max(1, int(len(packed) * kept))]
    server.answer = answer("200 OK", packed, Content_Encoding="gzip")
    with pytest.raises(UpstreamTruncated, match="gzip without its end"):
        await download()


async def test_what_is_no_gzip_though_it_says_so_is_truncated(
    server: Server, download: Download
) -> None:
    server.answer = answer("200 OK", TABLE, Content_Encoding="gzip")
    with pytest.raises(UpstreamTruncated, match="no whole gzip"):
        await download()


async def test_a_packing_that_we_did_not_ask_for_is_refused(
    server: Server, download: Download
) -> None:
    server.answer = answer("200 OK", TABLE, Content_Encoding="br")
    with pytest.raises(UpstreamUnavailable, match="packed as br; accepted is gzip"):
        await download()


async def test_a_file_shorter_than_announced_is_truncated(
    server: Server, download: Download
) -> None:
    server.answer = answer("200 OK", TABLE, length=len(TABLE) + 1)
    with pytest.raises(UpstreamTruncated):
        await download()


async def test_an_empty_file_is_truncated(server: Server, download: Download) -> None:
    server.answer = answer("200 OK")
    with pytest.raises(UpstreamTruncated, match="empty body"):
        await download()


async def test_a_file_over_its_limit_is_refused_packed_or_not(
    server: Server, download: Download
) -> None:
    bomb = b"\0" * (FILE.bytes_max + 1)
    for content, packing, how in (
        (bomb, "identity", "announced"),
        (gzip.compress(bomb), "gzip", "unpacked"),
    ):
        server.answer = answer("200 OK", content, Content_Encoding=packing)
        with pytest.raises(UpstreamOversized, match=rf"larger than 1000000 bytes: \d+ are {how}"):
            await download()
    server.answer = answer("200 OK", bomb[:-1])
    assert await download() is not None


@pytest.mark.parametrize(
    ("content", "packing"),
    [
        (TABLE * 3, "identity"),
        # Members of no content: however many there are, unpacked they are nothing.
        (gzip.compress(b"") * 50_001, "gzip"),
    ],
    ids=["plain", "packed nothing"],
)
async def test_bytes_on_the_wire_have_a_limit_of_their_own(
    server: Server, download: Download, content: bytes, packing: str
) -> None:
    head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Encoding: {packing}\r\n\r\n"
    server.answer = head.encode() + content  # Of a length that nobody announces.
    assert len(content) > FILE.bytes_max
    with pytest.raises(UpstreamOversized, match=r"larger than 1000000 bytes: \d+ are sent"):
        await download()


async def test_unpacking_leaves_the_loop_free(server: Server, download: Download) -> None:
    """One piece from the network may be hours of unpacking: others have a turn in between."""
    server.answer = answer("200 OK", gzip.compress(b"") * 3_000, Content_Encoding="gzip")
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    with pytest.raises(UpstreamTruncated, match="empty body"):
        await download()
    task.cancel()
    assert turns > 2_500


async def test_a_file_that_comes_too_slowly_is_unavailable(
    server: Server, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(client, "BYTES_PER_SECOND_MIN", 10**12)
    server.answer = answer("200 OK", TABLE)
    with pytest.raises(UpstreamUnavailable, match=r"accepted are 1000000000000 a second"):
        await download()


@pytest.mark.parametrize(
    "html",
    [
        b"<!DOCTYPE html><html>Down for maintenance</html>",
        b"\n  <HTML>",
        b"\xef\xbb\xbf<html>",
        b"<!-- proxy --><html>",
        b'<?xml version="1.0"?><html>',
    ],
)
async def test_html_is_no_data(server: Server, download: Download, html: bytes) -> None:
    for content, packing in ((html, "identity"), (gzip.compress(html), "gzip")):
        server.answer = answer("200 OK", content, Content_Encoding=packing)
        with pytest.raises(UpstreamUnavailable, match="as HTML does"):
            await download()
        async with connected(server) as upstream:
            with pytest.raises(UpstreamUnavailable, match="as HTML does"):
                await upstream.get("info/data")


async def test_html_is_known_even_if_it_comes_in_crumbs(server: Server, download: Download) -> None:
    crumbs = b"".join(gzip.compress(bytes([byte])) for byte in b"\n \n<html>")
    server.answer = answer("200 OK", crumbs, Content_Encoding="gzip")
    with pytest.raises(UpstreamUnavailable, match="as HTML does"):
        await download()


@pytest.mark.parametrize(
    ("media", "as_file", "as_answer"),
    [
        ("application/json", True, True),
        ("Application/JSON; charset=utf-8", True, True),
        ("application/vnd.api+json", True, True),
        ("text/plain", True, False),
        ("application/octet-stream", True, False),
        ("text/html", False, False),
        ("Text/HTML; charset=utf-8", False, False),
        ("application/xhtml+xml", False, False),
    ],
)
async def test_an_answer_is_json_and_a_file_is_anything_but_a_page(
    server: Server, download: Download, media: str, as_file: bool, as_answer: bool
) -> None:
    server.answer = answer("200 OK", b'{"a": 1}', Content_Type=media)

    async def takes(asking: Awaitable[object]) -> bool:
        try:
            await asking
        except UpstreamUnavailable as error:
            assert f"answers {media.partition(';')[0].lower()}; accepted is" in str(error)  # noqa: PT017
            return False
        return True

    assert await takes(download()) is as_file
    async with connected(server) as upstream:
        assert await takes(upstream.get("info/data")) is as_answer


async def test_where_a_redirect_leads_is_followed_and_not_remembered(
    server: Server, download: Download
) -> None:
    signed = "/elsewhere/table.txt?signature=secret"
    server.answer = answer("302 Found", Location=signed)
    server.by_path[signed] = answer("200 OK", TABLE)
    found = await download(etag='"v0"')
    assert found is not None
    assert found.url == f"{server.address}/base/files/table.txt"
    assert server.header("if-none-match") == '"v0"'
    server.by_path[signed] = answer("404 Not Found")
    with pytest.raises(UpstreamRefused) as raised:
        await download()
    assert "secret" not in str(raised.value)


async def test_redirects_in_a_circle_end(server: Server, download: Download) -> None:
    server.answer = answer("302 Found", Location="/base/files/table.txt")
    with pytest.raises(UpstreamUnavailable):
        await download()


async def test_a_call_posts_json_and_gives_the_answer_byte_for_byte(server: Server) -> None:
    server.answer = answer("200 OK", b'{"a": 1}', X_Synthetic="true")
    async with connected(server) as upstream:
        response = await upstream.post("lookup/id", {"ids": ["x"]})
    assert server.requests[-1].startswith(b"POST /base/lookup/id HTTP/1.1")
    assert server.header("content-type") == "application/json"
    assert server.header("accept") == "application/json"
    assert response.url == f"{server.address}/base/lookup/id"
    assert (response.content, response.synthetic) == (b'{"a": 1}', True)


async def test_an_answer_over_the_limit_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ANSWER_BYTES_MAX", 999)
    server.answer = answer("200 OK", gzip.compress(b"[" * 1000), Content_Encoding="gzip")
    async with connected(server) as upstream:
        with pytest.raises(UpstreamOversized, match="larger than 999 bytes: 1000 are unpacked"):
            await upstream.get("info/data")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("400 Bad Request", UpstreamRefused),
        ("404 Not Found", UpstreamRefused),
        ("403 Forbidden", UpstreamBlocked),
        ("408 Request Timeout", UpstreamUnavailable),
        ("500 Internal Server Error", UpstreamUnavailable),
        ("503 Service Unavailable", UpstreamUnavailable),
        ("204 No Content", UpstreamRefused),
    ],
)
async def test_each_status_has_its_error_which_says_what_was_answered(
    server: Server, status: str, error: type[Exception]
) -> None:
    said = b"" if status.startswith("204") else b"the reason" + b"." * 1000
    server.answer = answer(status, said)
    async with connected(server) as upstream:
        with pytest.raises(error) as raised:
            await upstream.get("info/data")
    assert f"/base/info/data answers {status[:3]}" in str(raised.value)
    assert len(str(raised.value)) < 300
    assert said[:10].decode() in str(raised.value)


async def test_a_status_counts_even_if_its_explanation_is_cut_off(server: Server) -> None:
    async with connected(server) as upstream:
        server.answer = answer("403 Forbidden", b"", length=50)
        with pytest.raises(UpstreamBlocked):
            await upstream.get("info/data")
        server.answer = answer("429 Too Many", b"no gzip", Content_Encoding="gzip", Retry_After="7")
        with pytest.raises(RateLimited) as raised:
            await upstream.get("info/data")
        assert raised.value.retry_after_seconds == 7
        bomb = gzip.compress(b"no" * 1_000_000)
        server.answer = answer("503 Service Unavailable", bomb, Content_Encoding="gzip")
        with pytest.raises(UpstreamUnavailable, match=r"answers 503: (no){100}$"):
            await upstream.get("info/data")


async def test_nobody_there_is_unavailable(server: Server) -> None:
    taken = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.address = f"http://127.0.0.1:{taken.sockets[0].getsockname()[1]}"
    taken.close()
    await taken.wait_closed()
    async with connected(server) as upstream:
        with pytest.raises(UpstreamUnavailable):
            await upstream.get("info/data")


@pytest.mark.parametrize("failure", [socket.EAI_AGAIN, socket.EAI_NONAME])
async def test_a_name_that_is_not_found_is_unavailable(
    server: Server, monkeypatch: pytest.MonkeyPatch, failure: int
) -> None:
    """As where the network is away, or the name server: who asks later may find it."""

    def find(*_: object, **__: object) -> None:
        raise socket.gaierror(failure, "the name is not found")

    monkeypatch.setattr(socket, "getaddrinfo", find)
    server.address = "http://upstream.example"
    async with connected(server) as upstream:
        with pytest.raises(UpstreamUnavailable, match="the name is not found"):
            await upstream.get("info/data")


async def test_an_upstream_that_does_not_answer_in_time_is_unavailable(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CALL_SECONDS", 0.05)
    server.held = asyncio.Event()
    async with connected(server) as upstream:
        with pytest.raises(UpstreamUnavailable, match=r"took more than 0\.05 s"):
            await upstream.get("info/data")
    server.held.set()


async def test_calls_at_once_are_at_most_as_many_as_declared(server: Server) -> None:
    server.answer = answer("200 OK", b"{}")
    server.held = asyncio.Event()
    async with connected(server, concurrency=2) as upstream, asyncio.timeout(10):
        calls = [asyncio.create_task(upstream.get("info/data")) for _ in range(6)]
        while server.open_now < 2:
            await asyncio.sleep(0)
        server.held.set()
        await asyncio.gather(*calls)
    assert (server.open_max, len(server.requests)) == (2, 6)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (None, None),
        ("30", 30.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("inf", client.RETRY_AFTER_SECONDS_MAX),
        ("1e300", client.RETRY_AFTER_SECONDS_MAX),
        ("nan", None),
        ("soon", None),
        ("", None),
        ("Mon, 01 Jan 2001 00:00:00 GMT", 0.0),
        ("Mon, 01 Jan 2001 00:00:00 -0000", 0.0),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
    ],
)
def test_each_form_of_retry_after_becomes_seconds(said: str | None, seconds: float | None) -> None:
    assert parse_retry_after({} if said is None else {"retry-after": said}) == seconds


def test_a_date_is_read_by_the_clock_of_the_upstream() -> None:
    said = "Mon, 01 Jan 2001 00:00:40 GMT"
    headers = {"retry-after": said, "date": "Mon, 01 Jan 2001 00:00:00 GMT"}
    assert parse_retry_after(headers) == 40.0
    assert parse_retry_after(headers | {"date": "some day"}) == 0.0


async def test_calls_that_belong_together_have_one_deadline(server: Server) -> None:
    server.answer = answer("200 OK", b"{}")
    server.held = asyncio.Event()
    async with connected(server) as upstream:
        with pytest.raises(UpstreamUnavailable, match=r"a batch took more than 0\.05 s"):
            async with client.within(0.05, "a batch"):
                await upstream.get("info/data")
    server.held.set()


async def test_a_deadline_of_somebody_else_stays_what_it_is() -> None:
    with pytest.raises(TimeoutError, match="the pool is empty"):
        async with client.within(60, "a batch"):
            raise TimeoutError("the pool is empty")


@pytest.mark.parametrize("form", ["30", "30.5", "date"])
async def test_a_rate_limited_call_says_when_to_come_back(server: Server, form: str) -> None:
    due = datetime.now(UTC) + timedelta(seconds=31)
    said = format_datetime(due, usegmt=True) if form == "date" else form
    server.answer = answer("429 Too Many Requests", b"Too many requests", Retry_After=said)
    async with connected(server) as upstream:
        with pytest.raises(RateLimited) as raised:
            await upstream.get("info/data")
    assert raised.value.retry_after_seconds is not None
    assert 25 < raised.value.retry_after_seconds <= 31


async def test_a_call_is_told_of_when_it_is_sent(server: Server) -> None:
    server.answer = answer("200 OK", b"{}")
    told: list[int] = []
    async with connected(server) as upstream:
        for number in range(2):
            await upstream.telling(lambda: told.append(len(server.requests))).get("info/data")
            assert len(told) == number + 1
