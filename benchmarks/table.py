"""The figures as a person reads them: what, how much, and how it was measured."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from benchmarks.report import Measured, Report
from benchmarks.runs import RunFigures, SourceFigures
from benchmarks.statements import LARGE_BATCH, SMALL_BATCH

WIDTH_MIN = 150  # Narrower, the last column would be a tower of words.

Row = tuple[str, str, str]

HOW = {
    "first run": "empty database, all sources",
    "second run": "all values to store again, gene list read meanwhile",
    "hpo and gnomad": "their values to fetch and store again",
    "hpo alone": "its values to fetch and store again",
    "ensembl alone": "its values to fetch and store again",
}


def show(report: Report) -> None:
    console = Console()
    console = Console(width=max(console.width, WIDTH_MIN))
    figures = Table("what", "figure", "how it was measured", box=None, pad_edge=False)
    figures.columns[1].justify = "right"
    figures.columns[1].no_wrap = True
    for rows in (_starts(report), _runs(report), _readings(report), _statements(report)):
        for row in rows:
            figures.add_row(*row)
        figures.add_row()
    console.print(report.machine.line(), highlight=False)
    console.print()
    console.print(figures)
    console.print(_processes(report.runs))


def _starts(report: Report) -> Iterator[Row]:
    yield "up → ready", f"{report.start.seconds:.1f} s", "empty state folder, jars cached"
    yield "up → ready, again", f"{report.second_start.seconds:.1f} s", "after a stop, data kept"


def _runs(report: Report) -> Iterator[Row]:
    for name, measured in report.runs.items():
        run = measured.run
        how = (
            f"{HOW[name]}: {run.values:,} values of {run.genes:,} genes stored in "
            f"{run.counted_seconds:.1f} s, readable in {run.readable_seconds:.1f} s"
        )
        yield f"{name}: annotations", f"{run.values_per_second:,.0f}/s", how
        for source, figures in run.sources.items():
            yield from _source(f"{name}: {source}", figures)
        yield _socket(name, run)


def _source(name: str, source: SourceFigures) -> Iterator[Row]:
    release = f"{source.release}, synthetic" if source.synthetic else source.release
    how = (
        f"from the order; release {release} found after {source.found:.1f} s, "
        f"{source.values:,} values"
    )
    yield f"{name} stored / readable", f"{source.counted:.1f} / {source.readable:.1f} s", how
    if source.staged_after_claim is None:
        rate = f"{source.values_per_second_storing:,.0f}/s"
        how = (
            "first stored batch to last; from the order "
            f"{source.values_per_second_from_order:,.0f}/s"
        )
        yield f"{name} annotations", rate, how
    else:
        after = (source.staged_after_claim, source.stored_after_claim, source.readable_after_claim)
        figure = " / ".join(f"{seconds:.1f}" for seconds in after)
        how = "from the claim of the batch that looks for the release"
        yield f"{name} staged / stored / readable", f"{figure} s", how


def _socket(name: str, run: RunFigures) -> Row:
    return (
        f"{name}: longest silence on the socket",
        f"{run.socket.longest_silence_seconds:.2f} s",
        f"{run.socket.frames:,} frames, {run.socket.out_of_order} out of order",
    )


def _readings(report: Report) -> Iterator[Row]:
    for name, seen in report.readings.items():
        figures = (seen.p50_ms, seen.p95_ms, seen.p99_ms, seen.max_ms)
        how = (
            f"a page of 20, 4 connections without a pause: {seen.per_second:,.0f}/s, "
            f"{seen.requests:,} requests, {seen.failed} failed"
        )
        yield (
            f"gene list, {name}: p50 / p95 / p99 / max",
            " / ".join(f"{ms:.1f}" for ms in figures) + " ms",
            how,
        )
    idle, during = report.idle.p95_ms, report.during.p95_ms
    yield "gene list p95: second run ÷ idle", f"{during / idle:.1f}", f"{during - idle:+.1f} ms"


def _statements(report: Report) -> Iterator[Row]:
    alone = report.statements
    how = f"{alone.values:,} values of ensembl into the empty table with its indexes"
    batches = {SMALL_BATCH: alone.small_batches, LARGE_BATCH: alone.large_batches}
    for size, rate in batches.items():
        yield f"store statements alone, batches of {size:,}", f"{rate:,.0f}/s", how
    yield "COPY", f"{alone.copy:,.0f}/s", how
    for name in ("first run", "ensembl alone"):
        rate = report.runs[name].run.sources["ensembl"].values_per_second_storing
        yield (
            f"{name}: ensembl ÷ its store statements alone",
            f"{rate / alone.small_batches:.2f}",
            f"both in batches of {SMALL_BATCH}",
        )


def _processes(runs: dict[str, Measured]) -> Table:
    columns = ("process", "memory peak", *(f"CPU, {name}" for name in runs), "loop lag p99 / max")
    table = Table(*columns, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for process in next(iter(runs.values())).usage:
        usages = [measured.usage[process] for measured in runs.values()]
        lags = [(usage.lag_p99_ms, usage.lag_max_ms) for usage in usages]
        worst = max(
            ((p99, top) for p99, top in lags if p99 is not None and top is not None), default=None
        )
        table.add_row(
            process,
            f"{max(usage.peak_mib for usage in usages):,.0f} MiB",
            *(f"{usage.cpu_seconds:.1f} s" for usage in usages),
            "–" if worst is None else f"{worst[0]:.1f} / {worst[1]:.1f} ms",
        )
    return table
