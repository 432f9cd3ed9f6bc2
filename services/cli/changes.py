"""`annobus changes`: what became of values, in the order in which it is told, or as it happens."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, get_args

import orjson
import typer
from typer import Option

from contracts.views import Cause, Severity
from services.cli import output, signals
from services.cli.client import Client, Document, connect, find_url
from services.cli.errors import INTERRUPTED, NotReachable
from services.cli.options import (
    DEFAULT_STATE,
    PAGE_SIZE,
    PAGE_SIZE_MAX,
    Json,
    OfPanel,
    State,
    Url,
    given,
)

ADDRESS = "/api/changes"
NOW = "now"
LIMIT_MAX = 10_000
STREAM = {"Accept": "text/event-stream"}
SILENCE_SECONDS_MAX = 50.0  # The gateway gives a sign of life each 15 s.
RETRY_SECONDS = 2.0
UNREACHABLE_SECONDS_MAX = 60.0  # A gateway that is restarted is back sooner.
FIELDS_SHOWN_MAX = 3  # Of a value that changed.
VALUE_CHARACTERS_MAX = 30
SEVERITY_STYLES = {"clinical": "red", "major": "yellow"}
COLUMNS = ("when", "gene", "HGNC id", "source", "severity", "cause", "release", "what")
WIDTHS = (19, 10, 10, 8, 8, 10)  # Of a line of its own, whose neighbours nobody knows.

Parameters = list[tuple[str, str]]


def changes(
    gene: Annotated[str | None, Option("--gene", help="Only of this gene, by any name.")] = None,
    panel: OfPanel = None,
    source: Annotated[
        str | None, Option("--source", metavar="A,B", help="Only of these sources.")
    ] = None,
    severity: Annotated[
        str | None, Option("--severity", metavar="A,B", help=f"{', '.join(get_args(Severity))}.")
    ] = None,
    cause: Annotated[
        str | None, Option("--cause", metavar="A,B", help=f"{', '.join(get_args(Cause))}.")
    ] = None,
    release: Annotated[
        str | None, Option("--release", metavar="ID", help="Only those that a release brought.")
    ] = None,
    since: Annotated[
        str | None,
        Option("--since", metavar="CURSOR", help="Where to go on, as told at the end; or now."),
    ] = None,
    limit: Annotated[int, Option("--limit", min=1, max=LIMIT_MAX)] = PAGE_SIZE,
    follow: Annotated[
        bool,
        Option(
            "-f",
            "--follow",
            help="Go on as they happen, from now or --since, until Ctrl-C; --json is a line each.",
        ),
    ] = False,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """What changed, in order, from the beginning or behind --since; or as it happens."""
    filters = given(
        gene=gene, panel=panel, source=source, severity=severity, cause=cause, release=release
    )
    parameters = [(f"filter[{name}]", value) for name, value in filters.items()]
    if follow:
        following = partial(_follow, url, folder, parameters, since or NOW, json=json)
        raise typer.Exit(signals.run(following))
    document = asyncio.run(_read(url, folder, parameters, since, limit))
    if json:
        output.print_json(document)
        return
    found = document["data"]
    more = "more" if len(found) == limit else "that is all; later"
    if found:
        rows = [_row(item["attributes"]) for item in found]
        output.print_table(COLUMNS, rows, styles=SEVERITY_STYLES)
    else:
        more = "nothing has changed; later"
    output.say(f"{more}: the same command with --since {document['meta']['cursor']}")


async def _read(
    url: str | None, folder: Path, parameters: Parameters, since: str | None, limit: int
) -> Document:
    """So many changes as one document, which tells where to go on."""
    found: list[Document] = []
    async with connect(find_url(url, folder)) as client:
        while True:
            size = min(limit - len(found), PAGE_SIZE_MAX)
            page = await client.get(ADDRESS, _page(parameters, since, size))
            found += page["data"]
            since = page["meta"]["cursor"]
            if len(page["data"]) < size or len(found) == limit:
                return page | {"data": found}


def _page(parameters: Parameters, since: str | None, size: int) -> Parameters:
    place = [] if since is None else [("since", since)]
    return [*parameters, ("page[size]", str(size)), *place]


# ------------------------------------------------------------------------------ as it happens


@dataclass(frozen=True)
class Event:
    """`cursor` is where to go on behind it."""

    cursor: str
    change: Document


async def _follow(
    url: str | None, folder: Path, parameters: Parameters, since: str, *, json: bool
) -> int:
    """Until a signal comes; it raises what else ends it."""
    async with connect(find_url(url, folder)) as client:
        # Now has a place, so that nothing is missed if the first connection breaks before a change.
        page = await client.get(ADDRESS, _page(parameters, since, 1))
        place = page["meta"]["cursor"] if since == NOW else since
        output.say("following; Ctrl-C ends it")
        try:
            async with aclosing(events(client, parameters, place)) as found:
                async for event in found:
                    place = event.cursor
                    if json:
                        output.print_json_line(event.change)
                    else:
                        output.print_line(_line(event.change["attributes"]))
        except (asyncio.CancelledError, NotReachable):
            output.say(f"to go on here: the same command with --since {place}")
            raise
    return INTERRUPTED


async def events(client: Client, parameters: Parameters, place: str) -> AsyncGenerator[Event]:
    """Without an end. Raises NotReachable when the gateway is away for longer than a restart."""
    heard_at = time.monotonic()
    is_away = False
    while True:
        try:
            headers = {**STREAM, "Last-Event-ID": place}
            async with client.stream(ADDRESS, parameters, headers, SILENCE_SECONDS_MAX) as answer:
                if is_away:
                    output.say(f"{client.url} answers again")
                is_away = False
                async for event in read_events(answer.aiter_lines()):
                    place = event.cursor
                    yield event
                heard_at = time.monotonic()
        except NotReachable as error:
            if not is_away:
                heard_at, is_away = time.monotonic(), True
                output.say(f"{error}; trying again")
            if time.monotonic() - heard_at > UNREACHABLE_SECONDS_MAX:
                raise
        await asyncio.sleep(RETRY_SECONDS)


async def read_events(lines: AsyncIterator[str]) -> AsyncIterator[Event]:
    """The changes of a stream of server-sent events; one that is cut off is none."""
    cursor, parts = "", []
    async for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            cursor = value
        elif name == "data":
            parts.append(value)
        elif not line and parts:
            yield Event(cursor, orjson.loads("\n".join(parts)))
            parts = []


# ------------------------------------------------------------------------------ what is shown


def _row(change: Document) -> tuple[str, ...]:
    is_first = change["cause"] is None
    return (
        output.moment(change["changed_at"]),
        change["symbol"] or "",
        change["hgnc_id"] or "",
        change["source"],
        change["severity"] or "",
        "first" if is_first else change["cause"],
        _release(change),
        _what(change),
    )


def _line(change: Document) -> str:
    *cells, release, what = _row(change)
    aligned = [cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)]
    return output.COLUMN_GAP.join([*aligned, release, what]).rstrip()


def _release(change: Document) -> str:
    before, after = change["release_before"], change["release"] or ""
    if before in (None, after):
        return after
    return f"{before} {output.arrow(output.data)} {after}"


def _what(change: Document) -> str:
    """What of a value differs: the first fields, and how many more."""
    if change["kind"] != "annotation":
        return f"all of its values: {output.many(change['gene_count'], 'gene')}"
    before, after = change["before"], change["after"]
    if after is None:
        return "has no value any more"
    if before is None:
        return "has a value now"
    was, is_now = _leaves(before), _leaves(after)
    names = [name for name in {**was, **is_now} if was.get(name) != is_now.get(name)]
    shown = [_difference(name, was.get(name), is_now.get(name)) for name in names]
    more = len(names) - FIELDS_SHOWN_MAX
    return ", ".join(shown[:FIELDS_SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")


def _leaves(value: Document, within: str = "") -> Document:
    """The fields of a value, those of its objects as `object.field`."""
    found: Document = {}
    for name, said in value.items():
        here = f"{within}{name}"
        found |= _leaves(said, f"{here}.") if isinstance(said, dict) else {here: said}
    return found


def _difference(name: str, before: object, after: object) -> str:
    told = _told(before), _told(after)
    if told[0] == told[1]:  # Of many, as many others.
        return f"{name} differs in {told[0]}"
    return f"{name} {told[0]} {output.arrow(output.data)} {told[1]}"


def _told(value: object) -> str:
    """One value in a line; of many, how many they are."""
    match value:
        case None:
            return "none"
        case str():
            text = value
        case list():
            return "1 entry" if len(value) == 1 else f"{len(value):,} entries"
        case _:
            text = orjson.dumps(value).decode()
    return text if len(text) <= VALUE_CHARACTERS_MAX else f"{text[:VALUE_CHARACTERS_MAX]}…"
