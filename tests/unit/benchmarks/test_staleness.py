"""Which answers count as stale, and which could be judged at all."""

import pytest

from benchmarks.staleness import ALLOWED_SECONDS, Checker, Verdict

PKD1, TTN = "HGNC:9008", "HGNC:12403"


def judge(*answers: tuple[str, int, float], invalidated: list[tuple[str, int, float]]) -> Verdict:
    checker = Checker()
    for answer in answers:
        checker.answered(*answer)
    for told in invalidated:  # Heard behind the answers that they concern.
        checker.invalidated(*told)
    return checker.judge()


def test_an_answer_that_is_older_than_what_was_invalidated_long_ago_is_stale() -> None:
    verdict = judge((PKD1, 1, 12.5), invalidated=[(PKD1, 2, 10.0)])
    assert verdict == Verdict(answers=1, judged=1, stale=1, lag_max_seconds=2.5)


@pytest.mark.parametrize("version", [2, 3])
def test_an_answer_of_that_version_or_a_newer_one_is_judged_and_not_stale(version: int) -> None:
    verdict = judge((PKD1, version, 12.5), invalidated=[(PKD1, 2, 10.0)])
    assert verdict == Verdict(answers=1, judged=1, stale=0, lag_max_seconds=0.0)


def test_within_the_time_that_is_allowed_an_old_answer_is_a_lag_and_no_more() -> None:
    verdict = judge((PKD1, 1, 10.25), invalidated=[(PKD1, 2, 10.0)])
    assert verdict == Verdict(answers=1, judged=0, stale=0, lag_max_seconds=0.25)


def test_an_answer_that_was_asked_for_before_is_neither_judged_nor_late() -> None:
    verdict = judge((PKD1, 1, 9.0), invalidated=[(PKD1, 2, 10.0)])
    assert verdict == Verdict(answers=1, judged=0, stale=0, lag_max_seconds=0.0)


def test_what_other_genes_are_invalidated_for_judges_nothing() -> None:
    verdict = judge((TTN, 1, 20.0), invalidated=[(PKD1, 2, 10.0)])
    assert (verdict.judged, verdict.stale) == (0, 0)


def test_the_lag_is_from_the_first_invalidation_that_the_answer_is_older_than() -> None:
    told = [(PKD1, 4, 11.0), (PKD1, 2, 10.0), (PKD1, 3, 10.5)]  # In any order.
    assert judge((PKD1, 2, 11.25), invalidated=told).lag_max_seconds == 0.75
    assert judge((PKD1, 1, 11.25), invalidated=told).stale == 1
    assert judge((PKD1, 4, 60.0), invalidated=told).lag_max_seconds == 0


def test_a_version_that_is_told_late_takes_nothing_back() -> None:
    told = [(PKD1, 3, 10.0), (PKD1, 2, 11.0)]
    assert judge((PKD1, 2, 11.5), invalidated=told) == Verdict(1, 1, 1, 1.5)


def test_after_an_order_at_least_what_was_answered_before_is_due() -> None:
    checker = Checker()
    checker.answered(PKD1, 7, 9.0)
    checker.ordered(PKD1, 10.0)
    checker.ordered(TTN, 10.0)  # Nobody was answered: nothing is known of it.
    checker.answered(PKD1, 8, 9.5)  # Not known when it was ordered.
    checker.answered(PKD1, 7, 10.0 + 2 * ALLOWED_SECONDS)
    checker.answered(PKD1, 6, 10.0 + 3 * ALLOWED_SECONDS)
    checker.answered(TTN, 1, 20.0)
    assert checker.judge() == Verdict(answers=5, judged=2, stale=1, lag_max_seconds=3.0)
