"""Parquet."""

from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet

from services.gateway.columns import Column, Kind
from services.gateway.writers.writer import Facts, Row

# As arrays, before they are packed: some thousand genes with all columns. Each group costs its
# columns' dictionaries and statistics anew, which stay in memory until the file ends.
GROUP_BYTES = 8 * 1024**2
PAGE_BYTES = 256 * 1024
DICTIONARY_BYTES_MAX = 64 * 1024  # Of a column; values that are nearly all different have none.

_ARROW: Mapping[Kind, Any] = {
    "text": pyarrow.string(),
    "json": pyarrow.string(),
    "number": pyarrow.float64(),
    "integer": pyarrow.int64(),
    "boolean": pyarrow.bool_(),
}


class Parquet:
    """What is to be told is metadata of the file. Rows are kept, as arrays, until they make a row
    group: small ones are slow to write and to read."""

    def __init__(self, out: BinaryIO, columns: Sequence[Column]) -> None:
        self._kinds = [column.kind for column in columns]
        fields = [(column.name, _ARROW[column.kind]) for column in columns]
        self._schema = pyarrow.schema(fields)
        self._writer = pyarrow.parquet.ParquetWriter(
            out,
            self._schema,
            compression="zstd",
            data_page_size=PAGE_BYTES,
            dictionary_pagesize_limit=DICTIONARY_BYTES_MAX,
        )
        self._parts: list[Any] = []
        self._bytes = 0

    def begin(self, facts: Facts) -> None:
        self._writer.add_key_value_metadata(dict(facts))

    def write(self, rows: Sequence[Row]) -> None:
        arrays = [
            pyarrow.array([row[number] for row in rows], _ARROW[kind])
            for number, kind in enumerate(self._kinds)
        ]
        part = pyarrow.RecordBatch.from_arrays(arrays, schema=self._schema)
        self._parts.append(part)
        self._bytes += part.nbytes
        if self._bytes >= GROUP_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        self._writer.write_table(pyarrow.Table.from_batches(self._parts, schema=self._schema))
        self._parts.clear()
        self._bytes = 0

    def end(self, facts: Facts) -> None:
        if self._parts:
            self._write_group()
        self._writer.add_key_value_metadata(dict(facts))
        self._writer.close()
