"""The gateway as the command line sees it: one small HTTP client, and its errors in words."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import orjson

from services.cli import state
from services.cli.errors import CommandFailed, NotAuthorised, NotReachable, Refused

TIMEOUT_SECONDS = 30.0
CONNECT_TIMEOUT_SECONDS = 5.0
SHOWN_CHARACTERS_MAX = 200  # Of an answer that is no document.
TOLD = ("value", "accepted")  # Of an error.

Document = dict[str, Any]

ADVICE = {
    "catalogue-empty": "Fill the catalogue first: annobus runs start --all --watch",
    "gene-unknown": "Look for it: annobus genes list --filter symbol=…",
    "dead-letter-decided": "See what was decided: annobus dead-letters show ID",
    "dead-letter-unknown": "See the letters there are: annobus dead-letters list",
    "dead-letter-unsendable": "Give it up instead: annobus dead-letters discard ID",
    "panel-archived": "See the panels there are: annobus panels list",
    "panel-changed": "See what the newest has, and try again: annobus panels show ID",
    "panel-name-taken": "Make a new version of it: annobus panels add ID GENES",
    "panel-refused": "See what a name may mean: annobus genes resolve NAMES; or leave them out: "
    "--leave-out",
    "panel-unknown": "See the panels there are: annobus panels list",
    "namespace-unknown": "See the namespaces there are: annobus cache namespaces",
    "run-ended": "See what became of it: annobus runs show ID",
    "run-identical": "Watch that one: annobus runs watch ID; or end it: annobus runs cancel ID",
    "run-not-failed": "See what became of it: annobus runs show ID",
    "run-unknown": "See the runs there are: annobus runs list",
    "release-unknown": "See the releases there are: annobus sources releases NAME",
    "source-unknown": "See the sources there are: annobus sources list",
    "sources-refused": "See the sources there are: annobus sources list",
    "gene-not-built": "Try again in a few seconds",
    "unavailable": "See what runs: annobus status",
}


def find_url(url: str | None, folder: Path) -> str:
    """The gateway's address: the one named, else that of the system of this state folder."""
    if url is None:
        running = state.read(folder)
        if running is None or running.url is None:
            raise NotReachable(
                f"no annobus runs in {folder}",
                advice="Start one with annobus up, or name a gateway with --url or ANNOBUS_URL",
            )
        return running.url
    if not url.startswith(("http://", "https://")):
        raise Refused(f"the address {url!r} is not accepted: it starts with http:// or https://")
    return url.rstrip("/")


def is_local(url: str) -> bool:
    """Whether an address is this machine's own, which no proxy can reach."""
    host = httpx2.URL(url).host
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Client:
    """Raises NotReachable, NotAuthorised, Refused and CommandFailed, ready to be shown."""

    def __init__(self, http: httpx2.AsyncClient, url: str) -> None:
        self._http = http
        self.url = url

    async def get(
        self, path: str, parameters: Mapping[str, str] | Sequence[tuple[str, str]] = ()
    ) -> Document:
        return await self._send("GET", path, params=parameters)

    async def post(
        self, path: str, body: Document | None = None, headers: Mapping[str, str] | None = None
    ) -> Document:
        return await self._send("POST", path, json=body, headers=headers)

    async def patch(self, path: str, body: Document) -> Document:
        return await self._send("PATCH", path, json=body)

    async def delete(self, path: str) -> Document:
        return await self._send("DELETE", path)

    async def upload(
        self,
        path: str,
        content: bytes,
        media: str,
        parameters: Mapping[str, str],
        headers: Mapping[str, str],
    ) -> Document:
        headers = {"Content-Type": media, **headers}
        return await self._send("POST", path, content=content, params=parameters, headers=headers)

    @asynccontextmanager
    async def stream(
        self,
        path: str,
        parameters: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
        silence_seconds: float,
    ) -> AsyncIterator[httpx2.Response]:
        """An answer that is read as it comes. One that breaks off, or is silent for so long, is
        NotReachable where it is read."""
        timeout = httpx2.Timeout(silence_seconds, connect=CONNECT_TIMEOUT_SECONDS)
        has_begun = False
        try:
            async with self._http.stream(
                "GET", path, params=[*parameters], headers=headers, timeout=timeout
            ) as response:
                if response.status_code >= 400:
                    await response.aread()
                    raise failure(response)
                has_begun = True
                yield response
        except httpx2.TransportError as error:
            if has_begun:
                why = str(error) or type(error).__name__
                raise NotReachable(
                    f"the answer of {self.url} broke off: {why}",
                    advice="Try again; the log says more: annobus logs gateway",
                ) from error
            raise self._silent(error) from error

    # The ways a request is given its content are httpx2's own.
    async def _send(self, method: str, path: str, **content: Any) -> Document:
        try:
            response = await self._http.request(method, path, **content)
        except httpx2.TransportError as error:
            raise self._silent(error) from error
        if response.status_code >= 400:
            raise failure(response)
        document = _parsed(response)
        if document is None:
            raise NotReachable(
                f"{response.url} answered {response.status_code} with something else than a "
                f"JSON document: {response.text[:SHOWN_CHARACTERS_MAX]!r}",
                advice="Check that the address is that of an annobus gateway",
            )
        return document

    def _silent(self, error: httpx2.TransportError) -> NotReachable:
        return NotReachable(
            f"{self.url} does not answer: {str(error) or type(error).__name__}",
            advice="See what runs with annobus status, start it with annobus up, "
            "or name another gateway with --url or ANNOBUS_URL",
        )


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Client]:
    timeout = httpx2.Timeout(TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS)
    async with httpx2.AsyncClient(
        base_url=url, timeout=timeout, trust_env=not is_local(url)
    ) as http:
        yield Client(http, url)


def fetch(
    url: str | None,
    folder: Path,
    path: str,
    parameters: Mapping[str, str] | Sequence[tuple[str, str]] = (),
) -> Document:
    """One document of the gateway, for the commands that need no more."""

    async def fetched() -> Document:
        async with connect(find_url(url, folder)) as client:
            return await client.get(path, parameters)

    return asyncio.run(fetched())


def send(url: str | None, folder: Path, path: str, body: Document | None) -> Document:
    """What the gateway answers to this body."""

    async def sent() -> Document:
        async with connect(find_url(url, folder)) as client:
            return await client.post(path, body)

    return asyncio.run(sent())


def cursor(document: Document) -> str | None:
    """Where the next page of a list begins; None on the last one."""
    address = document.get("links", {}).get("next")
    if not address:
        return None
    return next(iter(parse_qs(urlsplit(address).query).get("page[after]", [])), None)


def failure(response: httpx2.Response) -> CommandFailed:
    """A refused request in words: `title: detail`, a line for each error, and what to do next."""
    document = _parsed(response) or {}
    status = response.status_code
    title = document.get("title") or f"the gateway answered {status} {response.reason_phrase}"
    detail = document.get("detail") or ""
    message = f"{title}: {detail}" if detail else str(title)
    errors = [error for error in document.get("errors") or () if isinstance(error, dict)]
    if len(errors) == 1 and all(str(errors[0].get(name)) in detail for name in TOLD):
        errors = []  # The detail has said it.
    particulars = [_line(error) for error in errors]
    advice = _advice(status, str(document.get("type", "")), response.headers.get("Retry-After"))
    return _kind(status)(message, particulars, advice)


def _parsed(response: httpx2.Response) -> Document | None:
    try:
        document = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _line(error: Document) -> str:
    """One entry of a problem's `errors`: the field, the value and what would be accepted."""
    line = str(error.get("pointer", ""))
    if error.get("value") is not None:
        line += f" {error['value']!r}"
    return f"{line}: {error['accepted']}" if error.get("accepted") else line


def _advice(status: int, kind: str, retry_after: str | None) -> str:
    if kind.rpartition(":")[2] in ADVICE:
        return ADVICE[kind.rpartition(":")[2]]
    if status in (401, 403):
        return "Use a key that may do this"
    if retry_after is not None:
        return f"Try again in {retry_after} s"
    if status >= 500:
        return "The log says more: annobus logs gateway"
    return "Correct what is named above and try again"


def _kind(status: int) -> type[CommandFailed]:
    if status in (401, 403):
        return NotAuthorised
    if status in (502, 503, 504):
        return NotReachable
    return Refused if status < 500 else CommandFailed
