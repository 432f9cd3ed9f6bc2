"""An Ensembl on loopback that fails whenever it is asked for one of some genes, and counts."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from services.annotator.sources import UPSTREAMS
from services.annotator.upstream import Upstream
from tests.waiting import until

FAILURES: Mapping[str, tuple[int, bytes]] = {
    "500": (500, b"{}"),
    "404": (404, b"{}"),
    "binary": (500, b"\0\xff"),
    "unreadable": (200, b'{"ENSG'),
    "another schema": (200, b"[]"),
}


def entry(ensembl_gene_id: str) -> dict[str, Any]:
    return {
        "id": ensembl_gene_id,
        "display_name": "MADE-UP",
        "biotype": "protein_coding",
        "seq_region_name": "16",
        "start": 1,
        "end": 2,
        "strand": 1,
        "assembly_name": "GRCh38",
        "version": 1,
        "canonical_transcript": "ENST00000000001.1",
        "description": None,
    }


@dataclass
class PoisonedServer:
    poison: set[str] = field(default_factory=set)  # Ensembl ids.
    failure: str = "500"
    address: str = ""
    asked: list[list[str]] = field(default_factory=list)  # The ids of each call.
    open_now: set[asyncio.Task[None] | None] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open_now.add(asyncio.current_task())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                status, said = self.answer(await reader.readexactly(length))
                writer.write(
                    f"HTTP/1.1 {status} Made up\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(said)}\r\n\r\n".encode()
                    + said
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # The client has gone.
        finally:
            writer.close()
            self.open_now.discard(asyncio.current_task())

    def answer(self, body: bytes) -> tuple[int, bytes]:
        if not body:
            return 200, b'{"releases": [115]}'
        ids: list[str] = orjson.loads(body)["ids"]
        self.asked.append(ids)
        if self.poison & set(ids):
            return FAILURES[self.failure]
        return 200, orjson.dumps({one: entry(one) for one in ids})

    def calls_for(self, ensembl_gene_id: str) -> int:
        return sum(ensembl_gene_id in ids for ids in self.asked)


@asynccontextmanager
async def poisoned_server() -> AsyncIterator[tuple[PoisonedServer, Upstream]]:
    """The server, and an annotator's client of it."""
    server = PoisonedServer()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.address = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    upstream = Upstream(UPSTREAMS["ensembl"], server.address)
    try:
        yield server, upstream
    finally:
        await upstream.close()
        listening.close()
        await until(lambda: not server.open_now, "the last answer")
