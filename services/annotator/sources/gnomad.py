"""gnomAD: how many variants a gene has against how many are expected: what it cannot bear."""

import codecs
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from math import isfinite
from operator import itemgetter
from typing import Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from services.annotator import domain
from services.annotator.domain import (
    SUMMARY,
    ApiSource,
    Catalogue,
    Declaration,
    Entry,
    Expected,
    MatchedBy,
    Record,
    RemoteFile,
    StoredFile,
    Unmapped,
    severity,
)
from services.annotator.errors import SchemaChanged

FILE: Final = "constraint_metrics.tsv"
FILE_BYTES_MAX: Final = 2 * 1024**3  # v4.1.1 has 0.6 GB.
UNPACKED_BYTES_MAX: Final = 8 * 1024**3
MISSING: Final = frozenset({b"", b"NA"})  # Besides NaN, which can be read as a number.

FLAG: Final = re.compile(r"\w+")
REFSEQ: Final = "transcripts of RefSeq"
NOT_READ: Final = "they have no Ensembl id; each gene is read by a transcript of Ensembl"
NONE_CHOSEN: Final = "no transcript of it is MANE Select or canonical"
REPEATED: Final = "two transcripts of it are MANE Select, or canonical; the first one counts"

Assembly = Literal["GRCh37", "GRCh38"]
ChosenBy = Literal["mane_select", "canonical"]


class GnomadGene(BaseModel):
    """How constrained a gene is, by one transcript of it.

    Null is not zero: it means that gnomAD gives no value. Intervals hold 90 %. Values of two
    releases cannot be compared, so neither can their thresholds.
    """

    model_config = ConfigDict(frozen=True)

    ensembl_gene_id: str = Field(description="gnomAD's id of the gene, without version")
    symbol: str = Field(description="gnomAD's symbol, of the time it was built")
    matched_by: MatchedBy = Field(
        description="symbol: no gene of HGNC has this Ensembl id, but one has this approved symbol"
    )
    assembly: Assembly
    transcript: str | None = Field(
        None, description="the ENST id that all values are of; null by GraphQL, which does not say"
    )
    transcript_version: str | None = Field(None, description="the same with version [v4.1.1]")
    transcript_chosen_by: ChosenBy | None = Field(
        None,
        description="canonical: the gene has no MANE Select transcript here, or the release is v2",
    )
    pli: float | None = Field(
        description="probability of intolerance to loss of function, 0–1",
        json_schema_extra=severity("major") | SUMMARY,
    )
    oe_lof: float | None = Field(
        description="observed ÷ expected loss-of-function variants", json_schema_extra=SUMMARY
    )
    oe_lof_lower: float | None = Field(description="lower end of its interval")
    loeuf: float | None = Field(
        description="upper end of its interval, LOEUF: the lower, the more constrained",
        json_schema_extra=severity("major") | SUMMARY,
    )
    loeuf_decile: int | None = Field(
        None, description="0 (most constrained) to 9", json_schema_extra=SUMMARY
    )
    loeuf_threshold: float | None = Field(
        description="the release's own; below it a gene is constrained; null when the release is"
        " not known, as by GraphQL for GRCh38"
    )
    is_constrained: bool | None = Field(
        description="LOEUF < threshold; null if one is not known",
        json_schema_extra=severity("clinical") | SUMMARY,
    )
    obs_lof: int | None = Field(
        description="loss-of-function variants of high confidence", json_schema_extra=SUMMARY
    )
    exp_lof: float | None = Field(json_schema_extra=SUMMARY)
    lof_z: float | None = Field(
        description="z-scores: the higher, the fewer than expected", json_schema_extra=SUMMARY
    )
    oe_mis: float | None = Field(
        description="observed ÷ expected missense variants", json_schema_extra=SUMMARY
    )
    oe_mis_lower: float | None
    oe_mis_upper: float | None
    obs_mis: int | None
    exp_mis: float | None
    mis_z: float | None = Field(json_schema_extra=SUMMARY)
    oe_syn: float | None = Field(description="observed ÷ expected synonymous variants")
    oe_syn_lower: float | None
    oe_syn_upper: float | None
    obs_syn: int | None
    exp_syn: float | None
    syn_z: float | None
    constraint_flags: list[str] | None = Field(
        description="why the values are to be doubted, such as no_exp_lof or outlier_mis",
        json_schema_extra=severity("major") | SUMMARY,
    )
    gene_flags: list[str] | None = Field(
        None, description="such as low_exome_coverage; null where the release has no such column"
    )


@dataclass(frozen=True)
class Columns:
    """How some releases call what we read: for each field of the value, the column.

    A header that has `mark` is of this kind. Without `mane_select` and `canonical` the file has
    one row for each gene, which is its canonical transcript.
    """

    mark: str
    names: Mapping[str, str]
    canonical: str | None = None
    mane_select: str | None = None

    @property
    def required(self) -> list[str]:
        return [*self.names.values(), *filter(None, (self.canonical, self.mane_select))]


def _v4_names(kind: str, upper: str) -> Mapping[str, str]:
    return {
        f"obs_{kind}": f"{kind}.obs",
        f"exp_{kind}": f"{kind}.exp",
        f"oe_{kind}": f"{kind}.oe",
        f"oe_{kind}_lower": f"{kind}.oe_ci.lower",
        upper: f"{kind}.oe_ci.upper",
        f"{kind}_z": f"{kind}.z_score",
    }


V2: Final = Columns(
    mark="oe_lof_upper",
    names={
        "ensembl_gene_id": "gene_id",
        "symbol": "gene",
        "transcript": "transcript",
        "pli": "pLI",
        "oe_lof": "oe_lof",
        "oe_lof_lower": "oe_lof_lower",
        "loeuf": "oe_lof_upper",
        "loeuf_decile": "oe_lof_upper_bin",
        **{
            name: name
            for name in (
                *("obs_lof", "exp_lof", "lof_z"),
                *("obs_mis", "exp_mis", "mis_z", "oe_mis", "oe_mis_lower", "oe_mis_upper"),
                *("obs_syn", "exp_syn", "syn_z", "oe_syn", "oe_syn_lower", "oe_syn_upper"),
            )
        },
        "constraint_flags": "constraint_flag",
    },
)
V4: Final = Columns(
    mark="lof.oe_ci.upper",
    names={
        "ensembl_gene_id": "gene_id",
        "symbol": "gene",
        "transcript": "transcript",
        "pli": "lof.pLI",
        "loeuf_decile": "lof.oe_ci.upper_bin_decile",
        **_v4_names("lof", "loeuf"),
        **_v4_names("mis", "oe_mis_upper"),
        **_v4_names("syn", "oe_syn_upper"),
        "constraint_flags": "constraint_flags",
    },
    canonical="canonical",
    mane_select="mane_select",
)
V4_1_1: Final = Columns(
    mark="gene_flags",
    names={**V4.names, "transcript_version": "transcript_version", "gene_flags": "gene_flags"},
    canonical="canonical",
    mane_select="mane_select",
)
# V4 last, because V4_1_1 has its mark too.
COLUMNS: Final = (V2, V4_1_1, V4)


@dataclass(frozen=True)
class GnomadRelease:
    """What has to be known of one beforehand; `threshold` is gnomAD's own for LOEUF."""

    path: str
    columns: Columns
    assembly: Assembly
    threshold: float


RELEASES: Final[Mapping[str, GnomadRelease]] = {
    "v2.1.1": GnomadRelease(
        "release/2.1.1/constraint/gnomad.v2.1.1.lof_metrics.by_gene.txt.bgz", V2, "GRCh37", 0.35
    ),
    "v4.0": GnomadRelease(
        "release/4.0/constraint/gnomad.v4.0.constraint_metrics.tsv", V4, "GRCh38", 0.6
    ),
    "v4.1": GnomadRelease(
        "release/4.1/constraint/gnomad.v4.1.constraint_metrics.tsv", V4, "GRCh38", 0.6
    ),
    "v4.1.1": GnomadRelease(
        "release/4.1.1/constraint/gnomad.v4.1.1.constraint_metrics.tsv.bgz",
        V4_1_1,
        "GRCh38",
        0.45,
    ),
}


class Gnomad:
    """`release` is one of RELEASES.

    No file says which release it is, and those of v4.0 and v4.1 have the same columns. So the
    release is the one whose path is asked, and the file must have its columns.
    """

    declaration = Declaration(
        name="gnomad",
        title="gnomAD: constraint of genes",
        base_url="https://storage.googleapis.com/gcp-public-data--gnomad",
        homepage="https://gnomad.broadinstitute.org",
        licence="CC0",
        citation="gnomAD; Karczewski et al. 2020, doi:10.1038/s41586-020-2308-7",
        wire_format="constraint metrics by transcript, TSV",
        identifier="ensembl_gene_id",
        joins=("ensembl_gene_id", "symbol"),
        value=GnomadGene,
        ttl=timedelta(days=30),  # A release comes every year or two, on no fixed day.
        parser_version=1,
        requests_per_second=1,
        expected=Expected(
            records=(15_000, 25_000),
            unmapped_share_max=0.25,  # Transcripts of genes that HGNC does not name, most of them.
            nulls_share_max={"loeuf": 0.2, "pli": 0.2},
            sentinels=("HGNC:9008", "HGNC:1100", "HGNC:11998"),  # PKD1, BRCA1, TP53.
        ),
        score="loeuf",
    )

    def __init__(self, release: str = "v4.1.1", fallback: ApiSource | None = None) -> None:
        self.fallback = fallback
        # Each release has its own method: its values cannot be compared with another's.
        self.declaration = replace(self.declaration, method=release)
        self._name = release
        self._release = RELEASES[release]
        self.files = (RemoteFile(FILE, self._release.path, FILE_BYTES_MAX),)

    def version(self, files: Mapping[str, StoredFile]) -> str:
        with files[FILE].unpacked() as file:
            self._header(domain.numbered_lines(file, FILE, UNPACKED_BYTES_MAX))
        return self._name

    def read(self, files: Mapping[str, StoredFile], catalogue: Catalogue) -> Iterator[Entry]:
        """A record for each gene by its MANE Select transcript, else by its canonical one."""
        with files[FILE].unpacked() as file:
            lines = domain.numbered_lines(file, FILE, UNPACKED_BYTES_MAX)
            header = self._header(lines)
            yield domain.Columns(FILE, header)
            table = _read_table(lines, header, self._release.columns)
        matches = _match(table, catalogue)
        for id_, row in table.rows.items():
            match = matches[id_]
            if isinstance(match, str):
                yield Unmapped(id_, match)
            else:
                value = _value(row, match.by, self._release)
                yield Record(match.hgnc_id, value, FILE, row.line, match.by)
        for id_, row_count in table.unchosen.items():
            if id_ not in table.rows:
                yield Unmapped(id_, NONE_CHOSEN, row_count)
        for id_, row_count in table.repeated.items():
            yield Unmapped(id_, REPEATED, row_count)
        if table.refseq_rows:
            yield Unmapped(REFSEQ, NOT_READ, table.refseq_rows)

    def _header(self, lines: Iterator[tuple[int, bytes]]) -> list[str]:
        """The first line, if it is that of this release. Raises SchemaChanged."""
        header = _first(lines).decode(errors="replace").split("\t")
        kind = [columns for columns in COLUMNS if columns.mark in header][:1]
        theirs = " or ".join(name for name, one in RELEASES.items() if one.columns in kind)
        if missing := [name for name in self._release.columns.required if name not in header]:
            raise SchemaChanged(
                f"{FILE} of {self._name}: no column {missing[0]} in the header {header}"
                + (f"; they are the columns of {theirs}" if theirs else "")
            )
        if self._release.columns not in kind:
            raise SchemaChanged(f"{FILE} of {self._name} has the columns of {theirs}")
        return header


def _first(lines: Iterator[tuple[int, bytes]]) -> bytes:
    for _, line in lines:
        return line.removeprefix(codecs.BOM_UTF8)
    raise SchemaChanged(f"{FILE} is empty; accepted is a header and a line for each transcript")


class _Row(NamedTuple):
    """A transcript that stands for its gene; `cells` are those of the value's fields, in order."""

    line: int
    chosen_by: ChosenBy
    cells: tuple[bytes, ...]


@dataclass
class _Table:
    """What the file says, by Ensembl gene id; beside the rows that count, how many do not."""

    symbols: dict[str, str] = field(default_factory=dict)
    rows: dict[str, _Row] = field(default_factory=dict)
    unchosen: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)
    refseq_rows: int = 0


def _read_table(lines: Iterator[tuple[int, bytes]], header: list[str], columns: Columns) -> _Table:
    table = _Table()
    keys = [columns.names[name] for name in ("ensembl_gene_id", "symbol", "transcript")]
    keys += [name for name in (columns.mane_select, columns.canonical) if name is not None]
    places = [header.index(name) for name in keys]
    pick_keys, last = itemgetter(*places), max(places) + 1
    pick = itemgetter(*(header.index(name) for name in columns.names.values()))
    for number, line in lines:
        if not line:
            continue
        if (cells := line.count(b"\t") + 1) != len(header):
            raise SchemaChanged(f"{FILE}, line {number} has {cells} of {len(header)} cells")
        # Most rows are not read beyond this, and most bytes never: they are arrays by ancestry.
        id_, symbol, transcript, *chosen = pick_keys(line.split(b"\t", last))
        if not transcript.startswith(b"ENST"):
            table.refseq_rows += 1
            continue
        gene = _unversioned(id_)
        chosen_by = _chosen_by(chosen)
        before = table.rows.get(gene)
        if chosen_by is None:
            table.unchosen[gene] += 1
        elif before is None or (chosen_by, before.chosen_by) == ("mane_select", "canonical"):
            del table.repeated[gene]  # What was repeated does not count any more.
            table.symbols[gene] = _text(symbol)
            table.rows[gene] = _Row(number, chosen_by, pick(line.split(b"\t")))
        elif chosen_by == before.chosen_by:
            table.repeated[gene] += 1
    return table


def _chosen_by(said: list[bytes]) -> ChosenBy | None:
    """By the cells of MANE Select and canonical; a file without them has canonical ones only."""
    if not said:
        return "canonical"
    mane_select, canonical = (cell.strip().lower() == b"true" for cell in said)
    return "mane_select" if mane_select else "canonical" if canonical else None


@dataclass(frozen=True)
class _Match:
    hgnc_id: str
    by: MatchedBy


def _match(table: _Table, catalogue: Catalogue) -> Mapping[str, _Match | str]:
    """By Ensembl id, the gene of ours, or why there is none. No gene is matched twice."""
    matches: dict[str, _Match | str] = {}
    unknown = []
    for id_ in table.rows:
        ours = catalogue.by_ensembl_gene_id.get(id_, ())
        chosen = ours if len(ours) == 1 else [g for g in ours if g.symbol == table.symbols[id_]]
        if len(chosen) == 1:
            matches[id_] = _Match(chosen[0].hgnc_id, "ensembl_gene_id")
        elif ours:
            ids = ", ".join(sorted(gene.hgnc_id for gene in ours))
            matches[id_] = f"ambiguous: this Ensembl id is that of {ids}"
        else:
            unknown.append(id_)
    taken = {match.hgnc_id for match in matches.values() if isinstance(match, _Match)}
    bearers = Counter(table.symbols[id_] for id_ in unknown)
    for id_ in unknown:
        symbol = table.symbols[id_]
        gene = catalogue.by_symbol.get(symbol)
        if gene is None:
            matches[id_] = f"no gene has this Ensembl id, nor the symbol {symbol}"
        elif bearers[symbol] > 1:
            matches[id_] = (
                f"ambiguous: no gene has this Ensembl id, and {bearers[symbol]} such ids have the"
                f" symbol {symbol} of {gene.hgnc_id}"
            )
        elif gene.hgnc_id in taken:
            matches[id_] = (
                f"no gene has this Ensembl id; {gene.hgnc_id} has the symbol {symbol},"
                " but is matched to another Ensembl id"
            )
        else:
            matches[id_] = _Match(gene.hgnc_id, "symbol")
    return matches


def _value(row: _Row, matched_by: MatchedBy, release: GnomadRelease) -> GnomadGene:
    fields: dict[str, Any] = {}
    for cell, (name, column) in zip(row.cells, release.columns.names.items(), strict=True):
        try:
            fields[name] = READERS.get(name, _number)(cell)
        except ValueError as error:
            raise SchemaChanged(
                f"{FILE}, line {row.line}: {column} is {cell.decode(errors='replace')!r:.80}:"
                f" accepted is a number or NA: {error}"
            ) from error
    loeuf = fields["loeuf"]
    return GnomadGene(
        **fields,
        matched_by=matched_by,
        assembly=release.assembly,
        transcript_chosen_by=row.chosen_by,
        loeuf_threshold=release.threshold,
        is_constrained=None if loeuf is None else loeuf < release.threshold,
    )


def _text(cell: bytes) -> str:
    try:
        return cell.decode().strip()
    except UnicodeDecodeError as error:
        raise SchemaChanged(f"{FILE} is not UTF-8: {error}") from error


def _text_or_none(cell: bytes) -> str | None:
    return None if _is_missing(cell) else _text(cell)


def _is_missing(cell: bytes) -> bool:
    return cell.strip().upper() in MISSING


def _unversioned(cell: bytes) -> str:
    return _text(cell).partition(".")[0]


def _number(cell: bytes) -> float | None:
    """Null, too, for what is no finite number: JSON has none for it."""
    if b"_" in cell:  # To float, 1_000 is a number.
        raise ValueError("one without _")
    try:
        number = float(cell)
    except ValueError:
        if _is_missing(cell):
            return None
        raise
    return number if isfinite(number) else None


def _whole(cell: bytes) -> int | None:
    number = _number(cell)
    if number is None:
        return None
    if not number.is_integer():
        raise ValueError("a whole one")
    return int(number)


def _flags(cell: bytes) -> list[str] | None:
    """Such as ["no_exp_lof","outlier_mis"]; v2.1.1 has no brackets, and nothing for none."""
    return None if cell.strip().upper() == b"NA" else FLAG.findall(_text(cell))


# The fields that are no plain numbers.
READERS: Final[Mapping[str, Callable[[bytes], object]]] = {
    "ensembl_gene_id": _unversioned,
    "symbol": _text,
    "transcript": _text,
    "transcript_version": _text_or_none,
    "constraint_flags": _flags,
    "gene_flags": _flags,
    **dict.fromkeys(("obs_lof", "obs_mis", "obs_syn", "loeuf_decile"), _whole),
}
