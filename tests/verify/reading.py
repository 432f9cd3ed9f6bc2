"""What the independent readings share: lines of a file, our genes, and who is which of them.

Nothing here comes from the sources: a mistake of theirs must not be made twice.
"""

import codecs
import gzip
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Value = dict[str, Any]  # As JSON has it.


@dataclass
class Reading:
    """What files say: a value for each gene, by HGNC id, and how many of their rows are of none."""

    values: dict[str, Value] = field(default_factory=dict)
    unmapped: Counter[str] = field(default_factory=Counter)  # Rows, by reason.
    valueless: Counter[str] = field(default_factory=Counter)  # Genes of ours of which it says none.


def read_lines(path: Path) -> Iterator[str]:
    """The lines without their ends, unpacked where they are packed."""
    with path.open("rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if is_packed else path.open("rb") as content:
        for number, line in enumerate(content):
            whole = line.removeprefix(codecs.BOM_UTF8) if number == 0 else line
            yield whole.decode().rstrip("\r\n")


def read_rows(lines: Iterator[str], header: str) -> Iterator[dict[str, str]]:
    """Each line that is not empty, by the names of a header that is separated by tabs."""
    names = [name.strip() for name in header.split("\t")]
    for line in lines:
        if line.strip():
            yield dict(zip(names, (cell.strip() for cell in line.split("\t")), strict=True))


@dataclass(frozen=True)
class Claim:
    """The names by which an upstream says which gene it means; `bearer` is whom it speaks of."""

    bearer: str
    symbols: frozenset[str]
    hgnc_id: str = ""
    entrez_id: str = ""
    ensembl_gene_id: str = ""


@dataclass(frozen=True)
class Match:
    hgnc_id: str
    by: str


@dataclass
class Genes:
    """The approved genes of HGNC."""

    symbols: dict[str, str] = field(default_factory=dict)  # By HGNC id.
    by_symbol: dict[str, str] = field(default_factory=dict)
    by_entrez_id: dict[str, list[str]] = field(default_factory=dict)
    by_ensembl_gene_id: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping[str, Value]) -> "Genes":
        genes = cls()
        for hgnc_id, value in values.items():
            if value["status"] != "approved":
                continue
            genes.symbols[hgnc_id] = value["symbol"]
            genes.by_symbol[value["symbol"]] = hgnc_id
            for index, id_ in (
                (genes.by_entrez_id, value["entrez_id"]),
                (genes.by_ensembl_gene_id, value["ensembl_gene_id"]),
            ):
                if id_ is not None:
                    index.setdefault(id_, []).append(hgnc_id)
        return genes

    def match(self, claims: Sequence[Claim]) -> list[Match | None]:
        """For each claim our gene: by an id, where several have it by the symbol besides; by an
        approved symbol only where no id is known, nobody else claims it, and none has it by id."""
        found: list[Match | None] = []
        nameless: defaultdict[str, set[str]] = defaultdict(set)  # Bearers, by the gene they claim.
        claimed: dict[int, str] = {}
        for place, claim in enumerate(claims):
            ours = self._by_id(claim)
            found.append(ours if isinstance(ours, Match) else None)
            named = {self.by_symbol[one] for one in claim.symbols if one in self.by_symbol}
            if ours == "unknown":
                for one in named:
                    nameless[one].add(claim.bearer)
                if len(named) == 1:
                    (claimed[place],) = named
        taken = {one.hgnc_id for one in found if one is not None}
        for place, hgnc_id in claimed.items():
            if hgnc_id not in taken and len(nameless[hgnc_id]) == 1:
                found[place] = Match(hgnc_id, "symbol")
        return found

    def _by_id(self, claim: Claim) -> Match | str:
        if claim.hgnc_id in self.symbols:
            return Match(claim.hgnc_id, "hgnc_id")
        for kind, bearers in (
            ("entrez_id", self.by_entrez_id.get(claim.entrez_id, [])),
            ("ensembl_gene_id", self.by_ensembl_gene_id.get(claim.ensembl_gene_id, [])),
        ):
            named = [one for one in bearers if self.symbols[one] in claim.symbols]
            for only in (bearers, named):
                if len(only) == 1:
                    return Match(only[0], kind)
            if bearers:
                return "ambiguous"
        return "unknown"
