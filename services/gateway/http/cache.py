"""The cache: its namespaces, what is in them and how they are used, forgetting and warming."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.messages import PARTS_MAX, InvalidateNamespace
from contracts.parts import KEY_CHARACTERS_MAX, Part
from services.chassis import outbox
from services.chassis.errors import field_error
from services.gateway import documents, jsonapi
from services.gateway.documents import Documents
from services.gateway.entries import Entries
from services.gateway.errors import (
    CatalogueEmpty,
    GenesRefused,
    InvalidationInvalid,
    NamespaceNotWarmable,
    NamespaceUnknown,
    SourcesRefused,
    WarmingInvalid,
)
from services.gateway.gene_resources import answer
from services.gateway.http import answers, schemas
from services.gateway.http.bodies import TEXT, Body, Genes, Sources, given
from services.gateway.http.genes import require_found
from services.gateway.jsonapi import PAGE_SIZE_MAX, Query
from services.gateway.store import catalogue, entries, genes, names
from services.gateway.store.entries import Row
from services.gateway.tally import OUTCOMES

WARMED = 1_000  # Genes, where nobody says which or how many.
WARMED_MAX = 5_000  # About as many as memory has room for.

_NAMESPACES = "/api/cache/namespaces"
_STATISTICS = "/api/cache/statistics"
_NOTHING = jsonapi.Allowed()

Key = Annotated[str, Field(min_length=1, max_length=KEY_CHARACTERS_MAX, pattern=TEXT)]
Keys = Annotated[list[Key], Field(min_length=1, max_length=PARTS_MAX, fail_fast=True)]


class Invalidation(Body):
    """What to forget: entries by their keys; what was made of these genes, of these sources, or,
    where both are given, of these genes of these sources. Without any of them everything."""

    invalid = InvalidationInvalid

    keys: Keys | None = None
    genes: Genes | None = None
    sources: Sources | None = None


class Warming(Body):
    """Which gene documents to put into memory: some, or so many of the first."""

    model_config = ConfigDict(
        json_schema_extra={"not": {"allOf": [given("genes"), given("count")]}}
    )
    invalid = WarmingInvalid

    genes: Genes | None = None
    count: Annotated[int, Field(ge=1, le=WARMED_MAX)] | None = None


@dataclass(frozen=True)
class CacheRoutes:
    engine: AsyncEngine
    documents: Documents
    entries: Entries

    async def list_namespaces(self, request: Request) -> Response:
        """What is forgotten together. What is of an epoch below `floor` is not valid;
        `reclaimable_count` are such entries that are still there, as counted some seconds ago."""
        _NOTHING.parse(request.query_params)
        async with self.engine.connect() as connection:
            found = await entries.list_namespaces(connection)
        return jsonapi.respond([_resource(row) for row in found], {"self": _NAMESPACES})

    async def get_namespace(self, request: Request, namespace: str) -> Response:
        _NOTHING.parse(request.query_params)
        async with self.engine.connect() as connection:
            found = await _get(connection, namespace)
        return jsonapi.respond(_resource(found), {"self": _address(found)})

    async def invalidate(
        self, request: Request, namespace: str, invalidation: Invalidation | None = None
    ) -> Response:
        """Accept that everything in this namespace is to be forgotten, or some parts of it. It is
        done when its epoch has grown; gene documents are served until they are built anew."""
        _NOTHING.parse(request.query_params)
        async with self.engine.begin() as tx:
            found = await _get(tx, namespace)
            parts = await _parts(tx, invalidation or Invalidation())
            await outbox.add(tx, InvalidateNamespace(namespace=namespace, parts=parts))
        address = _address(found)
        return jsonapi.respond(
            _resource(found),
            {"self": address},
            meta={"parts": parts},
            status=202,
            headers={"Location": address},
        )

    async def warm(
        self, request: Request, namespace: str, warming: Warming | None = None
    ) -> Response:
        """Put gene documents into the memory of the gateway that answers: those of some genes, or
        the first ones. Other namespaces fill as they are asked."""
        _NOTHING.parse(request.query_params)
        warming = warming or Warming()
        async with self.engine.connect() as connection:
            found = await _get(connection, namespace)
            if namespace != documents.NAMESPACE:
                raise NamespaceNotWarmable(
                    f"nobody knows what will be asked of {namespace!r}; "
                    f"accepted: {documents.NAMESPACE}",
                    [field_error("path namespace", namespace, documents.NAMESPACE)],
                )
            hgnc_ids = await _chosen(connection, warming)
        wanted = len(hgnc_ids) if hgnc_ids is not None else warming.count or WARMED
        count = await self._warm(hgnc_ids, wanted)
        address = _address(found)
        meta = {"wanted_count": wanted, "warmed_count": count}
        return jsonapi.respond(_resource(found), {"self": address}, meta=meta)

    async def _warm(self, hgnc_ids: Sequence[str] | None, wanted: int) -> int:
        """A page at a time, each in a connection of its own: others have their turn."""
        kept = 0
        after: tuple[Any, ...] | None = None
        for start in range(0, wanted, PAGE_SIZE_MAX):
            size = min(PAGE_SIZE_MAX, wanted - start)
            filters = {}
            if hgnc_ids is not None:
                filters = {"hgnc_id": list(hgnc_ids[start : start + size])}
            query = Query(given={}, size=size, after=after, sort="hgnc_id", filters=filters)
            generation = self.documents.generation
            async with self.engine.connect() as connection:
                page = (await genes.list_documents(connection, query))[:size]
            for document in page:
                kept += self.documents.keep(document.hgnc_id, answer(document), generation)
                await asyncio.sleep(0)
            if hgnc_ids is None:
                if len(page) < size:
                    break
                after = (page[-1].number, None)
        return kept

    async def get_statistics(self, request: Request) -> Response:
        """How each namespace is used: by this gateway since it started, and by all of them as far
        as they have told. A read is a hit (in memory), shared (made by anybody) or a miss; of the
        rest, stale values were in memory and not served, refused ones were made and are not kept
        for others."""
        _NOTHING.parse(request.query_params)
        async with self.engine.connect() as connection:
            found = await entries.list_namespaces(connection)
            of_all = await entries.list_reads(connection)
        now = datetime.now(UTC)
        return jsonapi.respond(
            [
                jsonapi.resource(
                    "cache-statistics",
                    row["namespace"],
                    self._statistics(row, of_all, now),
                    _STATISTICS,
                )
                for row in found
            ],
            {"self": _STATISTICS},
        )

    def _statistics(
        self, row: Row, of_all: Mapping[tuple[str, str], int], now: datetime
    ) -> Mapping[str, Any]:
        namespace = row["namespace"]
        here = self.entries.tally.counts
        if namespace == documents.NAMESPACE:
            memory = self.documents.count, self.documents.bytes
        else:
            memory = self.entries.in_memory(namespace)
        return {
            "entry_count": row["entry_count"],
            "entry_bytes": row["entry_bytes"],
            "reclaimable_count": row["reclaimable_count"],
            "dirty_count": row["dirty_count"],
            "oldest_seconds": _age(row["oldest_at"], now),
            "newest_seconds": _age(row["newest_at"], now),
            "counted_at": row["counted_at"],
            "memory_count": memory[0],
            "memory_bytes": memory[1],
            "here": {name: here[namespace, name] for name in OUTCOMES},
            "all": {name: of_all.get((namespace, name), 0) for name in OUTCOMES},
        }

    def router(self) -> APIRouter:
        router = APIRouter(tags=["cache"])
        path = f"{_NAMESPACES}/{{namespace}}"
        forgotten = answers.accepted("Namespace", meta=schemas.META_INVALIDATED)
        warmed = answers.one("Namespace", meta=schemas.META_WARMED)
        errors = (NamespaceUnknown, GenesRefused, CatalogueEmpty)
        for method, address, handler, described in (
            (
                "GET",
                _STATISTICS,
                self.get_statistics,
                answers.route({200: answers.many("CacheStatistics")}),
            ),
            (
                "GET",
                _NAMESPACES,
                self.list_namespaces,
                answers.route({200: answers.many("Namespace")}),
            ),
            (
                "GET",
                path,
                self.get_namespace,
                answers.route({200: answers.one("Namespace")}, NamespaceUnknown),
            ),
            (
                "POST",
                f"{path}/invalidate",
                self.invalidate,
                answers.route({202: forgotten}, *errors, SourcesRefused, body=Invalidation),
            ),
            (
                "POST",
                f"{path}/warm",
                self.warm,
                answers.route({200: warmed}, *errors, NamespaceNotWarmable, body=Warming),
            ),
        ):
            router.add_api_route(address, handler, methods=[method], **described)
        return router


# ------------------------------------------------------------------------------ what is asked


async def _get(connection: AsyncConnection, namespace: str) -> Row:
    """Raises NamespaceUnknown."""
    found = {row["namespace"]: row for row in await entries.list_namespaces(connection)}
    if namespace not in found:
        accepted = ", ".join(found)
        error = field_error("path namespace", namespace, accepted)
        raise NamespaceUnknown(f"no namespace {error['value']!r}; known: {accepted}", [error])
    return found[namespace]


async def _parts(tx: AsyncConnection, wanted: Invalidation) -> tuple[str, ...]:
    """Raises GenesRefused, SourcesRefused, CatalogueEmpty, InvalidationInvalid."""
    parts = [Part(key=key) for key in wanted.keys or ()]
    hgnc_ids: Sequence[str | None] = [None]
    if wanted.genes is not None:
        hgnc_ids = await _resolve(tx, wanted.genes)
    sources: Sequence[str | None] = [None]
    if wanted.sources is not None:
        sources = await _check_sources(tx, wanted.sources)
    if len(parts) + len(hgnc_ids) * len(sources) > PARTS_MAX:
        accepted = f"at most {PARTS_MAX} keys and genes × sources, or everything"
        errors = [
            field_error(f"/{name}", f"{len(values)} {name}", accepted)
            for name, values in (
                ("keys", wanted.keys),
                ("genes", wanted.genes),
                ("sources", wanted.sources),
            )
            if values is not None
        ]
        raise InvalidationInvalid(f"these are too many parts; accepted: {accepted}", errors)
    if wanted.genes is not None or wanted.sources is not None:
        parts += [Part(gene=gene, source=source) for gene in hgnc_ids for source in sources]
    return tuple(dict.fromkeys(str(part) for part in parts))


async def _chosen(connection: AsyncConnection, warming: Warming) -> Sequence[str] | None:
    """The genes that are named; None where the first ones will do. Raises WarmingInvalid, and the
    errors of genes that cannot be found."""
    if warming.genes is None:
        return None
    if warming.count is not None or len(warming.genes) > WARMED_MAX:
        accepted = f"either /genes, at most {WARMED_MAX} of them, or /count"
        error = field_error("/genes", f"{len(warming.genes)} genes", accepted)
        raise WarmingInvalid(f"which genes? accepted: {accepted}", [error])
    return await _resolve(connection, warming.genes)


async def _resolve(connection: AsyncConnection, wanted: Sequence[str]) -> Sequence[str]:
    return require_found(await names.resolve(connection, wanted), len(wanted))


async def _check_sources(connection: AsyncConnection, wanted: Sequence[str]) -> Sequence[str]:
    """Retired ones included: what they said is still there."""
    known = [row["name"] for row in await catalogue.list_sources(connection)]
    accepted = f"some of {', '.join(known)}" if known else "none before `annobus migrate` has run"
    errors = [
        field_error(f"/sources/{place}", name, accepted)
        for place, name in enumerate(wanted)
        if name not in known
    ]
    if errors:
        unknown = ", ".join(repr(error["value"]) for error in errors)
        raise SourcesRefused(f"{unknown}: not known; accepted: {accepted}", errors)
    return wanted


# ---------------------------------------------------------------------------- what is answered


def _address(row: Row) -> str:
    return f"{_NAMESPACES}/{row['namespace']}"


def _resource(row: Row) -> dict[str, Any]:
    return jsonapi.resource("namespaces", row["namespace"], row, _address(row))


def _age(then: datetime | None, now: datetime) -> float | None:
    """In seconds; clocks of machines differ a little."""
    return None if then is None else max((now - then).total_seconds(), 0.0)
