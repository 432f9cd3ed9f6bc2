"""`annobus statistics`: how much the sources say, and of which genes together."""

from typing import Annotated
from urllib.parse import quote

import typer
from typer import Argument, Option

from services.cli import output
from services.cli.client import Document, fetch
from services.cli.options import DEFAULT_STATE, Json, State, Url, given

ADDRESS = "/api/statistics"
WITHOUT_SHOWN_MAX = 5  # Genes of a panel that a source says nothing of; --json has more.
NOTHING = "nothing"
WHOLE_FROM = 1_000  # What is so large is shown without decimals.

app = typer.Typer(no_args_is_help=True, help="See how much the sources say.")


@app.command("sources")
def show_sources(url: Url = None, folder: State = DEFAULT_STATE, json: Json = False) -> None:
    """Of how many genes each source has a value, and how fresh that is."""
    document = fetch(url, folder, f"{ADDRESS}/sources")
    if json:
        output.print_json(document)
        return
    counted = ("annotation", "no_data", "pending", "error", "stale")
    rows = [
        (
            item["id"],
            *(output.count(source[f"{name}_count"]) for name in counted),
            output.moment(source["newest_checked_at"]),
            _number(source["score_mean"]),
            _number(source["score_median"]),
            source["score"] or "",
            source["release"] or "none yet",
            "synthetic" if source["synthetic"] else "real",
        )
        for item in document["data"]
        for source in (item["attributes"],)
    ]
    columns = (
        *("source", "values", "no data", "pending", "failed", "stale", "checked"),
        *("mean", "median", "score", "release", "data"),
    )
    output.print_table(columns, rows, numbers=(*columns[1:6], "mean", "median"))
    made = next((item["attributes"]["as_of"] for item in document["data"]), None)
    genes = next((item["attributes"]["gene_count"] for item in document["data"]), None)
    output.say(
        f"of {output.count(genes)} genes, as of {output.moment(made)}"
        if made
        else "nothing has been counted yet: it is after the first run"
    )


@app.command("fields")
def show_fields(
    source: Annotated[str | None, Option("--source", help="Only those of this source.")] = None,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """Mean, median and ends of each field that is a number, and how many genes have it."""
    document = fetch(url, folder, f"{ADDRESS}/fields")
    if source is not None:
        document["data"] = [
            item for item in document["data"] if item["attributes"]["source"] == source
        ]
    if json:
        output.print_json(document)
        return
    ends = ("mean", "median", "least", "greatest")
    rows = [
        (
            item["id"],
            output.count(field["known_count"]),
            *(_number(field[name]) for name in ends),
        )
        for item in document["data"]
        for field in (item["attributes"],)
    ]
    if not rows:
        of = "" if source is None else f" of {source}"
        output.say(f"no field{of} is a number; see annobus sources list")
        return
    output.print_table(("field", "genes", *ends), rows, numbers=("genes", *ends))


@app.command("overlaps")
def show_overlaps(
    source: Annotated[
        str | None, Option("--source", metavar="A,B", help="Of these sources alone.")
    ] = None,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """How many genes have values of exactly these sources, the largest sets first."""
    filters = {f"filter[{name}]": value for name, value in given(source=source).items()}
    document = fetch(url, folder, f"{ADDRESS}/overlaps", filters)
    if json:
        output.print_json(document)
        return
    rows = [
        (output.count(found["gene_count"]), " + ".join(found["sources"]) or NOTHING)
        for found in (item["attributes"] for item in document["data"])
    ]
    if not rows:
        output.say("nothing has been counted yet: it is after the first run")
        return
    output.print_table(("genes", "sources"), rows, numbers=("genes",))


@app.command("panel")
def show_panel(
    panel: Annotated[
        str, Argument(metavar="ID[@N]", help="A panel, or one of its versions: ID@3.")
    ],
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """Of how many genes of a panel each source has a value, and of which it has none."""
    document = fetch(url, folder, f"{ADDRESS}/panels/{quote(panel, safe='')}")
    if json:
        output.print_json(document)
        return
    rows = [
        (
            item["id"],
            output.count(source["annotation_count"]),
            _share(source["annotation_count"], source["gene_count"]),
            source["release"] or "none yet",
            "synthetic" if source["synthetic"] else "real",
            _without(source),
        )
        for item in document["data"]
        for source in (item["attributes"],)
    ]
    columns = ("source", "values", "%", "release", "data", "without")
    output.print_table(columns, rows, numbers=("values", "%"))
    of = document["meta"]["panel"]
    output.say(f"panel {of['id']}: {output.many(of['gene_count'], 'gene')}")


def _share(number: int, of: int) -> str:
    """Rounded down: only all are 100."""
    return f"{1000 * number // of / 10:.1f}" if of else ""


def _without(source: Document) -> str:
    missing = source["gene_count"] - source["annotation_count"]
    shown = source["without"][:WITHOUT_SHOWN_MAX]
    more = missing - len(shown)
    return ", ".join(shown) + (f" and {output.count(more)} more" if more > 0 else "")


def _number(value: float | None) -> str:
    """Four digits that matter, and all of those before the point."""
    if value is None:
        return ""
    is_whole = float(value).is_integer() or abs(value) >= WHOLE_FROM
    return f"{value:,.0f}" if is_whole else f"{value:.4g}"
