"""What a person sees: data on stdout, talk on stderr, plain lines where there is no terminal."""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from io import TextIOWrapper
from itertools import accumulate
from typing import Literal

import orjson
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from services.cli.errors import CommandFailed

COLUMN_GAP = "  "
ARROW, ASCII_ARROW = "→", "->"
LINE_BREAKS = "\n\t"  # What a text of ours has, and a cell of a table has not.

# Rich obeys NO_COLOR, FORCE_COLOR and TERM=dumb; nothing here is markup, so no text can become it.
data = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
talk = Console(highlight=False, markup=False, emoji=False, soft_wrap=True, stderr=True)


def accept_any_text() -> None:
    """A terminal that knows few letters gets a sign for the others, and no traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def arrow(console: Console) -> str:
    try:
        ARROW.encode(console.encoding)
    except UnicodeEncodeError:
        return ASCII_ARROW
    return ARROW


def has_live_display(console: Console) -> bool:
    """Whether lines may be drawn again: FORCE_COLOR asks for colours in a pipe, not for this."""
    return console.file.isatty() and not console.is_dumb_terminal


def plain(text: str, keeping: str = "") -> str:
    """Anybody may have written it: what a terminal would obey is shown, and not done."""
    return "".join(one if one.isprintable() or one in keeping else repr(one)[1:-1] for one in text)


def say(line: str, style: str = "") -> None:
    _print(talk, Text(plain(line, LINE_BREAKS), style))


def say_next(what: str, command: str) -> None:
    """What has become so, and what to type next: on a line of its own, so that it can be copied."""
    say(what)
    say(f"{arrow(talk)} {command}", style="cyan")


def print_line(line: str) -> None:
    _print(data, Text(plain(line, LINE_BREAKS)))


def _print(console: Console, text: Text) -> None:
    """On a terminal lines end between words; elsewhere where they do."""
    console.print(text, soft_wrap=not has_live_display(console))


def print_json(document: object) -> None:
    """One JSON object, and nothing else, on stdout; UTF-8 whatever the terminal speaks."""
    option = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    sys.stdout.flush()
    sys.stdout.buffer.write(orjson.dumps(document, option=option, default=str))
    sys.stdout.flush()


def print_json_line(document: object) -> None:
    """One of many JSON objects, each a line, for who reads them as they come."""
    sys.stdout.flush()
    sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.flush()


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Collection[str] = (),
    styles: Mapping[str, str] | None = None,
) -> None:
    """Rows under a header; `numbers` are columns set right, `styles` colours by cell text.

    No word is ever cut, an id least of all: where the columns are too many for the terminal, the
    last ones are told below the others.
    """
    rows = [[plain(cell) for cell in row] for row in rows]
    if not has_live_display(data):
        _print_plain(columns, rows, numbers)
        return
    words = _widths(columns, rows, lambda cell: max(map(len, cell.split()), default=0))
    whole = _widths(columns, rows, len)
    if _fitting(words) == len(columns):
        _print_rows(columns, rows, numbers, styles or {}, words)
        return
    shown = max(_fitting(whole), 1)
    for row in rows:
        head = columns[:shown]
        _print_rows(head, [row[:shown]], numbers, styles or {}, whole, is_first=row is rows[0])
        named = zip(columns[shown:], row[shown:], strict=True)
        below = " · ".join(f"{column}: {cell}" for column, cell in named if cell)
        data.print(Padding(Text(below), (0, 0, 0, len(COLUMN_GAP))), soft_wrap=False)


def _print_rows(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    numbers: Collection[str],
    styles: Mapping[str, str],
    widths: Sequence[int],
    *,
    is_first: bool = True,
) -> None:
    """As a table of Rich's, which makes columns narrower than they are, but not than `widths`."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.show_header = is_first
    for column, width in zip(columns, widths, strict=False):
        is_number = column in numbers
        justify: Literal["right", "left"] = "right" if is_number else "left"
        table.add_column(column, justify=justify, no_wrap=is_number, min_width=width)
    for row in rows:
        table.add_row(*(Text(cell, styles.get(cell, "")) for cell in row))
    data.print(table, soft_wrap=False)


def _widths(
    columns: Sequence[str], rows: Sequence[Sequence[str]], measure: Callable[[str], int]
) -> list[int]:
    return [max(map(measure, cells)) for cells in zip(columns, *rows, strict=True)]


def _fitting(widths: Sequence[int]) -> int:
    """How many of the first columns the terminal has room for."""
    ends = accumulate(width + len(COLUMN_GAP) for width in widths)
    return sum(end - len(COLUMN_GAP) <= data.width for end in ends)


def _print_plain(
    columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[str]
) -> None:
    lines = [columns, *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        cells = [
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, cell, width in zip(columns, line, widths, strict=True)
        ]
        data.print(COLUMN_GAP.join(cells).rstrip())


def show_failure(error: CommandFailed) -> None:
    """The sentence, its particulars and what to do next, on stderr."""
    _print(talk, Text.assemble(("error: ", "bold red"), plain(str(error), LINE_BREAKS)))
    for particular in error.particulars:
        say(f"  {particular}")
    if error.advice:
        say(f"{arrow(talk)} {error.advice}", style="cyan")


def moment(text: str | None) -> str:
    """A time in ISO 8601 as its reader's clock has it; empty for none."""
    return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}" if text else ""


def many(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def count(number: int | None) -> str:
    """A count as people read it: `44,331`; `?` until it is known."""
    return "?" if number is None else f"{number:,}"
