"""What was known of a gene at a time, where each value is from, and what changed."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.chassis.errors import field_error
from services.gateway import jsonapi, shapes
from services.gateway.errors import (
    AnnotationUnknown,
    RunUnfinished,
    RunUnknown,
    SourceUnknown,
)
from services.gateway.http import answers, schemas
from services.gateway.http.genes import find_gene, moment_of
from services.gateway.jsonapi import Query
from services.gateway.store import catalogue, history
from services.gateway.store.history import Row

_ANNOTATIONS = jsonapi.Allowed(others=("as_of",), values={"as_of": shapes.MOMENT})
_ANNOTATION = jsonapi.Allowed(
    others=("as_of", "provenance"),
    values={"as_of": shapes.MOMENT, "provenance": shapes.BOOLEAN},
)
_DIFF = jsonapi.Allowed(
    sized=True,
    others=("from", "to", "page[after]"),
    filters=("source",),
    # A time, or the id of a run.
    values={name: {"anyOf": [shapes.MOMENT, shapes.ID]} for name in ("from", "to")},
    required=("from", "to"),
)


@dataclass(frozen=True)
class HistoryRoutes:
    engine: AsyncEngine

    async def list_annotations(self, request: Request, gene: str) -> Response:
        """What each source says of a gene, or said at a time (`as_of`)."""
        query = _ANNOTATIONS.parse(request.query_params)
        async with self.engine.connect() as connection:
            at = await moment_of(connection, query)
            hgnc_id = await find_gene(connection, gene)
            rows = await _annotations(connection, hgnc_id, at)
        address = f"/api/genes/{hgnc_id}/annotations"
        return jsonapi.respond(
            [_annotation(row, f"{address}/{row['source']}") for row in rows],
            {"self": jsonapi.self_link(address, query)},
            meta=_as_of(at),
        )

    async def get_annotation(self, request: Request, gene: str, source: str) -> Response:
        """What one source says of a gene, or said at a time. With `provenance=true` also where
        that is from: release, raw file with its hash, place in it, parser version, identifier
        that it was matched by, and run."""
        query = _ANNOTATION.parse(request.query_params)
        wants_provenance = jsonapi.one_of(query.given, "provenance", ("false", "true")) == "true"
        async with self.engine.connect() as connection:
            await history.see_one_moment(connection)  # Of the value and of where it is from.
            at = await moment_of(connection, query)
            hgnc_id = await find_gene(connection, gene)
            rows = await _annotations(connection, hgnc_id, at, source)
            if not rows:
                raise await _source_unknown(connection, source)
            origin = None
            if wants_provenance:
                origin = await history.provenance(connection, hgnc_id, source, at)
                if origin is None:
                    raise AnnotationUnknown(
                        f"{source} has no version of {hgnc_id}: its status is {rows[0]['status']}"
                    )
        address = f"/api/genes/{hgnc_id}/annotations/{source}"
        found = _annotation(rows[0], address)
        if origin is not None:
            found["attributes"] |= {"provenance": _provenance(origin)}
        return jsonapi.respond(found, {"self": jsonapi.self_link(address, query)}, meta=_as_of(at))

    async def diff(self, request: Request) -> Response:
        """The values that were others at two times. `from` and `to` are times, or runs: then it is
        the time at which they ended. What changed and came back in between is no difference, so
        the differences of two spans that meet compose to that of both."""
        query = _DIFF.parse(request.query_params)
        behind = _behind(query.given)
        async with self.engine.connect() as connection:
            before = await _end_of(connection, query, "from")
            after = await _end_of(connection, query, "to")
            if before > after:
                raise jsonapi.invalid(
                    "to", query.given["to"], f"not before from={before.isoformat()}"
                )
            found = await history.list_differences(
                connection, before, after, query.filters.get("source"), behind, query.size + 1
            )
        page, more = found[: query.size], len(found) > query.size
        following = None
        if more:
            place = jsonapi.write_cursor((page[-1]["number"], page[-1]["source"]))
            following = jsonapi.link("/api/diff", {**query.given, "page[after]": place})
        return jsonapi.respond(
            [_difference(row) for row in page],
            {"self": jsonapi.self_link("/api/diff", query), "next": following},
            meta={"from": before, "to": after},
        )

    def router(self) -> APIRouter:
        router = APIRouter(tags=["history"])
        annotation = answers.one("Annotation", optional_meta=schemas.META_AS_OF)
        annotations = answers.many("Annotation", optional_meta=schemas.META_AS_OF)
        differences = answers.many("Difference", answers.NEXT, meta=schemas.META_DIFF)
        for path, handler, described in (
            (
                "/api/genes/{gene}/annotations",
                self.list_annotations,
                answers.route({200: annotations}, *answers.OF_GENE, allowed=_ANNOTATIONS),
            ),
            (
                "/api/genes/{gene}/annotations/{source}",
                self.get_annotation,
                answers.route(
                    {200: annotation},
                    *answers.OF_GENE,
                    *(SourceUnknown, AnnotationUnknown),
                    allowed=_ANNOTATION,
                ),
            ),
            (
                "/api/diff",
                self.diff,
                answers.route({200: differences}, RunUnknown, RunUnfinished, allowed=_DIFF),
            ),
        ):
            router.add_api_route(path, handler, **described)
        return router


_ACCEPTED_TIMES = "a time with its zone, as 2026-06-01T08:00:00Z, a day, or the id of a run"


# --------------------------------------------------------------------------- what is asked


def _behind(given: Mapping[str, str]) -> tuple[int, str]:
    """Where the page before ended."""
    value = given.get("page[after]")
    if value is None:
        return 0, ""
    with suppress(ValueError):
        match jsonapi.read_cursor(value):
            case (number, str(source)) if type(number) is int and "\x00" not in source:
                if 0 <= number < 2**31:
                    return number, source
    raise jsonapi.invalid("page[after]", value, "the cursor of a links.next")


async def _annotations(
    connection: AsyncConnection, hgnc_id: str, at: datetime | None, source: str | None = None
) -> Sequence[Row]:
    if source is not None and "\x00" in source:
        return []  # No source is called so, and PostgreSQL has no such text.
    if at is None:
        return await history.annotations_now(connection, hgnc_id, source)
    return await history.annotations_at(connection, [hgnc_id], at, source)


async def _end_of(connection: AsyncConnection, query: Query, name: str) -> datetime:
    """A time that is given, or the end of a run that is given."""
    value = query.given.get(name, "")
    try:
        run_id = UUID(value)
    except ValueError:
        moment = await moment_of(connection, query, name, _ACCEPTED_TIMES)
        if moment is None:
            raise jsonapi.invalid(name, value, _ACCEPTED_TIMES) from None
        return moment
    run = await history.end_of_run(connection, run_id)
    if run is None:
        raise RunUnknown(run_id)
    if run["finished_at"] is None:
        error = field_error(f"query {name}", value, "a run that has ended")
        raise RunUnfinished(f"run {run_id} is {run['state']}; it has no end yet", [error])
    ended: datetime = run["finished_at"]
    if not await history.is_settled(connection, ended):
        accepted = f"a run that ended at least {history.SETTLED_SECONDS} s ago"
        error = field_error(f"query {name}", value, accepted)
        raise RunUnfinished(f"run {run_id} has only just ended; accepted: {accepted}", [error])
    return ended


async def _source_unknown(connection: AsyncConnection, source: str) -> SourceUnknown:
    accepted = ", ".join(await catalogue.list_source_names(connection))
    error = field_error("path source", source, accepted)
    return SourceUnknown(f"no source {error['value']!r}; known: {accepted}", [error])


# ------------------------------------------------------------------------ what is answered


def _as_of(at: datetime | None) -> dict[str, object] | None:
    return None if at is None else {"as_of": at.astimezone(UTC)}


def _annotation(row: Row, address: str) -> dict[str, Any]:
    attributes = {
        "hgnc_id": row["hgnc_id"],
        "source": row["source"],
        "status": row["status"],
        "as_of": row["as_of"],
        "value": jsonapi.fragment(row["value"]),
        "release": row["release"],
        "synthetic": row["synthetic"],
        "valid_from": row["valid_from"],
        "valid_to": row["valid_to"],
    }
    identity = f"{row['hgnc_id']}/{row['source']}"
    return jsonapi.resource("annotations", identity, attributes, address)


def _provenance(row: Row) -> dict[str, Any]:
    return {
        "release": {
            "id": str(row["release_id"]),
            "version": row["release"],
            "synthetic": row["synthetic"],
            "method": row["method"],
            "sha256": row["release_sha256"],
            "retrieved_at": row["release_retrieved_at"],
        },
        "raw": {
            "file": row["file"],
            "url": row["url"],
            "etag": row["etag"],
            "last_modified": row["last_modified"],
            "media_type": row["media_type"],
            "sha256": row["sha256"],
            "bytes": row["bytes"],
            "retrieved_at": row["file_retrieved_at"],
            "removed_at": row["removed_at"],
            "position": row["position"],
        },
        "parser_version": row["parser_version"],
        "matched_by": row["matched_by"],
        "run_id": None if row["run_id"] is None else str(row["run_id"]),
        "cause": row["cause"],
        "severity": row["severity"],
        "valid_from": row["valid_from"],
        "valid_to": row["valid_to"],
    }


def _difference(row: Row) -> dict[str, Any]:
    attributes = {
        "hgnc_id": row["hgnc_id"],
        "symbol": row["symbol"],
        "source": row["source"],
        "before": jsonapi.fragment(row["before"]),
        "after": jsonapi.fragment(row["after"]),
        "release_before": row["release_before"],
        "release": row["release"],
    }
    identity = f"{row['hgnc_id']}/{row['source']}"
    address = f"/api/genes/{row['hgnc_id']}/annotations/{row['source']}"
    return jsonapi.resource("differences", identity, attributes, address)
