"""What may be asked of a list of genes, whoever answers: a page, facets, an export."""

import asyncio
import time
from dataclasses import dataclass, replace
from math import inf
from typing import Any, get_args

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.chassis.database import CONNECTION_ERRORS
from services.gateway import domain, jsonapi, shapes
from services.gateway.export_order import Format
from services.gateway.jsonapi import Allowed, Query
from services.gateway.store import catalogue, panels
from services.gateway.store.genes import COMPARED, FILTERS, SORTS

SOURCES = "sources"  # The relationship of a gene with those that it has a value of.
INCLUDES = (SOURCES,)
FIELDS = (
    *("hgnc_id", "symbol", "name", "status", "successors", "locus_group", "locus_type"),
    *("location", "entrez_id", "ensembl_gene_id", "annotations", SOURCES),
)
WITHDRAWN_SHOWN_MAX = 100  # Genes of a panel, in an answer.
TEXTS_MAX = 10  # Each is looked for in all names.
FACETS_MAX = 10
DECLARED_SECONDS = 60.0  # Sources are declared anew by `annobus migrate` alone.

_VALUES = {
    "filter[panel]": jsonapi.PART | {"description": "a panel: its id, or <id>@<version>"},
    "filter[text]": shapes.listed(jsonapi.PART, minItems=1, maxItems=TEXTS_MAX),
}
LIST = Allowed(
    paged=True,
    keyset=True,
    filters=FILTERS,
    compared=COMPARED,
    sorts=SORTS,
    resource="genes",
    fields=FIELDS,
    includes=INCLUDES,
    others=("as_of",),
    values=_VALUES | {"as_of": shapes.MOMENT},
)
QUERY = replace(LIST, others=())  # Of names, which mean what they mean now.
FACETS = Allowed(
    filters=FILTERS,
    compared=COMPARED,
    others=("facets",),
    values=_VALUES | {"facets": shapes.listed(jsonapi.PART, minItems=1, maxItems=FACETS_MAX)},
    required=("facets",),
)
EXPORT = Allowed(
    filters=FILTERS,
    compared=COMPARED,
    sorts=SORTS,
    others=("format", "columns", "as_of"),
    values=_VALUES
    | {
        "format": shapes.enum(get_args(Format)),
        "columns": shapes.listed(jsonapi.PART, minItems=1),
        "as_of": shapes.MOMENT,
    },
)

log = structlog.get_logger()


@dataclass
class Summaries:
    """What genes are compared by: the fields of the catalogue, and those that sources declare."""

    engine: AsyncEngine
    catalogue: str | None = None  # The source that says which genes there are.
    _list: Allowed = LIST
    _queries: Allowed = QUERY
    _facets: Allowed = FACETS
    _exports: Allowed = EXPORT
    _read_at: float = -inf
    _reading: "asyncio.Task[None] | None" = None

    async def of_lists(self) -> Allowed:
        await self._refresh()
        return self._list

    async def of_queries(self) -> Allowed:
        await self._refresh()
        return self._queries

    async def of_facets(self) -> Allowed:
        await self._refresh()
        return self._facets

    async def of_exports(self) -> Allowed:
        await self._refresh()
        return self._exports

    async def _refresh(self) -> None:
        """Once for all who ask meanwhile. What was read before is good enough while the database
        does not answer."""
        if time.monotonic() - self._read_at < DECLARED_SECONDS:
            return
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        try:
            await asyncio.shield(self._reading)
        except CONNECTION_ERRORS as error:
            if self._read_at == -inf:
                raise
            log.warning("summary_fields_unread", error=repr(error))

    async def _read(self) -> None:
        try:
            async with self.engine.connect() as connection:
                compared = {**COMPARED, **await catalogue.summary_fields(connection)}
                self.catalogue = await catalogue.get_catalogue_name(connection)
            self._list = replace(LIST, compared=compared)
            self._queries = replace(QUERY, compared=compared)
            self._facets = replace(FACETS, compared=compared)
            self._exports = replace(EXPORT, compared=compared)
            self._read_at = time.monotonic()
        finally:
            self._reading = None


def normalised(query: Query) -> Query:
    """Filters by identifier, as the views have them."""
    for name, values in query.filters.items():
        match name:
            case "hgnc_id":
                query.filters[name][:] = [domain.hgnc_id(value) or value for value in values]
            case "symbol":
                query.filters[name][:] = [domain.fold(value) for value in values]
            case "text":
                if len(values) > TEXTS_MAX:
                    accepted = f"at most {TEXTS_MAX} texts, separated by commas"
                    raise jsonapi.invalid("filter[text]", ",".join(values), accepted)
                query.filters[name][:] = [domain.pattern(domain.fold(value)) for value in values]
            case "entrez_id":
                query.filters[name][:] = [value.rpartition(":")[2] for value in values]
            case "ensembl_gene_id":
                query.filters[name][:] = [
                    value.rpartition(":")[2].partition(".")[0].upper() for value in values
                ]
    return query


async def read_panel(connection: AsyncConnection, query: Query) -> dict[str, dict[str, Any]]:
    """Puts the genes of the panel that is filtered by in its place, and says which version that
    is, and which of its genes nothing stands for any more. Raises PanelUnknown."""
    named = query.filters.get("panel")
    if named is None:
        return {}
    if len(named) != 1:
        raise jsonapi.invalid("filter[panel]", ",".join(named), "one panel: <id> or <id>@<version>")
    version, _ = await panels.find(connection, named[0], "query filter[panel]")
    scope = await panels.scope(connection, version)
    query.filters["panel"][:] = scope.hgnc_ids
    told = {
        "id": str(version),
        "gene_count": len(scope.hgnc_ids),
        "withdrawn_count": len(scope.refused),
        "withdrawn": [one.value for one in scope.refused[:WITHDRAWN_SHOWN_MAX]],
    }
    return {"panel": told}
