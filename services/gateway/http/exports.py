"""Genes as a file: CSV, TSV, JSON Lines, Parquet or a workbook."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from os import getpid
from typing import cast, get_args
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from starlette.types import Receive, Scope, Send

from services.gateway import jsonapi
from services.gateway.columns import chosen
from services.gateway.errors import CatalogueEmpty, ExportFailed, ExportsCrowded, PanelUnknown
from services.gateway.export_order import MEDIA_TYPES, ExportOrder, Format
from services.gateway.exports import Export, Exports
from services.gateway.gene_queries import EXPORT, Summaries, read_panel
from services.gateway.http import answers
from services.gateway.http.genes import moment_of
from services.gateway.jsonapi import Query
from services.gateway.store import catalogue

_ADDRESS = "/api/export"
FORMATS: Sequence[str] = get_args(Format)


@dataclass(frozen=True)
class ExportRoutes:
    engine: AsyncEngine
    summaries: Summaries
    exports: Exports

    async def export(self, request: Request) -> Response:
        """The genes of a list as a file, with the same filters and sorts; as they were with
        `as_of`, by HGNC id, of all genes or of a panel. `columns=symbol,gnomad.loeuf` chooses;
        without it there are all: of each source its status, release and every field.

        The file tells of its moment, its query, the releases and licences of its sources, how many
        genes it has and a SHA-256 over its rows, which is the same in every format."""
        query = (await self.summaries.of_exports()).parse(request.query_params)
        form = cast(Format, jsonapi.one_of(query.given, "format", FORMATS))
        async with self.engine.connect() as connection:
            at = await moment_of(connection, query)
            columns = await _columns(connection, query)
            panel = await read_panel(connection, query)
        others = query.filters.keys() - {"panel"} or query.conditions or "sort" in query.given
        if at is not None and others:
            accepted = "it without filters, but for a panel, and without sort: they are of today"
            raise jsonapi.invalid("as_of", query.given["as_of"], accepted)
        given = dict(query.given)
        if panel:  # With its version: the file says so, and it may have a newer one meanwhile.
            given["filter[panel]"] = panel["panel"]["id"]
        order = ExportOrder(
            format=form,
            service_pid=getpid(),
            query=urlencode(given),
            columns=columns,
            as_of=at,
        )
        name = f"genes{_day(at)}.{form}"
        return _File(
            await self.exports.start(order),
            media_type=MEDIA_TYPES[form],
            headers={
                "Content-Disposition": f'attachment; filename="{name}"',
                "Cache-Control": "no-store",
            },
        )

    def router(self) -> APIRouter:
        router = APIRouter(tags=["genes"])
        media = [media.partition(";")[0] for media in MEDIA_TYPES.values()]
        headers = {
            "Content-Disposition": {"required": True, "schema": {"type": "string"}},
            "Cache-Control": {"required": True, "schema": {"const": "no-store"}},
        }
        errors = (PanelUnknown, CatalogueEmpty, ExportFailed, ExportsCrowded)
        router.add_api_route(
            _ADDRESS,
            self.export,
            **answers.route({200: answers.files(media, headers)}, *errors, allowed=EXPORT),
        )
        return router


class _File(StreamingResponse):
    """Ends its export also for a client that has left before anything was sent."""

    def __init__(self, export: Export, media_type: str, headers: Mapping[str, str]) -> None:
        super().__init__(export.parts(), media_type=media_type, headers=headers)
        self._export = export

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._export.end()


async def _columns(connection: AsyncConnection, query: Query) -> tuple[str, ...] | None:
    if "columns" not in query.given:
        return None
    given = query.given["columns"]
    names = tuple(dict.fromkeys(part.strip() for part in given.split(",") if part.strip()))
    sources = await catalogue.list_schemas(connection)
    known = [column.name for column in chosen(sources, None)]
    if not names or not set(names) <= set(known):
        raise jsonapi.invalid("columns", given, f"some of {', '.join(known)}")
    return names


def _day(at: datetime | None) -> str:
    return "" if at is None else f"-{at:%Y-%m-%d}"
