"""What readers may expect of two cores, beside what they got in a bench."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.entries import TRANSACTION_MS_MAX
from benchmarks.report import Paced, Report

RUN_PER_SECOND_MIN = 5_000
PAGE_MS_MAX = 10.0
RUN_ADDS_MS_MAX = 5.0
MEMORY_PER_SECOND_MIN = 2_000
DATABASE_PER_SECOND_MIN = 500
BARE_RATIO_MIN = 0.9
FILTERED_MS_MAX = 30.0
RESOLVE_SECONDS_MAX = 2.0
EXPORT_SECONDS_MAX = 20.0
EXPORT_MIB_MAX = 150_000_000 / 1024**2
EXPECTED_FORMATS = ("csv", "parquet")
INVISIBLE_MS_MAX = 100.0
RECLAIM_RATIO_MAX = 1.2
HIT_RATE_MIN = 0.7


@dataclass(frozen=True)
class Expectation:
    what: str
    figure: str
    wanted: str
    is_met: bool


def expect(report: Report) -> Iterator[Expectation]:
    reads, entries, zipf = report.reads, report.entries, report.zipf
    for paced in report.paced:
        yield from expect_of_a_run(paced)
    for connections, seen in reads.crowds.items():
        yield Expectation(
            f"gene list over {connections} connections",
            f"{seen.failed} of {seen.requests:,} failed",
            "0",
            seen.failed == 0,
        )
    whole_pace = report.paced[0].idle.per_second
    yield _least("gene list from memory", whole_pace, MEMORY_PER_SECOND_MIN)
    without = reads.without_memory.per_second
    yield _least("gene list without memory", without, DATABASE_PER_SECOND_MIN)
    for name, compared in (("gene list", reads.page), ("gene", reads.gene)):
        yield Expectation(
            f"{name} from memory ÷ a bare route",
            f"{compared.ratio:.2f}",
            f"≥ {BARE_RATIO_MIN}",
            compared.ratio >= BARE_RATIO_MIN,
        )
    yield _most("filter and sort: p95", reads.filtered.p95_ms, FILTERED_MS_MAX, "ms")
    slowest = max(reads.resolve_seconds)
    yield _most("resolve 20,000 symbols, slowest", slowest, RESOLVE_SECONDS_MAX, "s")
    for form in EXPECTED_FORMATS:
        export = reads.exports[form]
        yield _most(f"export {form}", export.seconds, EXPORT_SECONDS_MAX, "s")
        yield _most(f"export {form}: memory", export.extra_mib, EXPORT_MIB_MAX, "MiB")
    yield _most(
        f"{entries.entries:,} entries forgotten", entries.invisible_ms, INVISIBLE_MS_MAX, "ms"
    )
    for name, route in (("gene list", entries.pages), ("a name's meaning", entries.names)):
        yield Expectation(
            f"{name}: p95 while they are deleted ÷ before",
            f"{route.ratio:.2f}",
            f"≤ {RECLAIM_RATIO_MAX}",
            route.ratio <= RECLAIM_RATIO_MAX,
        )
    yield Expectation(
        f"deleting transactions above {TRANSACTION_MS_MAX:g} ms",
        f"{entries.long_transactions} of {entries.transactions:,}",
        "0",
        entries.long_transactions == 0,
    )
    yield Expectation(
        "genes read in a run: from memory",
        f"{zipf.hit_rate:.0%}",
        f"> {HIT_RATE_MIN:.0%}",
        zipf.hit_rate > HIT_RATE_MIN,
    )
    yield Expectation(
        "genes read in a run: stale answers",
        f"{zipf.verdict.stale} of {zipf.verdict.judged:,}",
        "0",
        zipf.verdict.stale == 0,
    )


def expect_of_a_run(paced: Paced) -> Iterator[Expectation]:
    speed, during = paced.measured.run.values_per_second, paced.during
    added = during.p95_ms - paced.idle.p95_ms
    yield _most(f"gene list, {paced.name}, idle: p95", paced.idle.p95_ms, PAGE_MS_MAX, "ms")
    yield Expectation(
        f"gene list, {paced.name}, in a run: p95, above idle",
        f"{during.p95_ms:.1f}, {added:+.1f} ms at {speed:,.0f} annotations/s",
        f"< {PAGE_MS_MAX:g}, ≤ +{RUN_ADDS_MS_MAX:g} ms at {RUN_PER_SECOND_MIN:,}/s",
        during.p95_ms < PAGE_MS_MAX
        and added <= RUN_ADDS_MS_MAX
        and during.failed == 0
        and speed >= RUN_PER_SECOND_MIN,
    )


def _most(what: str, figure: float, most: float, unit: str) -> Expectation:
    return Expectation(what, f"{figure:.1f} {unit}", f"< {most:.0f} {unit}", figure < most)


def _least(what: str, per_second: float, least: float) -> Expectation:
    return Expectation(what, f"{per_second:,.0f}/s", f"≥ {least:,.0f}/s", per_second >= least)
