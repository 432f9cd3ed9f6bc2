"""What an export tells of itself, and whether it is what it tells: read as it comes, or as a file.

CSV and TSV have no kinds of cells, and a workbook knows no integers: of these the rows are counted.
Of JSON Lines and Parquet the hash over the rows is made again."""

import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from xml.parsers import expat  # A DOCTYPE is refused, so there are no entities.

import orjson

PIECE_BYTES = 1024 * 1024
ROWS_AT_ONCE = 500
FACT = b"# "  # Before each line that is no row.
FACTS_AT_END = 2  # How many genes, and their hash.
ROW = b"<row "
GENES_SHEET, FACTS_SHEET = "xl/worksheets/sheet1.xml", "xl/worksheets/sheet2.xml"


# What the libraries raise of bytes that are no file of theirs; pyarrow's is a ValueError.
UNREADABLE = (ValueError, KeyError, zipfile.BadZipFile, zlib.error, expat.ExpatError)


class Wrong(Exception):
    """An export is not what it says."""


@dataclass(frozen=True)
class Told:
    """`facts` are those of the file, `row_count` and `sha256` what was found in it; the hash is
    None where it cannot be made again."""

    facts: Mapping[str, str]
    row_count: int
    sha256: str | None

    def check(self) -> None:
        """Raises Wrong."""
        if "sha256" not in self.facts or "genes" not in self.facts:
            raise Wrong("it has no end, which says how many genes it has")
        if self.facts["genes"] != str(self.row_count):
            raise Wrong(
                f"it says that it has {self.facts['genes']} genes, and has {self.row_count}"
            )
        if self.sha256 not in (None, self.facts["sha256"]):
            raise Wrong(
                "its rows are not those that were sent: their SHA-256 is "
                f"{self.sha256}, and {self.facts['sha256']} is what it says"
            )


class Stream(Protocol):
    """What is read while it comes."""

    def feed(self, part: bytes) -> None: ...

    def told(self) -> Told: ...


@dataclass
class Delimited:
    """Lines of comments, a header, rows, whose cells may have line breaks, and comments."""

    _facts: dict[str, str] = field(default_factory=dict)
    _rest: bytes = b""
    _has_header: bool = False
    _is_quoted: bool = False  # At the end of what was read.
    _count: int = 0
    _last: list[bytes] = field(default_factory=list)  # May be the facts at the end.

    def feed(self, part: bytes) -> None:
        *lines, self._rest = (self._rest + part).split(b"\n")
        for line in lines:
            if self._has_header:
                self._note(line)
            elif line.startswith(FACT):
                self._tell(line)
            else:
                self._has_header = True

    def _note(self, line: bytes) -> None:
        if not self._is_quoted:
            self._count += 1
            self._last = [*self._last[1 - FACTS_AT_END :], line]
        self._is_quoted ^= line.count(b'"') % 2 == 1

    def _tell(self, line: bytes) -> None:
        name, _, said = line.removeprefix(FACT).decode().partition(": ")
        self._facts[name] = said

    def told(self) -> Told:
        at_end = [line for line in self._last if line.startswith(FACT)]
        for line in at_end:
            self._tell(line)
        return Told(self._facts, self._count - len(at_end), None)


@dataclass
class JsonLines:
    """The first line and the last one tell of the others."""

    _facts: dict[str, str] = field(default_factory=dict)
    _rest: bytes = b""
    _count: int = 0
    _hash: Any = field(default_factory=hashlib.sha256)

    def feed(self, part: bytes) -> None:
        *lines, self._rest = (self._rest + part).split(b"\n")
        for line in lines:
            gene = orjson.loads(line)
            if not isinstance(gene, dict):
                raise Wrong("one of its lines is no JSON object")
            if gene.keys() == {"meta"}:
                self._facts |= gene["meta"]
                continue
            row = [_as_text(cell) for cell in gene.values()]
            self._hash.update(orjson.dumps(row) + b"\n")
            self._count += 1

    def told(self) -> Told:
        return Told(self._facts, self._count, self._hash.hexdigest())


def _as_text(cell: object) -> object:
    """A list or an object is one cell: a text."""
    return orjson.dumps(cell).decode() if isinstance(cell, dict | list) else cell


def read_parquet(path: Path) -> Told:
    import pyarrow.parquet  # noqa: PLC0415  No other command waits for it.

    with pyarrow.parquet.ParquetFile(path) as file:
        facts = {
            name.decode(): said.decode() for name, said in (file.metadata.metadata or {}).items()
        }
        content, count = hashlib.sha256(), 0
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
            columns = [column.to_pylist() for column in batch.columns]
            for row in zip(*columns, strict=True):
                content.update(orjson.dumps(row) + b"\n")
            count += batch.num_rows
    return Told(facts, count, content.hexdigest())


def read_workbook(path: Path) -> Told:
    """Its rows are counted, which reads all of its first sheet, and by that checks it."""
    with zipfile.ZipFile(path) as parts:
        count = -1  # The header is a row, too.
        kept = b""
        with parts.open(GENES_SHEET) as sheet:
            while piece := sheet.read(PIECE_BYTES):
                kept += piece
                count += kept.count(ROW)
                kept = kept[1 - len(ROW) :]
        return Told(dict(_pairs(parts.read(FACTS_SHEET))), count, None)


def _pairs(sheet: bytes) -> Iterator[tuple[str, str]]:
    """The texts of the first two cells of each row."""
    rows: list[list[str]] = []

    def begin(name: str, _: object) -> None:
        if name == "row":
            rows.append([])
        elif name == "c":
            rows[-1].append("")

    def said(text: str) -> None:
        if rows and rows[-1]:
            rows[-1][-1] += text

    def refuse(*_: object) -> None:
        raise Wrong("it is no workbook of a gateway: it has a DOCTYPE")

    parser = expat.ParserCreate()
    parser.StartElementHandler = begin
    parser.CharacterDataHandler = said
    parser.StartDoctypeDeclHandler = refuse
    parser.Parse(sheet, True)
    yield from ((row[0], row[1]) for row in rows if len(row) > 1)
