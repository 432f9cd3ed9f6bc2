"""`annobus sources`: what annotations are made from."""

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer
from typer import Argument, Option

from services.cli import output, pages
from services.cli.client import Document, cursor, fetch, send
from services.cli.errors import Refused
from services.cli.options import (
    DEFAULT_STATE,
    PAGE_SIZE,
    After,
    By,
    Json,
    Note,
    Page,
    PageSize,
    State,
    Url,
)

app = typer.Typer(no_args_is_help=True, help="See what annotations are made from.")


RELEASE_STYLES = {"stored": "green", "quarantined": "yellow", "rejected": "red"}

Name = Annotated[str, Argument(metavar="NAME", help="As annobus sources list shows it.")]
Release = Annotated[str, Argument(metavar="RELEASE", help="Its id.")]


@app.command("list")
def list_sources(url: Url = None, folder: State = DEFAULT_STATE, json: Json = False) -> None:
    """Every source, its newest release and how many genes have a value from it. One that is
    retired keeps what it said, and cannot be ordered."""
    document = fetch(url, folder, "/api/sources")
    if json:
        output.print_json(document)
        return
    rows = []
    for item in document["data"]:
        source = item["attributes"]
        rows.append(
            (
                item["id"],
                source["title"],
                source["kind"],
                "retired" if source["is_retired"] else "in use",
                source.get("release") or "none yet",
                "synthetic" if source.get("synthetic") else "real",
                output.count(source["annotation_count"]),
                source["licence"],
            )
        )
    columns = ("source", "title", "kind", "state", "release", "data", "annotations", "licence")
    output.print_table(columns, rows, numbers=("annotations",))


@app.command("releases")
def list_releases(
    name: Name,
    page: Page = 1,
    page_size: PageSize = PAGE_SIZE,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """The releases of a source, newest first, whatever became of them."""
    columns = ("id", "release", "state", "data", "rows", "unmapped", "retrieved", "problem")
    listing = pages.Listing(
        _releases(name), columns, _release, numbers=("rows", "unmapped"), styles=RELEASE_STYLES
    )
    pages.show(listing, page, page_size, url, folder, json=json)


def _release(item: Document) -> tuple[str, ...]:
    release = item["attributes"]
    return (
        item["id"],
        release["version"] or "",
        release["state"],
        "synthetic" if release["synthetic"] else "real",
        output.count(release["row_count"]),
        output.count(release["unmapped_count"]),
        output.moment(release["retrieved_at"]),
        _why(release),
    )


@app.command("accept")
def accept_release(
    name: Name,
    release: Release,
    by: By,
    note: Note,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """Believe a quarantined release after all: it is stored next."""
    _decide(name, release, "accept", {"by": by, "note": note}, url, folder, as_json=json)


@app.command("reject")
def reject_release(
    name: Name,
    release: Release,
    by: By,
    note: Note,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """Never believe a quarantined release: readers keep what they have."""
    _decide(name, release, "reject", {"by": by, "note": note}, url, folder, as_json=json)


def _decide(
    name: str,
    release: str,
    decision: str,
    reasons: Document,
    url: str | None,
    folder: Path,
    *,
    as_json: bool,
) -> None:
    path = f"{_releases(name)}/{quote(release, safe='')}/{decision}"
    document = send(url, folder, path, reasons)
    if as_json:
        output.print_json(document)
        return
    output.say(f"{decision} is noted; see annobus sources releases {name}")


def _why(release: Document) -> str:
    """Why it is not what readers have."""
    if release["problem"]:
        return str(release["problem"].get("detail", ""))
    if release["state"] != "quarantined":
        return ""
    return "; ".join(f"{one['check']}: {one['found']}" for one in release["doubts"])


@app.command("unmapped")
def list_unmapped(
    name: Name,
    release: Annotated[
        str | None, Argument(metavar="RELEASE", help="Its id; without it, the last one read.")
    ] = None,
    reason: Annotated[str | None, Option("--reason", help="Only entries with it.")] = None,
    key: Annotated[str | None, Option("--key", help="Only what the source calls so.")] = None,
    page_size: PageSize = PAGE_SIZE,
    after: After = None,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """What a release says of things that are no gene of ours, and why."""
    given = {"page[after]": after, "filter[reason]": reason, "filter[key]": key}
    parameters = {"page[size]": str(page_size)}
    parameters |= {name: value for name, value in given.items() if value is not None}
    found = release or _last_read(fetch(url, folder, _releases(name)), name)
    document = fetch(url, folder, f"{_releases(name)}/{quote(found, safe='')}/unmapped", parameters)
    if json:
        output.print_json(document)
        return
    rows = [
        (entry["key"], output.count(entry["row_count"]), entry["reason"])
        for entry in (item["attributes"] for item in document["data"])
    ]
    output.print_table(("key", "rows", "reason"), rows, numbers=("rows",))
    meta = document["meta"]
    kept = f", of which {output.count(meta['kept_count'])} were kept" if meta["truncated"] else ""
    output.say(
        f"release {found}: {output.count(meta['total'])} entries here,"
        f" {output.count(meta['unmapped_count'])} in all{kept}"
    )
    following = cursor(document)
    if following is not None:
        output.say(f"more: the same command with --after {following}")


def _releases(name: str) -> str:
    return f"/api/sources/{quote(name, safe='')}/releases"


def _last_read(document: Document, name: str) -> str:
    """The newest release that has a report."""
    for item in document["data"]:
        if item["attributes"]["unmapped_count"] is not None:
            return str(item["id"])
    raise Refused(f"no release of {name} has been read yet", advice="See annobus sources list")
