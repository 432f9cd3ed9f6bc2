"""`annobus sources`: what annotations are made from."""

import typer

from services.cli import output
from services.cli.client import fetch
from services.cli.options import DEFAULT_STATE, Json, State, Url

app = typer.Typer(no_args_is_help=True, help="See what annotations are made from.")


@app.callback()
def group() -> None:
    """Without this, Typer would make the only command of the group the group itself."""


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
