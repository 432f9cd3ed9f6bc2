"""The HTTP client all sources use: rate, deadlines, sizes, and one error class per cause."""

import asyncio
import hashlib
import math
import time
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx2
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from services.annotator.admission import Admission
from services.annotator.domain import Client, Declaration, Refusal, RemoteFile, Response
from services.annotator.errors import (
    RateLimited,
    UpstreamBlocked,
    UpstreamOversized,
    UpstreamRefused,
    UpstreamTruncated,
    UpstreamUnavailable,
)
from services.annotator.failpoints import Failpoint
from services.annotator.settings import AnnotatorSettings, UpstreamSettings
from services.chassis import failpoints, telemetry
from services.chassis.errors import AnnobusError

log = structlog.get_logger()

CONNECT_SECONDS = 5.0
READ_SECONDS = 15.0
CALL_SECONDS = 30.0  # A whole API call, body included.
DOWNLOAD_SECONDS = 900.0  # A whole file.
# Who has not brought this much on average after so long will not bring a file in its time either.
SLOW_SECONDS = 30.0
BYTES_PER_SECOND_MIN = 1_000
ANSWER_BYTES_MAX = 32 * 1024 * 1024  # An API answer, packed or not.
CHUNK_BYTES = 64 * 1024  # Unpacked and hashed in one step of the loop: some 0.2 ms.
EXPLANATION_BYTES = 200  # Of what comes with an error.
START_BYTES = 64  # As much as it takes to tell HTML from data.
HTML_TYPES = ("text/html", "application/xhtml+xml")
RETRY_AFTER_SECONDS_MAX = 24 * 3600.0
# A 403 that says when to come back shuts us out for a while. It may say hours, and mean a gateway
# that is set up wrongly: it is looked at sooner.
FORBIDDEN_SECONDS_MAX = 900.0
REASON_CHARACTERS_MAX = 80
USER_AGENT = "annobus/0.1"


@dataclass(frozen=True)
class Downloaded:
    """A file that was fetched whole; `path` is a temporary one, the caller's to keep or drop."""

    path: Path
    url: str
    sha256: bytes
    bytes: int
    etag: str | None
    last_modified: str | None
    media_type: str | None  # Without its parameters, in small letters.
    synthetic: bool


@asynccontextmanager
async def within(seconds: float, what: str) -> AsyncIterator[None]:
    """A deadline for several calls together. Raises UpstreamUnavailable."""
    try:
        async with asyncio.timeout(seconds) as deadline:
            yield
    except TimeoutError as error:
        if not deadline.expired():  # Another's, which says more.
            raise
        raise UpstreamUnavailable(f"{what} took more than {seconds:g} s") from error


class Upstream:
    """One source's upstream. Safe for concurrent use; bounded by the source's declaration, and
    without an admission of it, as a mirror may be called, only by the number of calls at once."""

    def __init__(
        self, declaration: Declaration, base_url: str, admission: Admission | None = None
    ) -> None:
        self._name = declaration.name
        self._base_url = base_url.rstrip("/")
        self._calls = asyncio.Semaphore(declaration.concurrency)
        self._admission = admission
        self._client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "gzip"},
            follow_redirects=True,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def get(self, path: str) -> Response:
        return await self._call("GET", path)

    async def post(self, path: str, body: object, refusal: Refusal | None = None) -> Response:
        return await self._call("POST", path, refusal=refusal, json=body)

    def telling(self, sent: Callable[[], None]) -> Client:
        """The same upstream; says so when a call is sent, which has waited for its turn before."""
        return Telling(self, sent)

    async def _call(
        self,
        method: str,
        path: str,
        *,
        refusal: Refusal | None = None,
        sent: Callable[[], None] | None = None,
        **arguments: Any,
    ) -> Response:
        headers = {"Accept": "application/json"}
        async with self._answer(
            method, path, CALL_SECONDS, refusal, sent, headers=headers, **arguments
        ) as response:
            _refuse_type(response, is_json=True)
            content = bytearray()
            async for chunk in _unpacked(response, ANSWER_BYTES_MAX):
                content += chunk
                failpoints.hit(Failpoint.ANSWER_BEGUN)
            _refuse_html(response, content[:START_BYTES])
            _refuse_limited(response, bytes(content), refusal)
            return Response(_asked(response), bytes(content), _is_synthetic(response))

    async def download(
        self, file: RemoteFile, into: Path, etag: str | None, last_modified: str | None
    ) -> Downloaded | None:
        """Fetch a file into a folder, or None when it is the one we know already."""
        headers = {}
        if etag:
            headers["If-None-Match"] = etag
        if last_modified:
            headers["If-Modified-Since"] = last_modified
        async with self._answer("GET", file.path, DOWNLOAD_SECONDS, headers=headers) as response:
            if response.status_code == 304:
                if headers:
                    return None
                raise UpstreamUnavailable(
                    f"{_asked(response)} answers 304, unchanged, to a call without a condition"
                )
            _refuse_type(response, is_json=False)
            target = into / file.name
            sha256, size = await self._save(response, target, file.bytes_max)
            return Downloaded(
                target,
                _asked(response),
                sha256,
                size,
                response.headers.get("etag"),
                response.headers.get("last-modified"),
                _media_type(response) or None,
                _is_synthetic(response),
            )

    async def _save(
        self, response: httpx2.Response, target: Path, bytes_max: int
    ) -> tuple[bytes, int]:
        sha256, size, start = hashlib.sha256(), 0, bytearray()
        with target.open("wb") as file:  # Written by a thread: the disk must not hold the loop.
            async for chunk in _unpacked(response, bytes_max):
                if len(start) < START_BYTES:
                    start += chunk[:START_BYTES]
                    _refuse_html(response, start)
                size += len(chunk)
                sha256.update(chunk)
                await asyncio.to_thread(file.write, chunk)
                failpoints.hit(Failpoint.ANSWER_BEGUN)
        if size == 0:
            raise UpstreamTruncated(f"{_asked(response)} answers 200 with an empty body")
        return sha256.digest(), size

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        seconds: float,
        refusal: Refusal | None = None,
        sent: Callable[[], None] | None = None,
        **arguments: Any,
    ) -> AsyncIterator[httpx2.Response]:
        """One call: waits its turn, then lives within its deadline; errors get their class."""
        url = f"{self._base_url}/{path.lstrip('/')}"
        async with self._calls, self._admission.call() if self._admission else nullcontext():
            if sent is not None:
                sent()
            started = time.perf_counter()
            outcome = "failed"
            try:
                async with asyncio.timeout(seconds):
                    async with self._client.stream(method, url, **arguments) as response:
                        outcome = str(response.status_code)
                        await _raise_for_status(response, refusal)
                        yield response
            except TimeoutError as error:
                outcome = "timeout"
                raise UpstreamUnavailable(f"{url} took more than {seconds} s") from error
            except httpx2.RemoteProtocolError as error:
                outcome = "truncated"
                raise UpstreamTruncated(f"{url}: {error}") from error
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                outcome = "failed"
                raise UpstreamUnavailable(f"{url}: {error!r}") from error
            finally:
                telemetry.UPSTREAM_REQUESTS.labels(self._name, outcome).observe(
                    time.perf_counter() - started
                )


@dataclass(frozen=True)
class Telling:
    """An upstream as `telling` hands it out."""

    upstream: Upstream
    sent: Callable[[], None]

    async def get(self, path: str) -> Response:
        return await self.upstream._call("GET", path, sent=self.sent)  # noqa: SLF001

    async def post(self, path: str, body: object, refusal: Refusal | None = None) -> Response:
        return await self.upstream._call(  # noqa: SLF001
            "POST", path, refusal=refusal, sent=self.sent, json=body
        )


def requests_per_second(declaration: Declaration, settings: AnnotatorSettings) -> float:
    """As the settings say, or else the declaration itself; 0: as fast as it answers."""
    rate = settings.upstreams.get(declaration.name, UpstreamSettings()).requests_per_second
    return declaration.requests_per_second if rate is None else rate


@asynccontextmanager
async def open_upstreams(
    declared: Mapping[str, Declaration], settings: AnnotatorSettings, engine: AsyncEngine
) -> AsyncIterator[Mapping[str, Upstream]]:
    """One client for each of these, where the settings or the declaration itself say."""
    async with AsyncExitStack() as stack:
        upstreams = {}
        for name, declaration in declared.items():
            chosen = settings.upstreams.get(name, UpstreamSettings())
            rate = requests_per_second(declaration, settings)
            upstreams[name] = Upstream(
                declaration,
                chosen.base_url or declaration.base_url,
                Admission(engine, name, rate) if rate else None,
            )
            stack.push_async_callback(upstreams[name].close)
        yield upstreams


async def _raise_for_status(response: httpx2.Response, refusal: Refusal | None) -> None:
    status = response.status_code
    if status in (200, 304):
        return
    start = await _first_bytes(response)
    detail = f"{_asked(response)} answers {status}: {start.decode(errors='replace')}"
    seconds = parse_retry_after(response.headers)
    if status == 429:
        raise RateLimited(detail, seconds)
    if status == 403:
        raise UpstreamBlocked(detail) if seconds is None else _shut_out(detail, seconds)
    _refuse_limited(response, start, refusal)
    if status == 408 or status >= 500:
        raise UpstreamUnavailable(detail, is_answer=status >= 500)
    raise UpstreamRefused(detail)


def _shut_out(detail: str, seconds: float) -> RateLimited:
    bounded = min(seconds, FORBIDDEN_SECONDS_MAX)
    looked = "" if bounded == seconds else f", looked at again after {bounded:g} s"
    return RateLimited(detail, bounded, f"403, Retry-After {seconds:g} s{looked}")


async def _first_bytes(response: httpx2.Response) -> bytes:
    said = bytearray()
    # The status has said what matters: an explanation that cannot be read changes nothing.
    with suppress(httpx2.HTTPError, AnnobusError):
        async for chunk in _unpacked(response, ANSWER_BYTES_MAX):
            said += chunk
            if len(said) >= EXPLANATION_BYTES:
                break
    return bytes(said[:EXPLANATION_BYTES])


async def _unpacked(response: httpx2.Response, bytes_max: int) -> AsyncIterator[bytes]:
    """The body in pieces of at most CHUNK_BYTES, and of at most `bytes_max` in all, packed and
    unpacked. Raises UpstreamTruncated, UpstreamOversized, UpstreamUnavailable."""
    encoding = response.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", "gzip"):
        raise UpstreamUnavailable(f"{_asked(response)} is packed as {encoding}; accepted is gzip")
    if encoding == "identity":
        async for piece in _received(response, bytes_max):
            yield piece
        return
    size = 0
    async for piece in _inflated(response, bytes_max):
        if piece:
            size += len(piece)
            _refuse_size(response, size, bytes_max, "unpacked")
            yield piece


async def _inflated(response: httpx2.Response, bytes_max: int) -> AsyncIterator[bytes]:
    """The client would do it too, but it takes a gzip stream without its end for a whole one."""
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    async for piece in _received(response, bytes_max):
        packed = piece
        while packed:
            if unpacker.eof:  # A gzip file may be several, one behind the other.
                unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
            try:
                yield unpacker.decompress(packed, CHUNK_BYTES)
            except zlib.error as error:
                raise UpstreamTruncated(f"{_asked(response)} is no whole gzip: {error}") from error
            packed = unpacker.unconsumed_tail or unpacker.unused_data
            if packed:  # A piece that is packed tightly is long to unpack: others have a turn.
                await asyncio.sleep(0)
    if response.num_bytes_downloaded:
        yield unpacker.flush()
        if not unpacker.eof:
            raise UpstreamTruncated(f"{_asked(response)} is a gzip without its end")


async def _received(response: httpx2.Response, bytes_max: int) -> AsyncIterator[bytes]:
    """What comes, as it comes: not too much of it, and not too slowly."""
    announced = int(response.headers.get("content-length", 0))
    _refuse_size(response, announced, bytes_max, "announced")
    started = time.perf_counter()
    async for piece in response.aiter_raw():  # Of at most CHUNK_BYTES: so the client reads.
        size, seconds = response.num_bytes_downloaded, time.perf_counter() - started
        _refuse_size(response, size, bytes_max, "sent")
        if seconds > SLOW_SECONDS and size < seconds * BYTES_PER_SECOND_MIN:
            raise UpstreamUnavailable(
                f"{_asked(response)} sent {size} bytes in {seconds:.1f} s;"
                f" accepted are {BYTES_PER_SECOND_MIN} a second"
            )
        yield piece


def _refuse_size(response: httpx2.Response, size: int, bytes_max: int, how: str) -> None:
    if size > bytes_max:
        raise UpstreamOversized(
            f"{_asked(response)} is larger than {bytes_max} bytes: {size} are {how}"
        )


def _refuse_limited(response: httpx2.Response, content: bytes, refusal: Refusal | None) -> None:
    """What says 429 with another status. Here, so that it is told to all workers as one."""
    if refusal is not None and (said := refusal(content)) is not None:
        reason = f"{response.status_code}: {said.detail:.{REASON_CHARACTERS_MAX}}"
        raise RateLimited(f"{_asked(response)}: {said.detail}", said.seconds, reason)


def _asked(response: httpx2.Response) -> str:
    """The address we asked: where it led to may be signed and good for minutes only."""
    first = response.history[0] if response.history else response
    return str(first.url)


def _media_type(response: httpx2.Response) -> str:
    return response.headers.get("content-type", "").partition(";")[0].strip().lower()


def _refuse_type(response: httpx2.Response, *, is_json: bool) -> None:
    """What is said to be HTML is none of ours, whatever it holds; what says nothing may be.

    Files bear many types, and the right ones often a wrong type; answers are JSON.
    """
    media = _media_type(response)
    is_wrong = not media.endswith(("/json", "+json")) if is_json else media in HTML_TYPES
    if media and is_wrong:
        accepted = "application/json" if is_json else "a file"
        raise UpstreamUnavailable(f"{_asked(response)} answers {media}; accepted is {accepted}")


def _refuse_html(response: httpx2.Response, start: bytes | bytearray) -> None:
    """A maintenance or proxy page comes with status 200: it is no data, and no 'none' either."""
    # No upstream here has data in XML, so whatever begins with a tag is HTML.
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        said = bytes(start).decode(errors="replace")
        raise UpstreamUnavailable(
            f"{_asked(response)} begins with {said!r:.40}, as HTML does; accepted is data"
        )


def _is_synthetic(response: httpx2.Response) -> bool:
    return response.headers.get("x-synthetic") == "true"


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, as a whole number, a fraction or a date; None when absent or not understood.

    A date is the upstream's, and so is the clock it is compared with, where the answer has one.
    """
    said = headers.get("retry-after")
    if said is None:
        return None
    try:
        seconds = float(said)
    except ValueError:
        moment = _parse_date(said)
        if moment is None:
            return None
        now = _parse_date(headers.get("date", "")) or datetime.now(UTC)
        seconds = (moment - now).total_seconds()
    if math.isnan(seconds):
        return None
    return min(max(0.0, seconds), RETRY_AFTER_SECONDS_MAX)


def _parse_date(said: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(said)
    except (ValueError, OverflowError):  # Its year may have any number of digits.
        return None
    # A date that ends in -0000 says that it is in UTC.
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
