"""Faults as data: each kind is one way in which upstreams fail, with its arguments.

Most of them spoil the usual answer on its way out. Those that need a body take the conditions out
of the request, so that the answer is no 304.
"""

import asyncio
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Annotated, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.datastructures import MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.mirror.connection import Connection

SECONDS_MAX: Final = 3600.0
COUNT_MAX: Final = 1_000_000
MIB: Final = 1 << 20
BOMB_MIB_MAX: Final = 64 * 1024
BOMB_STEP_MIB: Final = 32  # In one piece of the answer, of some 32 KB: a client reads it at once.
PIECES_PER_SECOND: Final = 10  # Of a drip; a slower one sends a byte at a time.
GZIP: Final = zlib.MAX_WBITS | 16
HTML: Final = "<!DOCTYPE html><html><body>Down for maintenance</body></html>\n"
VALUE_CHARACTERS_MAX: Final = 80

Seconds = Annotated[float, Field(gt=0, le=SECONDS_MAX)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Fault(BaseModel):
    """Strikes requests whose path below the upstream's base begins with `path`: the next `count`,
    or all until it is taken back."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    path: str = "/"
    count: int | None = Field(default=None, ge=1, le=COUNT_MAX)


class Latency(Fault):
    """The usual answer, later."""

    kind: Literal["latency"]
    seconds: Seconds

    async def answer(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        if not await Connection.of(scope).is_gone_within(self.seconds):
            await app(scope, receive, send)


class Status(Fault):
    """An error of the upstream, or one that it sees in us."""

    kind: Literal["status"]
    status: int = Field(ge=400, le=599)

    async def answer(self, _app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        told = PlainTextResponse(f"told to answer {self.status}", self.status)
        await told(scope, receive, send)


class RateLimited(Fault):
    """429. Who may come back when is said in each form that upstreams use, or not at all."""

    kind: Literal["rate_limited"]
    seconds: Seconds = 1.0
    form: Literal["whole", "fraction", "date", "absent"] = "whole"

    async def answer(self, _app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        due = datetime.now(UTC) + timedelta(seconds=self.seconds)
        said = {
            "whole": f"{self.seconds:.0f}",
            "fraction": f"{self.seconds:.3f}",
            "date": format_datetime(due, usegmt=True),
        }.get(self.form)
        headers = {} if said is None else {"Retry-After": said}
        await PlainTextResponse("told to answer 429", 429, headers)(scope, receive, send)


class Hang(Fault):
    """No answer at all, until the client leaves or the time is over."""

    kind: Literal["hang"]
    seconds: Seconds = 60.0

    async def answer(self, _app: ASGIApp, scope: Scope, _receive: Receive, _send: Send) -> None:
        connection = Connection.of(scope)
        if not await connection.is_gone_within(self.seconds):
            await connection.close()


class Drip(Fault):
    """The usual answer, a few bytes at a time, until the client leaves or the time is over."""

    kind: Literal["drip"]
    bytes_per_second: float = Field(gt=0, le=MIB)
    seconds: Seconds = 60.0

    async def answer(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        connection = Connection.of(scope)
        size = max(1, int(self.bytes_per_second / PIECES_PER_SECOND))

        async def drip(message: Message) -> None:
            body = message.get("body", b"")
            for start in range(0, len(body), size):
                piece = body[start : start + size]
                await send({"type": message["type"], "body": piece, "more_body": True})
                if await connection.is_gone_within(len(piece) / self.bytes_per_second):
                    return
            await send({**message, "body": b""} if body else message)

        try:
            async with asyncio.timeout(self.seconds):
                await app(_unconditional(scope), receive, drip)
        except TimeoutError:
            await connection.close()


class Truncated(Fault):
    """The beginning of the usual answer, under the length of the whole."""

    kind: Literal["truncated"]
    kept: Share = 0.5

    async def answer(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        await app(_unconditional(scope), receive, _Beginning(send, self.kept))
        await Connection.of(scope).close()


class Reset(Fault):
    """The beginning of the usual answer, then the connection is broken off."""

    kind: Literal["reset"]
    kept: Share = 0.5

    async def answer(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        await app(_unconditional(scope), receive, _Beginning(send, self.kept))
        await Connection.of(scope).reset()


class CutGzip(Fault):
    """The usual answer as gzip, without the end of the stream: as a proxy passes it on that lost
    its upstream. HTTP itself sees nothing wrong."""

    kind: Literal["cut_gzip"]

    async def answer(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        packer = zlib.compressobj(wbits=GZIP)

        async def pack(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                del headers["content-length"]
                headers["content-encoding"] = "gzip"
                await send(message)
                return
            packed = packer.compress(message.get("body", b"")) + packer.flush(zlib.Z_SYNC_FLUSH)
            await send({**message, "body": packed})

        await app(_unconditional(scope, drop=("accept-encoding",)), receive, pack)


class Html(Fault):
    """What people get to see of a site that is down, with status 200."""

    kind: Literal["html"]

    async def answer(self, _app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        await HTMLResponse(HTML)(scope, receive, send)


class ContentType(Fault):
    """The usual answer, under another type."""

    kind: Literal["content_type"]
    content_type: str = Field(default="text/html", pattern=r"^[\w.+-]+/[\w.+-]+$", max_length=100)

    async def answer(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        async def rename(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["content-type"] = self.content_type
            await send(message)

        await app(_unconditional(scope), receive, rename)


class Bomb(Fault):
    """A valid gzip stream of zeros, a thousandth of its size on the wire, made as it is sent."""

    kind: Literal["bomb"]
    unpacked_mib: int = Field(default=4096, ge=1, le=BOMB_MIB_MAX)

    async def answer(self, _app: ASGIApp, scope: Scope, _receive: Receive, send: Send) -> None:
        connection = Connection.of(scope)
        packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
        zeros = bytes(MIB)
        # A full flush ends at a byte and refers to nothing before it: the piece can be repeated.
        piece = packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)
        headers = [(b"content-encoding", b"gzip"), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        begin = b"\x1f\x8b\x08" + bytes(6) + b"\xff"
        await send({"type": "http.response.body", "body": begin, "more_body": True})
        checksum = 0
        for sent in range(0, self.unpacked_mib, BOMB_STEP_MIB):
            repeated = min(BOMB_STEP_MIB, self.unpacked_mib - sent)
            for _ in range(repeated):
                checksum = zlib.crc32(zeros, checksum)
            await send({"type": "http.response.body", "body": piece * repeated, "more_body": True})
            if await connection.is_gone_within(0):
                return
        size = self.unpacked_mib * MIB % 2**32
        end = packer.flush() + checksum.to_bytes(4, "little") + size.to_bytes(4, "little")
        await send({"type": "http.response.body", "body": end})


AnyFault = (
    Latency
    | Status
    | RateLimited
    | Hang
    | Drip
    | Truncated
    | Reset
    | CutGzip
    | Html
    | ContentType
    | Bomb
)
KINDS: Final[Mapping[str, type[Fault]]] = {
    get_args(fault.model_fields["kind"].annotation)[0]: fault for fault in get_args(AnyFault)
}
_ADAPTER: Final[TypeAdapter[AnyFault]] = TypeAdapter(
    Annotated[AnyFault, Field(discriminator="kind")]
)


class UnusableFault(Exception):
    """Names the field, its value and what would be accepted."""


def read(body: bytes) -> AnyFault:
    """The fault that a request's body describes. Raises UnusableFault."""
    try:
        return _ADAPTER.validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        kind, *field = (*map(str, first["loc"]), "")[:2]
        name = "".join(field) or "the fault"
        said = f"{name} is {first['input']!r:.{VALUE_CHARACTERS_MAX}}: {first['msg']}"
        known = ", ".join(KINDS[kind].model_fields) if kind in KINDS else ""
        accepted = f"the fields {known}" if known else f"one of the kinds {', '.join(KINDS)}"
        raise UnusableFault(f"{said}; accepted: {accepted}") from error


class _Beginning:
    """Lets the beginning of an answer through, and never its end."""

    def __init__(self, send: Send, kept: float) -> None:
        self._send = send
        self._kept = kept
        self._left = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._left = int(int(MutableHeaders(scope=message)["content-length"]) * self._kept)
            await self._send(message)
            return
        body = message.get("body", b"")[: self._left]
        self._left -= len(body)
        await self._send({"type": message["type"], "body": body, "more_body": True})


def _unconditional(scope: Scope, drop: tuple[str, ...] = ()) -> Scope:
    """The request as from a client that has nothing yet."""
    unwanted = {b"if-none-match", b"if-modified-since", *(name.encode() for name in drop)}
    headers = [(name, text) for name, text in scope["headers"] if name not in unwanted]
    return {**scope, "headers": headers}
