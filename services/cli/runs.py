"""`annobus runs`: order a run, list the runs, show one, watch one while it works."""

import asyncio
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer
from typer import Argument, Option

from contracts.messages import ControlAction, Priority, Strategy
from services.cli import bars, gene_list, output, pages, run_page, watch
from services.cli.client import Client, Document, connect, fetch, find_url, send
from services.cli.errors import PARTIAL, RUN_FAILED, Refused
from services.cli.options import (
    DEFAULT_STATE,
    PAGE_SIZE,
    GeneFile,
    GeneNames,
    IdempotencyKey,
    Json,
    Page,
    PageSize,
    State,
    Url,
)

EXIT_CODES_BY_STATE = {
    "completed": 0,
    "completed_with_errors": PARTIAL,
    "cancelled": PARTIAL,
    "failed": RUN_FAILED,
}

app = typer.Typer(no_args_is_help=True, help="Order runs and watch them.")

RunId = Annotated[str, Argument(metavar="ID", help="The run's id, as `runs start` printed it.")]
RunSource = Annotated[
    str | None, Option("--source", metavar="NAME", help="Only this source of the run.")
]
Watched = Annotated[bool, Option("--watch", help="Follow it to its end.")]


@app.command("start")
def start(
    genes: GeneNames = None,
    *,
    all_genes: Annotated[bool, Option("--all", help="Every gene of the catalogue.")] = False,
    file: GeneFile = None,
    panel: Annotated[
        str | None, Option("--panel", metavar="ID[@N]", help="The genes of a panel's version.")
    ] = None,
    sources: Annotated[
        str | None, Option("--sources", metavar="A,B", help="Only these; without it, all.")
    ] = None,
    name: Annotated[str | None, Option("--name", help="What people will call this run.")] = None,
    priority: Annotated[
        Priority, Option("--priority", help="high: before all other runs; low: a quarter's share.")
    ] = "normal",
    strategy: Annotated[
        Strategy,
        Option(
            "--strategy",
            help="stale: what is too old, failed or pending; missing: what failed or is pending;"
            " force: read files anew although they are the same.",
        ),
    ] = "full",
    dry_run: Annotated[
        bool, Option("--dry-run", help="Only say what it would fetch and change; shown at its end.")
    ] = False,
    watched: Watched = False,
    idempotency_key: IdempotencyKey = None,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """Annotate genes: those named, those of a file or of a panel, or all."""
    body = _order(genes or [], all_genes, file, panel, sources, name)
    if priority != "normal":
        body["priority"] = priority
    if strategy != "full":
        body["strategy"] = strategy
    if dry_run:
        body["dry_run"] = True
    _send_order("/api/runs", body, idempotency_key, url, folder, watched=watched, json=json)


@app.command("retry")
def retry(
    run_id: RunId,
    source: RunSource = None,
    name: Annotated[str | None, Option("--name", help="What people will call the new run.")] = None,
    watched: Watched = False,
    idempotency_key: IdempotencyKey = None,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """Order a new run over what has failed in this one, and nothing else."""
    body = {} if name is None else {"name": name}
    path = f"{_place(run_id, source)}/retry"
    _send_order(path, body, idempotency_key, url, folder, watched=watched, json=json)


def _send_order(
    path: str,
    body: Document,
    idempotency_key: str | None,
    url: str | None,
    folder: Path,
    *,
    watched: bool,
    json: bool,
) -> None:
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key is not None else {}

    async def ordered() -> Document:
        async with connect(find_url(url, folder)) as client:
            document = await client.post(path, body, headers)
            run_id = document["data"]["id"]
            if not watched:
                output.say_next(f"run {run_id} is ordered", f"annobus runs watch {run_id}")
                return document
            output.say(f"run {run_id} is ordered")
            return await _watched(client, run_id)

    document = asyncio.run(ordered())
    if watched:
        _finish(document, json)
    elif json:
        output.print_json(document)
    else:
        output.print_line(document["data"]["id"])


@app.command("watch")
def watch_run(
    run_id: RunId, url: Url = None, folder: State = DEFAULT_STATE, json: Json = False
) -> None:
    """Follow a run to its end. Ctrl-C leaves it working."""

    async def watching() -> Document:
        async with connect(find_url(url, folder)) as client:
            return await _watched(client, run_id)

    _finish(asyncio.run(watching()), json)


@app.command("pause")
def pause(
    run_id: RunId,
    source: RunSource = None,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """Begin nothing more of a run until it is resumed."""
    _control(run_id, source, "pause", url, folder, json)


@app.command("resume")
def resume(
    run_id: RunId,
    source: RunSource = None,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """Go on where a paused run was."""
    _control(run_id, source, "resume", url, folder, json)


@app.command("cancel")
def cancel(
    run_id: RunId,
    source: RunSource = None,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """Do nothing more of a run; what is stored stays."""
    _control(run_id, source, "cancel", url, folder, json)


@app.command("show")
def show(run_id: RunId, url: Url = None, folder: State = DEFAULT_STATE, json: Json = False) -> None:
    """Where a run stands, source by source."""
    document = fetch(url, folder, watch.address(run_id))
    output.print_json(document) if json else run_page.print_run(document)


@app.command("list")
def list_runs(
    page: Page = 1,
    page_size: PageSize = PAGE_SIZE,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """The runs there were, newest first."""
    pages.show(run_page.RUNS, page, page_size, url, folder, json=json)


def _control(
    run_id: str,
    source: str | None,
    action: ControlAction,
    url: str | None,
    folder: Path,
    json: bool,
) -> None:
    document = send(url, folder, f"{_place(run_id, source)}/{action}", None)
    what = f"{source} in run {run_id}" if source else f"run {run_id}"
    output.say_next(f"{what}: {action} is accepted", f"annobus runs show {run_id}")
    if json:
        output.print_json(document)


def _place(run_id: str, source: str | None) -> str:
    run = watch.address(run_id)
    return run if source is None else f"{run}/sources/{quote(source, safe='')}"


async def _watched(client: Client, run_id: str) -> Document:
    with bars.display() as display:
        try:
            async for snapshot in watch.follow(client, run_id):
                display.show(snapshot)
        except asyncio.CancelledError:
            output.say_next(f"run {run_id} goes on", f"annobus runs watch {run_id}")
            raise
    return await client.get(watch.address(run_id))


def _finish(document: Document, json: bool) -> None:
    output.print_json(document) if json else run_page.print_run(document)
    raise typer.Exit(EXIT_CODES_BY_STATE[document["data"]["attributes"]["state"]])


def _order(
    genes: list[str],
    all_genes: bool,
    file: Path | None,
    panel: str | None,
    sources: str | None,
    name: str | None,
) -> Document:
    """The body of the request; which genes is said in exactly one way."""
    if sum((bool(genes), all_genes, file is not None, panel is not None)) != 1:
        raise Refused(
            "name the genes in one way: as arguments, with --file F, with --panel ID, or with --all"
        )
    body: Document = {"all": True} if all_genes else {"panel": panel}
    if not all_genes and panel is None:
        body = {"genes": gene_list.named(genes, file)}
    if sources is not None:
        body["sources"] = [part.strip() for part in sources.split(",") if part.strip()]
    if name is not None:
        body["name"] = name
    return body
