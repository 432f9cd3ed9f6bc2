"""Which genes are drawn, and what of the figures is not as it should be."""

from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest

from benchmarks.figures import Latencies
from benchmarks.staleness import Verdict
from benchmarks.zipf import ZipfFigures, draw

GENES = [f"HGNC:{number}" for number in range(1_000)]
GOOD = ZipfFigures(
    latencies=Latencies(1_000, 0, 500.0, 1.0, 2.0, 3.0, 4.0),
    counted=1_001,
    hits=800,
    heard=10,
    ordered=5,
    verdict=Verdict(answers=1_100, judged=300, stale=0, lag_max_seconds=0.2),
)


def test_the_nth_gene_is_drawn_with_a_share_of_one_nth() -> None:
    drawn = Counter(islice(draw(GENES, 1), 100_000))
    (_, first), (_, second), (_, third) = drawn.most_common(3)
    assert first / second == pytest.approx(2, rel=0.1)
    assert first / third == pytest.approx(3, rel=0.1)
    assert len(drawn) > 900


def test_the_same_seed_draws_the_same_genes_and_another_one_others() -> None:
    assert [*islice(draw(GENES, 1), 50)] == [*islice(draw(GENES, 1), 50)]
    assert [*islice(draw(GENES, 1), 50)] != [*islice(draw(GENES, 2), 50)]


def test_good_figures_have_no_problems() -> None:
    assert GOOD.problems == []
    assert GOOD.hit_rate == pytest.approx(800 / 1_001)


@pytest.mark.parametrize(
    ("figures", "problem"),
    [
        (replace(GOOD, latencies=replace(GOOD.latencies, failed=3)), "3 of 1000 requests failed"),
        (replace(GOOD, verdict=replace(GOOD.verdict, stale=2)), "2 of 300 answers were stale"),
        (replace(GOOD, verdict=replace(GOOD.verdict, judged=0)), "no answer could be judged"),
        (replace(GOOD, hits=700), "70% of the reads were hits"),
        (replace(GOOD, counted=1_100, hits=900), "100 of 1100 reads that were counted"),
        (replace(GOOD, counted=0, hits=0), "0% of the reads were hits"),
    ],
)
def test_what_is_not_as_it_should_be_is_a_problem(figures: ZipfFigures, problem: str) -> None:
    assert any(found.startswith(problem) for found in figures.problems), figures.problems
