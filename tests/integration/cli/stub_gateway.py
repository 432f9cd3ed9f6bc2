"""A small real server that says what a test wants, where the real gateway could not be made to."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
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


@dataclass
class Stub:
    """`answers` are (status, body, content type) by path; `sockets` are the frames of each
    connection in turn, after which it is closed."""

    url: str = ""
    answers: dict[str, list[tuple[int, bytes, str]]] = field(default_factory=dict)
    sockets: list[list[dict[str, Any]]] = field(default_factory=list)
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)
    socket_count: int = 0

    def answer(self, path: str, document: object, status: int = 200) -> None:
        """What this path answers next; the last one is repeated."""
        kind = "application/problem+json" if status >= 400 else "application/vnd.api+json"
        self.answers.setdefault(path, []).append((status, orjson.dumps(document), kind))

    async def respond(self, request: Request) -> Response:
        path = request.scope["path"]  # As it was decoded: with a ? that was quoted.
        query = f"?{request.url.query}" if request.url.query else ""
        self.asked.append((request.method, path + query, await request.body()))
        answers = self.answers[path]
        status, body, kind = answers.pop(0) if len(answers) > 1 else answers[0]
        return Response(body, status, media_type=kind)

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
    config = uvicorn.Config(Starlette(routes=routes), port=0, log_level="error", lifespan="off")
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
