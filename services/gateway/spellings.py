"""What spreadsheets and scripts make of gene symbols, and the symbols it may have been."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

Damage = Literal["spreadsheet_date", "dots_for_hyphens"]

# For each month the words that spreadsheets write (English, German, French), and what symbols
# begin with that they take for it: MARCH2 and MARC2 both become 2-Mar.
_MONTHS: Final = (
    ("jan january januar janv janvier", "jan"),
    ("feb february februar févr février", "feb"),
    ("mar march mrz mär märz mars", "mar marc march"),
    ("apr april avr avril", "apr"),
    ("may mai", "may"),
    ("jun june juni juin", "jun"),
    ("jul july juli juil juillet", "jul"),
    ("aug august août", "aug"),
    ("sep sept september septembre", "sep sept"),
    ("oct october okt oktober octobre", "oct"),
    ("nov november novembre", "nov"),
    ("dec december dez dezember déc décembre", "dec"),
)
_MONTH_OF: Final = {
    word: month for month, (words, _) in enumerate(_MONTHS, start=1) for word in words.split()
}
_WORD: Final = f"(?P<word>{'|'.join(sorted(_MONTH_OF, key=len, reverse=True))})"
_NUMBER: Final = "(?P<number>[0-9]{1,2})"
_YEAR: Final = "(?P<year>[0-9]{4}|[0-9]{2})"

# Of folded text: 2-mar, 02.mrz, 2-mar-02 · mar-02, mar 2002 · 2002-03-02 · 3/2/2002, 02.03.02.
_DAY_AND_WORD: Final = re.compile(rf"{_NUMBER}(?:\. ?|[-/ ]){_WORD}\.?(?:[-/. ]{{1,2}}{_YEAR})?")
_WORD_AND_NUMBER: Final = re.compile(rf"{_WORD}[-/. ]{{1,2}}(?P<number>[0-9]{{4}}|[0-9]{{1,2}})")
_ISO: Final = re.compile(
    r"(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<number>[0-9]{2})"
    r"(?:[t ]00:00(?::00(?:\.0+)?)?z?)?"
)
_DIGITS: Final = re.compile(
    rf"(?P<month>[0-9]{{1,2}})(?P<between>[-/.]){_NUMBER}(?P=between){_YEAR}"
)


@dataclass(frozen=True)
class Damaged:
    """A name that a program has changed; `names` are folded ones that it may have been."""

    damage: Damage
    names: tuple[str, ...]


def damaged(folded: str) -> Damaged | None:
    """None for a name that looks as people write it. Nothing here says that a gene is meant."""
    readings = dict.fromkeys(_readings(folded))
    if readings:
        names = [
            name
            for month, number in readings
            for stem in _MONTHS[month - 1][1].split()
            for name in (f"{stem}{number}", f"{stem}-{number}")
        ]
        return Damaged("spreadsheet_date", tuple(names))
    if "." in folded:
        return Damaged("dots_for_hyphens", (folded.replace(".", "-"),))
    return None


def _readings(folded: str) -> Iterator[tuple[int, int]]:
    """The month and number that a date may have been made of, none for what is no date.

    A symbol's number becomes the day, or the year when it cannot be one: then the day is 1.
    """
    if found := _DAY_AND_WORD.fullmatch(folded):
        yield from _as_day(_MONTH_OF[found["word"]], int(found["number"]))
    elif found := _WORD_AND_NUMBER.fullmatch(folded):
        yield _MONTH_OF[found["word"]], int(found["number"]) % 100
    elif found := _ISO.fullmatch(folded):
        yield from _as_day(int(found["month"]), int(found["number"]), int(found["year"]))
    elif found := _DIGITS.fullmatch(folded):
        first, second, year = int(found["month"]), int(found["number"]), int(found["year"])
        yield from _as_day(first, second, year)
        yield from _as_day(second, first, year)


def _as_day(month: int, day: int, year: int | None = None) -> Iterator[tuple[int, int]]:
    if 1 <= month <= len(_MONTHS) and 1 <= day <= 31:
        yield month, day
        if day == 1 and year is not None:
            yield month, year % 100
