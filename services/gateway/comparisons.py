"""How fields of genes are compared: `filter[gnomad.loeuf][lt]=0.6`. What a field is decides by what
operators, and what values they take."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from math import isfinite
from typing import Any, Final

from contracts.views import SummaryKind

EQUAL: Final = "eq"  # What is meant without an operator: any of the values.
KNOWN: Final = "known"
_ORDERED = (EQUAL, "ne", "lt", "lte", "gt", "gte", KNOWN)
OPERATORS: Mapping[SummaryKind, Sequence[str]] = {
    "number": _ORDERED,
    "integer": _ORDERED,
    "date": _ORDERED,
    "text": (EQUAL, "ne", KNOWN),
    "texts": (EQUAL, "ne", "all", KNOWN),
    "boolean": (EQUAL, KNOWN),
}
SORTED: Final = frozenset[SummaryKind]({"number", "integer", "date", "text", "boolean"})
INTEGER_MAX: Final = 2**63 - 1
_SIGNS = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
SINGLE: Final = frozenset(_SIGNS)  # Those that take one value alone.
_IS_KNOWN = "({column} IS NOT NULL) = ANY({given})"
_OF_VALUES = {
    EQUAL: "{column} = ANY({given})",
    "ne": "{column} <> ALL({given})",
    **{name: f"{{column}} {sign} ({{given}})[1]" for name, sign in _SIGNS.items()},
    KNOWN: _IS_KNOWN,
}
_OF_LISTS = {
    EQUAL: "{column} && {given}",
    "ne": "NOT {column} && {given}",
    "all": "{column} @> {given}",
    KNOWN: _IS_KNOWN,
}
_TYPES: Mapping[SummaryKind, str] = {
    "number": "double precision",
    "integer": "bigint",
    "date": "date",
    "text": "text",
    "texts": "text",
    "boolean": "boolean",
}


@dataclass(frozen=True)
class Condition:
    field: str
    kind: SummaryKind
    operator: str
    values: Sequence[Any]

    def sql(self, column: str, parameter: str) -> str:
        """A gene of which the field is not known meets no condition but `known`."""
        kind = "boolean" if self.operator == KNOWN else _TYPES[self.kind]
        conditions = _OF_LISTS if self.kind == "texts" else _OF_VALUES
        given = f"CAST(:{parameter} AS {kind}[])"
        return conditions[self.operator].format(column=column, given=given)


class Unfit(ValueError):
    """A value that a field cannot have; its text is what would be accepted."""


def parse(field: str, kind: SummaryKind, operator: str, given: Sequence[str]) -> Condition:
    """Raises Unfit."""
    if operator == KNOWN:
        return Condition(field, kind, operator, [_boolean(one) for one in given])
    if operator in _SIGNS and len(given) != 1:
        raise Unfit("one value")
    return Condition(field, kind, operator, [_VALUES[kind](one) for one in given])


def place(kind: SummaryKind, value: object) -> Any:  # noqa: ANN401
    """The value of a field in a cursor, which is JSON. Raises Unfit for one that it cannot be."""
    if value is None:
        return None
    if kind == "date" and isinstance(value, str):
        return _date(value)
    types: Mapping[SummaryKind, tuple[type, ...]] = {
        "number": (float, int),
        "integer": (int,),
        "text": (str,),
        "boolean": (bool,),
    }
    if type(value) not in types.get(kind, ()) or "\x00" in str(value):
        raise Unfit(f"a value of kind {kind}")
    if isinstance(value, int) and abs(value) > INTEGER_MAX:
        raise Unfit(f"a whole number up to {INTEGER_MAX}")
    return value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise Unfit("a number, as 0.6 or 1e-5")
    return value


def _integer(text: str) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        raise Unfit("a whole number")
    value = int(text)
    if abs(value) > INTEGER_MAX:
        raise Unfit(f"a whole number up to {INTEGER_MAX}")
    return value


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise Unfit("true or false")
    return text == "true"


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise Unfit("a day, as 2026-06-01") from None


_VALUES: Mapping[SummaryKind, Callable[[str], Any]] = {
    "number": _number,
    "integer": _integer,
    "boolean": _boolean,
    "date": _date,
    "text": str,
    "texts": str,
}
