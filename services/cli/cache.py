"""`annobus cache`: what is cached, how it is used; have it forgotten, warmed or built anew."""

import asyncio
import time
from typing import Annotated
from urllib.parse import quote

import typer
from typer import Argument, Option

from services.cli import output
from services.cli.client import Client, Document, connect, fetch, find_url, send
from services.cli.errors import CommandFailed
from services.cli.options import DEFAULT_STATE, Json, State, Url

NAMESPACES = "/api/cache/namespaces"
DOCUMENTS = "genes"
POLL_SECONDS = 0.5
QUIET_SECONDS_MAX = 60.0  # Without any progress.

app = typer.Typer(no_args_is_help=True, help="See what is cached, and have it forgotten.")

Namespace = Annotated[
    str, Argument(metavar="NAMESPACE", help="As annobus cache namespaces shows it.")
]
Keys = Annotated[list[str] | None, Option("--key", help="An entry; may be given again.")]
Genes = Annotated[
    list[str] | None, Option("--gene", help="A gene by any name; may be given again.")
]
Sources = Annotated[list[str] | None, Option("--source", help="A source; may be given again.")]


@app.command("namespaces")
def list_namespaces(url: Url = None, folder: State = DEFAULT_STATE, json: Json = False) -> None:
    """What is forgotten together, and how much is in it."""
    document = fetch(url, folder, NAMESPACES)
    if json:
        output.print_json(document)
        return
    columns = ("namespace", "epoch", "invalidated", "ttl s", "entries", "bytes", "to reclaim")
    rows = [
        (
            item["id"],
            output.count(namespace["epoch"]),
            output.moment(namespace["invalidated_at"]),
            "" if namespace["ttl_seconds"] is None else f"{namespace['ttl_seconds']:g}",
            output.count(namespace["entry_count"]),
            output.count(namespace["entry_bytes"]),
            output.count(namespace["reclaimable_count"] + (namespace["dirty_count"] or 0)),
        )
        for item in document["data"]
        for namespace in (item["attributes"],)
    ]
    output.print_table(columns, rows, numbers=("epoch", *columns[3:]))


@app.command("statistics")
def show_statistics(
    here: Annotated[bool, Option("--here", help="Of the gateway that answers alone.")] = False,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """How often cached values were asked for, and what came of it."""
    document = fetch(url, folder, "/api/cache/statistics")
    if json:
        output.print_json(document)
        return
    outcomes = list(document["data"][0]["attributes"]["all"])
    rows = []
    for item in document["data"]:
        counts = item["attributes"]["here" if here else "all"]
        asked = sum(counts[name] for name in ("hit", "shared", "miss"))
        found = counts["hit"] + counts["shared"]
        rate = f"{100 * found / asked:.1f}" if asked else ""
        rows.append((item["id"], *(output.count(counts[name]) for name in outcomes), rate))
    columns = ("namespace", *outcomes, "found %")
    output.print_table(columns, rows, numbers=columns[1:])


@app.command("invalidate")
def invalidate(
    namespace: Namespace,
    key: Keys = None,
    gene: Genes = None,
    source: Sources = None,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """Have a namespace forgotten; or entries by key, what was made of genes, of sources, or of
    these genes of these sources."""
    given = {"keys": key, "genes": gene, "sources": source}
    body = {name: values for name, values in given.items() if values}
    document = send(url, folder, f"{_address(namespace)}/invalidate", body)
    if json:
        output.print_json(document)
        return
    parts = document["meta"]["parts"]
    what = output.many(len(parts), "part") + f" of {namespace}" if parts else f"all of {namespace}"
    output.say(f"{what} will be forgotten; its epoch was {document['data']['attributes']['epoch']}")


@app.command("warm")
def warm(
    namespace: Annotated[
        str, Argument(metavar="NAMESPACE", help="What can be warmed: genes.")
    ] = DOCUMENTS,
    gene: Genes = None,
    count: Annotated[int | None, Option("--count", min=1, help="So many of the first.")] = None,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """Have gene documents put into the memory of the gateway that answers."""
    given = {"genes": gene or None, "count": count}
    body = {name: value for name, value in given.items() if value is not None}
    document = send(url, folder, f"{_address(namespace)}/warm", body)
    if json:
        output.print_json(document)
        return
    meta = document["meta"]
    wanted = output.many(meta["wanted_count"], "gene")
    output.say(f"{output.count(meta['warmed_count'])} of {wanted} are in memory now")


@app.command("rebuild")
def rebuild(url: Url = None, folder: State = DEFAULT_STATE, json: Json = False) -> None:
    """Have all gene documents built anew, and wait for that; readers go on with those there are."""
    document = asyncio.run(wait_until_rebuilt(find_url(url, folder)))
    if json:
        output.print_json(document)


async def wait_until_rebuilt(url: str) -> Document:
    """Raises CommandFailed when nothing goes on for a minute."""
    async with connect(url) as client:
        answer = await client.post(f"{_address(DOCUMENTS)}/invalidate")
        epoch = answer["data"]["attributes"]["epoch"]
        told, moved_at = None, time.monotonic()
        while True:
            document = await _read(client)
            namespace = document["data"]["attributes"]
            is_heard = namespace["epoch"] > epoch
            left = namespace["dirty_count"] if is_heard else None
            if left == 0:
                output.say("all documents are built")
                return document
            if left != told:
                told, moved_at = left, time.monotonic()
                output.say(f"{output.many(told or 0, 'document')} left")
            if time.monotonic() - moved_at > QUIET_SECONDS_MAX:
                raise CommandFailed(
                    f"nothing has gone on for {QUIET_SECONDS_MAX:g} s"
                    if is_heard
                    else f"the cache has not heard of it for {QUIET_SECONDS_MAX:g} s",
                    advice="See what runs: annobus status; the log says more: annobus logs cache",
                )
            await asyncio.sleep(POLL_SECONDS)


async def _read(client: Client) -> Document:
    return await client.get(_address(DOCUMENTS))


def _address(namespace: str) -> str:
    return f"{NAMESPACES}/{quote(namespace, safe='')}"
