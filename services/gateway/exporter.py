"""A child process of the gateway: writes an export to its standard output.

Making a file of all genes takes ten seconds of a processor; here nothing else waits. It reads one
moment of the database, keeps a few hundred genes in memory, and ends when nobody reads on.
"""

import hashlib
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, BinaryIO

import orjson
import uvloop
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.datastructures import QueryParams

from services.chassis import database
from services.chassis.child import end_with
from services.gateway.columns import Column, cells, chosen
from services.gateway.export_order import ExportOrder
from services.gateway.gene_queries import Summaries, normalised, read_panel
from services.gateway.jsonapi import Query
from services.gateway.settings import GatewaySettings
from services.gateway.store import catalogue, genes, history
from services.gateway.store.genes import Document
from services.gateway.writers import open_writer

GENES_AT_ONCE = 250
SECONDS_MAX = 600  # As long as its reader takes: the moment of the database is held meanwhile.
NICE = 10  # Reads and runs come first.
# Arrow loads these where they are installed, to take their arrays: 50 MB for what no row is.
UNUSED = ("numpy", "pandas")


async def export(order: ExportOrder, settings: GatewaySettings, out: BinaryIO) -> None:
    async with database.open_engine(settings, "gateway-export") as engine:
        query = normalised((await Summaries(engine).of_exports()).parse(QueryParams(order.query)))
        async with engine.connect() as connection, connection.begin():
            await history.see_one_moment(connection)
            await connection.execute(text("SET LOCAL transaction_timeout = 0"))
            for limit in ("transaction_timeout", "idle_in_transaction_session_timeout"):
                await connection.execute(text(f"SET LOCAL {limit} = '{SECONDS_MAX}s'"))
            await read_panel(connection, query)
            await _write(connection, order, query, out)
    out.flush()


async def _write(
    connection: AsyncConnection, order: ExportOrder, query: Query, out: BinaryIO
) -> None:
    sources = await catalogue.list_schemas(connection)
    columns = chosen(sources, order.columns)
    moment = order.as_of or await connection.scalar(text("SELECT now()"))
    writer = open_writer(order.format, out, columns)
    writer.begin([*_facts(order, moment), *_licences(sources, columns)])
    content, count = hashlib.sha256(), 0
    async for part in _parts(connection, order, query):
        rows = [cells(orjson.loads(document.text), columns) for document in part]
        for row in rows:
            content.update(orjson.dumps(row) + b"\n")
        count += len(rows)
        writer.write(rows)
    writer.end([("genes", str(count)), ("sha256", content.hexdigest())])


async def _parts(
    connection: AsyncConnection, order: ExportOrder, query: Query
) -> AsyncIterator[Sequence[Document]]:
    if order.as_of is None:
        async for part in genes.stream_documents(connection, query, GENES_AT_ONCE):
            yield part
        return
    number, among = 0, query.filters.get("panel")
    while found := await history.list_genes_at(
        connection, order.as_of, number, GENES_AT_ONCE, among
    ):
        documents = await history.documents_at(connection, found, order.as_of)
        yield documents
        number = int(found[-1].partition(":")[2])


def _facts(order: ExportOrder, moment: datetime) -> list[tuple[str, str]]:
    return [
        ("export", "annobus, one row for each approved gene"),
        ("as_of", moment.isoformat()),
        ("query", order.query),
        ("sha256_of", "each row as a line of JSON, an array of its cells in the order of columns"),
    ]


def _licences(
    sources: Sequence[Mapping[str, Any]], columns: Sequence[Column]
) -> list[tuple[str, str]]:
    """Of those sources that are in the file."""
    used = {column.path[1] for column in columns if len(column.path) > 1}
    said = []
    for row in sources:
        if row["name"] in used or row["is_catalogue"]:
            synthetic = ", SYNTHETIC: made up, no real data" if row["synthetic"] else ""
            release = f"release {row['release'] or 'none'}, retrieved {row['retrieved_at']}"
            terms = f"{row['licence']}; cite {row['citation']}; {row['homepage']}"
            said.append((f"source {row['name']}", f"{row['title']}, {release}{synthetic}; {terms}"))
    return said


def _spare_memory() -> None:
    """Before Arrow is loaded, which reads the environment once; a module that is None is absent.
    Of its ways to keep what was freed, the C library's keeps the least."""
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    sys.modules.update(dict.fromkeys(UNUSED))  # type: ignore[arg-type]


def main() -> None:
    order = ExportOrder.model_validate_json(sys.stdin.buffer.read())
    end_with(order.service_pid)
    os.nice(NICE)
    _spare_memory()
    try:
        uvloop.run(export(order, GatewaySettings(), sys.stdout.buffer))
    except BrokenPipeError:  # Its reader has left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
