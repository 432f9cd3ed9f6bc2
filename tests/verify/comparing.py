"""Two sets of values, leaf by leaf: what is the same, and each difference."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.verify.reading import Value

ABSENT = "(absent)"


@dataclass(frozen=True)
class Difference:
    """`theirs` is what the independent reading says."""

    hgnc_id: str
    field: str
    ours: Any
    theirs: Any


@dataclass
class Tally:
    compared: int = 0
    differences: list[Difference] = field(default_factory=list)

    @property
    def equal(self) -> int:
        return self.compared - len(self.differences)


@dataclass
class Checked:
    """What was compared of some files, and how it came about.

    `synthetic` is of files that were made up because the folder has none: not verified against it.
    """

    source: str
    label: str
    tally: Tally
    synthetic: Tally = field(default_factory=Tally)
    genes: int = 0
    reasons: Counter[str] = field(default_factory=Counter)  # Unmapped rows.
    valueless: Mapping[str, int] = field(default_factory=dict)
    problems: Sequence[str] = ()

    @property
    def differences(self) -> list[Difference]:
        return [*self.tally.differences, *self.synthetic.differences]


def compare(
    ours: Mapping[str, Value], theirs: Mapping[str, Value], real: str | None = None
) -> tuple[Tally, Tally]:
    """All leaves of both; with `real`, those of that field and, apart from them, of all others."""
    counted, apart = Tally(), Tally()
    for hgnc_id in sorted(ours.keys() | theirs.keys()):
        mine = dict(flatten(ours.get(hgnc_id, {})))
        other = dict(flatten(theirs.get(hgnc_id, {})))
        for name in sorted(mine.keys() | other.keys()):
            is_real = real is None or name == real or name.startswith(f"{real}.")
            tally = counted if is_real else apart
            tally.compared += 1
            one, another = mine.get(name, ABSENT), other.get(name, ABSENT)
            if not same(one, another):
                tally.differences.append(Difference(hgnc_id, name, one, another))
    return counted, apart


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Each leaf with its path; a list or an object without anything in it is one, too."""
    if isinstance(value, dict) and (value or name):
        parts = [(str(key), one) for key, one in value.items()]
    elif isinstance(value, list):
        parts = [(str(place), one) for place, one in enumerate(value)]
    else:
        parts = []
    if not parts and name:
        yield name, value
    for part, one in parts:
        yield from flatten(one, f"{name}.{part}" if name else part)


def same(one: Any, another: Any) -> bool:
    """True is not 1, though Python says so; 1.0 is, because JSON has one kind of number."""
    return isinstance(one, bool) == isinstance(another, bool) and bool(one == another)
