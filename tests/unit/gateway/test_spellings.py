"""What spreadsheets and scripts make of symbols is recognised, and what people write is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.spellings import damaged

DATES = [
    ("2-mar", {"march2", "marc2", "mar2", "mar-2"}),
    ("mar-02", {"march2", "marc2", "mar2"}),
    ("02.mrz", {"march2", "marc2"}),
    ("2. mär", {"march2"}),
    ("2-mar-18", {"march2"}),
    ("mar 2002", {"march2"}),
    ("1-sep", {"sept1", "sep1"}),
    ("1-sept", {"sept1"}),
    ("2002-09-01", {"sept1", "sept2"}),  # The first of September, or September 2002.
    ("2002-09-01 00:00:00", {"sept1", "sept2"}),
    ("2-dec", {"dec2"}),
    ("4. okt", {"oct4", "oct-4"}),
    ("3/2/2002", {"march2", "feb3"}),  # As Americans write dates, and as others do.
    ("02.03.2002", {"march2", "feb3"}),
]
NAMES = ["pkd1", "march2", "c1orf127", "14-3-3", "2-19", "7-60", "dec-205", "32-mar", "marchf2"]


@pytest.mark.parametrize(("date", "meant"), DATES)
def test_a_date_may_have_been_several_symbols(date: str, meant: set[str]) -> None:
    found = damaged(date)
    assert found is not None
    assert found.damage == "spreadsheet_date"
    assert meant <= set(found.names)


def test_a_date_that_cannot_be_another_month_s_is_not_read_as_one() -> None:
    found = damaged("2002-09-15")
    assert found is not None
    assert set(found.names) == {"sep15", "sep-15", "sept15", "sept-15"}


@pytest.mark.parametrize("name", NAMES)
def test_what_people_write_is_no_date(name: str) -> None:
    assert damaged(name) is None


def test_dots_may_have_been_hyphens() -> None:
    found = damaged("hla.drb1")
    assert found is not None
    assert (found.damage, found.names) == ("dots_for_hyphens", ("hla-drb1",))


@given(st.text(max_size=100))
def test_any_text_can_be_looked_at(text: str) -> None:
    found = damaged(text.strip().lower())
    assert found is None or found.names
