"""HTTP that every service has: problem documents, health, metrics, and the server itself."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import uuid4

import orjson
import structlog
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.chassis import database, telemetry
from services.chassis.errors import Problem, RequestError, field_error, problem_urn

log = structlog.get_logger()

BODY_BYTES_MAX = 8 * 1024 * 1024
ERRORS_MAX = 100  # Entries of one problem document.
TOLD_MAX = 3  # Of them, told in its detail.
STARTED_TIMEOUT_SECONDS = 10
DRAIN_SECONDS = 5
CHECK_TIMEOUT_SECONDS = 3

PROBLEM_MEDIA_TYPE = "application/problem+json"
# What any route may answer, and what that is called; the errors of one service have theirs.
BLANK = "about:blank"
INVALID_REQUEST = problem_urn("invalid-request")
BODY_TOO_LARGE = problem_urn("body-too-large")
UNAVAILABLE = problem_urn("unavailable")
UNEXPECTED = problem_urn("unexpected")
TITLES: Mapping[str, str] = {
    INVALID_REQUEST: "The request does not fit",
    BODY_TOO_LARGE: "The body is too large",
    UNAVAILABLE: "The database does not answer",
    UNEXPECTED: "An unexpected error",
}

Check = Callable[[], Awaitable[Sequence[str]]]  # What is wrong; nothing when all is well.


def problem_response(
    status: int,
    document: Problem,
    errors: Sequence[Mapping[str, Any]] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    body: dict[str, Any] = document | {"status": status, "instance": f"urn:uuid:{uuid4()}"}
    if errors:
        body["errors"] = list(errors)
    # What a client sent may hold half a surrogate pair, which is JSON but no UTF-8.
    content = json.dumps(body, ensure_ascii=False).encode(errors="replace")
    return Response(content, status, headers=headers, media_type=PROBLEM_MEDIA_TYPE)


def create_app(title: str, checks: Mapping[str, Check]) -> FastAPI:
    """An application with the routes and the error documents that every service has."""
    # No redirects: they would lead where the Host header says.
    app = FastAPI(title=title, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(BodyLimit)
    app.add_middleware(Timing)
    app.add_middleware(HeadAsGet)

    @app.get("/livez", include_in_schema=False)
    async def livez() -> Response:
        return Response("ok\n", media_type="text/plain")

    @app.get("/readyz", include_in_schema=False)
    async def readyz(verbose: str | None = None) -> Response:
        report = {name: await _run(check) for name, check in checks.items()}
        ready = not any(entry["problems"] for entry in report.values())
        status = 200 if ready else 503
        if verbose is None:
            return Response("ready\n" if ready else "not ready\n", status, media_type="text/plain")
        body = orjson.dumps({"ready": ready, "checks": report}, option=orjson.OPT_INDENT_2)
        return Response(body + b"\n", status, media_type="application/json")

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    for connection_error in database.CONNECTION_ERRORS:
        app.add_exception_handler(connection_error, _unavailable)
    app.add_exception_handler(Exception, _unexpected)
    return app


async def _run(check: Check) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
            problems = list(await check())
    except Exception as error:  # noqa: BLE001  # Whatever it is, it is why this process is not ready.
        problems = [repr(error)]
    return {"problems": problems, "ms": round((time.perf_counter() - started) * 1000, 1)}


async def _request_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return problem_response(error.status, error.problem(), error.errors)


async def _validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = []
    everything = error.errors()
    for found in everything[:ERRORS_MAX]:
        place, *path = (str(part) for part in found["loc"])
        pointer = "/" + "/".join(path) if place == "body" else f"{place} {'/'.join(path)}"
        errors.append(field_error(pointer, found.get("input"), found["msg"]))
    if everything[0]["type"] == "json_invalid":
        detail, status = "The body is not valid JSON", 400
    else:
        first = "; ".join(f"{e['pointer']}: {e['accepted']}" for e in errors[:TOLD_MAX])
        detail, status = f"{len(everything)} errors; {first}", 422
    document: Problem = {
        "type": INVALID_REQUEST,
        "title": TITLES[INVALID_REQUEST],
        "detail": detail,
    }
    return problem_response(status, document, errors)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 413:
        return _too_large()
    if error.status_code == 400:  # Raised by the framework alone, for a body it cannot parse.
        accepted = "a JSON object in UTF-8"
        return problem_response(
            400,
            {
                "type": INVALID_REQUEST,
                "title": TITLES[INVALID_REQUEST],
                "detail": f"The body cannot be parsed; accepted is {accepted}",
            },
            [field_error("/", "(not readable)", accepted)],
        )
    document: Problem = {
        "type": "about:blank",
        "title": str(error.detail),
        "detail": f"{request.method} {request.url.path}: {error.detail}",
    }
    return problem_response(error.status_code, document, headers=error.headers)


async def _unavailable(request: Request, error: Exception) -> Response:
    if not database.is_worth_another_try(error):
        return await _unexpected(request, error)
    log.warning("database_unavailable", error=repr(error))
    document: Problem = {
        "type": UNAVAILABLE,
        "title": TITLES[UNAVAILABLE],
        "detail": "Try again in a few seconds",
    }
    return problem_response(503, document, headers={"Retry-After": "2"})


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("request_failed", path=request.url.path, exc_info=error)
    document: Problem = {
        "type": UNEXPECTED,
        "title": TITLES[UNEXPECTED],
        "detail": "The log of this service says more",
    }
    return problem_response(500, document)


class BodyLimit:
    """Refuse a body above the limit as soon as that is known, whatever its headers say."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > BODY_BYTES_MAX:
            await _too_large()(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > BODY_BYTES_MAX:
                raise HTTPException(413, f"The body is larger than {BODY_BYTES_MAX} bytes")
            return message

        await self.app(scope, counted, send)


def _too_large() -> Response:
    document: Problem = {
        "type": BODY_TOO_LARGE,
        "title": TITLES[BODY_TOO_LARGE],
        "detail": f"At most {BODY_BYTES_MAX} bytes are accepted",
    }
    error = field_error("/", "(the body)", f"at most {BODY_BYTES_MAX} bytes")
    return problem_response(413, document, [error])


class HeadAsGet:
    """Answer HEAD wherever GET is answered (RFC 9110 9.3.2): the server leaves out the content."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            # A copy: by the method in its own scope the server knows what to leave out.
            scope = {**scope, "method": "GET"}
        await self.app(scope, receive, send)


class Timing:
    """Measure each answer by route, not by path: a gene's id is no label."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            telemetry.HTTP_REQUESTS.labels(scope["method"], route, status).observe(
                time.perf_counter() - started
            )


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the process, which stops things in order."""
        yield


@asynccontextmanager
async def serve(app: ASGIApp, host: str, port: int) -> AsyncIterator[int]:
    """Serve until the context ends; yields the port, which is chosen when 0 was asked for."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=DRAIN_SECONDS,
        ws_max_size=64 * 1024,
        ws_ping_interval=20,
        ws_per_message_deflate=False,  # A frame is made once for all; this would pack it for each.
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(), name="http")
    async with asyncio.timeout(STARTED_TIMEOUT_SECONDS):
        while not server.started:
            if task.done():
                await task  # uvicorn exits when it cannot bind: say so as it said it.
                raise OSError(f"nothing serves on {host}:{port}")
            await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task
