"""CSV and TSV."""

import csv
import io
from collections.abc import Sequence
from typing import Any, BinaryIO

from services.gateway.columns import Column
from services.gateway.writers.writer import Facts, Row

_FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # A spreadsheet would calculate what begins so.


class Delimited:
    """Comment lines before and behind; texts that a spreadsheet would calculate are guarded by an
    apostrophe, as it does itself."""

    def __init__(self, out: BinaryIO, columns: Sequence[Column], delimiter: str) -> None:
        self._out = out
        self._columns = columns
        self._text = io.StringIO()
        self._writer = csv.writer(self._text, delimiter=delimiter, lineterminator="\n")

    def begin(self, facts: Facts) -> None:
        self._comment(facts)
        self._writer.writerow([column.name for column in self._columns])
        self._flush()

    def write(self, rows: Sequence[Row]) -> None:
        self._writer.writerows([_guarded(cell) for cell in row] for row in rows)
        self._flush()

    def end(self, facts: Facts) -> None:
        self._comment(facts)
        self._flush()

    def _comment(self, facts: Facts) -> None:
        for name, said in facts:
            self._text.write(f"# {name}: {' '.join(said.split())}\n")

    def _flush(self) -> None:
        self._out.write(self._text.getvalue().encode())
        self._text.seek(0)
        self._text.truncate()


def _guarded(cell: Any) -> Any:  # noqa: ANN401
    if isinstance(cell, str):
        return f"'{cell}" if cell.startswith(_FORMULAS) else cell
    if isinstance(cell, bool):
        return "true" if cell else "false"
    return cell
