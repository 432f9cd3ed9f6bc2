"""Parquet."""

from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet

from services.gateway.columns import Column, Kind
from services.gateway.writers.writer import Facts, Row

GROUP_ROWS = 500
PAGE_BYTES = 64 * 1024  # Of each of a hundred columns, in memory until its group is written.

pyarrow.set_memory_pool(pyarrow.system_memory_pool())  # The others give less of it back.

_ARROW: Mapping[Kind, Any] = {
    "text": pyarrow.string(),
    "json": pyarrow.string(),
    "number": pyarrow.float64(),
    "integer": pyarrow.int64(),
    "boolean": pyarrow.bool_(),
}


class Parquet:
    """What is to be told is metadata of the file. Rows are kept until they make a row group: small
    ones are slow to write and to read."""

    def __init__(self, out: BinaryIO, columns: Sequence[Column]) -> None:
        self._kinds = [column.kind for column in columns]
        fields = [(column.name, _ARROW[column.kind]) for column in columns]
        self._schema = pyarrow.schema(fields)
        self._writer = pyarrow.parquet.ParquetWriter(
            out,
            self._schema,
            compression="zstd",
            data_page_size=PAGE_BYTES,
            dictionary_pagesize_limit=PAGE_BYTES,
        )
        self._rows: list[Row] = []

    def begin(self, facts: Facts) -> None:
        self._writer.add_key_value_metadata(dict(facts))

    def write(self, rows: Sequence[Row]) -> None:
        self._rows += rows
        if len(self._rows) >= GROUP_ROWS:
            self._write_group()

    def _write_group(self) -> None:
        arrays = [
            pyarrow.array([row[number] for row in self._rows], _ARROW[kind])
            for number, kind in enumerate(self._kinds)
        ]
        self._writer.write_table(pyarrow.Table.from_arrays(arrays, schema=self._schema))
        self._rows.clear()

    def end(self, facts: Facts) -> None:
        self._write_group()
        self._writer.add_key_value_metadata(dict(facts))
        self._writer.close()
