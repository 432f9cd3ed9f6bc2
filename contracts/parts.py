"""Parts of a namespace: what an entry of the cache depends on, and what is forgotten of it."""

import re
from dataclasses import dataclass
from typing import Self

PART_CHARACTERS_MAX = 300
KEY_CHARACTERS_MAX = 250
ACCEPTED = "key=…, gene=HGNC:9008, source=gnomad or gene=HGNC:9008 source=gnomad"

_WRITTEN = re.compile(
    r"key=(?P<key>[^\x00]+)"
    r"|gene=(?P<gene>HGNC:[0-9]{1,9})(?: source=(?P<of>[a-z][a-z0-9_]*))?"
    r"|source=(?P<source>[a-z][a-z0-9_]*)"
)


@dataclass(frozen=True)
class Part:
    """One entry by its key, or a gene of all sources, a source of all genes, a gene of a source.
    With none of them: all genes of all sources, which an entry may depend on."""

    key: str | None = None
    gene: str | None = None
    source: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError for what is written otherwise."""
        found = _WRITTEN.fullmatch(text)
        if found is None or len(text) > PART_CHARACTERS_MAX:
            raise ValueError(f"{text[:PART_CHARACTERS_MAX]!r} is no part; accepted: {ACCEPTED}")
        return cls(key=found["key"], gene=found["gene"], source=found["source"] or found["of"])

    def __str__(self) -> str:
        if self.key is not None:
            return f"key={self.key}"
        named = (("gene", self.gene), ("source", self.source))
        return " ".join(f"{name}={value}" for name, value in named if value is not None)

    # A part that is forgotten concerns an entry when the genes and sources of both overlap. So that
    # this is found by comparing texts, each is written in several: `*` stands for some.

    def depends_on(self) -> tuple[str, ...]:
        """What an entry writes down that was made from this part."""
        if self.key is not None:
            return (str(self),)
        gene, source = self.gene or "*", self.source or "*"
        return (f"gene={gene} source={source}", f"gene={gene}", f"source={source}")

    def forgets(self) -> tuple[str, ...]:
        """What is written down when this part is forgotten: whoever wrote one of these when it was
        made is not valid any more."""
        if self.key is not None:
            return (str(self),)
        if self.gene is not None and self.source is not None:
            pairs = ((gene, source) for gene in (self.gene, "*") for source in (self.source, "*"))
            return tuple(f"gene={gene} source={source}" for gene, source in pairs)
        name, value = ("source", self.source) if self.gene is None else ("gene", self.gene)
        return (f"{name}={value}", f"{name}=*")


def checked(text: str) -> str:
    """The text, if it is a part; raises ValueError."""
    Part.parse(text)
    return text
