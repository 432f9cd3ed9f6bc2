"""A gateway on a desk: its routes and sockets on a real port and database; tests are its bus."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx2
import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from websockets.asyncio.client import ClientConnection, connect

from services.annotator.sources import SOURCES as DECLARED
from services.chassis import http
from services.gateway.active import ActiveRuns
from services.gateway.changes import Changes
from services.gateway.documents import Documents
from services.gateway.entries import Entries
from services.gateway.handlers import Handlers, Letters
from services.gateway.http import include_routes
from services.gateway.live import Live
from services.gateway.reads import Reads
from services.gateway.tally import Tally
from tests.system import Database, http_client

DEADLINE_SECONDS = 10
# In the gateway's order: the catalogue first.
SOURCES = sorted(DECLARED, key=lambda name: (not DECLARED[name].declaration.is_catalogue, name))

PKD1, PKD2, TAFAZZIN, WWTR1, OLD, GONE = (
    *("HGNC:9008", "HGNC:9009", "HGNC:11577", "HGNC:24042"),
    *("HGNC:50", "HGNC:51"),
)


@dataclass
class Desk:
    database: Database
    engine: AsyncEngine
    client: httpx2.AsyncClient
    documents: Documents
    entries: Entries
    live: Live
    active: ActiveRuns
    changes: Changes
    handlers: Handlers
    port: int

    @property
    def letters(self) -> Letters:
        return Letters(self.engine)

    @asynccontextmanager
    async def socket(self, path: str) -> AsyncIterator[ClientConnection]:
        async with connect(f"ws://127.0.0.1:{self.port}{path}", proxy=None) as socket:
            yield socket

    async def rows(self, statement: str, **parameters: Any) -> list[Any]:
        """As the owner, who may write what another service would."""
        async with self.database.connect() as connection:
            return list(await connection.fetch(statement, *parameters.values()))

    async def execute(self, statement: str, *arguments: Any) -> None:
        async with self.database.connect() as connection:
            await connection.execute(statement, *arguments)

    async def start(self, **order: Any) -> UUID:
        answer = await self.client.post("/api/runs", json=order or {"all": True})
        assert answer.status_code == 202, answer.text
        return UUID(answer.json()["data"]["id"])

    async def outbox(self) -> list[Mapping[str, Any]]:
        async with self.engine.connect() as connection:
            rows = await connection.execute(text("SELECT topic, key, payload FROM outbox"))
            return [
                {"topic": row.topic, "key": row.key, **orjson.loads(row.payload)} for row in rows
            ]

    async def add_genes(self) -> None:
        """Six genes: two plain ones, one alias that is another's old symbol, two withdrawn."""
        genes = [
            (PKD1, "PKD1", "approved", "5310", "ENSG00000008710", []),
            (PKD2, "PKD2", "approved", "5311", "ENSG00000118762", []),
            (TAFAZZIN, "TAFAZZIN", "approved", "6901", "ENSG00000102125", []),
            (WWTR1, "WWTR1", "approved", "25937", "ENSG00000018408", []),
            (OLD, "OLD1", "merged", None, None, [PKD1]),
            (GONE, "GONE1", "withdrawn", None, None, []),
        ]
        names = [
            *((symbol, "approved", hgnc_id) for hgnc_id, symbol, *_ in genes[:4]),
            *(("TAZ", "previous", TAFAZZIN), ("TAZ", "alias", WWTR1), ("PBP", "alias", PKD1)),
            *(("SHARED", "alias", PKD1), ("SHARED", "alias", PKD2)),
            *(("OLD1", "withdrawn", OLD), ("GONE1", "withdrawn", GONE)),
            ("PKD1", "alias", PKD2),
        ]
        async with self.database.connect() as connection:
            await connection.executemany(
                """INSERT INTO annotator.gene (hgnc_id, symbol, status, entrez_id, ensembl_gene_id,
                   successors, name, locus_group) VALUES ($1, $2, $3, $4, $5, $6, 'a gene', 'g')""",
                genes,
            )
            await connection.executemany(
                "INSERT INTO annotator.gene_name (folded, name, kind, hgnc_id) VALUES "
                "(lower($1), $1, $2, $3)",
                names,
            )
        for hgnc_id, symbol, status, entrez_id, *_ in genes:
            await self.put_document(hgnc_id, symbol, status=status, entrez_id=entrez_id)

    async def put_document(
        self,
        hgnc_id: str,
        symbol: str,
        *,
        version: int = 1,
        status: str = "approved",
        entrez_id: str | None = None,
        annotations: Mapping[str, Any] | None = None,
    ) -> None:
        document = {
            "hgnc_id": hgnc_id,
            "symbol": symbol,
            "status": status,
            "locus_group": "g",
            "entrez_id": entrez_id,
            "annotations": annotations or {},
        }
        await self.execute(
            """INSERT INTO cache.gene (hgnc_id, version, document, status, annotated_by)
               VALUES ($1, $2, $3, $4, $5)
               ON CONFLICT (hgnc_id) DO UPDATE SET version = $2, document = $3,
                   annotated_by = $5""",
            *(hgnc_id, version, spaced(document), status, list(annotations or {})),
        )
        await self.execute("SELECT cache.summarise(ARRAY[$1])", hgnc_id)

    async def plan(self, run_id: UUID, *, total: int = 200, seq: int = 1) -> None:
        """What the annotator does with a run: it plans it and begins."""
        await self.execute(
            """INSERT INTO annotator.run (id, state, all_genes, awaits_catalogue, gene_count,
                   planned_all, open_sources, seq) VALUES ($1, 'running', true, false, $2, true,
                   $3, $4)""",
            *(run_id, total, len(SOURCES), seq),
        )
        await self.execute(
            """INSERT INTO annotator.run_source (run_id, source, total_count)
               SELECT $1, unnest($2::text[]), $3""",
            *(run_id, list(SOURCES), total),
        )
        planned = {"gene_count": total, "sources": list(SOURCES)}
        await self.add_fact(run_id, seq, "annobus.run.planned.v1", planned)

    async def add_fact(
        self, run_id: UUID, seq: int, kind: str, body: Mapping[str, Any] | None = None
    ) -> None:
        whole = {"run_id": str(run_id), "seq": seq, **(body or {})}
        await self.execute(
            "INSERT INTO annotator.run_fact (run_id, seq, type, body) VALUES ($1, $2, $3, $4)",
            *(run_id, seq, kind, orjson.dumps(whole).decode()),
        )

    async def add_facts(self, run_id: UUID, *, up_to: int, size: int = 0) -> None:
        """Facts after the first, of a type that no gateway knows."""
        await self.execute(
            """INSERT INTO annotator.run_fact (run_id, seq, type, body)
               SELECT $1, n, 'annobus.test.v1', jsonb_build_object('pad', repeat('x', $3))
               FROM generate_series(2, $2::integer) n""",
            *(run_id, up_to, size),
        )
        await self.execute("UPDATE annotator.run SET seq = $2 WHERE id = $1", run_id, up_to)

    async def work(self, run_id: UUID, *, done: int, no_data: int = 0, failed: int = 0) -> int:
        """A stored batch of ensembl: counters, seq and the fact, as one transaction writes them."""
        async with self.database.connect() as connection, connection.transaction():
            seq: int = await connection.fetchval(
                "UPDATE annotator.run SET seq = seq + 1 WHERE id = $1 RETURNING seq", run_id
            )
            await connection.execute(
                """UPDATE annotator.run_source SET done_count = done_count + $2,
                   no_data_count = no_data_count + $3, failed_count = failed_count + $4
                   WHERE run_id = $1 AND source = 'ensembl'""",
                *(run_id, done, no_data, failed),
            )
            body = {
                "run_id": str(run_id),
                "seq": seq,
                "source": "ensembl",
                "done_count": done,
                "no_data_count": no_data,
            }
            await connection.execute(
                "INSERT INTO annotator.run_fact (run_id, seq, type, body) VALUES "
                "($1, $2, 'annobus.batch.annotated.v1', $3)",
                *(run_id, seq, orjson.dumps(body).decode()),
            )
        return seq

    async def finish(self, run_id: UUID) -> int:
        async with self.database.connect() as connection, connection.transaction():
            await connection.execute(
                """UPDATE annotator.run_source SET state = 'completed', finished_at = now(),
                   done_count = total_count - no_data_count - failed_count WHERE run_id = $1""",
                run_id,
            )
            seq: int = await connection.fetchval(
                """UPDATE annotator.run SET seq = seq + 1, state = 'completed', open_sources = 0,
                   finished_at = now() WHERE id = $1 RETURNING seq""",
                run_id,
            )
            body = {"run_id": str(run_id), "seq": seq, "state": "completed"}
            await connection.execute(
                "INSERT INTO annotator.run_fact (run_id, seq, type, body) VALUES "
                "($1, $2, 'annobus.run.completed.v1', $3)",
                *(run_id, seq, orjson.dumps(body).decode()),
            )
        return seq


async def frame(socket: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(DEADLINE_SECONDS):
        found: dict[str, Any] = orjson.loads(await socket.recv())
        return found


async def frames_until(socket: ClientConnection, **fields: Any) -> Sequence[dict[str, Any]]:
    """Frames up to the first that has these fields."""
    found = []
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            found.append(orjson.loads(await socket.recv()))
            if fields.items() <= found[-1].items():
                return found


def spaced(document: Mapping[str, Any]) -> str:
    """As PostgreSQL writes what it has gathered."""
    return json.dumps(document, separators=(", ", " : "))


@asynccontextmanager
async def open_desk(database: Database) -> AsyncIterator[Desk]:
    async with database.engine("gateway") as engine:
        reads = Reads(engine)
        tally, active = Tally(), ActiveRuns(reads.active)
        documents, entries = Documents(tally), Entries(engine, tally)
        live = Live(reads.progress, reads.facts)
        documents.trust(True)
        entries.trust(True)
        app = http.create_app("test", {})
        changes = Changes()
        include_routes(app, engine, documents, entries, live, active, changes)
        handlers = Handlers(live, active, documents, entries, changes)
        async with http.serve(app, "127.0.0.1", 0) as port:
            url = f"http://127.0.0.1:{port}"
            async with http_client(url) as client:
                yield Desk(
                    database,
                    engine,
                    client,
                    documents,
                    entries,
                    live,
                    active,
                    changes,
                    handlers,
                    port,
                )
