"""What is asked of the process that writes an export."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

Format = Literal["csv", "tsv", "jsonl", "parquet", "xlsx"]
MEDIA_TYPES: Mapping[Format, str] = {
    "csv": "text/csv; charset=utf-8",
    "tsv": "text/tab-separated-values; charset=utf-8",
    "jsonl": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}


class ExportOrder(BaseModel):
    """As JSON on its standard input."""

    model_config = ConfigDict(frozen=True)

    format: Format
    service_pid: int
    query: str  # As in the address, already found to fit.
    columns: tuple[str, ...] | None  # None: all.
    as_of: datetime | None
