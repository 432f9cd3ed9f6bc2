"""What is expected of a gene list that is read during a run: all of it at once."""

from dataclasses import replace

import pytest

from benchmarks.expectations import expect_of_a_run
from benchmarks.figures import Latencies
from benchmarks.report import Measured, Paced
from benchmarks.runs import RunFigures
from benchmarks.watching import Watched

IDLE = Latencies(1_000, 0, 200.0, 0.5, 1.0, 2.0, 3.0)
RUN = RunFigures(44_000, 136_000, 20.0, 21.0, 5_500.0, {}, Watched(100, 90, 0, 0.5), [])
GOOD = Paced(200.0, IDLE, Measured(RUN, {}), replace(IDLE, p95_ms=5.9))


def test_quick_enough_at_once_is_what_is_expected() -> None:
    assert [one.is_met for one in expect_of_a_run(GOOD)] == [True, True]


@pytest.mark.parametrize(
    "paced",
    [
        replace(GOOD, during=replace(IDLE, p95_ms=6.1)),
        replace(GOOD, during=replace(IDLE, p95_ms=10.0), idle=replace(IDLE, p95_ms=9.0)),
        replace(GOOD, during=replace(IDLE, failed=1)),
        replace(GOOD, measured=Measured(replace(RUN, values_per_second=4_999.0), {})),
    ],
)
def test_one_thing_that_is_not_is_enough(paced: Paced) -> None:
    assert [one.is_met for one in expect_of_a_run(paced)] == [True, False]
