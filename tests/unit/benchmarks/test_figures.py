"""The arithmetic of the bench: percentiles, silences and frames out of order."""

import os

import pytest

from benchmarks.figures import count_disorder, longest_silence, percentile, summarise
from benchmarks.resources import Resources, find_value


@pytest.mark.parametrize(
    ("fraction", "expected"), [(0.5, 50), (0.95, 95), (0.99, 99), (1, 100), (0.001, 1)]
)
def test_a_percentile_is_a_value_that_was_seen(fraction: float, expected: int) -> None:
    assert percentile(range(100, 0, -1), fraction) == expected


def test_every_percentile_of_one_value_is_that_value() -> None:
    assert [percentile([7.0], fraction) for fraction in (0.01, 0.5, 1)] == [7.0, 7.0, 7.0]


@pytest.mark.parametrize(("values", "fraction"), [([], 0.5), ([1.0], 0), ([1.0], 1.1)])
def test_a_percentile_that_does_not_exist_is_refused(values: list[float], fraction: float) -> None:
    with pytest.raises(ValueError, match=r"accepted|needed"):
        percentile(values, fraction)


def test_latencies_are_in_milliseconds_and_failed_requests_are_counted_apart() -> None:
    seen = summarise([0.004, 0.001, 0.002, 0.003], failed=1, seconds=2)
    assert (seen.requests, seen.failed, seen.per_second) == (5, 1, 2.5)
    assert (seen.p50_ms, seen.p95_ms, seen.max_ms) == (2, 4, 4)


def test_the_longest_silence_may_be_the_one_before_the_first_frame() -> None:
    assert longest_silence([10.0, 12.5, 13.0, 14.0]) == 2.5
    assert longest_silence([10.0, 10.5, 13.0]) == 2.5


def test_a_socket_that_said_nothing_has_no_silence_to_measure() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        longest_silence([10.0])


def test_a_repeated_snapshot_is_in_order_and_a_repeated_fact_is_not() -> None:
    assert count_disorder(facts=[1, 2, 5], snapshots=[0, 5, 5, 6]) == 0
    assert count_disorder(facts=[1, 2, 2, 5], snapshots=[0]) == 1
    assert count_disorder(facts=[1, 5, 2], snapshots=[4, 3, 9]) == 2


def test_a_metric_is_found_by_its_whole_name() -> None:
    page = "# HELP lag x\nlag_total 7\nlag 0.25\n"
    assert find_value(page, "lag") == 0.25
    with pytest.raises(ValueError, match="total"):
        find_value(page, "total")


def test_a_process_is_seen_to_have_memory_and_to_use_its_processor() -> None:
    resources = Resources({"me": os.getpid()}, {})
    resources.look()
    while resources.usage()["me"].cpu_seconds == 0:  # Looking is work, too.
        resources.look()
    usage = resources.usage()["me"]
    assert usage.peak_mib > 1
    assert usage.lag_max_ms is None
