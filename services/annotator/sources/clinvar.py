"""ClinVar: how many variants of a gene were submitted, how they are classified, how well reviewed.

Millions of rows become counts in one pass. What is remembered of a variant is one number in an
array that its VariationID is the index of, so memory is bounded by the highest id, not by rows.
"""

import codecs
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import lru_cache
from operator import itemgetter
from typing import Final, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field

from services.annotator.domain import (
    SUMMARY,
    Catalogue,
    Columns,
    Count,
    Declaration,
    Doubt,
    Entry,
    Expected,
    Gene,
    MatchedBy,
    Record,
    RemoteFile,
    StoredFile,
    Unmapped,
    numbered_lines,
    severity,
)
from services.annotator.errors import ReleaseRefused, SchemaChanged

GENE_SUMMARY: Final = "gene_specific_summary.txt"
VARIANTS: Final = "variant_summary.txt.gz"
ROWS: Final = "variant rows"  # Of all assemblies: most variants have two.
SUMMARY_BYTES_MAX: Final = 128 * 1024**2  # It has some 3 MB.
VARIANTS_BYTES_MAX: Final = 4 * 1024**3  # It has 0.4 GB.
UNPACKED_BYTES_MAX: Final = 32 * 1024**3

VARIANTS_COLUMNS: Final = (
    *("VariationID", "Assembly", "HGNC_ID", "GeneID", "GeneSymbol", "ClinicalSignificance"),
    *("ReviewStatus", "LastEvaluated", "Name", "Start"),
)
SUMMARY_NUMBERS: Final[Mapping[str, str]] = {
    "submissions": "Total_submissions",
    "alleles": "Total_alleles",
    "submissions_of_this_gene": "Submissions_reporting_this_gene",
    "alleles_p_lp": "Alleles_reported_Pathogenic_Likely_pathogenic",
    "uncertain": "Number_uncertain",
    "conflicts": "Number_with_conflicts",
}
SUMMARY_COLUMNS: Final = ("Symbol", "GeneID", "Gene_MIM_number", *SUMMARY_NUMBERS.values())
JOINS: Final[tuple[MatchedBy, ...]] = ("hgnc_id", "entrez_id", "symbol")
MISSING: Final = frozenset({"", "-", "-1", "na", "NA"})
DATED: Final = re.compile(r"#.*\bdated (\w+ \d{1,2}, \d{4})")
SAME_RELEASE_DAYS: Final = 7  # Both files are made each week, and not on the same day.

Significance = Literal[
    "pathogenic",
    "likely_pathogenic",
    "pathogenic_likely_pathogenic",
    "vus",
    "likely_benign",
    "benign",
    "benign_likely_benign",
    "conflicting",
    "not_provided",
    "other",
]
SIGNIFICANCES: Final[Sequence[Significance]] = get_args(Significance)
P_LP: Final = 3  # The first three are pathogenic, or likely so.
CONFLICTING: Final = SIGNIFICANCES.index("conflicting")
STARS: Final[Mapping[str, int]] = {
    "practice guideline": 4,
    "reviewed by expert panel": 3,
    "criteria provided, multiple submitters, no conflicts": 2,
    "criteria provided, multiple submitters": 2,
    "criteria provided, conflicting classifications": 1,
    "criteria provided, conflicting interpretations": 1,
    "criteria provided, single submitter": 1,
}
STARS_MAX: Final = 4
WELL_REVIEWED: Final = 2
KINDS: Final = len(SIGNIFICANCES) * (STARS_MAX + 1)
MONTHS: Final = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
DAY_ZERO: Final = date(1900, 1, 1).toordinal()
PROTEIN: Final = re.compile(rb"\(p\.([^()]*)\)?[^(]*$")
TRUNCATING, MISSENSE = 1, 2

VARIATION_ID_MAX: Final = 32 * 1024**2  # 256 MiB; the ids of 2026 are below 5 million.
GROWTH_IDS: Final = 256 * 1024
NAMES_MAX: Final = 512 * 1024  # Genes and lists of genes; there are some 100,000.
SYMBOLS_BYTES_MAX: Final = 256  # Of the genes of one variant; a longer list is not read.
CELLS_REMEMBERED_MAX: Final = 20_000
# What is kept of a variant: seen, seen on GRCh38, significance, stars, consequence, name, day.
SEEN, ON_GRCH38 = 1, 2
KIND_AT, CONSEQUENCE_AT, NAME_AT, DAY_AT = 2, 8, 10, 30
KIND_MASK, CONSEQUENCE_MASK, NAME_MASK = 0x3F, 0x3, 0xFFFFF

GRCH38: Final = b"GRCh38"
# Where well-known variants begin, by assembly: those of BRAF V600E, and of APOE rs429358.
SENTINELS: Final[Mapping[int, Mapping[bytes, int]]] = {
    13961: {b"GRCh38": 140753336, b"GRCh37": 140453136},
    17864: {b"GRCh38": 44908684, b"GRCh37": 45411941},
}

NO_GENE: Final = "variants of no gene"
MANY_GENES: Final = "variants of many genes"
OTHER_GENES: Final = "genes of variants of several genes"
NOT_COUNTED: Final = "they are not counted for a gene"
REPEATED: Final = "its gene has another row already, which counts"


class GeneSummary(BaseModel):
    """What ClinVar itself counts. Null: not given. Large variants count for each gene in them."""

    model_config = ConfigDict(frozen=True)

    submissions: int | None = Field(description="[Total_submissions]")
    alleles: int | None = Field(description="[Total_alleles]")
    submissions_of_this_gene: int | None = Field(
        description="submissions that name the gene [Submissions_reporting_this_gene]"
    )
    alleles_p_lp: int | None = Field(
        description="pathogenic or likely so, without structural variants"
        " [Alleles_reported_Pathogenic_Likely_pathogenic]"
    )
    uncertain: int | None = Field(description="alleles [Number_uncertain]")
    conflicts: int | None = Field(description="alleles [Number_with_conflicts]")
    mim_numbers: list[str] = Field(description="OMIM's of the gene, without prefix")


class ClinvarGene(BaseModel):
    """Variants of this gene alone, each VariationID once, by its row of GRCh38 where it has one.

    P/LP: pathogenic, likely pathogenic, or both; germline classifications. Counts drift from week
    to week, so what matters in a clinic is said by fields of its own.
    """

    model_config = ConfigDict(frozen=True)

    symbol: str = Field(description="ClinVar's")
    entrez_id: str | None = Field(description="ClinVar's id of the gene [GeneID]")
    matched_by: MatchedBy
    has_p_lp: bool = Field(json_schema_extra=severity("clinical") | SUMMARY)
    has_p_lp_2plus_stars: bool = Field(
        description="P/LP by several submitters without conflict, a panel or a guideline",
        json_schema_extra=severity("clinical") | SUMMARY,
    )
    has_conflicting: bool = Field(
        description="submitters disagree on a variant",
        json_schema_extra=severity("clinical") | SUMMARY,
    )
    variants_total: int = Field(json_schema_extra=SUMMARY)
    p_lp_total: int = Field(json_schema_extra=severity("major") | SUMMARY)
    p_lp_2plus_stars: int = Field(json_schema_extra=severity("major") | SUMMARY)
    truncating_p_lp: int = Field(
        description="of P/LP: fs, Ter or * in (p.…) of Name", json_schema_extra=SUMMARY
    )
    missense_p_lp: int = Field(
        description="of P/LP: any other change of the protein in (p.…) of Name, in frame, too",
        json_schema_extra=SUMMARY,
    )
    counts_by_significance: dict[Significance, int]
    counts_by_stars: list[int] = Field(description="for 0, 1, 2, 3 and 4 stars of review")
    counts_by_significance_and_stars: dict[Significance, list[int]] = Field(
        description="the same, crossed; without what has no variant"
    )
    last_evaluated_max: date | None = Field(json_schema_extra=severity("none") | SUMMARY)
    multi_gene_total: int = Field(
        description="variants of several genes, this one among them; in no other count here"
    )
    multi_gene_p_lp: int
    summary: GeneSummary | None = Field(
        description="of gene_specific_summary.txt, whose day the release names if it is another"
    )


class Clinvar:
    declaration = Declaration(
        name="clinvar",
        title="ClinVar: classified variants, counted by gene",
        base_url="https://ftp.ncbi.nlm.nih.gov/pub/clinvar/tab_delimited",
        homepage="https://www.ncbi.nlm.nih.gov/clinvar",
        licence="public domain (NCBI); not for direct use in diagnosis",
        citation="ClinVar; Landrum et al. 2025, doi:10.1093/nar/gkae1090",
        wire_format="variant_summary.txt and gene_specific_summary.txt as of 2024",
        identifier="hgnc_id",
        joins=JOINS,
        value=ClinvarGene,
        ttl=timedelta(days=7),  # New files come on Mondays.
        parser_version=1,
        requests_per_second=1,
        expected=Expected(
            records=(15_000, 60_000),  # 27,600 by the summary of November 2021.
            unmapped_share_max=0.6,  # NCBI's regulatory regions are genes to it.
            churn_share_max=0.9,  # Counts of most genes move in a month.
            # Two thirds of the genes have no variant of their own.
            nulls_share_max={"last_evaluated_max": 0.75, "summary": 0.3},
            sentinels=("HGNC:9008", "HGNC:1100", "HGNC:11998"),  # PKD1, BRCA1, TP53.
            counts={ROWS: (1_500_000, 40_000_000)},  # Some nine million.
        ),
        score="p_lp_total",
    )
    files: tuple[RemoteFile, ...] = (
        RemoteFile(GENE_SUMMARY, "gene_specific_summary.txt", SUMMARY_BYTES_MAX),
        RemoteFile(VARIANTS, "variant_summary.txt.gz", VARIANTS_BYTES_MAX),
    )

    def version(self, files: Mapping[str, StoredFile]) -> str:
        """The day variants were published. A summary of another week is named with its own."""
        published = files[VARIANTS].published
        summarised = _day_of_summary(files[GENE_SUMMARY])
        if published is None:
            return f"{files[VARIANTS].sha256.hex()[:12]} with gene summary {summarised}"
        same = abs(published - summarised) <= timedelta(SAME_RELEASE_DAYS)
        return f"{published}" if same else f"{published} with gene summary {summarised}"

    def read(self, files: Mapping[str, StoredFile], catalogue: Catalogue) -> Iterator[Entry]:
        """A record for each gene that either file names, and what is no gene of ours."""
        summaries = _read_summary(files[GENE_SUMMARY])
        yield Columns(GENE_SUMMARY, summaries.header)
        variants = _Variants()
        yield Columns(VARIANTS, variants.read(files[VARIANTS]))
        yield Count(ROWS, variants.row_count)
        yield from variants.doubts()
        for column, row_count in variants.unread.items():
            yield Unmapped(column, f"{VARIANTS}: a cell that cannot be read", row_count)
        genes = _Genes(catalogue)
        genes.add(variants, summaries)
        yield from genes.entries()


class _Name(NamedTuple):
    """What ClinVar calls a gene. The summary knows no HGNC ids."""

    hgnc_id: str
    entrez_id: str
    symbol: str


@dataclass
class _Counts:
    """The variants of one gene, as they are added up."""

    kinds: list[int] = field(default_factory=lambda: [0] * KINDS)
    truncating: int = 0
    missense: int = 0
    last_day: int = 0

    @property
    def total(self) -> int:
        return sum(self.kinds)

    @property
    def by_significance(self) -> list[list[int]]:
        """For each of SIGNIFICANCES the counts by stars."""
        width = STARS_MAX + 1
        return [self.kinds[at : at + width] for at in range(0, KINDS, width)]

    @property
    def p_lp(self) -> int:
        return sum(self.kinds[: P_LP * (STARS_MAX + 1)])

    def add(self, other: "_Counts") -> None:
        self.kinds = [a + b for a, b in zip(self.kinds, other.kinds, strict=True)]
        self.truncating += other.truncating
        self.missense += other.missense
        self.last_day = max(self.last_day, other.last_day)


class _Variants:
    """The variants of a file, one number each, and the names of their genes."""

    def __init__(self) -> None:
        self._seen = array("Q")  # By VariationID.
        self._names: dict[tuple[bytes, bytes, bytes], int] = {}
        self.first_lines: list[int] = []  # By name, like what follows.
        self.row_count = 0
        self.unread: Counter[str] = Counter()
        self._displaced: dict[int, str] = {}
        self._placed: set[int] = set()

    def read(self, file: StoredFile) -> list[str]:
        """The header, when everything is counted. Raises SchemaChanged and ReleaseRefused."""
        with file.unpacked() as packed:
            lines = numbered_lines(packed, VARIANTS, UNPACKED_BYTES_MAX)
            header = _header(next(lines, (1, b""))[1], VARIANTS, VARIANTS_COLUMNS)
            self._count(lines, header)
        return header

    def _count(self, lines: Iterator[tuple[int, bytes]], header: list[str]) -> None:
        """Some ten million rows come by here: whatever can be spared one of them is."""
        at = {column: header.index(column) for column in VARIANTS_COLUMNS}
        last, tabs, start = max(at.values()) + 1, len(header) - 1, at["Start"]
        identify = itemgetter(at["VariationID"], at["Assembly"])
        name_of = itemgetter(at["HGNC_ID"], at["GeneID"], at["GeneSymbol"])
        describe = itemgetter(
            *(at["ClinicalSignificance"], at["ReviewStatus"], at["LastEvaluated"], at["Name"])
        )
        seen, names, number, blank_count = self._seen, self._names, 1, 0
        for number, line in lines:
            if line.count(b"\t") != tabs:
                if not line.strip():
                    blank_count += 1
                    continue
                count = line.count(b"\t") + 1
                raise SchemaChanged(f"{VARIANTS}, line {number} has {count} of {tabs + 1} cells")
            cells = line.split(b"\t", last)
            id_cell, assembly = identify(cells)
            id_ = int(id_cell) if id_cell.isdigit() else 0  # To int, 1_3 is a number, too.
            if id_ in SENTINELS:
                self._check_place(id_, assembly, cells[start])
            on_grch38 = assembly == GRCH38
            if not 0 < id_ < len(seen) and not self._make_room(id_, number):
                continue
            before = seen[id_]
            if before and (before & ON_GRCH38 or not on_grch38):
                continue
            name = name_of(cells)
            index = names.get(name)
            if index is None:
                index = self._add_name(name, number)
            code = self._code(*describe(cells)) | index << NAME_AT
            seen[id_] = code | ON_GRCH38 if on_grch38 else code
        self.row_count = number - 1 - blank_count

    def _code(self, significance: bytes, review: bytes, evaluated: bytes, title: bytes) -> int:
        day = _day(evaluated)
        if day < 0:
            self.unread["LastEvaluated"] += 1
            day = 0
        kind = _kind(significance, review)
        code = SEEN | kind << KIND_AT | day << DAY_AT
        if kind < P_LP * (STARS_MAX + 1):
            code |= _consequence(title) << CONSEQUENCE_AT
        return code

    def _make_room(self, id_: int, number: int) -> bool:
        if id_ <= 0:
            self.unread["VariationID"] += 1
            return False
        if id_ >= VARIATION_ID_MAX:
            raise ReleaseRefused(
                f"{VARIANTS}, line {number}: VariationID is {id_}; accepted are those below"
                f" {VARIATION_ID_MAX}"
            )
        missing = id_ + 1 - len(self._seen)
        self._seen.frombytes(bytes(max(missing, GROWTH_IDS) * self._seen.itemsize))
        return True

    def _add_name(self, name: tuple[bytes, bytes, bytes], number: int) -> int:
        """Its number. A list of genes that is too long has that of all such lists."""
        if len(name[2]) > SYMBOLS_BYTES_MAX:
            name = (b"", b"", b"many genes")
            if name in self._names:
                return self._names[name]
        if len(self._names) >= NAMES_MAX:
            raise ReleaseRefused(
                f"{VARIANTS}, line {number}: accepted are {NAMES_MAX} genes and lists of genes"
            )
        self.first_lines.append(number)
        return self._names.setdefault(name, len(self._names))

    def _check_place(self, id_: int, assembly: bytes, start: bytes) -> None:
        place = SENTINELS[id_].get(assembly)
        if place is None:
            return
        if start == str(place).encode():
            self._placed.add(id_)
            return
        others = [one.decode() for one, at in SENTINELS[id_].items() if start == str(at).encode()]
        where = f", where it is on {others[0]}" if others else ""
        at = start.decode(errors="replace")
        self._displaced[id_] = f"variant {id_} is at {at:.20} on {assembly.decode()}{where}"

    def doubts(self) -> Iterator[Doubt]:
        accepted = ", ".join(
            f"{id_} at {places[GRCH38]} on GRCh38" for id_, places in SENTINELS.items()
        )
        if self._displaced:
            yield Doubt("assembly", "; ".join(self._displaced.values()), accepted)
        elif not self._placed:
            # Both are as old as ClinVar: without them this is another file, or a part of it.
            yield Doubt("assembly", "no variant that could tell it", accepted)

    def named(self) -> Iterator[tuple[_Name, _Counts]]:
        """For each name what its variants add up to, in the order of the names' numbers."""
        size = len(self._names)
        kinds = array("I", bytes(4 * KINDS * size))
        consequences = array("I", bytes(4 * 3 * size))
        days = array("I", bytes(4 * size))
        for code in self._seen:
            if code:
                index = code >> NAME_AT & NAME_MASK
                kinds[index * KINDS + (code >> KIND_AT & KIND_MASK)] += 1
                consequences[index * 3 + (code >> CONSEQUENCE_AT & CONSEQUENCE_MASK)] += 1
                day = code >> DAY_AT
                days[index] = max(days[index], day)
        for index, name in enumerate(self._names):
            yield (
                _Name(*(_text(cell) for cell in name)),
                _Counts(
                    kinds[index * KINDS : (index + 1) * KINDS].tolist(),
                    consequences[index * 3 + TRUNCATING],
                    consequences[index * 3 + MISSENSE],
                    days[index],
                ),
            )


@lru_cache(CELLS_REMEMBERED_MAX)
def _kind(significance: bytes, review: bytes) -> int:
    """Both in one number, which is below P_LP × 5 when it is pathogenic or likely so."""
    stars = STARS.get(_text(review).lower(), 0)
    return significance_of(_text(significance)) * (STARS_MAX + 1) + stars


def significance_of(said: str) -> int:
    """The place in SIGNIFICANCES. Such as "Pathogenic/Likely pathogenic; risk factor"."""
    terms = [{word.strip() for word in term.split("/")} for term in re.split("[;,]", said.lower())]
    words = set().union(*terms)
    found: Significance = "other"
    # The order decides: the word pathogenic is in what says that there is a conflict, too.
    if any(word.startswith("conflicting") for word in words):
        found = "conflicting"
    elif any({"pathogenic", "likely pathogenic"} <= term for term in terms):
        found = "pathogenic_likely_pathogenic"
    elif "likely pathogenic" in words:
        found = "likely_pathogenic"
    elif "pathogenic" in words:
        found = "pathogenic"
    elif {"uncertain significance", "uncertain risk allele"} & words:
        found = "vus"
    elif any({"benign", "likely benign"} <= term for term in terms):
        found = "benign_likely_benign"
    elif "likely benign" in words:
        found = "likely_benign"
    elif "benign" in words:
        found = "benign"
    elif any(word in MISSING or word.startswith(("not provided", "no ")) for word in words):
        found = "not_provided"
    return SIGNIFICANCES.index(found)


@lru_cache(CELLS_REMEMBERED_MAX)
def _day(cell: bytes) -> int:
    """Days since 1900, 0 when none is given, less when it cannot be read; "Oct 01, 2024"."""
    said = _text(cell)
    if said in MISSING:
        return 0
    try:
        return max(_date(said).toordinal() - DAY_ZERO, -1)
    except ValueError:
        return -1


def _date(said: str) -> date:
    """Not by strptime, whose months are those of a locale. Raises ValueError."""
    month, day, year = said.replace(",", " ").split()
    return date(int(year), MONTHS.index(month[:3]) + 1, int(day))


def _consequence(name: bytes) -> int:
    """Of a Name such as NM_007294.4(BRCA1):c.5266dup (p.Gln1756fs): 0 is neither."""
    found = PROTEIN.search(name)
    if found is None or b"=" in found[1]:
        return 0
    return TRUNCATING if any(sign in found[1] for sign in (b"fs", b"Ter", b"*")) else MISSENSE


@dataclass(frozen=True)
class _Summarised:
    line: int
    value: GeneSummary


@dataclass
class _Summaries:
    header: list[str]
    genes: dict[_Name, _Summarised] = field(default_factory=dict)
    repeated: Counter[str] = field(default_factory=Counter)


def _day_of_summary(file: StoredFile) -> date:
    with file.unpacked() as text:
        line = next(numbered_lines(text, GENE_SUMMARY, UNPACKED_BYTES_MAX), (1, b""))[1]
    found = DATED.match(line.removeprefix(codecs.BOM_UTF8).decode(errors="replace"))
    try:
        return _date(found[1] if found else "")
    except ValueError:
        raise SchemaChanged(
            f"{GENE_SUMMARY} begins with {line[:60]!r}; accepted is #… dated November 7, 2021"
        ) from None


def _read_summary(file: StoredFile) -> _Summaries:
    """Raises SchemaChanged and ReleaseRefused."""
    with file.unpacked() as text:
        lines = numbered_lines(text, GENE_SUMMARY, UNPACKED_BYTES_MAX)
        next(lines, None)  # The day.
        header = _header(next(lines, (2, b""))[1], GENE_SUMMARY, SUMMARY_COLUMNS)
        summaries = _Summaries(header)
        pick = itemgetter(*(header.index(column) for column in SUMMARY_COLUMNS))
        for number, line in lines:
            if not line.strip():
                continue
            cells = _text(line, strip=False).split("\t")
            if len(cells) != len(header):
                raise SchemaChanged(
                    f"{GENE_SUMMARY}, line {number} has {len(cells)} of {len(header)} cells"
                )
            symbol, entrez_id, mim_number, *numbers = map(str.strip, pick(cells))
            value = GeneSummary(
                mim_numbers=[] if mim_number in MISSING else [mim_number],
                **{
                    name: _number(cell, f"{GENE_SUMMARY}, line {number}: {column}")
                    for (name, column), cell in zip(SUMMARY_NUMBERS.items(), numbers, strict=True)
                },
            )
            _add_summary(summaries, _Name("", entrez_id, symbol), number, value)
    return summaries


def _add_summary(summaries: _Summaries, name: _Name, number: int, value: GeneSummary) -> None:
    before = summaries.genes.get(name)
    if before is None:
        summaries.genes[name] = _Summarised(number, value)
        return
    # A gene of both sex chromosomes has a number of OMIM's, and a row, for each.
    mim_numbers = sorted({*before.value.mim_numbers, *value.mim_numbers})
    merged = before.value.model_copy(update={"mim_numbers": mim_numbers})
    if merged == value.model_copy(update={"mim_numbers": mim_numbers}):
        summaries.genes[name] = _Summarised(before.line, merged)
    else:
        summaries.repeated[name.entrez_id] += 1


def _number(cell: str, place: str) -> int | None:
    if cell in MISSING:
        return None
    if not cell.isdecimal():
        raise SchemaChanged(f"{place} is {cell!r:.80}; accepted is a whole number or -")
    return int(cell)


@dataclass
class _Gene:
    """One of ours, as both files are put together."""

    name: _Name
    matched_by: MatchedBy
    file: str
    line: int
    counts: _Counts = field(default_factory=_Counts)
    multi_gene_total: int = 0
    multi_gene_p_lp: int = 0
    summary: GeneSummary | None = None


class _Several(NamedTuple):
    """Variants of several genes: of a hundred thousand such lists no more than this is kept."""

    symbols: str
    total: int
    p_lp: int
    line: int


@dataclass
class _Genes:
    """Both files put together: our genes, and what is none of them."""

    catalogue: Catalogue
    found: dict[str, _Gene] = field(default_factory=dict)  # By HGNC id.
    unmapped: Counter[tuple[str, str]] = field(default_factory=Counter)  # Rows, by key and reason.

    def entries(self) -> Iterator[Entry]:
        for hgnc_id, gene in self.found.items():
            yield Record(hgnc_id, _value(gene), gene.file, gene.line, gene.matched_by)
        for (key, reason), row_count in self.unmapped.items():
            yield Unmapped(key, reason, row_count)

    def add(self, variants: _Variants, summaries: _Summaries) -> None:
        single, several = self._told_apart(variants)
        names = dict.fromkeys([*single, *summaries.genes])
        matches = _match([*names], self.catalogue)
        # What ClinVar calls a gene is taken from where it is matched best.
        for name in sorted(single, key=lambda name: _rank(matches[name])):
            counts, line = single[name]
            if gene := self._gene(name, matches[name], VARIANTS, line, counts.total):
                gene.counts.add(counts)
        for name, said in summaries.genes.items():
            gene = self._gene(name, matches[name], GENE_SUMMARY, said.line, 1)
            if gene is not None and gene.summary is None:
                gene.summary = said.value
            elif gene is not None:
                summaries.repeated[_key(name)] += 1
        for key, row_count in summaries.repeated.items():
            self.unmapped[key, f"{GENE_SUMMARY}: {REPEATED}"] += row_count
        self._add_several(several, matches)

    def _told_apart(
        self, variants: _Variants
    ) -> tuple[dict[_Name, tuple[_Counts, int]], list[_Several]]:
        """What is of one gene, by its name, and what is of several, by their symbols."""
        single: dict[_Name, tuple[_Counts, int]] = {}
        several: list[_Several] = []
        for (name, counts), line in zip(variants.named(), variants.first_lines, strict=True):
            symbols = _listed(name.symbol)
            if not counts.total:
                continue  # Each of its variants has a row for GRCh38, which names another gene.
            if symbols is None:
                self.unmapped[MANY_GENES, NOT_COUNTED] += counts.total
            elif len(symbols) > 1:
                several.append(_Several(name.symbol, counts.total, counts.p_lp, line))
            elif MISSING.issuperset(name):
                self.unmapped[NO_GENE, NOT_COUNTED] += counts.total
            elif name in single:  # The same but for spaces.
                single[name][0].add(counts)
            else:
                single[name] = counts, line
        return single, several

    def _gene(
        self, name: _Name, match: "_Match | str", file: str, line: int, row_count: int
    ) -> _Gene | None:
        if isinstance(match, str):
            self.unmapped[_key(name), match] += row_count
            return None
        return self.found.setdefault(match.hgnc_id, _Gene(name, match.by, file, line))

    def _add_several(
        self,
        several: Iterable[_Several],
        matches: Mapping[_Name, "_Match | str"],
    ) -> None:
        """Such rows have symbols only: ClinVar's own of genes elsewhere, or approved ones."""
        by_symbol = {symbol: gene.hgnc_id for symbol, gene in self.catalogue.by_symbol.items()}
        for name, match in matches.items():
            if isinstance(match, _Match):
                by_symbol[name.symbol] = match.hgnc_id
        for one in several:
            for symbol in dict.fromkeys(_listed(one.symbols) or ()):
                hgnc_id = by_symbol.get(symbol)
                if hgnc_id is None:
                    self.unmapped[OTHER_GENES, NOT_COUNTED] += one.total
                    continue
                named = _Gene(_Name("", "", symbol), "symbol", VARIANTS, one.line)
                gene = self.found.setdefault(hgnc_id, named)
                gene.multi_gene_total += one.total
                gene.multi_gene_p_lp += one.p_lp


def _listed(symbols: str) -> Sequence[str] | None:
    """Those of a cell such as A, A;B or subset of 40 genes: A;B; None when it does not name all."""
    listed = symbols.rpartition(":")[2].strip()
    return None if " " in listed else listed.split(";")


def _key(name: _Name) -> str:
    return next(one for one in (name.entrez_id, name.symbol, name.hgnc_id) if one not in MISSING)


@dataclass(frozen=True)
class _Match:
    hgnc_id: str
    by: MatchedBy


def _rank(match: _Match | str) -> int:
    """How well it tells a gene: the lower, the better."""
    return len(JOINS) if isinstance(match, str) else JOINS.index(match.by)


def _match(names: Sequence[_Name], catalogue: Catalogue) -> Mapping[_Name, _Match | str]:
    """The gene of ours, or why there is none. A symbol tells only where no id does."""
    by_hgnc_id = {gene.hgnc_id: gene for gene in catalogue.genes}
    matches: dict[_Name, _Match | str] = {}
    unknown = []
    for name in names:
        ours: Sequence[Gene] = catalogue.by_entrez_id.get(name.entrez_id, ())
        chosen = ours if len(ours) == 1 else [one for one in ours if one.symbol == name.symbol]
        if name.hgnc_id in by_hgnc_id:
            matches[name] = _Match(name.hgnc_id, "hgnc_id")
        elif len(chosen) == 1:
            matches[name] = _Match(chosen[0].hgnc_id, "entrez_id")
        elif ours:
            ids = ", ".join(sorted(one.hgnc_id for one in ours))
            matches[name] = f"ambiguous: this Entrez id is that of {ids}"
        else:
            unknown.append(name)
    taken = {match.hgnc_id for match in matches.values() if isinstance(match, _Match)}
    bearers: defaultdict[str, set[str]] = defaultdict(set)
    for name in unknown:
        bearers[name.symbol].add(name.entrez_id)
    for name in unknown:
        gene = catalogue.by_symbol.get(name.symbol)
        if gene is None:
            matches[name] = f"no gene has these ids, nor the symbol {name.symbol:.40}"
        elif gene.hgnc_id in taken or len(bearers[name.symbol]) > 1:
            matches[name] = (
                f"no gene has these ids; {gene.hgnc_id} has the symbol {name.symbol},"
                " but others here claim it too"
            )
        else:
            matches[name] = _Match(gene.hgnc_id, "symbol")
    return matches


def _value(gene: _Gene) -> ClinvarGene:
    counts, crossed = gene.counts, gene.counts.by_significance
    p_lp_2plus_stars = sum(sum(by_stars[WELL_REVIEWED:]) for by_stars in crossed[:P_LP])
    day = counts.last_day
    return ClinvarGene(
        symbol=gene.name.symbol,
        entrez_id=None if gene.name.entrez_id in MISSING else gene.name.entrez_id,
        matched_by=gene.matched_by,
        has_p_lp=counts.p_lp > 0,
        has_p_lp_2plus_stars=p_lp_2plus_stars > 0,
        has_conflicting=any(crossed[CONFLICTING]),
        variants_total=counts.total,
        p_lp_total=counts.p_lp,
        p_lp_2plus_stars=p_lp_2plus_stars,
        truncating_p_lp=counts.truncating,
        missense_p_lp=counts.missense,
        counts_by_significance=dict(zip(SIGNIFICANCES, map(sum, crossed), strict=True)),
        counts_by_stars=[sum(some) for some in zip(*crossed, strict=True)],
        counts_by_significance_and_stars={
            name: by_stars
            for name, by_stars in zip(SIGNIFICANCES, crossed, strict=True)
            if any(by_stars)
        },
        last_evaluated_max=date.fromordinal(DAY_ZERO + day) if day else None,
        multi_gene_total=gene.multi_gene_total,
        multi_gene_p_lp=gene.multi_gene_p_lp,
        summary=gene.summary,
    )


def _header(line: bytes, file: str, columns: Sequence[str]) -> list[str]:
    """Raises SchemaChanged."""
    said = line.removeprefix(codecs.BOM_UTF8).removeprefix(b"#").decode(errors="replace")
    header = [cell.strip() for cell in said.split("\t")]
    if missing := [column for column in columns if column not in header]:
        raise SchemaChanged(f"{file}: no column {missing[0]} in the header {said[:400]!r}")
    return header


def _text(cell: bytes, *, strip: bool = True) -> str:
    try:
        said = cell.decode()
    except UnicodeDecodeError as error:
        raise SchemaChanged(f"a file of ClinVar's is not UTF-8: {error}") from error
    return said.strip() if strip else said
