"""JSON Lines."""

from collections.abc import Sequence
from typing import BinaryIO

import orjson

from services.gateway.columns import Column
from services.gateway.writers.writer import Facts, Row


class JsonLines:
    """The first and the last line tell of the export, under `meta`; each other is a gene."""

    def __init__(self, out: BinaryIO, columns: Sequence[Column]) -> None:
        self._out = out
        self._names = [column.name for column in columns]
        self._nested = [column.kind == "json" for column in columns]

    def begin(self, facts: Facts) -> None:
        self._out.write(orjson.dumps({"meta": dict(facts)}) + b"\n")

    def write(self, rows: Sequence[Row]) -> None:
        self._out.write(b"".join(self._line(row) for row in rows))

    def end(self, facts: Facts) -> None:
        self.begin(facts)

    def _line(self, row: Row) -> bytes:
        gene = {
            name: orjson.Fragment(cell) if nested and cell is not None else cell
            for name, nested, cell in zip(self._names, self._nested, row, strict=True)
        }
        return orjson.dumps(gene) + b"\n"
