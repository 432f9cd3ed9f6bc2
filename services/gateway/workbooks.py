"""The cells of a workbook (XLSX) as text, a row at a time: no more of it is ever held.

Nothing is guessed: a date is told as the date that it is, whatever it was made of, and an error of
the spreadsheet as itself. Libraries hold a sheet as a rectangle, which one cell far away makes
larger than any memory, and read errors as empty cells."""

import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from io import BytesIO
from posixpath import normpath
from typing import IO, Final
from xml.parsers import expat  # A DOCTYPE is refused, so there are no entities.

UNPACKED_BYTES_MAX = 256 * 1024 * 1024
PARTS_MAX = 2_000
ROWS_MAX = 1_048_576  # As many as a sheet has.
COLUMNS_MAX = 16_384
PIECE_BYTES = (
    16 * 1024
)  # Of a sheet: a row of few bytes may have as many cells as there are columns.
NAME_CHARACTERS_MAX = 60
SHEETS_SHOWN_MAX = 30
ACCEPTED: Final = "a workbook that a spreadsheet saved as XLSX"

_DAY_FORMATS: Final = frozenset([*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59)])
# Of a format's pattern: what is quoted or escaped, or says a colour or a language.
_NO_PATTERN: Final = re.compile(r'"[^"]*"|\\.|\[[^\[\]]*\]')
_REFERENCE: Final = re.compile(r"([A-Z]{1,3})([0-9]{1,7})")
_EPOCHS: Final = (datetime(1899, 12, 30, tzinfo=UTC), datetime(1904, 1, 1, tzinfo=UTC))
_DAYS_MAX: Final = 2_958_465  # The end of the year 9999.

Attributes = dict[str, str]


class Unreadable(Exception):
    """What of a file cannot be read, what is there, and what would be accepted."""

    def __init__(self, what: str, value: str, accepted: str = ACCEPTED) -> None:
        super().__init__(what, value, accepted)
        self.what, self.value, self.accepted = what, value, accepted


def read_rows(content: bytes, sheet: str | None) -> tuple[str, Iterator[tuple[int, list[str]]]]:
    """The name of the sheet, the first one that is not hidden if none is asked for; its rows, each
    with its number from 1. Raises Unreadable, while the rows are read as well."""
    try:
        parts = zipfile.ZipFile(BytesIO(content))
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise Unreadable("the file", f"no workbook: {error}") from None
    if len(parts.infolist()) > PARTS_MAX:
        raise Unreadable("the file", f"{len(parts.infolist())} parts")
    unpacked = sum(part.file_size for part in parts.infolist())
    if unpacked > UNPACKED_BYTES_MAX:
        accepted = f"at most {UNPACKED_BYTES_MAX} bytes, unpacked"
        raise Unreadable("the file", f"{unpacked} bytes, unpacked", accepted)
    return _Workbook(parts).read(sheet)


class _Workbook:
    def __init__(self, parts: zipfile.ZipFile) -> None:
        self._parts = parts

    def read(self, wanted: str | None) -> tuple[str, Iterator[tuple[int, list[str]]]]:
        book = self._book()
        folder = book.rpartition("/")[0]
        sheets: list[tuple[str, str, bool]] = []
        epoch = [_EPOCHS[0]]

        def begin(name: str, attributes: Attributes) -> None:
            if name == "sheet":
                target = next((attributes[one] for one in attributes if one.endswith(":id")), "")
                is_hidden = attributes.get("state", "visible") != "visible"
                sheets.append((attributes.get("name", ""), target, is_hidden))
            elif name == "workbookPr" and attributes.get("date1904") in ("1", "true"):
                epoch[0] = _EPOCHS[1]

        self._parse(book, begin)
        targets = self._relationships(book)
        visible = [one for one in sheets if not one[2]]
        chosen = [one for one in sheets if one[0] == wanted] if wanted is not None else visible[:1]
        if not chosen:
            shown = ", ".join(name[:NAME_CHARACTERS_MAX] for name, *_ in visible[:SHEETS_SHOWN_MAX])
            raise Unreadable("sheet", wanted or "none", f"one of {shown}")
        name, target, _ = chosen[0]
        part = targets.get(target, ("", ""))[1]
        kinds = {kind: place for kind, place in targets.values() if kind != "worksheet"}
        texts = self._texts(kinds["sharedStrings"]) if "sharedStrings" in kinds else []
        days = self._days(kinds["styles"]) if "styles" in kinds else []
        if not part.startswith(folder):
            raise Unreadable(f"sheet {name}", "no part of the workbook")
        return name, self._rows(part, texts, days, epoch[0])

    def _book(self) -> str:
        found = self._relationships("")
        return next((place for kind, place in found.values() if kind == "officeDocument"), "")

    def _relationships(self, part: str) -> dict[str, tuple[str, str]]:
        """What a part refers to: the kind and the place of each."""
        folder, _, name = part.rpartition("/")
        found: dict[str, tuple[str, str]] = {}

        def begin(element: str, attributes: Attributes) -> None:
            if element == "Relationship":
                target = attributes.get("Target", "")
                place = target if target.startswith("/") else f"/{folder}/{target}"
                kind = attributes.get("Type", "").rpartition("/")[2]
                found[attributes.get("Id", "")] = (kind, normpath(place).lstrip("/"))

        self._parse(f"{folder}/_rels/{name}.rels".lstrip("/"), begin)
        return found

    def _texts(self, part: str) -> Sequence[str]:
        """The texts that cells refer to. How it is pronounced belongs to none."""
        found: list[str] = []
        gathered: list[str] = []
        within = {"t": 0, "rPh": 0}

        def begin(name: str, _: Attributes) -> None:
            if name == "si":
                gathered.clear()
            elif name in within:
                within[name] += 1

        def end(name: str) -> None:
            if name == "si":
                found.append("".join(gathered))
            elif name in within:
                within[name] -= 1

        def say(text: str) -> None:
            if within["t"] and not within["rPh"]:
                gathered.append(text)

        self._parse(part, begin, end, say)
        return found

    def _days(self, part: str) -> Sequence[bool]:
        """For each style of cells, whether it shows a number as a date or a time."""
        own: dict[str, bool] = {}
        found: list[bool] = []
        is_within = [False]

        def begin(name: str, attributes: Attributes) -> None:
            if name == "numFmt":
                pattern = _NO_PATTERN.sub("", attributes.get("formatCode", "")).lower()
                own[attributes.get("numFmtId", "")] = bool(set(pattern) & set("ymdhs"))
            elif name == "cellXfs":
                is_within[0] = True
            elif name == "xf" and is_within[0]:
                number = attributes.get("numFmtId", "0")
                is_day = number.isdecimal() and int(number) in _DAY_FORMATS
                found.append(own.get(number, is_day))

        def end(name: str) -> None:
            if name == "cellXfs":
                is_within[0] = False

        self._parse(part, begin, end)
        return found

    def _rows(
        self, part: str, texts: Sequence[str], days: Sequence[bool], epoch: datetime
    ) -> Iterator[tuple[int, list[str]]]:
        sheet = _Sheet(texts, days, epoch)
        for _ in self._pieces(part, sheet.begin, sheet.end, sheet.say):
            yield from sheet.rows
            sheet.rows.clear()

    def _parse(
        self,
        part: str,
        begin: Callable[[str, Attributes], None],
        end: Callable[[str], None] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        for _ in self._pieces(part, begin, end, say):
            pass

    def _pieces(
        self,
        part: str,
        begin: Callable[[str, Attributes], None],
        end: Callable[[str], None] | None,
        say: Callable[[str], None] | None,
    ) -> Iterator[None]:
        """Names come without their namespace: the strict form of the format has other ones."""
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = lambda name, of: begin(name.rpartition(":")[2], of)
        if end is not None:
            parser.EndElementHandler = lambda name: end(name.rpartition(":")[2])
        if say is not None:
            parser.CharacterDataHandler = say
        parser.StartDoctypeDeclHandler = _refuse_doctype
        try:
            with self._parts.open(part) as opened:
                for piece in _read(opened, part):
                    parser.Parse(piece)
                    yield
            parser.Parse(b"", True)
            yield
        except (KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError) as error:
            raise Unreadable(part or "the file", f"no part that can be unpacked: {error}") from None
        except (expat.ExpatError, EOFError, zlib.error) as error:
            raise Unreadable(part, str(error)) from None


class _Sheet:
    """What the parser of a sheet tells becomes rows of texts."""

    def __init__(self, texts: Sequence[str], days: Sequence[bool], epoch: datetime) -> None:
        self._texts, self._days, self._epoch = texts, days, epoch
        self.rows: list[tuple[int, list[str]]] = []
        self._number = 0
        self._cells: list[str] = []
        self._cell: Attributes = {}
        self._place = 0
        self._said: list[str] = []
        self._listens = False
        self._is_spoken = False

    def begin(self, name: str, attributes: Attributes) -> None:
        match name:
            case "row":
                number = attributes.get("r", str(self._number + 1))
                if not number.isdecimal() or not self._number < int(number) <= ROWS_MAX:
                    raise Unreadable(f"row {number[:20]}", "not below the one before it")
                self._number, self._cells = int(number), []
            case "c":
                self._cell, self._said = attributes, []
                self._place = self._find(attributes.get("r"))
            case "v" | "t":
                self._listens = not self._is_spoken
            case "rPh":
                self._is_spoken = True

    def end(self, name: str) -> None:
        match name:
            case "row":
                self.rows.append((self._number, self._cells or [""]))
            case "c":
                self._cells.extend([""] * (self._place - len(self._cells)))
                self._cells.append(self._text())
            case "v" | "t":
                self._listens = False
            case "rPh":
                self._is_spoken = False

    def say(self, text: str) -> None:
        if self._listens:
            self._said.append(text)

    def _find(self, reference: str | None) -> int:
        """The column of a cell, from 0; without a reference it is next to the one before."""
        if reference is None:
            return len(self._cells)
        found = _REFERENCE.fullmatch(reference)
        place = 0
        for letter in found[1] if found else "":
            place = 26 * place + ord(letter) - ord("A") + 1
        if not len(self._cells) < place <= COLUMNS_MAX:
            raise Unreadable(f"cell {reference[:20]}", "not behind the one before it")
        return place - 1

    def _text(self) -> str:
        said = "".join(self._said)
        match self._cell.get("t", "n"):
            case "s":
                if not said.isdecimal() or int(said) >= len(self._texts):
                    raise Unreadable(f"cell {self._cell.get('r', '')[:20]}", "no text of the file")
                return self._texts[int(said)]
            case "b":
                return "TRUE" if said == "1" else "FALSE"
            case "n":
                return self._measured(said)
        return said

    def _measured(self, said: str) -> str:
        try:
            number = float(said)
        except ValueError:
            return said
        style = self._cell.get("s", "0")
        is_day = style.isdecimal() and int(style) < len(self._days) and self._days[int(style)]
        if is_day and 0 <= number <= _DAYS_MAX:
            moment = self._epoch + timedelta(days=number)
            return moment.strftime("%Y-%m-%d" if number.is_integer() else "%Y-%m-%d %H:%M:%S")
        return str(int(number)) if number.is_integer() and abs(number) < 1e15 else said


def _read(opened: IO[bytes], part: str) -> Iterator[bytes]:
    """What the file says of its own size may be wrong."""
    size = 0
    while piece := opened.read(PIECE_BYTES):
        size += len(piece)
        if size > UNPACKED_BYTES_MAX:
            raise Unreadable(part, "too much", f"at most {UNPACKED_BYTES_MAX} bytes, unpacked")
        yield piece


def _refuse_doctype(*_: object) -> None:
    raise Unreadable("the file", "a DOCTYPE, which no spreadsheet writes")
