"""What speaks against a release, alone and beside the one that readers have."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from services.annotator.domain import Doubt, Expected
from services.annotator.judging import Baseline, Reading, judge

EXPECTED = Expected(
    records=(100, 1_000),
    unmapped_share_max=0.1,
    churn_share_max=0.2,
    nulls_share_max={"loeuf": 0.5},
    sentinels=("HGNC:9008",),
    counts={"rows": (2_000, 50_000)},
)
GOOD = Reading(
    record_count=500,
    unmapped_count=50,
    nulls={"loeuf": 250},
    columns={"t": ["a", "b"]},
    counts={"rows": 9_000},
)
BEFORE = Baseline(
    record_count=500,
    columns={"t": ["b", "a"]},
    counts={"rows": 9_000},
    media_types={"t": "text/plain"},
    is_comparable=True,
    current_count=500,
    churn_count=100,
)
TYPES = {"t": "text/plain"}


def checks(found: Reading, baseline: Baseline | None = BEFORE, **types: str) -> list[str]:
    return [doubt.check for doubt in judge(EXPECTED, found, TYPES | types, baseline)]


def test_what_is_as_expected_is_believed() -> None:
    assert checks(GOOD) == []
    assert checks(GOOD, None) == []


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"record_count": 99, "unmapped_count": 0, "nulls": {}}, "records"),
        ({"record_count": 5_000}, "records"),
        ({"unmapped_count": 57}, "unmapped"),
        ({"nulls": {"loeuf": 251}}, "nulls of loeuf"),
        ({"absent": {"HGNC:9008"}}, "sentinels"),
        ({"counts": {"rows": 900}}, "rows"),
        ({"counts": {"rows": 90_000}}, "rows"),
        ({"counts": {}}, "rows"),
        ({"doubts": [Doubt("assembly", "GRCh37", "GRCh38")]}, "assembly"),
    ],
)
def test_what_is_outside_what_its_source_declares_is_doubted(
    change: Mapping[str, Any], check: str
) -> None:
    assert checks(replace(GOOD, **change), None) == [check]


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"record_count": 449, "nulls": {}, "unmapped_count": 0}, "records"),
        ({"columns": {"t": ["a", "b", "c"]}}, "columns"),
        ({"columns": {"t": ["a"]}}, "columns"),
        ({"columns": {}}, "columns"),
        ({"counts": {"rows": 8_099}}, "rows"),
        ({"counts": {"rows": 18_001}}, "rows"),
    ],
)
def test_what_is_unlike_the_release_before_it_is_doubted(
    change: Mapping[str, Any], check: str
) -> None:
    assert checks(replace(GOOD, **change)) == [check]
    assert checks(replace(GOOD, **change), None) == []


def test_another_media_type_is_doubted_and_none_is_not() -> None:
    assert checks(GOOD, t="application/json") == ["media type"]
    assert [d.check for d in judge(EXPECTED, GOOD, {}, BEFORE)] == []


def test_churn_counts_only_where_values_can_be_compared() -> None:
    assert checks(GOOD, replace(BEFORE, churn_count=101)) == ["churn"]
    other = replace(BEFORE, churn_count=500, record_count=900, is_comparable=False)
    assert checks(GOOD, other) == []


def test_a_doubt_says_what_was_found_and_what_would_be_accepted() -> None:
    (doubt,) = judge(EXPECTED, replace(GOOD, unmapped_count=110), TYPES, None)
    assert doubt == Doubt("unmapped", "110 of 610, 18.0%", "at most 10.0%")


@pytest.mark.parametrize("rows", [90, 900_000])
def test_what_is_made_up_is_compared_with_nothing_but_the_made_up_one_before_it(rows: int) -> None:
    found = replace(GOOD, counts={"rows": rows})
    assert judge(EXPECTED, found, TYPES, None, is_synthetic=True) == []
    (doubt,) = judge(EXPECTED, found, TYPES, BEFORE, is_synthetic=True)
    accepted = "8100 to 18000: nine tenths of those before to twice as many"
    assert doubt == Doubt("rows", str(rows), accepted)


def test_counts_of_what_cannot_be_compared_are_not() -> None:
    other = replace(BEFORE, counts={"rows": 49_000}, is_comparable=False)
    assert checks(GOOD, other) == []
