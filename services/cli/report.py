"""What a finished run amounts to, and whether its figures add up."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import orjson
from pydantic import BaseModel, ConfigDict, Field

from contracts.messages import SourceProgress
from services.cli import output
from services.cli.client import Document

REPORT_FILE = "demo-report.json"
STYLES = {"synthetic": "yellow"}


class SourceReport(BaseModel):
    """Genes by outcome; `done` are those with a value. `seconds` is from the source's first
    batch to its last."""

    model_config = ConfigDict(frozen=True)

    done: int
    no_data: int
    failed: int
    release: str | None
    synthetic: bool
    seconds: float = Field(ge=0)

    @property
    def genes(self) -> int:
        return self.done + self.no_data + self.failed

    @property
    def genes_per_second(self) -> float | None:
        return (self.done + self.no_data) / self.seconds if self.seconds else None


class Report(BaseModel):
    """`annotations` are values, `failed` genes × sources without an outcome; `seconds` is from
    the order until every document could be read."""

    model_config = ConfigDict(frozen=True)

    genes: int
    annotations: int
    seconds: float
    failed: int
    sources: Mapping[str, SourceReport]

    def problems(self) -> list[str]:
        """What does not add up, or is not there; nothing when all is well."""
        found = [
            f"{name}: {source.done} done + {source.no_data} no data + {source.failed} failed "
            f"= {source.genes}, not the run's {self.genes} genes"
            for name, source in self.sources.items()
            if source.genes != self.genes
        ]
        if not self.genes:
            found.append("the run had no genes")
        if self.failed:
            found.append(f"{self.failed} annotations failed")
        return found

    def write(self, folder: Path) -> Path:
        path = folder / REPORT_FILE
        temporary = path.with_suffix(".partial")
        temporary.write_bytes(orjson.dumps(self.model_dump(), option=orjson.OPT_INDENT_2) + b"\n")
        temporary.replace(path)
        return path

    def show(self) -> None:
        rows = [
            (
                name,
                f"{source.genes:,}",
                f"{source.done:,}",
                f"{source.no_data:,}",
                f"{source.failed:,}",
                f"{source.seconds:.1f}",
                "–" if source.genes_per_second is None else f"{source.genes_per_second:,.0f}",
                source.release or "none",
                "synthetic" if source.synthetic else "real",
            )
            for name, source in self.sources.items()
        ]
        columns = (
            *("source", "genes", "annotations", "no data", "failed", "seconds", "genes/s"),
            *("release", "data"),
        )
        output.print_table(columns, rows, numbers=columns[1:7], styles=STYLES)
        output.print_line(
            f"{self.genes:,} genes, {self.annotations:,} annotations, {self.failed:,} failed, "
            f"readable after {self.seconds:.1f} s"
        )


class _RunSource(SourceProgress):
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def seconds(self) -> float:
        if self.started_at is None or self.finished_at is None:
            return 0.0
        return max((self.finished_at - self.started_at).total_seconds(), 0.0)


def build(document: Document, seconds: float) -> Report:
    """The report of a finished run, from its JSON:API document."""
    run = document["data"]["attributes"]
    counted = {name: _RunSource.model_validate(item) for name, item in run["sources"].items()}
    sources = {
        name: SourceReport(
            done=source.done_count,
            no_data=source.no_data_count,
            failed=source.failed_count,
            release=source.release,
            synthetic=source.synthetic,
            seconds=round(source.seconds, 3),
        )
        for name, source in counted.items()
    }
    return Report(
        # The gateway knows a count only of genes that were named; of all, the sources know it.
        genes=run["gene_count"] or max((source.genes for source in sources.values()), default=0),
        annotations=sum(source.done for source in sources.values()),
        seconds=round(seconds, 3),
        failed=sum(source.failed for source in sources.values()),
        sources=sources,
    )
