"""The figures as a person reads them: what, how much, and how it was measured."""

from collections.abc import Iterator
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.entries import TRANSACTION_MS_MAX
from benchmarks.expectations import expect
from benchmarks.figures import Latencies
from benchmarks.report import Measured, Report
from benchmarks.runs import RunFigures, SourceFigures
from benchmarks.statements import LARGE_BATCH, SMALL_BATCH

WIDTH_MIN = 150  # Narrower, the last column would be a tower of words.

Row = tuple[str, str, str]

FIRST = "empty database, all sources"
AGAIN = "values to fetch and store again"
# Of the runs in which somebody reads, what a process took is that of the readers, too.
ALONE = ("first run", "hpo and gnomad", "hpo alone", "ensembl alone")


def show(report: Report) -> None:
    console = Console()
    console = Console(width=max(console.width, WIDTH_MIN))
    figures = Table("what", "figure", "how it was measured", box=None, pad_edge=False)
    figures.columns[1].justify = "right"
    figures.columns[1].no_wrap = True
    parts = (_starts, _runs, _readings, _memory, _statements)
    for rows in (part(report) for part in parts):
        for row in rows:
            figures.add_row(*row)
        figures.add_row()
    console.print(report.machine.line(), highlight=False)
    console.print()
    console.print(figures)
    console.print(_processes({name: report.runs[name] for name in ALONE}))
    console.print()
    console.print(_expectations(report))


def _starts(report: Report) -> Iterator[Row]:
    yield "up → ready", f"{report.start.seconds:.1f} s", "empty state folder, jars cached"
    yield "up → ready, again", f"{report.second_start.seconds:.1f} s", "after a stop, data kept"


def _runs(report: Report) -> Iterator[Row]:
    for name, measured in report.runs.items():
        run = measured.run
        how = (
            f"{FIRST if name == 'first run' else AGAIN}: {run.values:,} values of {run.genes:,} "
            f"genes stored in {run.counted_seconds:.1f} s, readable in {run.readable_seconds:.1f} s"
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
    for paced in report.paced:
        yield _latencies(f"gene list, idle, {paced.name}", paced.idle, "page of 20, 4 connections")
    for paced in report.paced:  # The slower they read, the faster is the run.
        speed = paced.measured.run.values_per_second
        added = paced.during.p95_ms - paced.idle.p95_ms
        how = f"in a run at {speed:,.0f} annotations/s, p95 {added:+.1f} ms"
        yield _latencies(f"gene list, in a run, {paced.name}", paced.during, how)
    for connections, seen in report.reads.crowds.items():
        yield _latencies(f"gene list, {connections} connections", seen, "without a pause")
    without = "each page read from the database, 4 connections"
    yield _latencies("gene list, without memory", report.reads.without_memory, without)
    for name, compared in (("gene list", report.reads.page), ("gene", report.reads.gene)):
        ours, theirs = median(compared.memory), median(compared.bare)
        how = f"{ours:,.0f}/s and {theirs:,.0f}/s of {compared.bytes:,} bytes, 5 times in turn"
        yield f"{name} from memory ÷ a bare FastAPI route", f"{compared.ratio:.2f}", how
    how = "a number filtered and another sorted by, all genes, no query twice, 1 connection"
    yield _latencies("gene list, filtered and sorted", report.reads.filtered, how)
    resolved = report.reads.resolve_seconds
    figures = f"{median(resolved):.2f} / {max(resolved):.2f} s"
    yield "resolve 20,000 symbols: median / slowest", figures, f"{len(resolved)} times"
    for form, export in report.reads.exports.items():
        how = f"all genes and columns, {export.mib:.0f} MiB; memory of gateway and child above idle"
        figures = f"{export.seconds:.1f} s, {export.extra_mib:.0f} MiB"
        yield f"export {form}", figures, how


def _latencies(name: str, seen: Latencies, how: str) -> Row:
    figures = (seen.p50_ms, seen.p95_ms, seen.p99_ms, seen.max_ms)
    return (
        f"{name}: p50 / p95 / p99 / max",
        " / ".join(f"{ms:.1f}" for ms in figures) + " ms",
        f"{how}: {seen.per_second:,.0f}/s, {seen.requests:,} requests, {seen.failed} failed",
    )


def _memory(report: Report) -> Iterator[Row]:
    zipf, entries = report.zipf, report.entries
    speed = report.zipf_run.run.values_per_second
    how = f"drawn from a Zipf distribution, in a run at {speed:,.0f} annotations/s"
    yield _latencies("genes", zipf.latencies, how)
    how = f"of {zipf.counted:,} reads; {zipf.heard:,} new versions told, {zipf.ordered} forgotten"
    yield "genes: from memory", f"{zipf.hit_rate:.1%}", how
    how = f"of {zipf.verdict.judged:,} that an invalidation of more than 1 s before concerned"
    yield "genes: stale answers", f"{zipf.verdict.stale:,}", how
    how = (
        f"median of {len(entries.from_order_ms)}; from the order until the last of two gateways "
        f"answers anew; from its answer {median(entries.from_answer_ms):.1f} ms"
    )
    yield f"{entries.entries:,} entries forgotten", f"{entries.invisible_ms:.1f} ms", how
    for name, route in (("gene list", entries.pages), ("a name's meaning", entries.names)):
        figures = f"{median(route.meanwhile_p95_ms):.1f} / {median(route.idle_p95_ms):.1f} ms"
        how = f"medians of 5; of their ratios {route.ratio:.2f}, {route.requests:,} requests"
        yield f"{name}, p95: while entries are deleted / before", figures, how
    how = (
        f"{entries.reclaimed:,} entries; mean {entries.transaction_mean_ms:.1f} ms, "
        f"{entries.long_transactions} above {TRANSACTION_MS_MAX:g} ms"
    )
    yield "transactions that delete entries", f"{entries.transactions:,}", how


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


def _expectations(report: Report) -> Table:
    table = Table("expected on 2 cores", "figure", "wanted", "", box=None, pad_edge=False)
    for one in expect(report):
        table.add_row(one.what, one.figure, one.wanted, "met" if one.is_met else "not met")
    return table


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
