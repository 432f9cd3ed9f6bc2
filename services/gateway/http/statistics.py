"""Statistics of what the sources say, made off the way of who asks."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.gateway import jsonapi
from services.gateway.entries import Entries
from services.gateway.errors import CatalogueEmpty, PanelUnknown
from services.gateway.http import answers, schemas
from services.gateway.store import catalogue, panels, statistics

NAMESPACE = "statistics"
OVERLAPS_MAX = 200
WITHOUT_SHOWN_MAX = 100  # Genes of a panel that a source says nothing of.

_NOTHING = jsonapi.Allowed()
_OVERLAPS = jsonapi.Allowed(filters=("source",))


@dataclass(frozen=True)
class StatisticsRoutes:
    engine: AsyncEngine
    entries: Entries

    async def list_sources(self, request: Request) -> Response:
        """How many genes each source has values of, and how fresh they are: `stale_count` of them
        are older than its time to live. The mean and the median of its score are null where it
        declares none. All counts are of the time in `as_of`."""
        _NOTHING.parse(request.query_params)

        async def make(connection: AsyncConnection) -> bytes:
            rows = await statistics.list_sources(connection)
            data = [
                jsonapi.resource("source-statistics", row["name"], row, f"{_SOURCES}#{row['name']}")
                for row in rows
            ]
            return jsonapi.encode(data, {"self": _SOURCES})

        return await self._answer(request, "sources", make)

    async def list_fields(self, request: Request) -> Response:
        """Mean, median and ends of each field that is a number, and how many genes have it."""
        _NOTHING.parse(request.query_params)

        async def make(connection: AsyncConnection) -> bytes:
            rows = await statistics.list_fields(connection)
            data = [
                jsonapi.resource(
                    "field-statistics",
                    f"{row['source']}.{row['field']}",
                    row,
                    f"{_FIELDS}#{row['source']}.{row['field']}",
                )
                for row in rows
            ]
            return jsonapi.encode(data, {"self": _FIELDS})

        return await self._answer(request, "fields", make)

    async def list_overlaps(self, request: Request) -> Response:
        """How many genes have values of exactly these sources, the largest sets first: what an
        UpSet plot shows. With `filter[source]` of these sources alone."""
        query = _OVERLAPS.parse(request.query_params)
        sources = sorted(set(query.filters["source"])) if "source" in query.filters else None
        if sources is not None:
            async with self.engine.connect() as connection:
                known = await catalogue.list_source_names(connection)
            if not set(sources) <= set(known):
                given = query.given["filter[source]"]
                raise jsonapi.invalid("filter[source]", given, f"some of {', '.join(known)}")

        async def make(connection: AsyncConnection) -> bytes:
            rows = await statistics.list_overlaps(connection, sources, OVERLAPS_MAX)
            data = [
                {"type": "overlaps", "id": "+".join(row["sources"]) or "none", "attributes": row}
                for row in rows
            ]
            # For all who ask for these sources, however they wrote it.
            asked = {} if sources is None else {"filter[source]": ",".join(sources)}
            return jsonapi.encode(data, {"self": jsonapi.link(_OVERLAPPING, asked)})

        return await self._answer(request, f"overlaps {','.join(sources or [])}", make)

    async def cover_panel(self, request: Request, panel_id: str) -> Response:
        """Of how many genes of a panel each source has a value, and the first of those that it has
        none of. `<id>@<version>` is a version of it, `<id>` the newest."""
        _NOTHING.parse(request.query_params)
        async with self.engine.connect() as connection:
            version, _ = await panels.find(connection, panel_id, "path panel_id")
            scope = await panels.scope(connection, version)
            rows = await statistics.cover(connection, scope.hgnc_ids)
        data = [
            {
                "type": "coverage",
                "id": row["source"],
                "attributes": {**row, "without": row["without"][:WITHOUT_SHOWN_MAX]},
            }
            for row in rows
        ]
        told = {"id": str(version), "gene_count": len(scope.hgnc_ids)}
        links = {"self": f"/api/statistics/panels/{version}"}
        return jsonapi.respond(data, links, meta={"panel": told})

    async def _answer(
        self, request: Request, key: str, make: Callable[[AsyncConnection], Awaitable[bytes]]
    ) -> Response:
        async def made() -> bytes:
            async with self.engine.connect() as connection:
                return await make(connection)

        entry = await self.entries.get(NAMESPACE, key, (), made)
        value = entry.value
        assert value is not None
        age_seconds = max(0, int((datetime.now(UTC) - entry.made_at).total_seconds()))
        etag = f'"{sha256(value).hexdigest()}"'
        answer = jsonapi.tagged(value, etag, age_seconds=age_seconds)
        return jsonapi.unless_known(request, answer)

    def router(self) -> APIRouter:
        router = APIRouter(tags=["statistics"])
        for path, handler, name, allowed in (
            (_SOURCES, self.list_sources, "SourceStatistics", _NOTHING),
            (_FIELDS, self.list_fields, "FieldStatistics", _NOTHING),
            (_OVERLAPPING, self.list_overlaps, "Overlap", _OVERLAPS),
        ):
            told = answers.tagged(answers.many(name), has_age=True)
            router.add_api_route(path, handler, **answers.route(told, allowed=allowed))
        covered = answers.many("Coverage", meta=schemas.META_COVERAGE)
        router.add_api_route(
            "/api/statistics/panels/{panel_id}",
            self.cover_panel,
            **answers.route({200: covered}, PanelUnknown, CatalogueEmpty),
        )
        return router


_SOURCES = "/api/statistics/sources"
_FIELDS = "/api/statistics/fields"
_OVERLAPPING = "/api/statistics/overlaps"
