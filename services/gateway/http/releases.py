"""Releases of a source: which there were, their files, and what in them is no gene of ours."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.messages import DecideRelease, Decision
from services.chassis import outbox
from services.chassis.errors import field_error
from services.gateway import jsonapi
from services.gateway.errors import (
    DecisionInvalid,
    ReleaseNotQuarantined,
    ReleaseSuperseded,
    ReleaseUnknown,
    SourceRetired,
    SourceUnknown,
)
from services.gateway.http import answers, schemas
from services.gateway.http.bodies import Body, Note, Person
from services.gateway.http.catalogue import no_source
from services.gateway.store import catalogue, releases
from services.gateway.store.releases import Row, Wanted

_NOTHING = jsonapi.Allowed()
_PAGED = jsonapi.Allowed(paged=True)
_UNMAPPED = jsonapi.Allowed(
    paged=True,
    keyset=True,
    counted=True,
    filters=("key", "reason"),
    values={"filter[key]": jsonapi.WRITTEN, "filter[reason]": jsonapi.WRITTEN},
)

# States in which a release has been read; before, its report is not there yet.
_READ = ("staged", "quarantined", "accepted", "stored")


class Reasons(Body):
    """Who decides, and why: both are kept with the release."""

    invalid = DecisionInvalid

    by: Person
    note: Note


@dataclass(frozen=True)
class ReleaseRoutes:
    engine: AsyncEngine

    async def list_releases(self, request: Request, name: str) -> Response:
        """The releases of a source, newest first, whatever became of them."""
        query = _PAGED.parse(request.query_params)
        async with self.engine.connect() as connection:
            if not await catalogue.has_source(connection, name):
                raise await no_source(connection, name)
            found = await releases.list_releases(connection, name, query.size + 1, query.offset)
        links = jsonapi.page_links(_address(name), query, more=len(found) > query.size)
        return jsonapi.respond([_resource(row) for row in found[: query.size]], links)

    async def get_release(self, request: Request, name: str, release_id: str) -> Response:
        """A release with its files as they were fetched, the first 200 of them."""
        _NOTHING.parse(request.query_params)
        async with self.engine.connect() as connection:
            release = await _find(connection, name, release_id)
            files = await releases.list_files(connection, UUID(release["release_id"]))
            count = await releases.count_files(connection, UUID(release["release_id"]))
        document = _resource(release)
        document["attributes"] = release | {"file_count": count, "files": files}
        return jsonapi.respond(document, {"self": document["links"]["self"]})

    async def list_unmapped(self, request: Request, name: str, release_id: str) -> Response:
        """What a release says of things that are no gene of ours, with the reason, in the order
        in which they were found. `filter[reason]` and `filter[key]` are one exact text each;
        `meta.reasons` has the most frequent ones. `meta.truncated` says whether more were found
        than were kept."""
        query = _UNMAPPED.parse(request.query_params)
        given = query.given
        async with self.engine.connect() as connection:
            release = await _find(connection, name, release_id)
            wanted = Wanted(
                UUID(release["release_id"]), given.get("filter[key]"), given.get("filter[reason]")
            )
            after = 0 if query.after is None else query.after[0]
            found = await releases.list_unmapped(
                connection, wanted, after, query.size + 1, query.offset
            )
            totals = await releases.count_unmapped(connection, wanted)
        page, more = found[: query.size], len(found) > query.size
        address = f"{_address(name)}/{release['release_id']}/unmapped"
        found_count = release["unmapped_count"]  # None: not read yet, or an API's.
        meta = {
            "total": totals.entries,
            "row_count": totals.rows,
            "reasons": totals.reasons,
            "unmapped_count": found_count,
            "kept_count": totals.kept,
            "truncated": release["state"] in _READ and totals.kept < (found_count or 0),
        }
        links = jsonapi.page_links(
            address,
            query,
            more=more,
            after=jsonapi.cursor(query.sort, page[-1]["position"], "") if more else None,
        )
        return jsonapi.respond([_entry(row) for row in page], links, meta=meta)

    async def accept(
        self, request: Request, name: str, release_id: str, reasons: Reasons
    ) -> Response:
        """Believe a quarantined release after all: it is stored next, whatever is published now.
        Not one that is older than what readers have, nor of a source that is retired."""
        return await self._decide(request, name, release_id, reasons, "accept")

    async def reject(
        self, request: Request, name: str, release_id: str, reasons: Reasons
    ) -> Response:
        """Never believe it: readers keep what they have until the source publishes another."""
        return await self._decide(request, name, release_id, reasons, "reject")

    async def _decide(
        self, request: Request, name: str, release_id: str, reasons: Reasons, decision: Decision
    ) -> Response:
        _NOTHING.parse(request.query_params)
        async with self.engine.begin() as tx:
            release = await _find(tx, name, release_id)
            if release["state"] != "quarantined":
                error = field_error("path release_id", release_id, "a release in quarantine")
                detail = f"release {release_id} of {name} is {release['state']}"
                raise ReleaseNotQuarantined(detail, [error])
            if decision == "accept":
                await _require_storable(tx, name, release_id)
            command = DecideRelease(
                source=name,
                release_id=UUID(release_id),
                decision=decision,
                decided_by=reasons.by,
                note=reasons.note,
            )
            await outbox.add(tx, command)
        document = _resource(release)
        address = document["links"]["self"]
        return jsonapi.respond(
            document, {"self": address}, status=202, headers={"Location": address}
        )

    def router(self) -> APIRouter:
        router = APIRouter(tags=["releases"])
        path = "/api/sources/{name}/releases"
        one = f"{path}/{{release_id}}"
        unknown = (SourceUnknown, ReleaseUnknown)
        listed = answers.many("Release", answers.PAGES)
        unmapped = answers.many("Unmapped", answers.PAGES, meta=schemas.META_UNMAPPED)
        router.add_api_route(
            path, self.list_releases, **answers.route({200: listed}, SourceUnknown, allowed=_PAGED)
        )
        router.add_api_route(
            one, self.get_release, **answers.route({200: answers.one("ReleaseInDetail")}, *unknown)
        )
        router.add_api_route(
            f"{one}/unmapped",
            self.list_unmapped,
            **answers.route({200: unmapped}, *unknown, allowed=_UNMAPPED),
        )
        for decision, handler, errors in (
            ("accept", self.accept, (SourceRetired, ReleaseSuperseded)),
            ("reject", self.reject, ()),
        ):
            described = answers.route(
                {202: answers.accepted("Release")},
                *(*unknown, ReleaseNotQuarantined, *errors),
                body=Reasons,
            )
            router.add_api_route(f"{one}/{decision}", handler, methods=["POST"], **described)
        return router


async def _find(connection: AsyncConnection, source: str, release_id: str) -> Row:
    """Raises SourceUnknown and ReleaseUnknown."""
    if not await catalogue.has_source(connection, source):
        raise await no_source(connection, source)
    try:
        found = await releases.get_release(connection, source, UUID(release_id))
    except ValueError:
        found = None
    if found is None:
        raise ReleaseUnknown(source, release_id)
    return found


async def _require_storable(connection: AsyncConnection, source: str, release_id: str) -> None:
    """Raises SourceRetired and ReleaseSuperseded: of such a release nothing would be stored."""
    if source not in await catalogue.list_source_names(connection):
        error = field_error("path name", source, "a source that is in use")
        raise SourceRetired(f"{source} is retired: its releases can only be rejected", [error])
    newer = await releases.newer_release(connection, UUID(release_id))
    if newer is not None:
        error = field_error("path release_id", release_id, "a release newer than what readers have")
        raise ReleaseSuperseded(
            f"{source} has published release {newer} since, and readers have that: an older one"
            " can only be rejected",
            [error],
        )


def _address(source: str) -> str:
    return f"/api/sources/{source}/releases"


def _resource(row: Row) -> dict[str, Any]:
    address = f"{_address(row['source'])}/{row['release_id']}"
    found = jsonapi.resource("releases", row["release_id"], row, address)
    found["links"]["unmapped"] = f"{address}/unmapped"
    return found


def _entry(row: Row) -> dict[str, Any]:
    return {"type": "unmapped", "id": str(row["position"]), "attributes": row}
