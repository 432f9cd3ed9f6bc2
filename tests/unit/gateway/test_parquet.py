"""Rows as row groups."""

import io
from collections.abc import Sequence

import pyarrow.parquet
import pytest

from services.gateway.columns import Column
from services.gateway.writers import parquet
from services.gateway.writers.writer import Row

COLUMNS = [Column("symbol", "text", ("symbol",)), Column("score", "number", ("score",))]
PARTS = [[[f"G{part}-{row}", row / 4 if row else None] for row in range(10)] for part in range(7)]


def write(parts: Sequence[Sequence[Row]]) -> pyarrow.parquet.ParquetFile:
    out = io.BytesIO()
    writer = parquet.Parquet(out, COLUMNS)
    writer.begin([("query", "")])
    for part in parts:
        writer.write(part)
    writer.end([("genes", "some")])
    return pyarrow.parquet.ParquetFile(io.BytesIO(out.getvalue()))


def rows_of(file: pyarrow.parquet.ParquetFile) -> list[list[object]]:
    return [list(row.values()) for row in file.read().to_pylist()]


def test_parts_make_a_row_group_as_soon_as_they_have_its_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [row for part in PARTS for row in part]
    whole = write(PARTS)
    assert (whole.num_row_groups, rows_of(whole)) == (1, rows)

    part_bytes = pyarrow.table(
        [[row[number] for row in PARTS[0]] for number in range(2)], names=["symbol", "score"]
    ).nbytes
    monkeypatch.setattr(parquet, "GROUP_BYTES", 2 * part_bytes)
    cut = write(PARTS)
    sizes = [cut.metadata.row_group(number).num_rows for number in range(cut.num_row_groups)]
    assert (sizes, rows_of(cut)) == ([20, 20, 20, 10], rows)
    assert write(PARTS[:4]).num_row_groups == 2  # No empty one behind a full one.


def test_a_file_without_rows_has_its_columns_and_what_is_told() -> None:
    empty = write([])
    assert (empty.num_row_groups, empty.schema_arrow.names) == (0, ["symbol", "score"])
    assert {b"query", b"genes"} <= set(empty.metadata.metadata)
