"""Counting reads: what was told is not told twice, and what could not be told is told later."""

from services.gateway.tally import Tally


def test_what_was_counted_is_told_once() -> None:
    tally = Tally()
    tally.note("lists", "hit")
    tally.note("lists", "hit")
    assert tally.take_unsent() == {("lists", "hit"): 2}
    assert not tally.take_unsent()
    tally.note("lists", "miss")
    unsent = tally.take_unsent()
    tally.note("lists", "hit")
    tally.put_back(unsent)
    assert tally.take_unsent() == {("lists", "hit"): 1, ("lists", "miss"): 1}
    assert tally.counts == {("lists", "hit"): 3, ("lists", "miss"): 1}
