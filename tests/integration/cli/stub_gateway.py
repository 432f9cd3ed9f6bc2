"""A small real server that says what a test wants, where the real gateway could not be made to."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

START_SECONDS_MAX = 10
RUN_ID = "0199f000-0000-7000-8000-000000000001"

Counters = Mapping[str, Any]


def counters(state: str, total: int | None, done: int = 0, failed: int = 0) -> dict[str, Any]:
    return {
        "state": state,
        "total_count": total,
        "done_count": done,
        "no_data_count": 0,
        "failed_count": failed,
        "release": "2025-01-16",
        "synthetic": False,
    }


def run_document(state: str, seq: int, **sources: Counters) -> dict[str, Any]:
    attributes = {"state": state, "seq": seq, "gene_count": None, "name": None, "sources": sources}
    return {"data": {"type": "runs", "id": RUN_ID, "attributes": attributes}}


def frame(state: str, seq: int, **sources: Counters) -> dict[str, Any]:
    return {"type": "snapshot", "run_id": RUN_ID, "seq": seq, "status": state, "sources": sources}


Ending = Literal["whole", "broken", "open"]  # Of an answer's body: the last one never ends.


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    kind: str
    ending: Ending = "whole"

    async def parts(self) -> AsyncIterator[bytes]:
        yield self.body
        if self.ending == "broken":
            raise ConnectionError("as the test wants it")
        if self.ending == "open":
            await asyncio.Event().wait()  # Until the client has left.


@dataclass
class Stub:
    """`answers` are those of each path in turn; `sockets` are the frames of each connection in
    turn, after which it is closed."""

    url: str = ""
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    sockets: list[list[dict[str, Any]]] = field(default_factory=list)
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)  # Of what was asked.
    socket_count: int = 0

    def answer(self, path: str, document: object, status: int = 200) -> None:
        """What this path answers next; the last one is repeated."""
        kind = "application/problem+json" if status >= 400 else "application/vnd.api+json"
        self.send(path, Answer(status, orjson.dumps(document), kind))

    def send(self, path: str, *answers: Answer) -> None:
        """Not a document, but a file or a stream."""
        self.answers.setdefault(path, []).extend(answers)

    async def respond(self, request: Request) -> Response:
        path = request.scope["path"]  # As it was decoded: with a ? that was quoted.
        query = f"?{request.url.query}" if request.url.query else ""
        self.asked.append((request.method, path + query, await request.body()))
        self.headers.append(request.headers)
        answers = self.answers[path]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return StreamingResponse(answer.parts(), answer.status, media_type=answer.kind)

    async def watch(self, socket: WebSocket) -> None:
        await socket.accept()
        self.socket_count += 1
        for sent in self.sockets.pop(0) if self.sockets else []:
            await socket.send_bytes(orjson.dumps(sent))
        await socket.close(1011)


@contextmanager
def stub_gateway() -> Iterator[Stub]:
    stub = Stub()
    routes = [
        WebSocketRoute("/ws/jobs/{run_id}", stub.watch),
        Route("/{path:path}", stub.respond, methods=["GET", "POST", "PATCH", "DELETE"]),
    ]
    config = uvicorn.Config(Starlette(routes=routes), port=0, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + START_SECONDS_MAX
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    stub.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield stub
    finally:
        server.should_exit = True
        thread.join()
