"""`annobus panels`: lists of genes that are kept, in versions that never change."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer
from typer import Argument, Option

from services.cli import gene_list, output, pages
from services.cli.client import Client, Document, connect, fetch, find_url
from services.cli.errors import Refused
from services.cli.options import (
    DEFAULT_STATE,
    PAGE_SIZE,
    GeneNames,
    IdempotencyKey,
    Json,
    OptionalBy,
    Page,
    PageSize,
    State,
    Url,
    given,
)

ADDRESS = "/api/panels"
TOLD_MAX = 20  # Genes that were renamed or withdrawn, and names that were left out; then a hint.
STATE_STYLES = {"renamed": "yellow", "withdrawn": "red"}
# What a file is, by its ending; any other is a list, a gene a line.
MEDIA = {
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
TEXT = "text/plain"

app = typer.Typer(no_args_is_help=True, help="Keep lists of genes, and what they were.")

PanelId = Annotated[str, Argument(metavar="ID", help="The panel's id, as panels list shows it.")]
PanelVersion = Annotated[
    str, Argument(metavar="ID[@N]", help="A panel, or one of its versions: ID@3.")
]
Name = Annotated[str, Argument(metavar="NAME", help="What people call the panel.")]
File = Annotated[
    Path | None,
    Option(
        "--file",
        metavar="F",
        help="A list: .txt, .csv, .tsv or .xlsx; - reads standard input, a gene a line.",
        allow_dash=True,
    ),
]
Column = Annotated[
    str | None, Option("--column", metavar="NAME", help="The column of a file that has the genes.")
]
Sheet = Annotated[
    str | None, Option("--sheet", metavar="NAME", help="The sheet of a workbook that has them.")
]
Description = Annotated[str | None, Option("--description", help="What the panel is for.")]
VersionNote = Annotated[str | None, Option("--note", help="Why; kept with the version.")]
LeaveOut = Annotated[
    bool,
    Option("--leave-out", help="Make it without the names that are no gene, or not one alone."),
]
Base = Annotated[
    int | None,
    Option("--base", metavar="N", min=1, help="The version you have seen; without it, the newest."),
]


@app.command("list")
def list_panels(
    part: Annotated[str | None, Option("--name", help="Only those with this in the name.")] = None,
    archived: Annotated[bool, Option("--archived", help="Those that were put away.")] = False,
    page: Page = 1,
    page_size: PageSize = PAGE_SIZE,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """The panels there are, by name."""
    filters = given(name=part) | ({"archived": "true"} if archived else {})
    pages.show(PANELS, page, page_size, url, folder, json=json, filters=filters)


@app.command("show")
def show(
    panel: PanelVersion, url: Url = None, folder: State = DEFAULT_STATE, json: Json = False
) -> None:
    """A panel or a version of it: where it came from, and what became of its genes since."""
    panel_id, at, version = panel.partition("@")
    address = _address(panel_id, version) if at else _address(panel_id)
    document = fetch(url, folder, address)
    if json:
        output.print_json(document)
        return
    item = document["data"]
    _print_panel(item)
    genes = item["links"]["genes"]
    changed = {"filter[state]": "renamed,withdrawn", "page[size]": str(TOLD_MAX)}
    found = fetch(url, folder, genes, changed)
    if found["data"]:
        output.print_line("")
        output.print_table(
            GENES.columns, [_gene(one) for one in found["data"]], styles=STATE_STYLES
        )
    named = f"{panel_id}@{item['attributes']['version']}"
    output.say(f"all genes: annobus panels genes {named}")


@app.command("genes")
def list_genes(
    panel: PanelVersion,
    state: Annotated[
        str | None, Option("--gene-state", metavar="A,B", help="current, renamed, withdrawn.")
    ] = None,
    page: Page = 1,
    page_size: PageSize = PAGE_SIZE,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """The genes of a version, with what was given for each and what became of it."""
    panel_id, _, version = panel.partition("@")
    if not version:
        document = fetch(url, folder, _address(panel_id))
        version = str(document["data"]["attributes"]["version"])
    listing = pages.Listing(
        f"{_address(panel_id, version)}/genes", GENES.columns, _gene, styles=STATE_STYLES
    )
    pages.show(listing, page, page_size, url, folder, json=json, filters=given(state=state))


@app.command("versions")
def list_versions(
    panel_id: PanelId,
    page: Page = 1,
    page_size: PageSize = PAGE_SIZE,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """The versions of a panel, newest first."""
    listing = pages.Listing(
        f"{_address(panel_id)}/versions",
        ("version", "genes", "left out", "made", "by", "note"),
        _version,
        numbers=("version", "genes", "left out"),
    )
    pages.show(listing, page, page_size, url, folder, json=json)


@app.command("create")
def create(
    name: Name,
    genes: GeneNames = None,
    *,
    file: File = None,
    column: Column = None,
    sheet: Sheet = None,
    description: Description = None,
    note: VersionNote = None,
    by: OptionalBy = None,
    leave_out: LeaveOut = False,
    idempotency_key: IdempotencyKey = None,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """Make a panel from genes: those named, or those of a file."""
    said = {"name": name, **given(description=description, note=note, by=by), **_left(leave_out)}
    headers = _headers(idempotency_key)

    async def made(client: Client) -> Document:
        return await _send(client, ADDRESS, said, genes, file, column, sheet, headers)

    document = _run(url, folder, made)
    item = document["data"]
    _say_made(f"panel {item['id']} is made", f"{item['id']}@1", item)
    output.print_json(document) if json else output.print_line(item["id"])


@app.command("update")
def update(
    panel_id: PanelId,
    genes: GeneNames = None,
    *,
    file: File = None,
    column: Column = None,
    sheet: Sheet = None,
    note: VersionNote = None,
    by: OptionalBy = None,
    leave_out: LeaveOut = False,
    base: Base = None,
    idempotency_key: IdempotencyKey = None,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """Make a new version of a panel with these genes instead of its own."""
    said = given(note=note, by=by) | _left(leave_out)
    headers = _headers(idempotency_key)

    async def made(client: Client) -> Document:
        based = said | {"base_version": await _base(client, panel_id, base)}
        path = f"{_address(panel_id)}/versions"
        return await _send(client, path, based, genes, file, column, sheet, headers)

    _finish_version(_run(url, folder, made), json)


@app.command("add")
def add(
    panel_id: PanelId,
    genes: GeneNames = None,
    *,
    file: File = None,
    note: VersionNote = None,
    by: OptionalBy = None,
    leave_out: LeaveOut = False,
    base: Base = None,
    idempotency_key: IdempotencyKey = None,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """Make a new version of a panel with more genes: those named, or those of a file."""
    said = given(note=note, by=by) | _left(leave_out)
    _edit(panel_id, "add", genes, file, said, base, idempotency_key, url, folder, json=json)


@app.command("remove")
def remove(
    panel_id: PanelId,
    genes: GeneNames = None,
    *,
    file: File = None,
    note: VersionNote = None,
    by: OptionalBy = None,
    base: Base = None,
    idempotency_key: IdempotencyKey = None,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """Make a new version of a panel without some genes."""
    said = given(note=note, by=by)
    _edit(panel_id, "remove", genes, file, said, base, idempotency_key, url, folder, json=json)


@app.command("rename")
def rename(
    panel_id: PanelId,
    name: Annotated[str | None, Argument(metavar="NAME", help="What it is called then.")] = None,
    description: Description = None,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """Call a panel something else, or say what it is for."""
    changes = given(name=name, description=description)
    if not changes:
        raise Refused("say what is to change: a NAME, --description, or both")
    document = _run(url, folder, lambda client: client.patch(_address(panel_id), changes))
    output.say(f"panel {panel_id} is called {document['data']['attributes']['name']}")
    if json:
        output.print_json(document)


@app.command("archive")
def archive(
    panel_id: PanelId, url: Url = None, folder: State = DEFAULT_STATE, json: Json = False
) -> None:
    """Put a panel away. Its versions stay readable, its name is free."""
    document = _run(url, folder, lambda client: client.delete(_address(panel_id)))
    output.say(f"panel {panel_id} is archived")
    if json:
        output.print_json(document)


@app.command("diff")
def diff(
    panel_id: PanelId,
    before: Annotated[int, Argument(metavar="A", min=1, help="One version.")],
    after: Annotated[int, Argument(metavar="B", min=1, help="Another one.")],
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """Which genes version B has and A has not, and the other way round."""
    document = fetch(url, folder, f"{_address(panel_id, str(before))}/diff/{after}")
    if json:
        output.print_json(document)
        return
    found = document["data"]["attributes"]
    rows = [
        (sign, gene["hgnc_id"], gene["symbol"] or "", gene["status"], gene["given"])
        for sign, what in (("+", "added"), ("-", "removed"))
        for gene in found[what]
    ]
    if rows:
        output.print_table(("", "HGNC id", "symbol", "status", "given as"), rows)
    counts = [(len(found["added"]), "added"), (len(found["removed"]), "removed")]
    told = ", ".join(f"{output.count(count)} {what}" for count, what in counts)
    output.say(f"{told}, {output.count(found['kept_count'])} in both")


# ---------------------------------------------------------------------------------- requests


def _run(url: str | None, folder: Path, ask: Callable[[Client], Awaitable[Document]]) -> Document:
    async def asked() -> Document:
        async with connect(find_url(url, folder)) as client:
            return await ask(client)

    return asyncio.run(asked())


async def _send(
    client: Client,
    path: str,
    said: Mapping[str, object],
    genes: list[str] | None,
    file: Path | None,
    column: str | None,
    sheet: str | None,
    headers: Mapping[str, str],
) -> Document:
    """A list as names, or as the file that it is."""
    _check_one_way(genes, file)
    if file is None:
        if column is not None or sheet is not None:
            raise Refused("--column and --sheet are those of a file: name it with --file F")
        return await client.post(path, {**said, "genes": genes}, headers)
    parameters = {name: str(value) for name, value in said.items()}
    parameters |= given(column=column, sheet=sheet)
    media = MEDIA.get(file.suffix.lower(), TEXT)
    return await client.upload(f"{path}/upload", gene_list.read(file), media, parameters, headers)


def _edit(
    panel_id: str,
    what: str,
    genes: list[str] | None,
    file: Path | None,
    said: Mapping[str, object],
    base: int | None,
    idempotency_key: str | None,
    url: str | None,
    folder: Path,
    *,
    json: bool,
) -> None:
    _check_one_way(genes, file)
    named = gene_list.named(genes or [], file)

    async def made(client: Client) -> Document:
        body = {**said, what: named, "base_version": await _base(client, panel_id, base)}
        path = f"{_address(panel_id)}/versions"
        return await client.post(path, body, _headers(idempotency_key))

    _finish_version(_run(url, folder, made), json)


async def _base(client: Client, panel_id: str, base: int | None) -> int:
    if base is not None:
        return base
    document = await client.get(_address(panel_id))
    return int(document["data"]["attributes"]["version"])


def _check_one_way(genes: list[str] | None, file: Path | None) -> None:
    if bool(genes) == (file is not None):
        raise Refused("name the genes in one way: as arguments, or with --file F")


def _address(panel_id: str, version: str | None = None) -> str:
    panel = f"{ADDRESS}/{quote(panel_id, safe='')}"
    return panel if version is None else f"{panel}/versions/{quote(version, safe='')}"


def _headers(idempotency_key: str | None) -> dict[str, str]:
    return {"Idempotency-Key": idempotency_key} if idempotency_key is not None else {}


def _left(leave_out: bool) -> dict[str, str]:
    return {"unresolved": "leave_out"} if leave_out else {}


# ------------------------------------------------------------------------------- what is shown


def _finish_version(document: Document, json: bool) -> None:
    item = document["data"]
    panel_id = item["attributes"]["panel_id"]
    _say_made(f"{panel_id} has version {item['attributes']['version']}", item["id"], item)
    output.print_json(document) if json else output.print_line(item["id"])


def _say_made(what: str, named: str, item: Document) -> None:
    found = item["attributes"]
    told = [output.many(found["gene_count"], "gene")]
    for name, became in (("duplicate_count", "named again"), ("left_out_count", "left out")):
        if found[name]:
            told.append(f"{output.count(found[name])} {became}")
    output.say_next(f"{what}: {', '.join(told)}", f"annobus panels show {named}")


def _print_panel(item: Document) -> None:
    found = item["attributes"]
    output.print_line(output.plain(f"panel {found.get('name') or item['id']}"))
    since = [
        f"{output.count(found[f'{state}_count'])} {state}"
        for state in ("renamed", "withdrawn")
        if found[f"{state}_count"]
    ]
    lines = {
        "for": found.get("description"),
        "version": found["version"],
        "genes": output.count(found["gene_count"]),
        "since": ", ".join(since),
        "left out": output.count(found["left_out_count"]) if found["left_out_count"] else None,
        "made": output.moment(found["made_at"]),
        "by": found["made_by"],
        "note": found["note"],
        "archived": output.moment(found.get("archived_at")),
    }
    for name, value in lines.items():
        if value:
            output.print_line(f"{name + ':':<12}{output.plain(str(value))}")
    left_out = found.get("left_out") or []
    if left_out:
        output.print_line("")
        output.print_table(
            ("left out", "line", "outcome", "may be"),
            [_left_out(one) for one in left_out[:TOLD_MAX]],
        )


def _left_out(one: Document) -> tuple[str, ...]:
    named = ", ".join(f"{gene['symbol']} {gene['hgnc_id']}" for gene in one["candidates"])
    place = one["place"] + 1 if one["line"] is None else one["line"]
    return one["value"], str(place), (one["damage"] or one["outcome"]).replace("_", " "), named


def _gene(item: Document) -> tuple[str, ...]:
    gene = item["attributes"]
    heirs = ", ".join(f"{one['symbol']} {one['hgnc_id']}" for one in gene["successors"])
    remark = {
        "renamed": f"was {gene['symbol_then']}",
        "withdrawn": f"now {heirs}" if heirs else "no successor",
    }.get(gene["state"], "")
    return item["id"], gene["symbol"] or "", gene["given"], gene["state"], remark


def _panel(item: Document) -> tuple[str, ...]:
    panel = item["attributes"]
    return (
        item["id"],
        panel["name"],
        str(panel["version"]),
        output.count(panel["gene_count"]),
        output.moment(panel["made_at"]),
        panel["made_by"] or "",
    )


def _version(item: Document) -> tuple[str, ...]:
    version = item["attributes"]
    return (
        str(version["version"]),
        output.count(version["gene_count"]),
        output.count(version["left_out_count"]),
        output.moment(version["made_at"]),
        version["made_by"] or "",
        version["note"] or "",
    )


PANELS = pages.Listing(
    ADDRESS,
    ("id", "name", "version", "genes", "made", "by"),
    _panel,
    numbers=("version", "genes"),
)
GENES = pages.Listing("", ("HGNC id", "symbol", "given as", "state", "remarks"), _gene)
