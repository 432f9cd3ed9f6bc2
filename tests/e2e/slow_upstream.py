"""An Ensembl that takes its time, and writes down when it was asked for which ids."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.annotator.sources import UPSTREAMS
from tests.waiting import block_until

ANSWER_SECONDS = 0.3
GENE = {
    "version": 1,
    "biotype": "protein_coding",
    "assembly_name": "GRCh38",
    "seq_region_name": "1",
    "start": 1,
    "end": 2,
    "strand": 1,
}


@dataclass
class Call:
    """`began` is of the monotonic clock of this machine; `answered` is False while it waits, and
    stays so when nobody waited for the answer."""

    began: float
    ids: list[str]
    answered: bool = False


@dataclass
class SlowUpstream:
    """Takes the place of the mirror's Ensembl; the other sources are not asked."""

    requests_per_second: float = 0  # That annotators may ask; 0: as fast as it answers.
    url: str = ""
    calls: list[Call] = field(default_factory=list)
    poison: set[str] = field(default_factory=set)  # Who asks for one of these ids is refused.

    def upstreams(self) -> dict[str, dict[str, str | float]]:
        return {
            name: {"base_url": self.url, "requests_per_second": self.requests_per_second}
            for name in UPSTREAMS
        }

    def began_between(self, first: float, last: float) -> list[Call]:
        return [call for call in self.calls if first < call.began < last]

    async def release(self, _: Request) -> Response:
        return _json({"releases": [115], "synthetic": True})

    async def look_up(self, request: Request) -> Response:
        call = Call(time.monotonic(), orjson.loads(await request.body())["ids"])
        self.calls.append(call)
        left = asyncio.create_task(_leaves(request))
        done, _ = await asyncio.wait({left}, timeout=ANSWER_SECONDS)
        left.cancel()
        call.answered = not done
        if self.poison & set(call.ids):
            return Response(status_code=404)
        return _json({id_: {"id": id_, **GENE} for id_ in call.ids})


async def _leaves(request: Request) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(0.01)


def _json(said: Any) -> Response:
    return Response(orjson.dumps(said), media_type="application/json")


@contextmanager
def slow_upstream(requests_per_second: float = 0) -> Iterator[SlowUpstream]:
    upstream = SlowUpstream(requests_per_second)
    routes = [
        Route("/info/data", upstream.release),
        Route("/lookup/id", upstream.look_up, methods=["POST"]),
    ]
    config = uvicorn.Config(Starlette(routes=routes), port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    block_until(lambda: server.started, "the upstream listens")
    upstream.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield upstream
    finally:
        server.should_exit = True
        thread.join()
