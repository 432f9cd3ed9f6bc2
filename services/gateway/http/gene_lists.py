"""Lists of genes: filtered and sorted by what the catalogue and the sources say of them."""

import asyncio
import re
import time
from dataclasses import dataclass, field, replace

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway import domain, jsonapi
from services.gateway.http.genes import FIELDS, moment_of, resource
from services.gateway.jsonapi import Allowed, Query
from services.gateway.store import catalogue, genes, history
from services.gateway.store.genes import COMPARED, FILTERS, SORTS

_LIST = Allowed(
    paged=True,
    keyset=True,
    filters=FILTERS,
    compared=COMPARED,
    sorts=SORTS,
    resource="genes",
    fields=FIELDS,
    others=("as_of",),
)
_LIST_AT = Allowed(sized=True, keyset=True, sorts=("hgnc_id",), others=("as_of",))
DECLARED_SECONDS = 60.0  # Sources are declared anew by `annobus migrate` alone.


@dataclass
class Summaries:
    """What genes are compared by: the fields of the catalogue, and those that sources declare."""

    engine: AsyncEngine
    _allowed: Allowed = _LIST
    _read_at: float = -DECLARED_SECONDS
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def allowed(self) -> Allowed:
        async with self._reading:
            if time.monotonic() - self._read_at >= DECLARED_SECONDS:
                async with self.engine.connect() as connection:
                    declared = await catalogue.summary_fields(connection)
                self._allowed = replace(_LIST, compared={**COMPARED, **declared})
                self._read_at = time.monotonic()
        return self._allowed


@dataclass(frozen=True)
class GeneListRoutes:
    engine: AsyncEngine
    summaries: Summaries

    async def list_genes(self, request: Request) -> Response:
        """Approved genes. links.next goes on by key: it stays right and fast on any page.

        Besides the filters below there is one for each summary field of each source, such as
        `filter[gnomad.loeuf][lt]=0.6` (GET /api/sources/{name} lists them), and a sort. Operators
        are `eq` (or none: any of the values), `ne`, `lt`, `lte`, `gt`, `gte`, for lists `all`, and
        `known` (true or false). A gene whose field is not known meets `known` alone.

        With `as_of` those that were approved at that time, as they were then, by HGNC id."""
        if "as_of" in request.query_params:
            return await self._list_at(_LIST_AT.parse(request.query_params))
        allowed = await self.summaries.allowed()
        query = _normalised(allowed.parse(request.query_params))
        async with self.engine.connect() as connection:
            found = await genes.list_documents(connection, query)
            total = await genes.count_documents(connection, query) if query.total else None
        page, more = found[: query.size], len(found) > query.size
        after = jsonapi.cursor(query.sort, page[-1].number, page[-1].place) if more else None
        return jsonapi.respond(
            [resource(document) for document in page],
            jsonapi.page_links("/api/genes", query, more=more, after=after),
            meta=None if total is None else {"total": total},
        )

    async def _list_at(self, query: Query) -> Response:
        number = query.after[0] if query.after else 0
        async with self.engine.connect() as connection:
            at = await moment_of(connection, query)
            assert at is not None  # It is given.
            found = await history.list_genes_at(connection, at, number, query.size + 1)
            documents = await history.documents_at(connection, found[: query.size], at)
        after = None
        if len(found) > query.size:
            after = jsonapi.cursor(query.sort, documents[-1].number, None)
        return jsonapi.respond(
            [resource(document) for document in documents],
            jsonapi.page_links("/api/genes", query, more=after is not None, after=after),
            meta={"as_of": at},
        )

    def router(self) -> APIRouter:
        router = APIRouter(tags=["genes"])
        router.add_api_route("/api/genes", self.list_genes, openapi_extra=_LIST.openapi())
        return router


def _normalised(query: Query) -> Query:
    """Filters by identifier, as the views have them."""
    for name, values in query.filters.items():
        match name:
            case "hgnc_id":
                query.filters[name][:] = [domain.hgnc_id(value) or value for value in values]
            case "symbol":
                query.filters[name][:] = [domain.fold(value) for value in values]
            case "text":
                query.filters[name][:] = [_part(domain.fold(value)) for value in values]
            case "entrez_id":
                query.filters[name][:] = [value.rpartition(":")[2] for value in values]
            case "ensembl_gene_id":
                query.filters[name][:] = [
                    value.rpartition(":")[2].partition(".")[0].upper() for value in values
                ]
    return query


def _part(text: str) -> str:
    """A pattern of LIKE for what contains the text."""
    return "%" + re.sub(r"([\\%_])", r"\\\1", text) + "%"
