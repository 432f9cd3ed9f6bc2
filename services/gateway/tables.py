"""Lists of genes in files: which column they are in, and what each line says."""

import csv
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from services.gateway.workbooks import Unreadable, read_rows

Format = Literal["txt", "csv", "tsv", "xlsx"]
VALUES_MAX = 50_000
COLUMNS_SHOWN_MAX = 30  # Of a file whose column of genes is not known.
NAME_CHARACTERS_MAX = 60
VALUE_CHARACTERS_MAX = 100  # Nothing that names a gene is longer.

# What a column of genes is called, whatever the case and what is between the words; of several,
# the first here is taken, because an id says more than a symbol.
_NAMES: Final = (
    *("hgnc_id", "hgnc", "hgncid", "approved_symbol", "gene_symbol", "genesymbol", "symbol"),
    *("hgnc_symbol", "gene", "genes", "gene_name", "ensembl_gene_id", "ensembl_id", "ensembl"),
    *("entrez_gene_id", "entrez_id", "entrez", "ncbi_gene_id", "gene_id"),
)
# What a spreadsheet writes where it could not reckon begins like a comment and is none.
_MISHAP: Final = re.compile(
    r"#(N/A|NAME\?|REF!|VALUE!|DIV/0!|NUM!|NULL!|SPILL!|CALC!|GETTING_DATA|FIELD!)"
)
_MARKS: Final = ((BOM_UTF8, "utf-8"), (BOM_UTF16_LE, "utf-16-le"), (BOM_UTF16_BE, "utf-16-be"))

Row = tuple[int, list[str]]  # The line it is on, from 1, and its cells.


@dataclass(frozen=True)
class Listed:
    """What a file lists, a value for each row that has any; and the line that each is on."""

    values: Sequence[str]
    lines: Sequence[int]
    column: str | None  # None: the file is nothing but a list.
    sheet: str | None


def read(content: bytes, form: Format, column: str | None, sheet: str | None) -> Listed:
    """Raises Unreadable."""
    if form == "xlsx":
        sheet, rows = read_rows(content, sheet)
    else:
        rows = _split(_decode(content), form)
    said = (
        (line, [cell.strip() for cell in cells])
        for line, cells in rows
        if any(cell.strip() for cell in cells) and not _is_comment(cells[0])
    )
    return _pick(said, column, sheet)


def _is_comment(text: str) -> bool:
    return text.lstrip().startswith("#") and not _MISHAP.match(text.lstrip())


def _decode(content: bytes) -> str:
    encoding, begins = next(
        ((name, len(mark)) for mark, name in _MARKS if content.startswith(mark)), ("utf-8", 0)
    )
    accepted = "text in UTF-8, or in UTF-16 with a byte order mark"
    try:
        text = content[begins:].decode(encoding)
    except UnicodeDecodeError as error:
        byte = begins + error.start
        raise Unreadable("the file", f"no {encoding} from byte {byte} on", accepted) from None
    if "\x00" in text:
        raise Unreadable("the file", f"NUL at character {text.index(chr(0))}", accepted)
    return text


def _split(text: str, form: Format) -> Iterator[Row]:
    lines = text.splitlines()
    if form == "txt":
        yield from ((number, [line]) for number, line in enumerate(lines, start=1))
        return
    delimiter = "\t" if form == "tsv" else _delimiter(lines)
    # A comment may have a quote that nobody closes.
    cleaned = ("\n" if _is_comment(line) else f"{line}\n" for line in lines)
    reader = csv.reader(cleaned, delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            yield reader.line_num, cells or [""]
    except csv.Error as error:
        accepted = "values with the same separator throughout; quotes, where there are any, closed"
        raise Unreadable(f"line {reader.line_num}", str(error), accepted) from None


def _delimiter(lines: Iterable[str]) -> str:
    """Where numbers have a decimal comma, spreadsheets write semicolons."""
    first = next((line for line in lines if line.strip() and not _is_comment(line)), "")
    return ";" if first.count(";") > first.count(",") else ","


def _pick(rows: Iterator[Row], column: str | None, sheet: str | None) -> Listed:
    first = next(rows, None)
    if first is None:
        raise Unreadable("the file", "no line that is no comment", "a list of genes")
    line, header = first
    place = _place(header, column, line)
    values: list[str] = []
    lines: list[int] = []
    if place is None:
        values, lines = [_cut(header[0])], [line]
    width = 1 if place is None else len(header)
    for line, cells in rows:
        if any(cells[width:]):
            accepted = f"as many values as the first line has, {width}"
            raise Unreadable(f"line {line}", f"{len(cells)} values", accepted)
        values.append(_cut(cells[place or 0] if (place or 0) < len(cells) else ""))
        lines.append(line)
        if len(values) > VALUES_MAX:
            raise Unreadable("the file", f"more than {VALUES_MAX} genes", f"at most {VALUES_MAX}")
    if not values:
        raise Unreadable("the file", "no line below the names of the columns", "a list of genes")
    return Listed(values, lines, None if place is None else header[place], sheet)


def _cut(value: str) -> str:
    return value if len(value) <= VALUE_CHARACTERS_MAX else f"{value[:VALUE_CHARACTERS_MAX]}…"


def _place(header: Sequence[str], column: str | None, line: int) -> int | None:
    """Which column has the genes; None: there is one, and it has no name."""
    names = [_plain(cell) for cell in header]
    shown = ", ".join(cell[:NAME_CHARACTERS_MAX] for cell in header[:COLUMNS_SHOWN_MAX] if cell)
    more = f" and {len(header) - COLUMNS_SHOWN_MAX} more" if len(header) > COLUMNS_SHOWN_MAX else ""
    wanted = [name for name in _NAMES if name in names][:1] if column is None else [_plain(column)]
    found = [place for place, name in enumerate(names) if name and name in wanted]
    if len(found) == 1:
        return found[0]
    if column is None and not found and len([cell for cell in header if cell]) == 1 and header[0]:
        return None
    if len(found) > 1:
        value = f"{header[found[0]]!r} names {len(found)} columns of line {line}"
        raise Unreadable("column", value, "a name that one column has")
    value = f"none of line {line} is known" if column is None else column
    raise Unreadable("column", value, f"one of {shown}{more}")


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.casefold()).strip("_")
