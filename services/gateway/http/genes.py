"""Genes: one document by any name of its gene, what became of it, and what names mean."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import get_args
from urllib.parse import quote

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.chassis.errors import RequestError, field_error
from services.gateway import domain, jsonapi, shapes
from services.gateway.documents import Documents, Held
from services.gateway.domain import (
    GENE_CHARACTERS_MAX,
    MatchedBy,
    Named,
    Outcome,
    Refusal,
    Refused,
    Resolved,
)
from services.gateway.entries import Entries
from services.gateway.errors import (
    CatalogueEmpty,
    GeneAmbiguous,
    GeneNotBuilt,
    GenesRefused,
    GeneUnknown,
    GeneWithdrawn,
    NamesInvalid,
    ParameterInvalid,
)
from services.gateway.gene_queries import FIELDS, INCLUDES, SOURCES
from services.gateway.gene_resources import address, answer, resource
from services.gateway.http import answers, schemas
from services.gateway.http import catalogue as sources
from services.gateway.http.bodies import Body, Genes
from services.gateway.jsonapi import Query
from services.gateway.ready_answers import ReadyAnswers
from services.gateway.store import catalogue, genes, history, names
from services.gateway.store.genes import Document

_ONE = jsonapi.Allowed(
    resource="genes",
    fields=FIELDS,
    includes=INCLUDES,
    others=("as_of",),
    values={"as_of": shapes.MOMENT},
)
_ONE_AT = jsonapi.Allowed(others=("as_of",))
_DAY = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}")
AS_OF = "a time with its zone, as 2026-06-01T08:00:00Z, or a day, which is its beginning in UTC"
_EVENTS = jsonapi.Allowed(paged=True, keyset=True, counted=True)
_NOTHING = jsonapi.Allowed()
RESOLUTIONS = "resolutions"  # The namespace of what names mean.


class Names(Body):
    """What genes are called somewhere, symbols and ids mixed."""

    invalid = NamesInvalid

    genes: Genes


@dataclass(frozen=True)
class GeneRoutes:
    engine: AsyncEngine
    documents: Documents
    entries: Entries
    ready: ReadyAnswers

    async def get_gene(self, request: Request, gene: str) -> Response:
        """By HGNC id, symbol (previous and alias too, when they name one gene), Entrez id (with
        or without NCBIGene:, so a bare number is an Entrez id) or Ensembl gene id. With `as_of`
        as it was at that time; its name is what it is called now. `include=sources` adds the
        sources that it has a value of, as GET /api/sources/{name} tells of them."""
        if "as_of" in request.query_params:
            return await self._get_at(gene, _ONE_AT.parse(request.query_params))
        query = _ONE.parse(request.query_params)
        hgnc_id = domain.hgnc_id(gene) or await self._meant(gene)
        is_plain = query.fields is None and not query.include
        held = self.documents.get(hgnc_id) if is_plain else None
        is_ready = held is not None and hgnc_id == domain.hgnc_id(gene)
        if held is None:
            held = await self._read(gene, hgnc_id, query)
        response = jsonapi.tagged(held.body, held.etag)
        if is_ready:
            self.ready.keep(request, response, partial(self.documents.hold, {hgnc_id: held}))
        return jsonapi.unless_known(request, response)

    async def _get_at(self, gene: str, query: Query) -> Response:
        async with self.engine.connect() as connection:
            at = await moment_of(connection, query)
            assert at is not None  # It is given.
            hgnc_id = await find_gene(connection, gene)
            documents = await history.documents_at(connection, [hgnc_id], at)
        if not documents:
            raise GeneUnknown(f"{hgnc_id} was not known at {at.isoformat()}")
        (document,) = documents
        links = {"self": jsonapi.self_link(address(document), query)}
        return jsonapi.respond(resource(document), links, meta={"as_of": at})

    async def resolve(self, request: Request, body: Names) -> Response:
        """What each name means, in the order given: resolved, ambiguous, unknown or withdrawn.

        An approved symbol comes before a previous one, that before an alias, and a withdrawn id
        or symbol stands for its one approved successor (`successor_of`). What names several genes
        is ambiguous and never guessed; `candidates` are the genes that it may mean, and how."""
        _NOTHING.parse(request.query_params)
        async with self.engine.connect() as connection:
            answers = await names.answer_each(connection, body.genes)
        if answers.catalogue_empty:
            raise CatalogueEmpty
        by_outcome: Counter[str] = Counter()
        by_match: Counter[str] = Counter()
        for outcome, matched_by, count in answers.counts:
            by_outcome[outcome] += count
            if outcome == "resolved":
                by_match[str(matched_by)] += count
        meta = {
            "total": len(body.genes),
            "outcomes": {outcome: by_outcome[outcome] for outcome in get_args(Outcome)},
            "matched_by": {match: by_match[match] for match in get_args(MatchedBy)},
            "flags": names.FLAGS,
        }
        links = {"self": "/api/genes/resolve"}
        return jsonapi.respond(orjson.Fragment(answers.rows), links, meta=meta)

    async def list_events(self, request: Request, gene: str) -> Response:
        """What became of a gene, and of those that it stands for now, newest first: renamed,
        merged, split, withdrawn, restored. An HGNC id means that id alone, withdrawn or not."""
        query = _EVENTS.parse(request.query_params)
        _check_text(gene)
        async with self.engine.connect() as connection:
            found = await genes.list_events(
                connection,
                await _history_of(connection, gene),
                None if query.after is None else query.after[0],
                query.size + 1,
                query.offset,
            )
        page, more = found[: query.size], len(found) > query.size
        return jsonapi.respond(
            [{"type": "gene-events", "id": str(row["id"]), "attributes": row} for row in page],
            jsonapi.page_links(
                f"/api/genes/{quote(gene, safe=':')}/events",
                query,
                more=more,
                after=jsonapi.cursor(query.sort, page[-1]["id"], "") if more else None,
            ),
        )

    async def _read(self, gene: str, hgnc_id: str, query: Query) -> Held:
        generation = self.documents.generation
        document = await self._document(hgnc_id, query)
        if document is None and hgnc_id == domain.hgnc_id(gene):
            # It may be withdrawn, and another stand for it.
            hgnc_id = await self._meant(gene)
            document = await self._document(hgnc_id, query)
        if document is None:
            raise GeneNotBuilt(
                f"{hgnc_id} is in the catalogue; its document follows in a few seconds"
            )
        if needs_sources(query):
            async with self.engine.connect() as connection:
                included = await include(connection, query, [document])
            return answer(document, query, included)
        held = answer(document)
        if query.fields is None:
            self.documents.keep(document.hgnc_id, held, generation)
        return held

    async def _document(self, hgnc_id: str, query: Query) -> Document | None:
        async with self.engine.connect() as connection:
            found = await genes.get_documents(
                connection, [hgnc_id], query.fields, linked=needs_sources(query)
            )
        return found[0] if found else None

    async def _meant(self, gene: str) -> str:
        """The HGNC id of the gene that a name means. Raises the errors of one that means none, or
        not one alone."""
        _check_text(gene)

        async def resolve() -> bytes | None:
            async with self.engine.connect() as connection:
                resolved = await names.resolve(connection, [gene])
            if not resolved.refused:
                return orjson.dumps(resolved.hgnc_ids[0])
            refused = resolved.refused[0]
            is_nothing = refused.outcome == "unknown" and not refused.genes
            return None if is_nothing else orjson.dumps(refused)

        entry = await self.entries.get(RESOLUTIONS, gene, (), resolve)
        found = None if entry.value is None else orjson.loads(entry.value)
        match found:
            case None:
                raise _refusal(Refused(0, gene, "unknown", ()))
            case str():
                return found
        raise _refusal(
            Refused(0, gene, found["outcome"], [Named(**named) for named in found["genes"]])
        )

    def router(self) -> APIRouter:
        router = APIRouter(tags=["genes"])
        gene = answers.one(
            "Gene", optional_meta=schemas.META_AS_OF, or_sparse=True, includes="SourceInDetail"
        )
        resolved = answers.many("Resolution", meta=schemas.META_RESOLVED)
        router.add_api_route(
            "/api/genes/resolve",
            self.resolve,
            methods=["POST"],
            **answers.route({200: resolved}, CatalogueEmpty, body=Names),
        )
        router.add_api_route(
            "/api/genes/{gene}/events",
            self.list_events,
            **answers.route(
                {200: answers.many("GeneEvent", answers.PAGES)}, *answers.OF_GENE, allowed=_EVENTS
            ),
        )
        router.add_api_route(
            "/api/genes/{gene}",
            self.get_gene,
            **answers.route(
                answers.tagged(gene, is_always=False),
                *answers.OF_GENE,
                GeneNotBuilt,
                allowed=_ONE,
            ),
        )
        return router


async def moment_of(
    connection: AsyncConnection, query: Query, name: str = "as_of", accepted: str = AS_OF
) -> datetime | None:
    """A time in the past; None where none is given. What holds now may be written just now, so
    the last seconds are refused."""
    value = query.given.get(name)
    if value is None:
        return None
    moment = _moment(value)
    if moment is None:
        raise jsonapi.invalid(name, value, accepted)
    if not await history.is_settled(connection, moment):
        raise jsonapi.invalid(name, value, f"a time at least {history.SETTLED_SECONDS} s ago")
    return moment


def _moment(value: str) -> datetime | None:
    """In UTC; None for what is no time with its zone and no day, or in no year from 1 to 9999."""
    try:
        moment = datetime.fromisoformat(value)
        if _DAY.fullmatch(value):
            return moment.replace(tzinfo=UTC)
        return None if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


async def find_gene(connection: AsyncConnection, gene: str) -> str:
    """The HGNC id of what somebody calls a gene; an id is taken as it is, withdrawn or not.
    Raises the errors of a name that is none, or not one alone."""
    hgnc_id = domain.hgnc_id(gene)
    if hgnc_id is not None and await genes.has_gene(connection, hgnc_id):
        return hgnc_id
    _check_text(gene)
    resolved = await names.resolve(connection, [gene])
    if resolved.refused:
        raise _refusal(resolved.refused[0])
    return resolved.hgnc_ids[0]


async def _history_of(connection: AsyncConnection, gene: str) -> Sequence[str]:
    """The ids whose events are this gene's. Raises the errors of a gene that is not one."""
    hgnc_id = domain.hgnc_id(gene)
    if hgnc_id is not None and await genes.has_gene(connection, hgnc_id):
        return [hgnc_id]
    resolved = await names.resolve(connection, [gene])
    for refused in resolved.refused:
        if refused.outcome != "withdrawn":
            raise _refusal(refused)
        return [named.hgnc_id for named in refused.genes]
    return [*resolved.hgnc_ids, *resolved.succeeded]


def require_found(found: Resolved, asked_count: int) -> Sequence[str]:
    """The HGNC ids of a list of names at /genes. Raises CatalogueEmpty and GenesRefused."""
    if found.catalogue_empty:
        raise CatalogueEmpty
    if found.refused:
        asked = f"{found.refused_count} of {asked_count} genes"
        raise refusal(asked, found.refused, found.refused_count, "/genes/{place}")
    return found.hgnc_ids


def refusal(asked: str, refused: Sequence[Refused], count: int, pointer: str) -> GenesRefused:
    """Of names that are not one gene each; `pointer` is where they are, by their `{place}`."""
    refused = refused[: names.REFUSED_MAX]
    errors = [
        field_error(pointer.format(place=gene.place), gene.value, gene.accepted)
        | {"code": f"gene-{gene.outcome}"}
        for gene in refused
    ]
    shown = "" if len(errors) == count else f"; the first {len(errors)} are named"
    return GenesRefused(
        f"{asked} cannot be resolved{shown}; "
        f"the first: {errors[0]['value']!r} is {refused[0].outcome}, "
        f"accepted: {errors[0]['accepted']}",
        errors,
    )


def needs_sources(query: Query) -> bool:
    return SOURCES in query.include or query.relates(SOURCES)


async def include(
    connection: AsyncConnection, query: Query, documents: Sequence[Document]
) -> list[jsonapi.Resource] | None:
    """The sources of these genes, each once; None where they are not asked for."""
    if SOURCES not in query.include:
        return None
    names = sorted({name for document in documents for name in document.sources})
    found = await catalogue.get_sources(connection, names)
    return [sources.resource(row) for row in found]


def _check_text(gene: str) -> None:
    if len(gene) > GENE_CHARACTERS_MAX or "\x00" in gene:
        accepted = f"at most {GENE_CHARACTERS_MAX} characters, none of them NUL"
        error = field_error("path gene", gene, accepted)
        raise ParameterInvalid(
            f"gene={error['value']!r} does not fit; accepted: {accepted}", [error]
        )


def _refusal(gene: Refused) -> RequestError:
    error = field_error("path gene", gene.value, gene.accepted)
    kinds: dict[Refusal, type[RequestError]] = {
        "unknown": GeneUnknown,
        "ambiguous": GeneAmbiguous,
        "withdrawn": GeneWithdrawn,
    }
    return kinds[gene.outcome](
        f"{gene.value!r} is {gene.outcome}; accepted: {gene.accepted}", [error]
    )
