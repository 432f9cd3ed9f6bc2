"""The HTTP client all sources use: rate, deadlines, sizes, and one error class per cause."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx2
import structlog
from aiolimiter import AsyncLimiter

from services.annotator.domain import Declaration, RemoteFile, Response
from services.annotator.errors import (
    RateLimited,
    UpstreamBlocked,
    UpstreamRefused,
    UpstreamTruncated,
    UpstreamUnavailable,
)
from services.chassis import telemetry

log = structlog.get_logger()

CONNECT_SECONDS = 5.0
READ_SECONDS = 15.0
CALL_SECONDS = 30.0  # A whole API call, body included.
DOWNLOAD_SECONDS = 900.0  # A whole file.
ANSWER_BYTES_MAX = 32 * 1024 * 1024  # An API answer, unpacked.
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
    synthetic: bool


class Upstream:
    """One source's upstream. Safe for concurrent use; bounded by the source's declaration."""

    def __init__(self, declaration: Declaration, base_url: str, per_second: float) -> None:
        self._name = declaration.name
        self._base_url = base_url.rstrip("/")
        self._calls = asyncio.Semaphore(declaration.concurrency)
        # One call at a time leaves the limiter, evenly spaced: no burst at the start.
        self._limiter = AsyncLimiter(1, 1 / per_second) if per_second else None
        self._client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=declaration.concurrency),
            headers={"User-Agent": USER_AGENT},
            follow_redirects=True,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def get(self, path: str) -> Response:
        return await self._call("GET", path)

    async def post(self, path: str, body: object) -> Response:
        return await self._call("POST", path, json=body)

    async def _call(self, method: str, path: str, **arguments: Any) -> Response:
        headers = {"Accept": "application/json"}
        async with self._answer(
            method, path, CALL_SECONDS, headers=headers, **arguments
        ) as response:
            content = bytearray()
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > ANSWER_BYTES_MAX:
                    raise UpstreamRefused(
                        f"{response.url} answers more than {ANSWER_BYTES_MAX} bytes"
                    )
            _refuse_page(response, bytes(content[:64]))
            return Response(str(response.url), bytes(content), _is_synthetic(response))

    async def download(
        self, file: RemoteFile, into: Path, etag: str | None, last_modified: str | None
    ) -> Downloaded | None:
        """Fetch a file into a folder, or None when it is the one we know already."""
        headers = {"Accept-Encoding": "gzip"}
        if etag:
            headers["If-None-Match"] = etag
        if last_modified:
            headers["If-Modified-Since"] = last_modified
        async with self._answer("GET", file.path, DOWNLOAD_SECONDS, headers=headers) as response:
            if response.status_code == 304:
                return None
            target = into / file.name
            sha256, size = await self._save(response, target, file.bytes_max)
            return Downloaded(
                target,
                str(response.url),
                sha256,
                size,
                response.headers.get("etag"),
                response.headers.get("last-modified"),
                _is_synthetic(response),
            )

    async def _save(
        self, response: httpx2.Response, target: Path, bytes_max: int
    ) -> tuple[bytes, int]:
        sha256, size = hashlib.sha256(), 0
        with target.open("wb") as file:  # Written by a thread: the disk must not hold the loop.
            async for chunk in response.aiter_bytes(256 * 1024):
                if size == 0:
                    _refuse_page(response, chunk[:64])
                size += len(chunk)
                if size > bytes_max:
                    raise UpstreamRefused(f"{response.url} is larger than {bytes_max} bytes")
                sha256.update(chunk)
                await asyncio.to_thread(file.write, chunk)
        if size == 0:
            raise UpstreamTruncated(f"{response.url} answers 200 with an empty body")
        return sha256.digest(), size

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, seconds: float, **arguments: Any
    ) -> AsyncIterator[httpx2.Response]:
        """One call: waits its turn, then lives within its deadline; errors get their class."""
        url = f"{self._base_url}/{path.lstrip('/')}"
        async with self._calls:
            if self._limiter is not None:
                await self._limiter.acquire()
            started = time.perf_counter()
            outcome = "failed"
            try:
                async with asyncio.timeout(seconds):
                    async with self._client.stream(method, url, **arguments) as response:
                        outcome = str(response.status_code)
                        await _raise_for_status(response)
                        yield response
            except TimeoutError as error:
                outcome = "timeout"
                raise UpstreamUnavailable(f"{url} took more than {seconds} s") from error
            except httpx2.RemoteProtocolError as error:
                raise UpstreamTruncated(f"{url}: {error}") from error
            except httpx2.HTTPError as error:
                raise UpstreamUnavailable(f"{url}: {error!r}") from error
            finally:
                telemetry.UPSTREAM_REQUESTS.labels(self._name, outcome).observe(
                    time.perf_counter() - started
                )


async def _raise_for_status(response: httpx2.Response) -> None:
    status = response.status_code
    if status in (200, 304):
        return
    said = (await _first_bytes(response)).decode(errors="replace")
    detail = f"{response.url} answers {status}: {said}"
    if status == 429:
        raise RateLimited(detail, parse_retry_after(response.headers))
    if status == 403:
        raise UpstreamBlocked(detail)
    if status >= 500:
        raise UpstreamUnavailable(detail)
    raise UpstreamRefused(detail)


async def _first_bytes(response: httpx2.Response) -> bytes:
    async for chunk in response.aiter_bytes(200):
        return chunk
    return b""


def _refuse_page(response: httpx2.Response, start: bytes) -> None:
    """A maintenance or proxy page comes with status 200: it is no data, and no 'none' either."""
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise UpstreamUnavailable(f"{response.url} answers a page where data was expected")


def _is_synthetic(response: httpx2.Response) -> bool:
    return response.headers.get("x-synthetic") == "true"


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, as a whole number, a fraction or a date; None when absent or not understood."""
    said = headers.get("retry-after")
    if said is None:
        return None
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(said)
    except ValueError:
        return None
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
