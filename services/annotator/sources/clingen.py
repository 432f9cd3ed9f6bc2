"""ClinGen: how well it is established that a gene causes a disease, as expert panels say."""

import csv
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from io import TextIOWrapper
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic import ValidationError as Malformed

from services.annotator.domain import (
    SUMMARY,
    Catalogue,
    Columns,
    Declaration,
    Doubt,
    Entry,
    Expected,
    Record,
    RemoteFile,
    StoredFile,
    Unmapped,
    severity,
)
from services.annotator.errors import SchemaChanged

FILE: Final = "gene-validity.csv"
FILE_BYTES_MAX: Final = 64 * 1024 * 1024  # It has 0.9 MB.

SYMBOL: Final = "GENE SYMBOL"  # Begins the header; whatever stands above it is a banner.
HGNC_ID: Final = "GENE ID (HGNC)"
CLASSIFICATION: Final = "CLASSIFICATION"
BANNER: Final = "+"
# A line of the banner: the day on which somebody asked.
MADE: Final = re.compile(rb'"?FILE CREATED: \d{4}-\d{2}-\d{2}"?(,"?"?)*')
# For each field of an assertion, its column.
COLUMNS: Final[Mapping[str, str]] = {
    "disease": "DISEASE LABEL",
    "mondo_id": "DISEASE ID (MONDO)",
    "moi": "MOI",
    "sop": "SOP",
    "classification_said": CLASSIFICATION,
    "report_url": "ONLINE REPORT",
    "date": "CLASSIFICATION DATE",
    "gcep": "GCEP",
}
ASSERTION: Final = re.compile(r"CGG[A-Z]*:assertion_[\w.:-]+$")
WORDS_MAX: Final = 5  # Unknown ones that are named in a doubt.
REPEATED: Final = "every cell of the row is as in a row before it, which counts"

Classification = Literal[
    "definitive",
    "strong",
    "moderate",
    "limited",
    "no_known_disease_relationship",
    "disputed",
    "refuted",
    "unknown",
]
# What ClinGen calls its classes, and called them earlier. Whoever changes it raises its version.
CLASSES_VERSION: Final = 1
CLASSES: Final[Mapping[str, Classification]] = {
    "definitive": "definitive",
    "strong": "strong",
    "moderate": "moderate",
    "limited": "limited",
    "no known disease relationship": "no_known_disease_relationship",
    "no reported evidence": "no_known_disease_relationship",
    "disputed": "disputed",
    "refuted": "refuted",
}
# Those that support that the gene causes the disease, the strongest first. The others never do.
SUPPORTING: Final[Sequence[Classification]] = ("definitive", "strong", "moderate", "limited")

# It ends in the time of day, with or without a zone.
Day = Annotated[date, BeforeValidator(lambda said: said[:10])]
Text = Annotated[str, StringConstraints(min_length=1)]


class Assertion(BaseModel):
    """What one panel says, on one day, of a gene, a disease and a mode of inheritance."""

    model_config = ConfigDict(frozen=True)

    id: str | None = Field(description="ClinGen's, from the address; null when it has none")
    disease: Text = Field(description="its label [DISEASE LABEL]")
    mondo_id: Annotated[str, StringConstraints(pattern=r"^MONDO:\d+$")]
    moi: Text | None = Field(description="mode of inheritance: AD, AR, XL, SD, MT or UD")
    classification: Classification = Field(
        description="harmonised; unknown: ClinGen's word is not in the table of classes"
    )
    classification_said: Text = Field(description="as ClinGen writes it [CLASSIFICATION]")
    sop: Text | None = Field(description="the procedure that was followed, such as SOP10")
    gcep: Text = Field(description="gene curation expert panel")
    date: Day = Field(description="of the classification")
    report_url: Text


class ClingenGene(BaseModel):
    """All assertions on a gene. No value speaks for a gene without its disease and inheritance."""

    model_config = ConfigDict(frozen=True)

    symbol: str = Field(description="ClinGen's, of its newest assertion")
    matched_by: Literal["hgnc_id", "symbol"] = Field(
        description="symbol: HGNC has no such id, but a gene with this approved symbol"
    )
    strongest: Classification | None = Field(
        description="of those that support a disease; null: none of them does",
        json_schema_extra=severity("clinical") | SUMMARY,
    )
    counts_by_classification: dict[Classification, int] = Field(
        description="assertions; of those classes that there are",
        json_schema_extra=severity("clinical"),
    )
    assertion_count: int = Field(json_schema_extra=severity("none") | SUMMARY)
    assertions: list[Assertion] = Field(
        description="by disease, inheritance, panel and day", json_schema_extra=severity("major")
    )
    classes_version: int = Field(
        description="of the table that harmonises classifications",
        json_schema_extra=severity("none"),
    )


class Clingen:
    declaration = Declaration(
        name="clingen",
        title="ClinGen: gene-disease validity",
        base_url="https://search.clinicalgenome.org/kb",
        homepage="https://clinicalgenome.org",
        licence="CC0",
        citation=(
            "Clinical Genome Resource (ClinGen), search.clinicalgenome.org;"
            " Rehm et al. 2015, doi:10.1056/NEJMsr1406261"
        ),
        wire_format="gene-disease validity CSV as of 2025",
        identifier="hgnc_id",
        joins=("hgnc_id", "symbol"),
        value=ClingenGene,
        ttl=timedelta(days=7),  # Panels publish on any day.
        parser_version=1,
        requests_per_second=0.5,
        expected=Expected(
            records=(1_000, 10_000),  # 2,426 in January 2025, some 400 more each year.
            unmapped_share_max=0.02,  # Its ids are HGNC's own.
            nulls_share_max={"strongest": 0.3},  # 6 % of the genes are only disputed or refuted.
            sentinels=("HGNC:9008", "HGNC:1100", "HGNC:11998"),  # PKD1, BRCA1, TP53.
        ),
    )
    files: tuple[RemoteFile, ...] = (
        RemoteFile(FILE, "gene-validity/download", FILE_BYTES_MAX, varying=MADE),
    )

    def version(self, files: Mapping[str, StoredFile]) -> str:
        """A hash of what is said: the file's own date is the moment at which it was asked for."""
        _, rows = _read_table(files[FILE])
        said = sorted("\x1f".join(cells.values()) for _, cells in rows)
        return hashlib.sha256("\x1e".join(said).encode()).hexdigest()[:12]

    def read(self, files: Mapping[str, StoredFile], catalogue: Catalogue) -> Iterator[Entry]:
        """A record for each gene, and every row that is in none of them."""
        header, rows = _read_table(files[FILE])
        yield Columns(FILE, header)
        genes: defaultdict[tuple[str, str], _Gene] = defaultdict(_Gene)
        seen: set[tuple[str, ...]] = set()
        unknown: Counter[str] = Counter()
        for line, cells in rows:
            symbol, hgnc_id = cells[SYMBOL], cells[HGNC_ID]
            if (content := tuple(cells.values())) in seen:
                yield Unmapped(hgnc_id or symbol, REPEATED)
                continue
            seen.add(content)
            try:
                assertion = _assertion(cells)
            except Malformed as error:
                yield Unmapped(hgnc_id or symbol, f"{FILE}, line {line}: {_what_is_wrong(error)}")
                continue
            if assertion.classification == "unknown":
                unknown[assertion.classification_said] += 1
            # A gene is its id; without one its symbol has to do.
            genes[hgnc_id, "" if hgnc_id else symbol].add(line, symbol, assertion)
        if unknown:
            words = ", ".join(f"{word!r:.40}" for word, _ in unknown.most_common(WORDS_MAX))
            found = f"{unknown.total()} rows say {words}"
            yield Doubt("classification", found, ", ".join(CLASSES))
        yield from _entries(genes, catalogue)


@dataclass
class _Gene:
    """What the rows of one gene say."""

    first_line: int = 0
    symbol: str = ""
    newest: date = date.min
    assertions: list[Assertion] = field(default_factory=list)

    def add(self, line: int, symbol: str, assertion: Assertion) -> None:
        self.first_line = self.first_line or line
        # The order of rows says nothing: of two symbols on one day it must not decide.
        self.newest, self.symbol = max((self.newest, self.symbol), (assertion.date, symbol))
        self.assertions.append(assertion)


def _entries(genes: Mapping[tuple[str, str], _Gene], catalogue: Catalogue) -> Iterator[Entry]:
    """A record for each gene that is one of ours. No gene is matched twice."""
    ours = {gene.hgnc_id for gene in catalogue.genes}
    bearers = Counter(gene.symbol for (hgnc_id, _), gene in genes.items() if hgnc_id not in ours)
    for (hgnc_id, _), gene in genes.items():
        named = catalogue.by_symbol.get(gene.symbol)
        key, row_count = hgnc_id or gene.symbol, len(gene.assertions)
        if hgnc_id in ours:
            value = _value(gene, "hgnc_id")
            yield Record(hgnc_id, value, FILE, gene.first_line, "hgnc_id")
        elif named is None:
            reason = f"no gene has this HGNC id, nor the symbol {gene.symbol}"
            yield Unmapped(key, reason, row_count)
        elif bearers[gene.symbol] > 1 or (named.hgnc_id, "") in genes:
            reason = (
                f"no gene has this HGNC id; {named.hgnc_id} has the symbol {gene.symbol},"
                " but others here claim it too"
            )
            yield Unmapped(key, reason, row_count)
        else:
            yield Record(named.hgnc_id, _value(gene, "symbol"), FILE, gene.first_line, "symbol")


def _value(gene: _Gene, matched_by: Literal["hgnc_id", "symbol"]) -> ClingenGene:
    counts = Counter(one.classification for one in gene.assertions)
    return ClingenGene(
        symbol=gene.symbol,
        matched_by=matched_by,
        strongest=next((one for one in SUPPORTING if counts[one]), None),
        counts_by_classification=dict(counts),
        assertion_count=len(gene.assertions),
        assertions=sorted(gene.assertions, key=_place),
        classes_version=CLASSES_VERSION,
    )


def _place(one: Assertion) -> tuple[str, str, str, date, str, str]:
    """The unit of ClinGen's work, and what tells apart two that have the same one."""
    said = one.model_dump_json()
    return one.mondo_id, one.moi or "", one.gcep, one.date, one.report_url, said


def _assertion(cells: Mapping[str, str]) -> Assertion:
    """Raises Malformed."""
    fields: dict[str, object] = {name: cells[column] for name, column in COLUMNS.items()}
    fields |= {name: fields[name] or None for name in ("moi", "sop")}
    found = ASSERTION.search(cells[COLUMNS["report_url"]])
    # An asterisk marks those that rest on animal models alone.
    word = cells[CLASSIFICATION].rstrip("*").strip().lower()
    return Assertion.model_validate(
        {
            **fields,
            "id": found[0] if found else None,
            "classification": CLASSES.get(word, "unknown"),
        }
    )


def _read_table(file: StoredFile) -> tuple[Sequence[str], list[tuple[int, Mapping[str, str]]]]:
    """The header, and each row that is data with its line. Raises SchemaChanged."""
    header: list[str] = []
    table: list[tuple[int, Mapping[str, str]]] = []
    for line, cells in _rows(file):
        if not header:
            if cells[0] == SYMBOL:
                header = cells
            continue
        if not any(cells) or cells[0].startswith(BANNER):
            continue
        if len(cells) != len(header):
            raise SchemaChanged(f"{FILE}, line {line} has {len(cells)} of {len(header)} cells")
        table.append((line, dict(zip(header, cells, strict=True))))
    if not header:
        raise SchemaChanged(f"{FILE} has no row that begins with {SYMBOL}, its header")
    for column in (HGNC_ID, *COLUMNS.values()):
        if column not in header:
            raise SchemaChanged(f"{FILE}: no column {column} in the header {header}")
    return header, table


def _rows(file: StoredFile) -> Iterator[tuple[int, list[str]]]:
    """Each row, with the line on which it begins. Raises SchemaChanged."""
    try:
        with TextIOWrapper(file.open(), encoding="utf-8-sig", newline="") as text:
            rows = csv.reader(text, strict=True)
            begins = 1
            for cells in rows:
                yield begins, [cell.strip() for cell in cells] or [""]
                begins = rows.line_num + 1
    except (UnicodeDecodeError, csv.Error) as error:
        raise SchemaChanged(f"{FILE} is no CSV in UTF-8: {error}") from error


def _what_is_wrong(error: Malformed) -> str:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0])
    return f"{COLUMNS.get(name, name)} is {first['input']!r:.100}: {first['msg']}"
