"""What became of values: all changes in the order in which they are told, in pages or as a stream,
and those of one gene."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, get_args
from uuid import UUID

import orjson
import structlog
from fastapi import APIRouter, Request
from fastapi.responses import Response
from fastapi.sse import EventSourceResponse, format_sse_event
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.views import Cause, Severity
from services.chassis.database import CONNECTION_ERRORS
from services.gateway import jsonapi, shapes
from services.gateway.changes import Changes
from services.gateway.errors import CatalogueEmpty, PanelUnknown, StreamsCrowded
from services.gateway.gene_queries import read_panel
from services.gateway.http import answers, schemas
from services.gateway.http.genes import find_gene
from services.gateway.jsonapi import Query
from services.gateway.store import history
from services.gateway.store.history import Place, Row, Wanted

CAUSES: Sequence[str] = get_args(Cause)
SEVERITIES: Sequence[str] = get_args(Severity)
NOW = "now"
STREAMS_MAX = 500  # Of one gateway: each asks the database when there may be news.
LOOK_SECONDS = 5.0  # What a wake-up costs that was lost, or came before its change could be read.
SOON_SECONDS = 1.0  # After a wake-up: the change is told when no older transaction is open.
PAUSE_SECONDS = 0.5  # Between two looks, whatever is heard.
ALIVE_SECONDS = 15.0  # Between two signs of life, for proxies.
RETRY_MILLISECONDS = 2_000
PAGE_OF_STREAM = 200

_ADDRESS = "/api/changes"
_KNOWN = {"cause": shapes.enum(CAUSES), "severity": shapes.enum(SEVERITIES)}
_OF_GENE = jsonapi.Allowed(
    sized=True,
    others=("page[after]",),
    filters=("source", "cause", "severity"),
    values=_KNOWN,
)
_ALL = jsonapi.Allowed(
    sized=True,
    others=("since",),
    filters=("gene", "panel", "source", "cause", "severity", "release"),
    values=_KNOWN
    | {
        "since": shapes.TEXT | {"description": f"a cursor, or {NOW}"},
        "filter[gene]": jsonapi.PART,
        "filter[panel]": jsonapi.PART | {"description": "a panel: its id, or <id>@<version>"},
        "filter[release]": shapes.ID,
    },
)

log = structlog.get_logger()


@dataclass(frozen=True)
class ChangeRoutes:
    engine: AsyncEngine
    changes: Changes

    async def list_changes(self, request: Request) -> Response:
        """What changed behind `since`, in order; without it from the beginning, with `now` from now
        on. Ask again with the cursor in `meta`, or by `links.next`, and nothing is missed or told
        twice.

        Who accepts text/event-stream is told as it happens. The id of each event is a cursor:
        `Last-Event-ID` goes on where a stream broke off.

        A first release, and one that its upstream made by another method, is one change of all
        its genes; `filter[release]` lists them."""
        query = _ALL.parse(request.query_params)
        wanted = await self._wanted(query)
        since = await self._since(query.given.get("since"), "since")
        if "text/event-stream" in request.headers.get("accept", ""):
            if "page[size]" in query.given:
                raise jsonapi.invalid("page[size]", query.size, "nothing: a stream has no pages")
            if (last := request.headers.get("last-event-id")) is not None:
                since = await self._since(last, "Last-Event-ID")
            return self._stream(wanted, since)
        async with self.engine.connect() as connection:
            page = await history.list_changes(connection, wanted, since, query.size)
        cursor = _cursor(page[-1]) if page else jsonapi.write_cursor(since)
        return jsonapi.respond(
            [_change(row) for row in page],
            {
                "self": jsonapi.self_link(_ADDRESS, query),
                "next": jsonapi.link(_ADDRESS, {**query.given, "since": cursor}),
            },
            meta={"cursor": cursor},
        )

    async def list_gene_changes(self, request: Request, gene: str) -> Response:
        """Everything that became of a gene's values, the newest first."""
        query = _OF_GENE.parse(request.query_params)
        wanted = _wanted(query)
        after = _place(query.given.get("page[after]"), "page[after]")
        async with self.engine.connect() as connection:
            hgnc_id = await find_gene(connection, gene)
            found = await history.list_gene_changes(
                connection, hgnc_id, wanted, after, query.size + 1
            )
        page, more = found[: query.size], len(found) > query.size
        address = f"/api/genes/{hgnc_id}/changes"
        following = None
        if more:
            following = jsonapi.link(address, {**query.given, "page[after]": _cursor(page[-1])})
        return jsonapi.respond(
            [_change(row) for row in page],
            {"self": jsonapi.self_link(address, query), "next": following},
        )

    def router(self) -> APIRouter:
        router = APIRouter(tags=["history"])
        of_gene = answers.many("Change", answers.NEXT)
        told = answers.many("Change", answers.FOLLOWING, meta=schemas.META_CHANGES)
        errors = (PanelUnknown, CatalogueEmpty, StreamsCrowded)
        router.add_api_route(
            "/api/genes/{gene}/changes",
            self.list_gene_changes,
            **answers.route({200: of_gene}, *answers.OF_GENE, allowed=_OF_GENE),
        )
        router.add_api_route(
            _ADDRESS,
            self.list_changes,
            **answers.route(
                {200: answers.or_events(told)}, *answers.OF_GENE, *errors, allowed=_ALL
            ),
        )
        return router

    async def _wanted(self, query: Query) -> Wanted:
        """Of a panel its genes as they are now: a stream that goes on anew sees those of then."""
        wanted = _wanted(query)
        if "gene" in query.filters and "panel" in query.filters:
            accepted = "it alone, or filter[gene] alone"
            raise jsonapi.invalid("filter[panel]", query.given["filter[panel]"], accepted)
        async with self.engine.connect() as connection:
            if "gene" in query.filters:
                hgnc_id = await find_gene(connection, query.filters["gene"][0])
                return replace(wanted, hgnc_ids=[hgnc_id])
            if await read_panel(connection, query):
                return replace(wanted, hgnc_ids=query.filters["panel"])
        return wanted

    async def _since(self, given: str | None, name: str) -> Place:
        if given == NOW:
            async with self.engine.connect() as connection:
                return await history.place_of_now(connection)
        return _place(given, name) or (0, 0)

    def _stream(self, wanted: Wanted, since: Place) -> Response:
        if self.changes.follower_count >= STREAMS_MAX:
            raise StreamsCrowded(f"{STREAMS_MAX} streams are open here; come back in a while")
        return EventSourceResponse(
            self._events(wanted, since), headers={"Cache-Control": "no-store"}
        )

    async def _events(self, wanted: Wanted, since: Place) -> AsyncIterator[bytes]:
        """Ends when the database does not answer or the gateway stops: the client comes back."""
        yield format_sse_event(retry=RETRY_MILLISECONDS)
        async with self.changes.follow() as changed:
            quiet, wait_seconds = 0.0, LOOK_SECONDS
            while not self.changes.is_over:
                changed.clear()
                try:
                    async with self.changes.turns, self.engine.connect() as connection:
                        page = await history.list_changes(connection, wanted, since, PAGE_OF_STREAM)
                except CONNECTION_ERRORS as error:
                    log.warning("change_stream_ended", error=repr(error))
                    return
                for row in page:
                    since = (int(row["xid"]), row["id"])
                    yield _event(row)
                if len(page) == PAGE_OF_STREAM:
                    continue
                quiet = 0.0 if page else quiet + wait_seconds
                if quiet >= ALIVE_SECONDS:
                    yield format_sse_event(comment="alive")
                    quiet = 0.0
                await asyncio.sleep(PAUSE_SECONDS)
                heard = await _wait(changed, wait_seconds)
                wait_seconds = SOON_SECONDS if heard else LOOK_SECONDS


async def _wait(changed: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            return await changed.wait()
    return False


def _wanted(query: Query) -> Wanted:
    for name, accepted in (("cause", CAUSES), ("severity", SEVERITIES)):
        if not set(query.filters.get(name, ())) <= set(accepted):
            parameter = f"filter[{name}]"
            raise jsonapi.invalid(
                parameter, query.given[parameter], f"some of {', '.join(accepted)}"
            )
    release_id = None
    if "release" in query.filters:
        parameter = "filter[release]"
        try:
            (only,) = query.filters["release"]
            release_id = UUID(only)
        except ValueError:
            raise jsonapi.invalid(
                parameter, query.given[parameter], "the id of one release"
            ) from None
    if len(query.filters.get("gene", ("one",))) != 1:
        raise jsonapi.invalid("filter[gene]", query.given["filter[gene]"], "one gene")
    return Wanted(
        sources=query.filters.get("source"),
        causes=query.filters.get("cause"),
        severities=query.filters.get("severity"),
        release_id=release_id,
    )


def _place(given: str | None, name: str) -> Place | None:
    if given is None:
        return None
    with suppress(ValueError):
        match jsonapi.read_cursor(given):
            case (xid, number) if all(
                type(one) is int and 0 <= one < 2**63 for one in (xid, number)
            ):
                return xid, number
    now = f", or {NOW}" if name == "since" else ""
    raise jsonapi.invalid(name, given, f"the cursor of an answer before{now}")


def _cursor(row: Row) -> str:
    return jsonapi.write_cursor((int(row["xid"]), row["id"]))


def _event(row: Row) -> bytes:
    return format_sse_event(
        event="change", id=_cursor(row), data_str=orjson.dumps(_change(row)).decode()
    )


def _change(row: Row) -> dict[str, Any]:
    attributes = {
        "kind": row["kind"],
        "hgnc_id": row["hgnc_id"],
        "symbol": row["symbol"],
        "source": row["source"],
        "changed_at": row["changed_at"],
        "cause": row["cause"],
        "severity": row["severity"],
        "before": jsonapi.fragment(row["before"]),
        "after": jsonapi.fragment(row["after"]),
        "release_before": row["release_before"],
        "release": row["release"],
        "release_id": str(row["release_id"]),
        "run_id": None if row["run_id"] is None else str(row["run_id"]),
        "gene_count": row["gene_count"],
    }
    address = f"/api/sources/{row['source']}/releases/{row['release_id']}"
    if row["kind"] == "annotation":
        address = f"/api/genes/{row['hgnc_id']}/annotations/{row['source']}"
    return jsonapi.resource("changes", f"{row['xid']}-{row['id']}", attributes, address)
