"""Panels: make one from names or a file, make new versions of it, read and compare them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import ConfigDict, Field, ValidationError
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.errors import field_error
from services.gateway import jsonapi, shapes
from services.gateway.domain import PanelVersion, fold, pattern
from services.gateway.errors import (
    CatalogueEmpty,
    MediaUnknown,
    PanelArchived,
    PanelChanged,
    PanelInvalid,
    PanelNameTaken,
    PanelRefused,
    PanelUnknown,
    UploadsCrowded,
    UploadUnreadable,
)
from services.gateway.http import answers, keys
from services.gateway.http.bodies import Body, Genes, Note, PanelName, Person, given
from services.gateway.http.keys import IdempotencyKey
from services.gateway.http.panel_files import UPLOADED, file_of, key_of
from services.gateway.http.panel_lists import Given, Unresolved, edit, resolve
from services.gateway.jsonapi import Allowed, Query
from services.gateway.store import panels
from services.gateway.store.panels import NewVersion
from services.gateway.tables import Format
from services.gateway.uploads import Reader, Upload

LEFT_OUT_SHOWN_MAX = 100  # In the resource of a version; its report has all.
VERSION_MAX = 2**31 - 1

_ADDRESS = "/api/panels"
_NOTHING = Allowed()
_LISTED = Allowed(
    paged=True,
    filters=("name", "archived"),
    sorts=panels.SORTS,
    values={"filter[name]": jsonapi.WRITTEN, "filter[archived]": shapes.BOOLEAN},
)
_PAGED = Allowed(paged=True)
_GENES = Allowed(paged=True, filters=("state",), values={"state": shapes.enum(panels.STATES)})
_OF_THE_FILE = ("column", "sheet")

Base = Annotated[int, Field(ge=1, le=VERSION_MAX)]


class _Said(Body):
    """What is kept with a version, and what becomes of names that are no gene, or not one alone:
    by themselves they have the whole list refused."""

    invalid = PanelInvalid

    note: Note | None = None
    by: Person | None = None
    unresolved: Unresolved = "refuse"


class _Described(_Said):
    name: PanelName
    description: Note | None = None


class NewPanel(_Described):
    """A panel with its first version."""

    genes: Genes


class _Based(_Said):
    base_version: Base


class Revision(_Based):
    """A new version: another list, or what is added to the newest one and taken from it.
    `base_version` is the version that its maker has seen."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [given("genes"), {"anyOf": [given("add"), given("remove")]}]}
    )

    genes: Genes | None = None
    add: Genes | None = None
    remove: Genes | None = None


class PanelChange(Body):
    """What a panel is called, and what it is for."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [given("name"), {"required": ["description"]}]}
    )
    invalid = PanelInvalid

    name: PanelName | None = None
    description: Note | None = None


def _as_parameters(kind: type[Body]) -> Allowed:
    """The parameters of an upload that say what this body says."""
    return Allowed(
        others=(*kind.model_fields, *_OF_THE_FILE),
        values={
            **dict.fromkeys(_OF_THE_FILE, shapes.TEXT),
            **{name: shapes.without_null(schema) for name, schema in shapes.columns(kind).items()},
        },
        required=tuple(name for name, one in kind.model_fields.items() if one.is_required()),
    )


_UPLOADED = _as_parameters(_Described)
_UPLOADED_VERSION = _as_parameters(_Based)
Told = TypeVar("Told", bound=_Said)


@dataclass(frozen=True)
class PanelRoutes:
    engine: AsyncEngine
    reader: Reader = field(default_factory=Reader)

    async def create(
        self, request: Request, panel: NewPanel, idempotency_key: IdempotencyKey = None
    ) -> Response:
        """Make a panel from names. All that names one gene is found by the rule of orders; names
        that do not have the whole list refused, unless `unresolved` is `leave_out`."""
        _NOTHING.parse(request.query_params)
        said = f"panel {panel.model_dump_json()}"
        return await self._create(panel, Given(panel.genes, "/genes"), idempotency_key, said)

    async def upload(self, request: Request, idempotency_key: IdempotencyKey = None) -> Response:
        """Make a panel from a file: the body, or the one file of a form. Text, CSV, TSV or XLSX.

        The column is found by its name (gene, symbol, hgnc_id, …) or is the one that `column`
        names; of a workbook it is in the first sheet, or in that which `sheet` names. Lines that
        begin with # and empty ones are left out."""
        query = _UPLOADED.parse(request.query_params)
        panel = _parse(_Described, query)
        content, form = await file_of(request)
        given = await self._read(content, form, query)
        said = b"panel " + key_of(query, form) + content
        return await self._create(panel, given, idempotency_key, said)

    async def _create(
        self, panel: _Described, given: Given, key: str | None, said: str | bytes
    ) -> Response:
        async with self.engine.begin() as tx:
            made = await keys.find(tx, key, said)
            is_replay = isinstance(made, PanelVersion)
            if not isinstance(made, PanelVersion):
                members, report = await resolve(tx, given, panel.unresolved)
                await panels.claim_name(tx, panel.name)
                panel_id = await panels.insert_panel(tx, panel.name, panel.description, panel.by)
                made = PanelVersion(panel_id, 1)
                new = NewVersion(members, panel.note, panel.by, report)
                await panels.insert_version(tx, made, new)
                await keys.save(tx, key, said, made)
            row = await panels.get_panel(tx, str(made.panel_id))
        address = f"{_ADDRESS}/{made.panel_id}"
        return _made(_panel(row), address, is_replay=is_replay)

    async def add_version(
        self,
        request: Request,
        panel_id: str,
        revision: Revision,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        """Make a new version from the newest one: with `genes` instead of its own, or with those
        of `add` and without those of `remove`. Where nothing differs there is none, and the answer
        is 200 with the newest."""
        _NOTHING.parse(request.query_params)
        if (revision.genes is None) == (revision.add is None and revision.remove is None):
            accepted = "either /genes, the whole list, or /add and /remove, or one of them"
            error = field_error("/genes", None, accepted)
            raise PanelInvalid(f"which genes? accepted: {accepted}", [error])
        said = f"version of {panel_id} {revision.model_dump_json()}"
        given = None if revision.genes is None else Given(revision.genes, "/genes")
        return await self._revise(panel_id, revision, given, idempotency_key, said)

    async def upload_version(
        self, request: Request, panel_id: str, idempotency_key: IdempotencyKey = None
    ) -> Response:
        """Make a new version from a file, whose genes stand instead of those of the newest."""
        query = _UPLOADED_VERSION.parse(request.query_params)
        revision = _parse(_Based, query)
        content, form = await file_of(request)
        given = await self._read(content, form, query)
        said = f"version of {panel_id} ".encode() + key_of(query, form) + content
        return await self._revise(panel_id, revision, given, idempotency_key, said)

    async def _revise(
        self, panel: str, revision: _Based, given: Given | None, key: str | None, said: str | bytes
    ) -> Response:
        async with self.engine.begin() as tx:
            made = await keys.find(tx, key, said)
            is_replay, is_new = isinstance(made, PanelVersion), True
            if not isinstance(made, PanelVersion):
                row = await panels.get_panel(tx, panel, lock=True)
                _check_open(row, "path panel_id")
                newest = PanelVersion(row["id"], row["version"])
                _check_newest(newest, revision.base_version)
                before = await panels.list_members(tx, newest)
                if given is None:
                    assert isinstance(revision, Revision)  # A file is given.
                    members, report = await edit(
                        tx,
                        before,
                        newest,
                        add=revision.add,
                        remove=revision.remove,
                        unresolved=revision.unresolved,
                    )
                else:
                    members, report = await resolve(tx, given, revision.unresolved)
                is_new = {one.hgnc_id for one in members} != {one.hgnc_id for one, _ in before}
                made = PanelVersion(newest.panel_id, newest.version + 1) if is_new else newest
                if is_new:
                    new = NewVersion(members, revision.note, revision.by, report)
                    await panels.insert_version(tx, made, new)
                await keys.save(tx, key, said, made)
            version = await panels.get_version(tx, str(made.panel_id), str(made.version))
        status = 201 if is_new else 200
        return _made(_version(version), _address(made), is_replay=is_replay, status=status)

    async def change(self, request: Request, panel_id: str, change: PanelChange) -> Response:
        """Call a panel something else, or say what it is for; a null takes a description away."""
        _NOTHING.parse(request.query_params)
        changes = change.model_dump(exclude_unset=True)
        if not changes or changes.get("name", "") is None:
            accepted = "a /name, a /description, or both"
            error = field_error("/name", None, accepted)
            raise PanelInvalid(f"what is to change? accepted: {accepted}", [error])
        async with self.engine.begin() as tx:
            row = await panels.get_panel(tx, panel_id, lock=True)
            _check_open(row, "path panel_id")
            if change.name is not None:
                await panels.claim_name(tx, change.name, but=row["id"])
            await panels.change(tx, row["id"], changes)
            row = await panels.get_panel(tx, panel_id)
        return _respond(_panel(row))

    async def archive(self, request: Request, panel_id: str) -> Response:
        """Put a panel away: no list has it, its name is free, and its versions stay readable."""
        _NOTHING.parse(request.query_params)
        async with self.engine.begin() as tx:
            row = await panels.get_panel(tx, panel_id, lock=True)
            await panels.archive(tx, row["id"])
            row = await panels.get_panel(tx, panel_id)
        return _respond(_panel(row))

    async def list_panels(self, request: Request) -> Response:
        """The panels there are, each with its newest version; `filter[archived]=true` lists those
        that were put away. `filter[name]` is a part of the name."""
        query = _LISTED.parse(request.query_params)
        archived = _only(query, "archived", ("false", "true")) == "true"
        part = ",".join(query.filters["name"]) if "name" in query.filters else None
        async with self.engine.connect() as connection:
            found = await panels.list_panels(
                connection,
                part=None if part is None else pattern(fold(part)),
                archived=archived,
                sort=query.sort,
                limit=query.size + 1,
                offset=query.offset,
            )
        links = jsonapi.page_links(_ADDRESS, query, more=len(found) > query.size)
        return jsonapi.respond([_panel(row) for row in found[: query.size]], links)

    async def get_panel(self, request: Request, panel_id: str) -> Response:
        """A panel with its newest version, and how many of its genes were renamed or withdrawn
        since."""
        _NOTHING.parse(request.query_params)
        async with self.engine.connect() as connection:
            row = await panels.get_panel(connection, panel_id)
            states = await panels.count_states(connection, PanelVersion(row["id"], row["version"]))
        return _respond(_panel(row, states))

    async def list_versions(self, request: Request, panel_id: str) -> Response:
        """The versions of a panel, newest first."""
        query = _PAGED.parse(request.query_params)
        async with self.engine.connect() as connection:
            panel = await panels.get_panel(connection, panel_id)
            found = await panels.list_versions(
                connection, panel["id"], query.size + 1, query.offset
            )
        address = f"{_ADDRESS}/{panel['id']}/versions"
        links = jsonapi.page_links(address, query, more=len(found) > query.size)
        return jsonapi.respond([_version(row) for row in found[: query.size]], links)

    async def get_version(self, request: Request, panel_id: str, version: str) -> Response:
        """A version as it was made, what was left out of it, and how many of its genes were
        renamed or withdrawn since."""
        _NOTHING.parse(request.query_params)
        async with self.engine.connect() as connection:
            row = await panels.get_version(connection, panel_id, version)
            of = PanelVersion(row["panel_id"], row["version"])
            states = await panels.count_states(connection, of)
        return _respond(_version(row, states))

    async def get_report(self, request: Request, panel_id: str, version: str) -> Response:
        """All that was left out of a version when it was made, each name with its place."""
        _NOTHING.parse(request.query_params)
        async with self.engine.connect() as connection:
            row = await panels.get_version(connection, panel_id, version)
        address = f"{_address(PanelVersion(row['panel_id'], row['version']))}/report"
        report = {"left_out": [], **row["report"]}
        found = jsonapi.resource("panel-reports", _id(row), report, address)
        return _respond(found)

    async def list_genes(self, request: Request, panel_id: str, version: str) -> Response:
        """The genes of a version in its order: what was given, what it meant, and what became of
        it. `state` is current, renamed or withdrawn; a withdrawn gene has its `successors`."""
        query = _GENES.parse(request.query_params)
        states = query.filters.get("state")
        if states is not None and not set(states) <= set(panels.STATES):
            accepted = f"some of {', '.join(panels.STATES)}"
            raise jsonapi.invalid("filter[state]", ",".join(states), accepted)
        async with self.engine.connect() as connection:
            row = await panels.get_version(connection, panel_id, version)
            of = PanelVersion(row["panel_id"], row["version"])
            found = await panels.list_genes(connection, of, states, query.size + 1, query.offset)
        links = jsonapi.page_links(f"{_address(of)}/genes", query, more=len(found) > query.size)
        return jsonapi.respond(
            [
                jsonapi.resource(
                    "panel-genes", gene["hgnc_id"], gene, f"/api/genes/{gene['hgnc_id']}"
                )
                for gene in found[: query.size]
            ],
            links,
        )

    async def compare(self, request: Request, panel_id: str, version: str, other: str) -> Response:
        """What another version has and this one has not, and the other way round, by HGNC id: a
        gene that was renamed is the same."""
        _NOTHING.parse(request.query_params)
        async with self.engine.connect() as connection:
            rows = [
                await panels.get_version(connection, panel_id, number)
                for number in (version, other)
            ]
            before, after = (PanelVersion(row["panel_id"], row["version"]) for row in rows)
            added, removed, kept_count = await panels.compare(connection, before, after)
        attributes = {
            "panel_id": before.panel_id,
            "from_version": before.version,
            "to_version": after.version,
            "added": added,
            "removed": removed,
            "kept_count": kept_count,
        }
        address = f"{_address(before)}/diff/{after.version}"
        identity = f"{before}..{after.version}"
        return _respond(jsonapi.resource("panel-diffs", identity, attributes, address))

    async def _read(self, content: bytes, form: Format, query: Query) -> Given:
        column, sheet = query.given.get("column"), query.given.get("sheet")
        listed = await self.reader.read(Upload(content, form, column, sheet))
        origin = {"format": form, "column": listed.column, "sheet": listed.sheet}
        return Given(listed.values, "line", listed.lines, origin)

    def router(self) -> APIRouter:
        router = APIRouter(tags=["panels"])
        panel, versions = f"{_ADDRESS}/{{panel_id}}", f"{_ADDRESS}/{{panel_id}}/versions"
        version = f"{versions}/{{version}}"
        made = answers.accepted("Panel", is_repeatable=True)
        revised = answers.accepted("PanelVersion", is_repeatable=True)
        found = {200: answers.one("Panel")}
        listed = {200: answers.many("PanelVersion", answers.PAGES)}
        of_list = (*answers.OF_KEY, PanelRefused, CatalogueEmpty)
        making = (*of_list, PanelNameTaken)
        revising = (*of_list, PanelUnknown, PanelArchived, PanelChanged)
        of_file = (MediaUnknown, UploadUnreadable, UploadsCrowded)
        for method, path, handler, described in (
            (
                "POST",
                _ADDRESS,
                self.create,
                answers.route({201: made}, *making, body=NewPanel),
            ),
            (
                "GET",
                _ADDRESS,
                self.list_panels,
                answers.route({200: answers.many("Panel", answers.PAGES)}, allowed=_LISTED),
            ),
            (
                "POST",
                f"{_ADDRESS}/upload",
                self.upload,
                answers.route(
                    {201: made},
                    *(*making, *of_file),
                    allowed=_UPLOADED,
                    reads_body=True,
                    extra=UPLOADED,
                ),
            ),
            (
                "GET",
                panel,
                self.get_panel,
                answers.route({200: answers.one("PanelInDetail")}, PanelUnknown),
            ),
            (
                "PATCH",
                panel,
                self.change,
                answers.route(
                    found, *(PanelUnknown, PanelArchived, PanelNameTaken), body=PanelChange
                ),
            ),
            ("DELETE", panel, self.archive, answers.route(found, PanelUnknown)),
            (
                "POST",
                versions,
                self.add_version,
                answers.route({201: revised, 200: revised}, *revising, body=Revision),
            ),
            (
                "GET",
                versions,
                self.list_versions,
                answers.route(listed, PanelUnknown, allowed=_PAGED),
            ),
            (
                "POST",
                f"{versions}/upload",
                self.upload_version,
                answers.route(
                    {201: revised, 200: revised},
                    *(*revising, *of_file),
                    allowed=_UPLOADED_VERSION,
                    reads_body=True,
                    extra=UPLOADED,
                ),
            ),
            (
                "GET",
                version,
                self.get_version,
                answers.route({200: answers.one("PanelVersionInDetail")}, PanelUnknown),
            ),
            (
                "GET",
                f"{version}/report",
                self.get_report,
                answers.route({200: answers.one("PanelReport")}, PanelUnknown),
            ),
            (
                "GET",
                f"{version}/genes",
                self.list_genes,
                answers.route(
                    {200: answers.many("PanelGene", answers.PAGES)}, PanelUnknown, allowed=_GENES
                ),
            ),
            (
                "GET",
                f"{version}/diff/{{other}}",
                self.compare,
                answers.route({200: answers.one("PanelDiff")}, PanelUnknown),
            ),
        ):
            router.add_api_route(path, handler, methods=[method], **described)
        return router


# ---------------------------------------------------------------------------------- checks


def _parse(kind: type[Told], query: Query) -> Told:
    """The parameters of an upload as the body that says the same. Raises ParameterInvalid."""
    said: dict[str, object] = {
        name: value for name, value in query.given.items() if name not in _OF_THE_FILE
    }
    base = query.given.get("base_version", "")
    if base.isascii() and base.isdigit() and len(base) <= len(str(VERSION_MAX)):
        said["base_version"] = int(base)
    try:
        return kind.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise jsonapi.invalid(name, query.given.get(name), first["msg"]) from None


def _check_open(row: Mapping[str, Any], pointer: str) -> None:
    if row["archived_at"] is not None:
        accepted = "a panel that is not archived"
        error = field_error(pointer, str(row["id"]), accepted)
        raise PanelArchived(
            f"panel {row['id']} was archived at {row['archived_at']}; accepted: {accepted}", [error]
        )


def _check_newest(newest: PanelVersion, base: int) -> None:
    if base != newest.version:
        accepted = f"{newest.version}, the newest, with what it has: {_address(newest)}"
        error = field_error("/base_version", base, accepted) | {"newest": _address(newest)}
        raise PanelChanged(f"version {base} is not the newest; accepted: {accepted}", [error])


def _only(query: Query, name: str, accepted: Sequence[str]) -> str:
    """The one value of a filter, the first accepted one where it is not given."""
    values = query.filters.get(name, accepted[:1])
    if len(values) != 1 or values[0] not in accepted:
        raise jsonapi.invalid(f"filter[{name}]", ",".join(values), f"one of {', '.join(accepted)}")
    return values[0]


# ---------------------------------------------------------------------------------- answers


def _address(of: PanelVersion) -> str:
    return f"{_ADDRESS}/{of.panel_id}/versions/{of.version}"


def _id(row: Mapping[str, Any]) -> str:
    return str(PanelVersion(row["panel_id"], row["version"]))


def _panel(row: Mapping[str, Any], states: Mapping[str, int] | None = None) -> dict[str, Any]:
    attributes = {name: value for name, value in row.items() if name not in ("id", "report")}
    attributes |= _counts(row["report"], states)
    newest = PanelVersion(row["id"], row["version"])
    found = jsonapi.resource("panels", str(row["id"]), attributes, f"{_ADDRESS}/{row['id']}")
    found["links"] |= _links(newest)
    return found


def _version(row: Mapping[str, Any], states: Mapping[str, int] | None = None) -> dict[str, Any]:
    attributes = {name: value for name, value in row.items() if name != "report"}
    attributes |= _counts(row["report"], states)
    if states is not None:
        attributes["left_out"] = row["report"].get("left_out", [])[:LEFT_OUT_SHOWN_MAX]
    of = PanelVersion(row["panel_id"], row["version"])
    found = jsonapi.resource("panel-versions", str(of), attributes, _address(of))
    found["links"] |= _links(of)
    return found


def _counts(report: Mapping[str, Any], states: Mapping[str, int] | None) -> dict[str, int]:
    counts = {name: report[name] for name in ("given_count", "duplicate_count", "left_out_count")}
    if states is not None:
        counts |= {f"{state}_count": states[state] for state in ("renamed", "withdrawn")}
    return counts


def _links(of: PanelVersion) -> dict[str, str]:
    return {
        "version": _address(of),
        "genes": f"{_address(of)}/genes",
        "report": f"{_address(of)}/report",
        "versions": f"{_ADDRESS}/{of.panel_id}/versions",
    }


def _respond(found: dict[str, Any]) -> Response:
    return jsonapi.respond(found, {"self": found["links"]["self"]})


def _made(found: dict[str, Any], address: str, *, is_replay: bool, status: int = 201) -> Response:
    replayed = {"Idempotent-Replayed": "true"} if is_replay else {}
    headers = {"Location": address, **replayed}
    return jsonapi.respond(found, {"self": address}, status=status, headers=headers)
