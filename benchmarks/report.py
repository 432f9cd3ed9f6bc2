"""What was measured: checked, written to a file, and shown as a table."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.figures import Latencies
from benchmarks.machine import Machine
from benchmarks.resources import Usage
from benchmarks.runs import RunFigures, SourceFigures
from benchmarks.statements import LARGE_BATCH, SMALL_BATCH, StatementFigures

RESULT_FILE = "bench.json"
WIDTH = 150  # Without a terminal to fit into.

Row = tuple[str, str, str]


@dataclass(frozen=True)
class Start:
    """Seconds until everything was ready, and when each step began."""

    seconds: float
    steps: list[tuple[float, str]]


@dataclass(frozen=True)
class Report:
    """`first` fills an empty database, `second` does all of it again while a reader reads;
    `hpo` and `ensembl` are runs over this one source, into a database without its values."""

    machine: Machine
    start: Start
    second_start: Start
    first: RunFigures
    first_usage: dict[str, Usage]
    idle: Latencies
    second: RunFigures
    second_usage: dict[str, Usage]
    during: Latencies
    hpo: RunFigures
    ensembl: RunFigures
    statements: StatementFigures

    def problems(self) -> list[str]:
        runs = {
            "first": self.first,
            "second": self.second,
            "hpo": self.hpo,
            "ensembl": self.ensembl,
        }
        found = [f"{name} run: {text}" for name, run in runs.items() for text in run.problems]
        for name, seen in {"idle": self.idle, "during a run": self.during}.items():
            if seen.failed:
                found.append(f"gene list {name}: {seen.failed} of {seen.requests} requests failed")
        return found

    def write(self, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        path = folder / RESULT_FILE
        partial = path.with_suffix(".partial")
        content = asdict(self) | {"problems": self.problems()}
        partial.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")
        partial.replace(path)
        return path

    def show(self) -> None:
        console = Console()
        if not console.is_terminal:
            console = Console(width=WIDTH)
        table = Table("what", "figure", "how it was measured", box=None, pad_edge=False)
        table.columns[1].justify = "right"
        table.columns[1].no_wrap = True
        for row in self._rows():
            table.add_row(*row)
        console.print(self.machine.line(), highlight=False)
        console.print()
        console.print(table)
        console.print()
        console.print(_usage(self.first_usage, self.second_usage))

    def _rows(self) -> Iterator[Row]:
        yield "up → ready", f"{self.start.seconds:.1f} s", "empty state folder, Kafka's jars cached"
        yield "up → ready, again", f"{self.second_start.seconds:.1f} s", "stopped, data kept"
        yield from _whole(self.first, "first run, empty database")
        for name, source in self.first.sources.items():
            yield from _one(name, source, "first run")
        yield from _whole(self.second, "second run, all again, gene list read meanwhile")
        yield from _alone("hpo", self.hpo)
        yield from _alone("ensembl", self.ensembl)
        yield from self._list_rows()
        yield from self._socket_rows()
        yield from self._statement_rows()

    def _list_rows(self) -> Iterator[Row]:
        for name, seen in {"idle": self.idle, "during the run": self.during}.items():
            yield (
                f"gene list {name}: p50 / p95 / p99 / max",
                f"{seen.p50_ms:.1f} / {seen.p95_ms:.1f} / {seen.p99_ms:.1f} / {seen.max_ms:.1f} ms",
                f"page of 20, 4 at a time without a pause: {seen.per_second:,.0f}/s, "
                f"{seen.requests:,} requests, {seen.failed} failed",
            )
        yield (
            "gene list p95, during ÷ idle",
            f"{self.during.p95_ms / self.idle.p95_ms:.1f} ×",
            f"{self.during.p95_ms - self.idle.p95_ms:+.1f} ms",
        )

    def _socket_rows(self) -> Iterator[Row]:
        for name, run in {"first": self.first, "second": self.second}.items():
            yield (
                f"socket: longest silence, {name} run",
                f"{run.socket.longest_silence_seconds:.2f} s",
                f"{run.socket.frames:,} frames, {run.socket.out_of_order} out of order",
            )

    def _statement_rows(self) -> Iterator[Row]:
        alone = self.statements
        count = f"{alone.values:,} values of ensembl, empty table with its indexes"
        batches = {SMALL_BATCH: alone.small_batches, LARGE_BATCH: alone.large_batches}
        for size, rate in batches.items():
            yield f"store statements alone, {size:,} a batch", f"{rate:,.0f}/s", count
        yield "COPY into the same table", f"{alone.copy:,.0f}/s", count
        ratio = self.ensembl.sources["ensembl"].values_per_second_storing / alone.small_batches
        yield "ensembl ÷ its store statements alone", f"{ratio:.2f}", f"batches of {SMALL_BATCH}"


def _whole(run: RunFigures, which: str) -> Iterator[Row]:
    yield (
        "annotations end to end",
        f"{run.values_per_second:,.0f}/s",
        f"{which}: {run.values:,} values of {run.genes:,} genes, counted after "
        f"{run.counted_seconds:.1f} s, all readable after {run.readable_seconds:.1f} s",
    )


def _one(name: str, source: SourceFigures, which: str) -> Iterator[Row]:
    marked = f"{name} {source.release}" + (", synthetic" if source.synthetic else "")
    yield (
        f"{name}: counted / readable",
        f"{source.counted:.1f} / {source.readable:.1f} s",
        f"{which}, from the order ({marked}; release found after {source.found:.1f} s): "
        f"{source.values:,} values",
    )
    if source.staged_after_claim is None:
        yield (
            f"{name}: annotations",
            f"{source.values_per_second_storing:,.0f}/s",
            f"{which}, first stored batch to last; from the order "
            f"{source.values_per_second_from_order:,.0f}/s",
        )
    else:
        yield (
            f"{name}: staged / stored / readable",
            f"{source.staged_after_claim:.1f} / {source.stored_after_claim:.1f} / "
            f"{source.readable_after_claim:.1f} s",
            f"{which}, from the claim of the batch that looks for its release",
        )


def _alone(name: str, run: RunFigures) -> Iterator[Row]:
    yield from _whole(run, f"{name} alone")
    yield from _one(name, run.sources[name], f"{name} alone")


def _usage(first: dict[str, Usage], second: dict[str, Usage]) -> Table:
    columns = ("process", "memory peak", "cpu, first run", "cpu, second run", "loop lag p99 / max")
    table = Table(*columns, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, usage in first.items():
        again = second[name]
        lag = "–"
        if usage.lag_p99_ms is not None and usage.lag_max_ms is not None:
            lag = f"{usage.lag_p99_ms:.1f} / {usage.lag_max_ms:.1f} ms"
        table.add_row(
            name,
            f"{max(usage.peak_mib, again.peak_mib):,.0f} MiB",
            f"{usage.cpu_seconds:.1f} s",
            f"{again.cpu_seconds:.1f} s",
            lag,
        )
    return table
