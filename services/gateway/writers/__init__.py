"""The files of an export, one writer each."""

from collections.abc import Sequence
from typing import BinaryIO

from services.gateway.columns import Column
from services.gateway.export_order import Format
from services.gateway.writers.delimited import Delimited
from services.gateway.writers.json_lines import JsonLines
from services.gateway.writers.writer import Writer


def open_writer(form: Format, out: BinaryIO, columns: Sequence[Column]) -> Writer:
    """Loads the libraries of this format alone: they are most of what the process takes."""
    match form:
        case "csv":
            return Delimited(out, columns, ",")
        case "tsv":
            return Delimited(out, columns, "\t")
        case "jsonl":
            return JsonLines(out, columns)
        case "parquet":
            from services.gateway.writers.parquet import Parquet  # noqa: PLC0415

            return Parquet(out, columns)
        case "xlsx":
            from services.gateway.writers.workbook import Workbook  # noqa: PLC0415

            return Workbook(out, columns)
