"""Lists of genes: filtered and sorted by what the catalogue and the sources say of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.messages import GENES_MAX
from contracts.parts import Part
from contracts.views import SummaryKind
from services.gateway import jsonapi
from services.gateway.documents import Documents, Held
from services.gateway.domain import Refusal, Refused
from services.gateway.entries import Entries
from services.gateway.errors import CatalogueEmpty, PanelUnknown
from services.gateway.gene_queries import (
    FACETS,
    FACETS_MAX,
    LIST,
    QUERY,
    SOURCES,
    Summaries,
    normalised,
    read_panel,
)
from services.gateway.gene_resources import answer, resource
from services.gateway.http import answers, schemas
from services.gateway.http.genes import Names, include, moment_of, needs_sources
from services.gateway.jsonapi import Allowed, Query
from services.gateway.ready_answers import ReadyAnswers
from services.gateway.store import genes, history, names
from services.gateway.store.genes import SORTS, Document, Facet, Place

NAMESPACE = "lists"
_PLACED = frozenset({"page[number]", "page[size]", "page[after]", "sort"})
_LIST_AT = Allowed(
    sized=True, keyset=True, filters=("panel",), sorts=("hgnc_id",), others=("as_of",)
)


@dataclass(frozen=True)
class GeneListRoutes:
    engine: AsyncEngine
    summaries: Summaries
    documents: Documents
    entries: Entries
    ready: ReadyAnswers

    async def list_genes(self, request: Request) -> Response:
        """Approved genes. links.next goes on by key: it stays right and fast on any page.

        Besides the filters below there is one for each summary field of each source, such as
        `filter[gnomad.loeuf][lt]=0.6` (GET /api/sources/{name} lists them), and a sort. Operators
        are `eq` (or none: any of the values), `ne`, `lt`, `lte`, `gt`, `gte`, for lists `all`, and
        `known` (true or false). A gene whose field is not known meets `known` alone.

        `include=sources` adds the sources that these genes have values of, each once, as
        GET /api/sources/{name} tells of them.

        With `as_of` those that were approved at that time, as they were then, by HGNC id; of a
        panel the genes that it has today, of which those that were approved then."""
        if "as_of" in request.query_params:
            return await self._list_at(_LIST_AT.parse(request.query_params))
        query = normalised((await self.summaries.of_lists()).parse(request.query_params))
        if query.given.keys() <= _PLACED and query.sort in SORTS:
            return await self._list_from_memory(request, query)
        async with self.engine.connect() as connection:
            panel = await read_panel(connection, query)
            found = await genes.list_documents(connection, query, linked=needs_sources(query))
            total = await genes.count_documents(connection, query) if query.total else None
            included = await include(connection, query, found[: query.size])
        counted = {} if total is None else {"total": total}
        return _page("/api/genes", query, found, {**panel, **counted}, included)

    async def query_genes(self, request: Request, body: Names) -> Response:
        """Up to 50,000 genes by any of their names, filtered, sorted and in pages as a list is.

        `meta` counts those that were asked for, each gene once. On the first page it names what
        is no gene, or not one alone, with its place in the list and what it may mean."""
        query = normalised((await self.summaries.of_queries()).parse(request.query_params))
        async with self.engine.connect() as connection:
            panel = await read_panel(connection, query)
            resolved = await names.resolve(connection, body.genes, refused_max=GENES_MAX)
            if resolved.catalogue_empty:
                raise CatalogueEmpty
            among = resolved.hgnc_ids
            found = await genes.list_documents(
                connection, query, among, linked=needs_sources(query)
            )
            total = await genes.count_documents(connection, query, among)
            included = await include(connection, query, found[: query.size])
        meta: dict[str, object] = {
            **panel,
            "asked_count": len(body.genes),
            "gene_count": len(among),
            "total": total,
            "refused_count": resolved.refused_count,
        }
        if query.after is None and query.number == 1:  # They are the same on every page.
            meta |= _by_outcome(resolved.refused)
        return _page("/api/genes/query", query, found, meta, included)

    async def get_facets(self, request: Request) -> Response:
        """How the genes of a list differ in up to 10 fields, of those that lists are filtered by:
        `facets=clingen.strongest,locus_group`. The most frequent values with their counts; of what
        is measured, the least and the greatest."""
        allowed = await self.summaries.of_facets()
        query = normalised(allowed.parse(request.query_params))
        wanted = _facets(query, allowed)
        async with self.engine.connect() as connection:
            panel = await read_panel(connection, query)
            found = {
                name: await genes.get_facet(connection, query, name, allowed.compared[name])
                for name in wanted
            }
        return jsonapi.respond(
            [_facet(name, allowed.compared[name], facet) for name, facet in found.items()],
            {"self": jsonapi.self_link("/api/genes/facets", query)},
            meta=panel,
        )

    async def _list_from_memory(self, request: Request, query: Query) -> Response:
        """A page of all genes: which they are follows from the catalogue alone, and what is said of
        them is in memory as long as nobody tells of a newer document."""

        async def make() -> bytes:
            async with self.engine.connect() as connection:
                return orjson.dumps([[*one] for one in await genes.list_places(connection, query)])

        asked = (query.sort, query.number, query.size, query.after)
        key = f"genes {sha256(orjson.dumps(asked)).hexdigest()}"  # A cursor may be long.
        of_catalogue = Part(source=self.summaries.catalogue)
        entry = await self.entries.get(NAMESPACE, key, (of_catalogue,), make)
        assert entry.value is not None
        places = [Place(*place) for place in orjson.loads(entry.value)]
        page, more = places[: query.size], len(places) > query.size
        held = await self._held([place.hgnc_id for place in page])
        after = jsonapi.cursor(query.sort, page[-1].number, page[-1].value) if more else None
        links = jsonapi.page_links("/api/genes", query, more=more, after=after)
        tags = "".join(one.etag for one in held.values()).encode()
        etag = f'"{sha256(tags + orjson.dumps(links)).hexdigest()}"'

        data = b",".join(one.resource for one in held.values())
        body = jsonapi.encode(orjson.Fragment(b"[" + data + b"]"), links)
        response = jsonapi.tagged(body, etag)

        def holds() -> bool:
            return self.entries.held(NAMESPACE, key) is entry and self.documents.hold(held)

        if len(held) == len(page):  # Nobody would notice one that was not built yet.
            self.ready.keep(request, response, holds)
        return jsonapi.unless_known(request, response)

    async def _held(self, hgnc_ids: Sequence[str]) -> dict[str, Held]:
        """Documents of genes, in this order; without those that are not built yet."""
        found = {one: held for one in hgnc_ids if (held := self.documents.get(one)) is not None}
        missing = [one for one in hgnc_ids if one not in found]
        if missing:
            generation = self.documents.generation
            async with self.engine.connect() as connection:
                read = await genes.get_documents(connection, missing)
            for document in read:
                found[document.hgnc_id] = answer(document)
                self.documents.keep(document.hgnc_id, found[document.hgnc_id], generation)
        return {one: found[one] for one in hgnc_ids if one in found}

    async def _list_at(self, query: Query) -> Response:
        number = query.after[0] if query.after else 0
        async with self.engine.connect() as connection:
            at = await moment_of(connection, query)
            assert at is not None  # It is given.
            panel = await read_panel(connection, query)
            among = query.filters.get("panel")
            found = await history.list_genes_at(connection, at, number, query.size + 1, among)
            documents = await history.documents_at(connection, found[: query.size], at)
        after = None
        if len(found) > query.size:
            after = jsonapi.cursor(query.sort, documents[-1].number, None)
        return jsonapi.respond(
            [resource(document) for document in documents],
            jsonapi.page_links("/api/genes", query, more=after is not None, after=after),
            meta={**panel, "as_of": at},
        )

    def router(self) -> APIRouter:
        router = APIRouter(tags=["genes"])
        errors = (PanelUnknown, CatalogueEmpty)
        of_genes = partial(
            answers.many, "Gene", answers.PAGES, or_sparse=True, includes="SourceInDetail"
        )
        listed = of_genes(optional_meta=schemas.META_GENES)
        queried = of_genes(meta=schemas.META_QUERY)
        facets = answers.many("Facet", optional_meta=schemas.META_FACETS)
        router.add_api_route(
            "/api/genes",
            self.list_genes,
            **answers.route(answers.tagged(listed, is_always=False), *errors, allowed=LIST),
        )
        router.add_api_route(
            "/api/genes/query",
            self.query_genes,
            methods=["POST"],
            **answers.route({200: queried}, *errors, allowed=QUERY, body=Names),
        )
        router.add_api_route(
            "/api/genes/facets",
            self.get_facets,
            **answers.route({200: facets}, *errors, allowed=FACETS),
        )
        return router


def _page(
    address: str,
    query: Query,
    found: Sequence[Document],
    meta: Mapping[str, object],
    included: Sequence[jsonapi.Resource] | None,
) -> Response:
    page, more = found[: query.size], len(found) > query.size
    after = jsonapi.cursor(query.sort, page[-1].number, page[-1].place) if more else None
    related = query.relates(SOURCES)
    return jsonapi.respond(
        [resource(document, related=related) for document in page],
        jsonapi.page_links(address, query, more=more, after=after),
        meta=meta,
        included=included,
    )


def _by_outcome(refused: Sequence[Refused]) -> dict[str, object]:
    rows: dict[Refusal, list[object]] = {"unknown": [], "ambiguous": [], "withdrawn": []}
    for one in refused:
        candidates = [{"hgnc_id": gene.hgnc_id, "symbol": gene.symbol} for gene in one.genes]
        rows[one.outcome].append({"place": one.place, "value": one.value, "candidates": candidates})
    return {
        "not_found": rows["unknown"],
        "ambiguous": rows["ambiguous"],
        "withdrawn": rows["withdrawn"],
    }


def _facets(query: Query, allowed: Allowed) -> list[str]:
    given = query.given.get("facets", "")
    chosen = list(dict.fromkeys(part.strip() for part in given.split(",") if part.strip()))
    if not 1 <= len(chosen) <= FACETS_MAX or not set(chosen) <= allowed.compared.keys():
        accepted = f"1 to {FACETS_MAX} of {', '.join(allowed.compared)}"
        raise jsonapi.invalid("facets", given, accepted)
    return chosen


def _facet(name: str, kind: SummaryKind, facet: Facet) -> jsonapi.Resource:
    attributes: dict[str, object] = {
        "kind": kind,
        "known_count": facet.known_count,
        "unknown_count": facet.unknown_count,
    }
    if facet.values is None:
        attributes |= {"least": facet.least, "greatest": facet.greatest}
    else:
        attributes["values"] = [{"value": value, "count": count} for value, count in facet.values]
    return {"type": "facets", "id": name, "attributes": attributes}
