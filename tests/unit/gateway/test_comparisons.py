"""What fields are compared with: the values that each kind takes, and what is refused."""

from datetime import date
from typing import Any

import pytest
from starlette.datastructures import QueryParams

from contracts.views import SummaryKind
from services.gateway.comparisons import Condition
from services.gateway.errors import ParameterInvalid, ParameterUnknown
from services.gateway.jsonapi import Allowed, cursor

KINDS: dict[str, SummaryKind] = {
    "gnomad.loeuf": "number",
    "hpo.term_count": "integer",
    "gnomad.is_constrained": "boolean",
    "clinvar.last_evaluated_max": "date",
    "clingen.strongest": "text",
    "hpo.diseases": "texts",
}
ALLOWED = Allowed(keyset=True, filters=("symbol",), compared=KINDS, sorts=("hgnc_id",))

FIT: list[tuple[str, str, str, str, list[Any]]] = [
    ("filter[gnomad.loeuf][lt]", "0.6", "gnomad.loeuf", "lt", [0.6]),
    ("filter[gnomad.loeuf]", "1e-5", "gnomad.loeuf", "eq", [1e-5]),
    ("filter[hpo.term_count][gte]", "-3", "hpo.term_count", "gte", [-3]),
    ("filter[gnomad.is_constrained]", "true", "gnomad.is_constrained", "eq", [True]),
    ("filter[gnomad.loeuf][known]", "false", "gnomad.loeuf", "known", [False]),
    *[
        (
            f"filter[clinvar.last_evaluated_max]{operator}",
            "2026-06-01",
            "clinvar.last_evaluated_max",
            name,
            [date(2026, 6, 1)],
        )
        for operator, name in (("[gt]", "gt"), ("", "eq"))
    ],
    (
        "filter[clingen.strongest]",
        "Definitive, Strong",
        "clingen.strongest",
        "eq",
        ["Definitive", "Strong"],
    ),
    ("filter[hpo.diseases][all]", "OMIM:1,OMIM:2", "hpo.diseases", "all", ["OMIM:1", "OMIM:2"]),
]

UNFIT = [
    ("filter[gnomad.loeuf][lt]", "nan", "a number"),
    ("filter[gnomad.loeuf][lt]", "1e999", "a number"),
    ("filter[gnomad.loeuf][lt]", "0.1,0.2", "one value"),
    ("filter[gnomad.loeuf][like]", "0.1", "filter[gnomad.loeuf][gte]"),
    ("filter[gnomad.loeuf]", "", "1 to 200"),
    ("filter[hpo.term_count]", "1.5", "a whole number"),
    ("filter[hpo.term_count]", "9223372036854775808", "9223372036854775807"),
    ("filter[hpo.term_count]", "٣", "a whole number"),
    ("filter[gnomad.is_constrained]", "yes", "true or false"),
    ("filter[gnomad.is_constrained][lt]", "true", "filter[gnomad.is_constrained][known]"),
    ("filter[clinvar.last_evaluated_max]", "June", "a day"),
    ("filter[clingen.strongest][lt]", "a", "filter[clingen.strongest][ne]"),
    ("filter[clingen.strongest]", "a\x00", "NUL"),
    ("sort", "hpo.diseases", "-gnomad.loeuf"),
    ("sort", "gnomad", "gnomad.loeuf"),
]


@pytest.mark.parametrize(("parameter", "value", "field", "operator", "values"), FIT)
def test_a_condition_has_values_of_its_kind(
    parameter: str, value: str, field: str, operator: str, values: list[Any]
) -> None:
    query = ALLOWED.parse(QueryParams([(parameter, value)]))
    assert query.conditions == [Condition(field, KINDS[field], operator, values)]


@pytest.mark.parametrize(("parameter", "value", "accepted"), UNFIT)
def test_what_does_not_fit_is_refused_with_what_would(
    parameter: str, value: str, accepted: str
) -> None:
    with pytest.raises(ParameterInvalid, match="does not fit") as refused:
        ALLOWED.parse(QueryParams([(parameter, value)]))
    assert parameter in str(refused.value)
    assert accepted in str(refused.value)


@pytest.mark.parametrize(
    "parameter", ["filter[gnomad.pli]", "filter[gnomad.loeuf][lt][x]", "filter[]"]
)
def test_a_field_that_nobody_declared_is_refused_by_name(parameter: str) -> None:
    with pytest.raises(ParameterUnknown) as refused:
        ALLOWED.parse(QueryParams([(parameter, "1")]))
    assert parameter in str(refused.value)
    assert "filter[gnomad.loeuf]" in str(refused.value)


@pytest.mark.parametrize(
    ("sort", "place"),
    [
        ("gnomad.loeuf", 0.35),
        ("-gnomad.loeuf", None),
        ("hpo.term_count", 3),
        ("gnomad.is_constrained", True),
        ("clinvar.last_evaluated_max", date(2026, 6, 1)),
        ("clingen.strongest", "Definitive"),
        ("hgnc_id", None),
    ],
)
def test_a_cursor_comes_back_as_it_was_made(sort: str, place: Any) -> None:
    given = {"sort": sort, "page[after]": cursor(sort, 9008, place)}
    assert ALLOWED.parse(QueryParams(given)).after == (9008, place)


@pytest.mark.parametrize(
    ("sort", "made"),
    [
        ("gnomad.loeuf", cursor("gnomad.loeuf", 1, "0.35")),
        ("gnomad.loeuf", cursor("-gnomad.loeuf", 1, 0.35)),
        ("hpo.term_count", cursor("hpo.term_count", 1, True)),
        ("hpo.term_count", cursor("hpo.term_count", 1, 2**64 - 1)),
        ("clinvar.last_evaluated_max", cursor("clinvar.last_evaluated_max", 1, "June")),
        ("clingen.strongest", cursor("clingen.strongest", 1, "a\x00")),
        ("hgnc_id", cursor("hgnc_id", -1, None)),
        ("hgnc_id", "bm8"),
    ],
)
def test_a_cursor_of_another_list_is_refused(sort: str, made: str) -> None:
    with pytest.raises(ParameterInvalid, match=r"links\.next"):
        ALLOWED.parse(QueryParams({"sort": sort, "page[after]": made}))
