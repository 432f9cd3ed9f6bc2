"""`annobus dead-letters`: what was put aside, and what is to become of it."""

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer
from typer import Argument, Option

from services.cli import output, pages
from services.cli.client import Document, fetch, send
from services.cli.errors import Refused
from services.cli.options import (
    DEFAULT_STATE,
    PAGE_SIZE,
    By,
    Json,
    Note,
    OptionalNote,
    Page,
    PageSize,
    State,
    Url,
    given,
)

MANY_MAX = 1_000
LISTED_CHARACTERS_MAX = 100  # Of a problem's first line; `show` has all of it.
SHOWN_CHARACTERS_MAX = 2_000  # Of one part; --json has all of it.
ADDRESS = "/api/dead-letters"
STATE_STYLES = {"open": "yellow", "retried": "green", "discarded": "bright_black"}

app = typer.Typer(
    no_args_is_help=True, help="See what was put aside, have it tried again or give it up."
)

LetterId = Annotated[
    str, Argument(metavar="ID", help="The letter's id, as dead-letters list shows it.")
]
OneOrMany = Annotated[
    str | None, Argument(metavar="ID", help="One letter; without it, --all or a filter.")
]
LetterState = Annotated[
    str | None, Option("--letter-state", metavar="A,B", help="open, retried, discarded.")
]
Kind = Annotated[str | None, Option("--kind", metavar="A,B", help="message, batch.")]
Topic = Annotated[str | None, Option("--topic", metavar="A,B", help="Where messages came from.")]
Source = Annotated[str | None, Option("--source", metavar="A,B", help="Only of these sources.")]
Run = Annotated[str | None, Option("--run", metavar="ID,ID", help="Only of these runs.")]
Type = Annotated[str | None, Option("--type", metavar="A,B", help="Only messages of these types.")]
All = Annotated[bool, Option("--all", help="Every open letter.")]
Max = Annotated[int, Option("--max", min=1, max=MANY_MAX, help="At most so many, oldest first.")]


@app.command("list")
def list_letters(
    letter_state: LetterState = None,
    kind: Kind = None,
    topic: Topic = None,
    source: Source = None,
    run: Run = None,
    message_type: Type = None,
    page: Page = 1,
    page_size: PageSize = PAGE_SIZE,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """The letters there are, newest first, whatever became of them."""
    filters = _filters(kind, topic, source, run, message_type) | given(state=letter_state)
    pages.show(LETTERS, page, page_size, url, folder, json=json, filters=filters)


@app.command("show")
def show(
    letter_id: LetterId, url: Url = None, folder: State = DEFAULT_STATE, json: Json = False
) -> None:
    """All that came, why it was put aside, and what was decided."""
    document = fetch(url, folder, f"{ADDRESS}/{quote(letter_id, safe='')}")
    output.print_json(document) if json else _print_letter(document)


@app.command("retry")
def retry(
    by: By,
    letter_id: OneOrMany = None,
    note: OptionalNote = None,
    all_letters: All = False,
    kind: Kind = None,
    topic: Topic = None,
    source: Source = None,
    run: Run = None,
    message_type: Type = None,
    at_most: Max = MANY_MAX,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """Send messages to their topics again; have what is left of batches worked by a new run."""
    filters = _filters(kind, topic, source, run, message_type)
    reasons = {"by": by} | given(note=note)
    _decide("retry", letter_id, all_letters, filters, at_most, reasons, url, folder, json)


@app.command("discard")
def discard(
    by: By,
    note: Note,
    letter_id: OneOrMany = None,
    all_letters: All = False,
    kind: Kind = None,
    topic: Topic = None,
    source: Source = None,
    run: Run = None,
    message_type: Type = None,
    at_most: Max = MANY_MAX,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """Give letters up. They are kept, with the note."""
    filters = _filters(kind, topic, source, run, message_type)
    reasons = {"by": by, "note": note}
    _decide("discard", letter_id, all_letters, filters, at_most, reasons, url, folder, json)


def _decide(
    action: str,
    letter_id: str | None,
    all_letters: bool,
    filters: dict[str, str],
    at_most: int,
    reasons: Document,
    url: str | None,
    folder: Path,
    json: bool,
) -> None:
    if sum((letter_id is not None, all_letters, bool(filters))) != 1:
        raise Refused("say which letters in one way: by an ID, with filters, or with --all")
    if letter_id is None:
        which = {"all": True} if all_letters else filters
        document = send(url, folder, f"{ADDRESS}/{action}", {**reasons, **which, "max": at_most})
        _say_many(document["meta"])
    else:
        path = f"{ADDRESS}/{quote(letter_id, safe='')}/{action}"
        document = send(url, folder, path, reasons)
        output.say(f"letter {letter_id} is {document['data']['attributes']['state']}")
        if place := document["data"]["links"].get("retry_run"):
            _say_run(place)
    if json:
        output.print_json(document)


def _say_many(meta: Document) -> None:
    (state,) = (name for name in ("retried", "discarded") if f"{name}_count" in meta)
    left = f"; {output.count(meta['left_count'])} more are open" if meta["left_count"] else ""
    decided = meta[f"{state}_count"]
    output.say(f"{output.many(decided, 'letter')} {'is' if decided == 1 else 'are'} {state}{left}")
    for place in meta["runs"]:
        _say_run(place)


def _say_run(place: str) -> None:
    run_id = place.rpartition("/")[2]
    output.say_next(f"run {run_id} is ordered", f"annobus runs watch {run_id}")


def _print_letter(document: Document) -> None:
    letter = document["data"]["attributes"]
    output.print_line(f"letter {document['data']['id']}: {letter['state']}")
    by = "/".join(one for one in (letter["service"], letter["consumer_group"]) if one)
    title = str(letter["problem"].get("title", ""))
    lines = {
        "what": f"{letter['kind']} {_what(letter)}",
        "problem": _cut(": ".join(dict.fromkeys(one for one in (title, _why(letter)) if one))),
        "parked": f"{output.moment(letter['parked_at'])}{f' by {by}' if by else ''}",
        "attempts": letter["attempts"],
        "source": letter["source"],
        "runs": ", ".join(letter["run_ids"]),
        "batch": letter["batch_id"],
        "work": letter["batch"] and _work(letter["batch"]),
        "retry of": letter["retry_of"],
        "decided": letter["decided_at"]
        and f"{output.moment(letter['decided_at'])} by {letter['decided_by']}",
        "note": letter["note"],
        "retried by": letter["retry_run_id"] and f"run {letter['retry_run_id']}",
        "no retry": letter["refusal"] if letter["state"] == "open" else None,
    }
    for name, value in lines.items():
        if value:
            output.print_line(f"{name + ':':<12}{output.plain(str(value))}")
    if letter["kind"] == "message":
        _print_message(letter)


def _print_message(letter: Document) -> None:
    parts = [("key", letter["key"])]
    parts += [(one["name"], one) for one in letter["headers"]]
    parts.append(("payload", letter["payload"]))
    rows = [
        (_cut(name), part["encoding"] or "none", _cut(part["value"] or "")) for name, part in parts
    ]
    output.print_table(("part", "encoding", "value"), rows)


def _letter(item: Document) -> tuple[str, ...]:
    letter = item["attributes"]
    return (
        item["id"],
        letter["state"],
        letter["kind"],
        _what(letter),
        output.moment(letter["parked_at"]),
        str(letter["attempts"] or ""),
        _first_line(letter),
    )


LETTERS = pages.Listing(
    ADDRESS,
    ("id", "state", "kind", "what", "parked", "attempts", "problem"),
    _letter,
    numbers=("attempts",),
    styles=STATE_STYLES,
)


def _what(letter: Document) -> str:
    """What a letter is of: the message and where it lay, or the batch."""
    if letter["kind"] == "batch":
        return f"{letter['source']} {letter['batch_id']}"
    name = letter["type"] or "no type"
    return f"{name} {letter['topic']}/{letter['partition']}/{letter['offset']}"


def _work(batch: Document) -> str:
    """What is left of a batch. A look for a release has no genes of its own."""
    if batch["kind"] == "release":
        return f"release, {batch['state']}"
    left = output.count(len(batch["genes_left"] or ()))
    genes = output.count(batch["gene_count"])
    return f"{batch['kind']}, {batch['state']}, {left} of {genes} genes left"


def _why(letter: Document) -> str:
    return str(letter["problem"].get("detail") or letter["problem"].get("title", ""))


def _first_line(letter: Document) -> str:
    first, *others = _why(letter).strip().splitlines() or [""]
    is_cut = bool(others) or len(first) > LISTED_CHARACTERS_MAX
    return first[:LISTED_CHARACTERS_MAX] + ("…" if is_cut else "")


def _cut(text: str) -> str:
    left = len(text) - SHOWN_CHARACTERS_MAX
    more = f" … and {output.count(left)} more; --json shows them" if left > 0 else ""
    return text[:SHOWN_CHARACTERS_MAX] + more


def _filters(
    kind: str | None,
    topic: str | None,
    source: str | None,
    run: str | None,
    message_type: str | None,
) -> dict[str, str]:
    return given(kind=kind, topic=topic, source=source, run=run, type=message_type)
