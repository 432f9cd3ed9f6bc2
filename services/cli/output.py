"""What a person sees: data on stdout, talk on stderr, plain lines where there is no terminal."""

import sys
from collections.abc import Collection, Mapping, Sequence
from io import TextIOWrapper

import orjson
from rich.console import Console
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
    talk.print(plain(line, LINE_BREAKS), style=style or None)


def say_ordered(run_id: str) -> None:
    say(f"run {run_id} is ordered; watch it: annobus runs watch {run_id}")


def print_line(line: str) -> None:
    data.print(plain(line, LINE_BREAKS))


def print_json(document: object) -> None:
    """One JSON object, and nothing else, on stdout; UTF-8 whatever the terminal speaks."""
    option = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    sys.stdout.flush()
    sys.stdout.buffer.write(orjson.dumps(document, option=option, default=str))
    sys.stdout.flush()


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Collection[str] = (),
    styles: Mapping[str, str] | None = None,
) -> None:
    """Rows under a header; `numbers` are columns set right, `styles` colours by cell text."""
    rows = [[plain(cell) for cell in row] for row in rows]
    if not has_live_display(data):
        _print_plain(columns, rows, numbers)
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        is_number = column in numbers
        table.add_column(column, justify="right" if is_number else "left", no_wrap=is_number)
    for row in rows:
        table.add_row(*(Text(cell, (styles or {}).get(cell, "")) for cell in row))
    data.print(table, soft_wrap=False)


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
    talk.print(Text.assemble(("error: ", "bold red"), plain(str(error), LINE_BREAKS)))
    for particular in error.particulars:
        say(f"  {particular}")
    if error.advice:
        say(f"{arrow(talk)} {error.advice}", style="cyan")


def count(number: int | None) -> str:
    """A count as people read it: `44,331`; `?` until it is known."""
    return "?" if number is None else f"{number:,}"
