"""Sources, and what is at the root."""

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.chassis.errors import field_error
from services.gateway import jsonapi
from services.gateway.errors import SourceUnknown
from services.gateway.http import answers, schemas
from services.gateway.shapes import TEXT
from services.gateway.store import catalogue
from services.gateway.store.catalogue import Row

_NOTHING = jsonapi.Allowed()
_ADDRESSES = (
    *("/api/runs", "/api/genes", "/api/sources", "/api/dead-letters"),
    *("/api/cache/namespaces", "/api/cache/statistics"),
    *("/api/progress/status", "/api/progress/ws", "/openapi.json", "/readyz?verbose", "/metrics"),
)
_NAMED = {address.strip("/").partition("?")[0]: address for address in _ADDRESSES}
_LINKS = dict.fromkeys(("self", *_NAMED), TEXT)


@dataclass(frozen=True)
class CatalogueRoutes:
    engine: AsyncEngine

    async def root(self, request: Request) -> Response:
        """Where to go from here."""
        _NOTHING.parse(request.query_params)
        return jsonapi.respond([], {"self": "/"} | _NAMED, meta={"service": "annobus gateway"})

    async def list_sources(self, request: Request) -> Response:
        _NOTHING.parse(request.query_params)
        async with self.engine.connect() as connection:
            found = await catalogue.list_sources(connection)
        return jsonapi.respond([resource(row) for row in found], {"self": "/api/sources"})

    async def get_source(self, request: Request, name: str) -> Response:
        _NOTHING.parse(request.query_params)
        async with self.engine.connect() as connection:
            found = await catalogue.get_source(connection, name)
            if found is None:
                raise await no_source(connection, name)
        return jsonapi.respond(resource(found), {"self": f"/api/sources/{name}"})

    def router(self) -> APIRouter:
        router = APIRouter(tags=["catalogue"])
        for path, handler, described in (
            ("/", self.root, answers.route({200: answers.none(_LINKS, meta=schemas.META_ROOT)})),
            ("/api/sources", self.list_sources, answers.route({200: answers.many("Source")})),
            (
                "/api/sources/{name}",
                self.get_source,
                answers.route({200: answers.one("SourceInDetail")}, SourceUnknown),
            ),
        ):
            router.add_api_route(path, handler, **described)
        return router


async def no_source(connection: AsyncConnection, name: str) -> SourceUnknown:
    """What to raise for a source in a path that there is none of."""
    known = await catalogue.list_source_names(connection)
    accepted = ", ".join(known) or "none before `annobus migrate` has run"
    error = field_error("path name", name, accepted)
    return SourceUnknown(f"no source {error['value']!r}; known: {accepted}", [error])


def resource(row: Row) -> dict[str, object]:
    return jsonapi.resource("sources", row["name"], row, f"/api/sources/{row['name']}")
