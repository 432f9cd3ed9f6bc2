"""`annobus genes`: read, list and export genes and their annotations, find out what names mean."""

from typing import Annotated
from urllib.parse import quote

import orjson
import typer
from typer import Argument, Option

from services.cli import export, gene_list, output
from services.cli.client import Document, cursor, fetch, send
from services.cli.errors import PARTIAL, Refused
from services.cli.options import (
    DEFAULT_STATE,
    PAGE_SIZE,
    After,
    AsOf,
    Filters,
    GeneFile,
    GeneNames,
    Json,
    OfPanel,
    PageSize,
    Sort,
    State,
    Url,
    gene_parameters,
)

VALUE_CHARACTERS_MAX = 2_000  # Of one value for a person; --json has all of it.
OUTCOME_STYLES = {"ambiguous": "yellow", "unknown": "red", "withdrawn": "red"}
STATUS_STYLES = {"ok": "green", "error": "red", "pending": "yellow", "stale": "yellow"}

app = typer.Typer(no_args_is_help=True, help="Read genes and their annotations.")
app.command("export")(export.export)


@app.command("get")
def get(
    gene: Annotated[
        str, Argument(metavar="ID", help="An HGNC id, a symbol, an Entrez or an Ensembl id.")
    ],
    source: Annotated[str | None, Option("--source", help="Only what this source says.")] = None,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """A gene and what each source says of it."""
    document = fetch(url, folder, f"/api/genes/{quote(gene, safe='')}")
    annotations = document["data"]["attributes"]["annotations"]
    if source is not None:
        if source not in annotations:
            raise Refused(f"--source {source!r} is unknown; accepted: {', '.join(annotations)}")
        document["data"]["attributes"]["annotations"] = {source: annotations[source]}
    output.print_json(document) if json else _print_gene(document["data"])


def _print_gene(item: Document) -> None:
    gene = item["attributes"]
    output.print_line(f"{gene['symbol']} · {gene.get('name') or 'no name'} · {item['id']}")
    details = ("locus_type", "location", "entrez_id", "ensembl_gene_id")
    found = [f"{key}: {gene[key]}" for key in details if gene.get(key)]
    if found:
        output.print_line(" · ".join(found))
    for name, annotation in gene["annotations"].items():
        release = annotation.get("release") or ""
        synthetic = " (synthetic)" if annotation.get("synthetic") else ""
        output.print_line(f"\n{name}: {annotation['status']}  {release}{synthetic}".rstrip())
        if annotation.get("value") is not None:
            text = orjson.dumps(annotation["value"], option=orjson.OPT_INDENT_2).decode()
            output.print_line(text[:VALUE_CHARACTERS_MAX])
            if len(text) > VALUE_CHARACTERS_MAX:
                output.print_line(f"… {len(text) - VALUE_CHARACTERS_MAX:,} characters more")
                output.say(f"all of it: annobus genes get {item['id']} --source {name} --json")


@app.command("list")
def list_genes(
    filters: Filters = None,
    sort: Sort = None,
    panel: OfPanel = None,
    as_of: AsOf = None,
    page_size: PageSize = PAGE_SIZE,
    after: After = None,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """Approved genes, a page at a time."""
    parameters = [("page[size]", str(page_size))]
    parameters += gene_parameters(filters, sort, panel, as_of)
    if after is not None:
        parameters.append(("page[after]", after))
    document = fetch(url, folder, "/api/genes", parameters)
    if json:
        output.print_json(document)
        return
    sources = list(dict.fromkeys(name for item in document["data"] for name in _annotations(item)))
    rows = [
        (
            item["id"],
            item["attributes"]["symbol"],
            item["attributes"].get("name") or "",
            *(_annotations(item).get(name, {}).get("status", "") for name in sources),
        )
        for item in document["data"]
    ]
    output.print_table(("HGNC id", "symbol", "name", *sources), rows, styles=STATUS_STYLES)
    following = cursor(document)
    if following is not None:
        output.say(f"more: the same command with --after {following}")


@app.command("resolve")
def resolve(
    genes: GeneNames = None,
    *,
    file: GeneFile = None,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """Which gene each name means, and how; what is not one gene alone is told, never guessed.
    Ends with 3 when there is such a name."""
    if bool(genes) == (file is not None):
        raise Refused("name the genes in one way: as arguments, or with --file F")
    document = send(
        url, folder, "/api/genes/resolve", {"genes": gene_list.named(genes or [], file)}
    )
    if json:
        output.print_json(document)
    else:
        rows = [_resolution(item["attributes"]) for item in document["data"]]
        columns = ("name", "outcome", "HGNC id", "symbol", "matched by", "remarks")
        output.print_table(columns, rows, styles=OUTCOME_STYLES)
    counts = document["meta"]["outcomes"]
    told = ", ".join(f"{output.count(count)} {outcome}" for outcome, count in counts.items())
    output.say(f"{output.count(document['meta']['total'])} names: {told}")
    if counts["resolved"] < document["meta"]["total"]:
        raise typer.Exit(PARTIAL)


def _resolution(row: Document) -> tuple[str, ...]:
    remarks = [flag.replace("_", " ") for flag in row["flags"]]
    if row["successor_of"]:
        remarks.append(f"successor of {', '.join(row['successor_of'])}")
    if row["candidates"]:
        named = ", ".join(_candidate(gene) for gene in row["candidates"])
        remarks.append(named if row["outcome"] == "withdrawn" else f"may be {named}")
    return (
        row["value"],
        row["outcome"],
        row["hgnc_id"] or "",
        row["symbol"] or "",
        row["matched_by"] or "",
        "; ".join(remarks),
    )


def _candidate(gene: Document) -> str:
    name = f" {gene['name']}" if gene["name"] else ""
    return f"{gene['symbol']} {gene['hgnc_id']} ({gene['matched_by']}{name})"


def _annotations(item: Document) -> Document:
    annotations: Document = item["attributes"].get("annotations", {})
    return annotations
