"""Whether a staged release is like the ones before it, or had better be looked at by a person."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from services.annotator.domain import Doubt, Expected

LOST_SHARE_MAX = 0.1  # Of what the release before it had, records and whatever is counted.
COUNT_GROWTH_MAX = 2  # Times the count before; of records the declaration says how many may be.


@dataclass
class Reading:
    """What was found in a release while it was read."""

    record_count: int = 0
    unmapped_count: int = 0
    nulls: dict[str, int] = field(default_factory=dict)  # Field → records in which it is null.
    absent: set[str] = field(default_factory=set)  # Sentinels that it does not name.
    columns: dict[str, Sequence[str]] = field(default_factory=dict)  # By file.
    doubts: list[Doubt] = field(default_factory=list)  # Of the source itself.
    counts: dict[str, int] = field(default_factory=dict)  # What it counts besides records.


@dataclass(frozen=True)
class Baseline:
    """The release that readers rely on, and what would become of its values."""

    record_count: int
    columns: Mapping[str, Sequence[str]]
    counts: Mapping[str, int]
    media_types: Mapping[str, str | None]
    is_comparable: bool  # By the same method, from other bytes, of the same kind.
    current_count: int  # Values that readers have.
    churn_count: int  # Of these, how many would be another, or none.


def judge(
    expected: Expected,
    found: Reading,
    media_types: Mapping[str, str | None],
    baseline: Baseline | None,
    *,
    is_synthetic: bool = False,
) -> list[Doubt]:
    """Everything that speaks against accepting a release unseen; nothing if it is as expected."""
    doubts = [*found.doubts, *_alone(expected, found)]
    if not is_synthetic:
        doubts += _counted(expected, found)
    if baseline is not None:
        doubts += _compared(expected, found, media_types, baseline)
    return doubts


def _alone(expected: Expected, found: Reading) -> Iterator[Doubt]:
    least, most = expected.records
    if not least <= found.record_count <= most:
        yield Doubt("records", str(found.record_count), f"{least} to {most}")
    entries = found.record_count + found.unmapped_count
    yield from _share("unmapped", found.unmapped_count, entries, expected.unmapped_share_max)
    for name, share_max in expected.nulls_share_max.items():
        nulls = found.nulls.get(name, 0)
        yield from _share(f"nulls of {name}", nulls, found.record_count, share_max)
    if found.absent:
        names = ", ".join(sorted(found.absent))
        yield Doubt("sentinels", f"no record of {names}", "a record of each of these genes")


def _counted(expected: Expected, found: Reading) -> Iterator[Doubt]:
    for name, (least, most) in expected.counts.items():
        if not least <= found.counts.get(name, 0) <= most:
            yield Doubt(name, str(found.counts.get(name, 0)), f"{least} to {most}")


def _compared(
    expected: Expected,
    found: Reading,
    media_types: Mapping[str, str | None],
    baseline: Baseline,
) -> Iterator[Doubt]:
    for file, before in baseline.columns.items():
        after = found.columns.get(file, ())
        added, gone = set(after) - set(before), set(before) - set(after)
        if added or gone:
            difference = [*(f"+{name}" for name in sorted(added)), *(f"-{n}" for n in sorted(gone))]
            yield Doubt(
                "columns", f"{file}: {', '.join(difference)}", "those of the release before"
            )
    for file, before_type in baseline.media_types.items():
        if before_type and media_types.get(file) not in (None, before_type):
            yield Doubt("media type", f"{file}: {media_types[file]}", str(before_type))
    if not baseline.is_comparable:
        return
    least = round(baseline.record_count * (1 - LOST_SHARE_MAX))
    if found.record_count < least:
        yield Doubt("records", str(found.record_count), f"{least}, nine tenths of those before")
    for name, before_count in baseline.counts.items():
        least, most = round(before_count * (1 - LOST_SHARE_MAX)), before_count * COUNT_GROWTH_MAX
        if not least <= found.counts.get(name, 0) <= most:
            accepted = f"{least} to {most}: nine tenths of those before to twice as many"
            yield Doubt(name, str(found.counts.get(name, 0)), accepted)
    yield from _share(
        "churn", baseline.churn_count, baseline.current_count, expected.churn_share_max
    )


def _share(check: str, count: int, of: int, share_max: float) -> Iterator[Doubt]:
    if count > of * share_max:
        yield Doubt(check, f"{count} of {of}, {count / of:.1%}", f"at most {share_max:.1%}")
