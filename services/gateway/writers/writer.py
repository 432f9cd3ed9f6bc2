"""What writes a file of genes. It is given rows as they come."""

from collections.abc import Sequence
from typing import Any, Protocol

Row = Sequence[Any]
Facts = Sequence[tuple[str, str]]  # What is to be told of an export: a name and a text.


class Writer(Protocol):
    def begin(self, facts: Facts) -> None: ...

    def write(self, rows: Sequence[Row]) -> None: ...

    def end(self, facts: Facts) -> None:
        """`facts` are those that are known only now: how many rows, and their hash."""
