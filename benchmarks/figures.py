"""The arithmetic of what is measured: percentiles, silences, and frames out of order."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Latencies:
    """What one reader saw; `failed` requests have no latency."""

    requests: int
    failed: int
    per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


def percentile(values: Iterable[float], fraction: float) -> float:
    """The smallest of the values that so large a share of them does not exceed (nearest rank)."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("a percentile of nothing: at least one value is needed")
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction {fraction} is not accepted: more than 0, at most 1")
    return ordered[math.ceil(fraction * len(ordered)) - 1]


def summarise(latencies_seconds: Sequence[float], failed: int, seconds: float) -> Latencies:
    ms = sorted(latency * 1_000 for latency in latencies_seconds)
    return Latencies(
        requests=len(ms) + failed,
        failed=failed,
        per_second=(len(ms) + failed) / seconds,
        p50_ms=percentile(ms, 0.5),
        p95_ms=percentile(ms, 0.95),
        p99_ms=percentile(ms, 0.99),
        max_ms=ms[-1],
    )


def longest_silence(moments_seconds: Sequence[float]) -> float:
    """The longest time between two neighbours; the first moment is when the listening began."""
    if len(moments_seconds) < 2:
        raise ValueError(f"{len(moments_seconds)} moments hold no silence: at least 2 are needed")
    return max(b - a for a, b in pairwise(moments_seconds))


def count_disorder(facts: Sequence[int], snapshots: Sequence[int]) -> int:
    """Frames whose seq contradicts an earlier one: a fact is told once and in order, a snapshot
    is never older than the one before it but may be repeated."""
    twice_or_late = sum(b <= a for a, b in pairwise(facts))
    gone_back = sum(b < a for a, b in pairwise(snapshots))
    return twice_or_late + gone_back
