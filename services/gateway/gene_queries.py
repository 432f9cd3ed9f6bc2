"""What may be asked of a list of genes, whoever answers: a page, facets, an export."""

import asyncio
import re
import time
from dataclasses import dataclass, field, replace
from math import inf

from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway import domain
from services.gateway.jsonapi import Allowed, Query
from services.gateway.store import catalogue
from services.gateway.store.genes import COMPARED, FILTERS, SORTS

FIELDS = (
    *("hgnc_id", "symbol", "name", "status", "successors", "locus_group", "locus_type"),
    *("location", "entrez_id", "ensembl_gene_id", "annotations"),
)
LIST = Allowed(
    paged=True,
    keyset=True,
    filters=FILTERS,
    compared=COMPARED,
    sorts=SORTS,
    resource="genes",
    fields=FIELDS,
    others=("as_of",),
)
FACETS = Allowed(filters=FILTERS, compared=COMPARED, others=("facets",))
EXPORT = Allowed(
    filters=FILTERS,
    compared=COMPARED,
    sorts=SORTS,
    others=("format", "columns", "as_of"),
)
DECLARED_SECONDS = 60.0  # Sources are declared anew by `annobus migrate` alone.


@dataclass
class Summaries:
    """What genes are compared by: the fields of the catalogue, and those that sources declare."""

    engine: AsyncEngine
    _list: Allowed = LIST
    _facets: Allowed = FACETS
    _exports: Allowed = EXPORT
    _read_at: float = -inf
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def of_lists(self) -> Allowed:
        await self._refresh()
        return self._list

    async def of_facets(self) -> Allowed:
        await self._refresh()
        return self._facets

    async def of_exports(self) -> Allowed:
        await self._refresh()
        return self._exports

    async def _refresh(self) -> None:
        async with self._reading:
            if time.monotonic() - self._read_at < DECLARED_SECONDS:
                return
            async with self.engine.connect() as connection:
                compared = {**COMPARED, **await catalogue.summary_fields(connection)}
            self._list = replace(LIST, compared=compared)
            self._facets = replace(FACETS, compared=compared)
            self._exports = replace(EXPORT, compared=compared)
            self._read_at = time.monotonic()


def normalised(query: Query) -> Query:
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
