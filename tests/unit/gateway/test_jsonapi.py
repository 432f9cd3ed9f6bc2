"""Query parameters: what is accepted, and that everything else is refused by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from services.gateway import jsonapi
from services.gateway.errors import ParameterInvalid, ParameterUnknown

LIST = jsonapi.Allowed(
    paged=True,
    keyset=True,
    filters=("symbol",),
    sorts=("hgnc_id", "symbol"),
    resource="genes",
    fields=("symbol", "name"),
)


def parse(text: str) -> jsonapi.Query:
    return LIST.parse(QueryParams(text))


def test_without_parameters_the_defaults_hold() -> None:
    query = parse("")
    assert (query.number, query.size, query.sort, query.fields) == (1, 20, "hgnc_id", None)


def test_everything_together() -> None:
    query = parse(
        "page[number]=3&page[size]=50&filter[symbol]=A,%20B&sort=symbol&fields[genes]=name"
    )
    assert query.offset == 100
    assert query.filters == {"symbol": ["A", "B"]}
    assert (query.sort, query.fields) == ("symbol", ["name"])


def test_an_unknown_parameter_is_named_with_those_there_are() -> None:
    with pytest.raises(ParameterUnknown) as refused:
        parse("filter[pli]=1&page[offset]=2")
    assert "filter[pli], page[offset]" in str(refused.value)
    assert "fields[genes]" in str(refused.value)


@given(
    number=st.integers(0, 2**31 - 1),
    symbol=st.text(st.characters(codec="utf-8", exclude_characters="\0")),
)
def test_a_cursor_is_read_back(number: int, symbol: str) -> None:
    cursor = jsonapi.cursor("symbol", number, symbol[:20])
    query = LIST.parse(QueryParams({"sort": "symbol", "page[after]": cursor}))
    assert query.after == (number, symbol[:20])


@given(st.text(max_size=600))
def test_any_text_as_a_cursor_is_refused_and_breaks_nothing(text: str) -> None:
    with pytest.raises(ParameterInvalid) as refused:
        LIST.parse(QueryParams({"page[after]": text}))
    assert "page[after]" in str(refused.value)


@given(st.lists(st.tuples(st.sampled_from(LIST.names), st.text(max_size=20)), max_size=4))
def test_any_value_is_read_or_refused(pairs: list[tuple[str, str]]) -> None:
    try:
        query = LIST.parse(QueryParams(pairs))
    except ParameterInvalid:
        return
    assert 1 <= query.size <= jsonapi.PAGE_SIZE_MAX
    assert 0 <= query.offset < jsonapi.OFFSET_MAX


def test_thousands_of_unknown_parameters_get_a_short_answer() -> None:
    with pytest.raises(ParameterUnknown) as refused:
        parse("&".join(f"{'x' * 5_000}{number}=1" for number in range(1_000)))
    assert len(refused.value.errors) == jsonapi.UNKNOWN_PARAMETERS_MAX
    assert "and 990 more is not known" in str(refused.value)
    assert len(str(refused.value.errors)) < 5_000
