"""`annobus genes`: read the annotations of one gene, and list genes."""

from typing import Annotated
from urllib.parse import parse_qs, quote, urlsplit

import orjson
import typer
from typer import Argument, Option

from services.cli import output
from services.cli.client import Document, fetch
from services.cli.errors import Refused
from services.cli.options import DEFAULT_STATE, Json, State, Url

PAGE_SIZE = 20
PAGE_SIZE_MAX = 200
VALUE_CHARACTERS_MAX = 2_000  # Of one value for a person; --json has all of it.
STATUS_STYLES = {"ok": "green", "error": "red", "pending": "yellow", "stale": "yellow"}

app = typer.Typer(no_args_is_help=True, help="Read genes and their annotations.")


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
    filters: Annotated[
        list[str] | None,
        Option("--filter", metavar="FIELD=A,B", help="symbol=PKD1,PKD2; may be given again."),
    ] = None,
    sort: Annotated[
        str | None, Option("--sort", metavar="FIELD", help="hgnc_id or symbol; -symbol descends.")
    ] = None,
    page_size: Annotated[int, Option("--page-size", min=1, max=PAGE_SIZE_MAX)] = PAGE_SIZE,
    after: Annotated[
        str | None, Option("--after", metavar="CURSOR", help="Go on where a page ended.")
    ] = None,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """Approved genes, a page at a time."""
    parameters = [("page[size]", str(page_size)), *(_filter(text) for text in filters or [])]
    if sort is not None:
        parameters.append(("sort", sort))
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
    cursor = _cursor(document)
    if cursor is not None:
        output.say(f"more: the same command with --after {cursor}")


def _annotations(item: Document) -> Document:
    annotations: Document = item["attributes"].get("annotations", {})
    return annotations


def _filter(text: str) -> tuple[str, str]:
    field, equals, values = text.partition("=")
    if not (field and equals and values):
        raise Refused(f"--filter {text!r} is not accepted: write FIELD=VALUE or FIELD=A,B")
    return f"filter[{field}]", values


def _cursor(document: Document) -> str | None:
    address = document.get("links", {}).get("next")
    if not address:
        return None
    return next(iter(parse_qs(urlsplit(address).query).get("page[after]", [])), None)
