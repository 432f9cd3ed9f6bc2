"""A workbook, as spreadsheets read it."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import xlsxwriter

from services.gateway.columns import Column
from services.gateway.writers.writer import Facts, Row

COPY_BYTES = 256 * 1024
CELL_CHARACTERS_MAX = 32_767


class Workbook:
    """Texts are text cells: a spreadsheet makes a date of SEPT9 where it may guess. What is to be
    told is on a sheet of its own. The parts of the file are kept on disk until its end."""

    def __init__(self, out: BinaryIO, columns: Sequence[Column]) -> None:
        self._out = out
        self._folder = tempfile.TemporaryDirectory(prefix="annobus-export-")
        self._path = Path(self._folder.name) / "genes.xlsx"
        options = {
            "constant_memory": True,
            "tmpdir": self._folder.name,
            "strings_to_numbers": False,
            "strings_to_formulas": False,
            "strings_to_urls": False,
        }
        self._book = xlsxwriter.Workbook(str(self._path), options)
        self._sheet = self._book.add_worksheet("Genes")
        self._facts: list[tuple[str, str]] = []
        self._columns = columns
        self._row = 0
        self._cut_count = 0

    def begin(self, facts: Facts) -> None:
        self._facts += facts
        bold = self._book.add_format({"bold": True})
        for number, column in enumerate(self._columns):
            self._sheet.write_string(0, number, column.name, bold)
        self._sheet.freeze_panes(1, 2)

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._row += 1
            for number, cell in enumerate(row):
                if cell is not None:
                    self._write(self._row, number, cell)

    def _write(self, row: int, number: int, cell: Any) -> None:  # noqa: ANN401
        if isinstance(cell, bool):
            self._sheet.write_boolean(row, number, cell)
        elif isinstance(cell, str):
            self._cut_count += len(cell) > CELL_CHARACTERS_MAX
            self._sheet.write_string(row, number, cell[:CELL_CHARACTERS_MAX])
        else:
            self._sheet.write_number(row, number, cell)

    def end(self, facts: Facts) -> None:
        self._sheet.autofilter(0, 0, self._row, len(self._columns) - 1)
        sheet = self._book.add_worksheet("Provenance")
        cut = (f"{self._cut_count} texts, at the {CELL_CHARACTERS_MAX} characters of a cell",)
        told = [*self._facts, *facts, *(("cut", one) for one in cut if self._cut_count)]
        for row, (name, said) in enumerate(told):
            sheet.write_string(row, 0, name)
            sheet.write_string(row, 1, said)
        self._book.close()
        with self._path.open("rb") as file:
            while part := file.read(COPY_BYTES):
                self._out.write(part)
        self._folder.cleanup()
