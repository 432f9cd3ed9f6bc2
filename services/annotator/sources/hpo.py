"""HPO: which phenotypic abnormalities and diseases are known of a gene, and how inherited."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from io import TextIOWrapper
from operator import itemgetter
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.annotator.domain import (
    SUMMARY,
    Catalogue,
    Columns,
    Declaration,
    Entry,
    Expected,
    Record,
    RemoteFile,
    StoredFile,
    Unmapped,
    severity,
)
from services.annotator.errors import SchemaChanged

GENES: Final = "genes_to_phenotype.txt"
DISEASES: Final = "phenotype.hpoa"
ONTOLOGY: Final = "hp.obo"
FILE_BYTES_MAX: Final = 256 * 1024 * 1024  # The largest has 35 MB.

GENES_COLUMNS: Final = ("ncbi_gene_id", "gene_symbol", "hpo_id", "frequency", "disease_id")
DISEASES_COLUMNS: Final = ("database_id", "disease_name", "qualifier", "hpo_id", "aspect")
PHENOTYPIC_ABNORMALITY: Final = "HP:0000118"
NO_TERM: Final = "no term of hp.obo, nor replaced by just one"
# Each of these terms is a range; the number is its upper end.
FREQUENCIES: Final[Mapping[str, float | None]] = {
    "-": None,
    "": None,
    "HP:0040280": 1.0,  # Obligate.
    "HP:0040281": 0.99,  # Very frequent.
    "HP:0040282": 0.79,
    "HP:0040283": 0.29,
    "HP:0040284": 0.04,  # Very rare.
    "HP:0040285": 0.0,  # Excluded.
}
SHARE_DIGITS: Final = 4
SHARES_REMEMBERED_MAX: Final = 50_000

HEADER_LINES_MAX: Final = 50
VERSION: Final = re.compile(r"#(?:version|date):\s*(\d{4}-\d{2}-\d{2})")
ONTOLOGY_TAGS: Final = frozenset({"id", "name", "is_a", "alt_id", "is_obsolete", "replaced_by"})
ONTOLOGY_VERSION: Final = re.compile(r"data-version:\D*(\d{4}-\d{2}-\d{2})")


@dataclass(frozen=True, slots=True)  # Half the time of a model: a release has 240,000 of them.
class PhenotypeTerm:
    id: Annotated[
        str, Field(description="HP id; a retired one is given as the one that replaced it")
    ]
    name: Annotated[str, Field(description="as in hp.obo")]
    max_frequency: Annotated[
        float | None,
        Field(
            description="highest share of patients over the diseases, 0–1; the upper end of a range"
        ),
    ]
    diseases: Annotated[list[str], Field(description="ids of the diseases in which it is seen")]


class Named(BaseModel):
    model_config = ConfigDict(frozen=True)

    id: str
    name: str | None


class HpoGene(BaseModel):
    """What HPO says of a gene. All lists are sorted by id and free of repetitions."""

    model_config = ConfigDict(frozen=True)

    entrez_id: str = Field(description="HPO's id of the gene [ncbi_gene_id]")
    matched_by: Literal["entrez_id", "symbol"] = Field(
        description="symbol: HGNC does not know this Entrez id, but has this approved symbol"
    )
    term_count: int = Field(json_schema_extra=SUMMARY)
    terms: list[PhenotypeTerm] = Field(
        description="phenotypic abnormalities, the most specific terms only: no ancestors",
        json_schema_extra=severity("major") | SUMMARY,
    )
    diseases: list[Named] = Field(
        description="all diseases of the gene, OMIM:n, ORPHA:n or DECIPHER:n [disease_id];"
        " its first name in phenotype.hpoa, null when it is not there",
        json_schema_extra=severity("clinical") | SUMMARY,
    )
    inheritance_modes: list[Named] = Field(
        description="of the gene's diseases [phenotype.hpoa, aspect I]",
        json_schema_extra=severity("clinical") | SUMMARY,
    )


class Hpo:
    declaration = Declaration(
        name="hpo",
        title="HPO: human phenotype ontology, annotations of genes",
        base_url="https://purl.obolibrary.org/obo",
        homepage="https://hpo.jax.org",
        licence="HPO licence: cite HPO, show the version, do not alter",
        citation="Human Phenotype Ontology; Gargano et al. 2024, doi:10.1093/nar/gkad1005",
        wire_format="genes_to_phenotype.txt, phenotype.hpoa as of 2023, hp.obo",
        identifier="entrez_id",
        joins=("entrez_id", "symbol"),
        value=HpoGene,
        ttl=timedelta(days=7),  # A release comes every month or two, on no fixed day.
        parser_version=1,
        requests_per_second=1,
        concurrency=2,
        expected=Expected(
            records=(4_000, 10_000),
            unmapped_share_max=0.05,
            sentinels=("HGNC:9008", "HGNC:1100", "HGNC:11998"),  # PKD1, BRCA1, TP53.
        ),
    )
    files: tuple[RemoteFile, ...] = (
        RemoteFile(ONTOLOGY, "hp.obo", FILE_BYTES_MAX),
        RemoteFile(GENES, "hp/hpoa/genes_to_phenotype.txt", FILE_BYTES_MAX),
        RemoteFile(DISEASES, "hp/hpoa/phenotype.hpoa", FILE_BYTES_MAX),
    )

    def version(self, files: Mapping[str, StoredFile]) -> str:
        """The day of phenotype.hpoa. When the ontology is of another day, the name says so."""
        annotations = _find_in_header(files, DISEASES, VERSION, "#version:")
        ontology = _find_in_header(files, ONTOLOGY, ONTOLOGY_VERSION, "data-version:")
        same = ontology == annotations
        return annotations if same else f"{annotations} with ontology {ontology}"

    def read(self, files: Mapping[str, StoredFile], catalogue: Catalogue) -> Iterator[Entry]:
        """A record for each gene with a phenotypic abnormality; what is no gene or term of ours."""
        for name, columns in ((GENES, GENES_COLUMNS), (DISEASES, DISEASES_COLUMNS)):
            yield Columns(name, _header(_lines(files, name), name, columns))
        ontology = _read_ontology(files)
        unread: _Unread = Counter()
        diseases = _read_diseases(files, ontology, unread)
        genes = _read_genes(files, ontology, diseases, unread)
        matches = _match(genes, catalogue)
        for entrez_id, gene in genes.items():
            match = matches[entrez_id]
            if isinstance(match, str):
                yield Unmapped(entrez_id, match, gene.row_count)
            elif gene.phenotypes:
                value = _value(entrez_id, gene, match.by, ontology, diseases)
                yield Record(match.hgnc_id, value, GENES, gene.first_line, match.by)
        for (key, reason), row_count in unread.items():
            yield Unmapped(key, reason, row_count)


_Files = Mapping[str, StoredFile]
_Unread = Counter[tuple[str, str]]  # Rows, by what cannot be read in them and why.


@dataclass
class _Ontology:
    names: dict[str, str] = field(default_factory=dict)
    successors: dict[str, set[str]] = field(default_factory=dict)
    abnormalities: set[str] = field(default_factory=set)

    def current(self, term: str) -> str | None:
        """The term, or the one that stands for it now; None when that is none or not just one."""
        if term in self.names:
            return term
        seen = set()
        while term not in self.names:
            successors = self.successors.get(term, set())
            if len(successors) != 1 or term in seen:
                return None
            seen.add(term)
            (term,) = successors
        return term


def _read_ontology(files: _Files) -> _Ontology:
    ontology = _Ontology()
    children: dict[str, list[str]] = {}
    for term in _terms(files):
        if not {"id", "name"} <= term.keys():
            raise SchemaChanged(f"{ONTOLOGY}: a term has no id or no name: {term}")
        id_ = term["id"][0]
        if "is_obsolete" in term:
            ontology.successors.setdefault(id_, set()).update(term.get("replaced_by", ()))
            continue
        ontology.names[id_] = term["name"][0]
        for alternative in term.get("alt_id", ()):
            ontology.successors.setdefault(alternative, set()).add(id_)
        for parent in term.get("is_a", ()):
            children.setdefault(parent.split(" ")[0], []).append(id_)
    if PHENOTYPIC_ABNORMALITY not in children:
        raise SchemaChanged(f"{ONTOLOGY}: no term has is_a: {PHENOTYPIC_ABNORMALITY}")
    waiting = [PHENOTYPIC_ABNORMALITY]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in ontology.abnormalities:
                ontology.abnormalities.add(child)
                waiting.append(child)
    return ontology


def _terms(files: _Files) -> Iterator[Mapping[str, list[str]]]:
    """The [Term] stanzas, by tag."""
    stanza: dict[str, list[str]] | None = None
    for _, line in _lines(files, ONTOLOGY):
        if line.startswith("["):
            if stanza:
                yield stanza
            stanza = {} if line.rstrip() == "[Term]" else None
        elif stanza is not None:
            tag, _, text = line.partition(": ")
            if tag in ONTOLOGY_TAGS:
                stanza.setdefault(tag, []).append(text.rstrip())
    if stanza:
        yield stanza


@dataclass
class _Diseases:
    names: dict[str, str] = field(default_factory=dict)
    inheritance: dict[str, set[str]] = field(default_factory=dict)
    denied: dict[str, set[str]] = field(default_factory=dict)  # Terms: NOT, and never without it.


def _read_diseases(files: _Files, ontology: _Ontology, unread: _Unread) -> _Diseases:
    diseases = _Diseases()
    affirmed: dict[str, set[str]] = defaultdict(set)
    for _, (disease, name, qualifier, term, aspect) in _rows(files, DISEASES, DISEASES_COLUMNS):
        diseases.names.setdefault(disease, name)
        current = ontology.current(term)
        if current is None:
            unread[term, f"{DISEASES}: {NO_TERM}"] += 1
        elif qualifier == "NOT":
            diseases.denied.setdefault(disease, set()).add(current)
        else:
            affirmed[disease].add(current)
            if aspect == "I":
                diseases.inheritance.setdefault(disease, set()).add(current)
    for disease, terms in diseases.denied.items():
        terms.difference_update(affirmed.get(disease, ()))
    return diseases


@dataclass(slots=True)
class _Phenotype:
    """What the rows of one gene and one term say."""

    max_frequency: float | None
    diseases: list[str]


@dataclass
class _Gene:
    """What the rows of one Entrez id say."""

    first_line: int
    row_count: int = 0
    symbols: set[str] = field(default_factory=set)
    diseases: set[str] = field(default_factory=set)
    phenotypes: dict[str, _Phenotype] = field(default_factory=dict)  # By term.


def _read_genes(
    files: _Files, ontology: _Ontology, diseases: _Diseases, unread: _Unread
) -> Mapping[str, _Gene]:
    """By Entrez id, in the order of the file."""
    genes: dict[str, _Gene] = {}
    for number, (entrez_id, symbol, term, frequency, disease) in _rows(files, GENES, GENES_COLUMNS):
        gene = genes.get(entrez_id)
        if gene is None:
            gene = genes[entrez_id] = _Gene(number)
        gene.row_count += 1
        gene.symbols.add(symbol)
        gene.diseases.add(disease)
        current = ontology.current(term)
        if current is None:
            unread[term, f"{GENES}: {NO_TERM}"] += 1
            continue
        # This file has no column for NOT: its rows of that kind look like any other (788 of
        # them in 2025-01-16), so phenotype.hpoa has to tell.
        if current not in ontology.abnormalities or current in diseases.denied.get(disease, ()):
            continue
        try:
            share = share_of(frequency)
        except ValueError as error:
            unread[f"frequency {frequency}", f"{GENES}: {error}"] += 1
            share = None
        if share == 0:
            continue
        phenotype = gene.phenotypes.get(current)
        if phenotype is None:
            gene.phenotypes[current] = _Phenotype(share, [disease])
            continue
        phenotype.diseases.append(disease)
        if share is not None and share > (phenotype.max_frequency or 0):
            phenotype.max_frequency = share
    return genes


@lru_cache(SHARES_REMEMBERED_MAX)
def share_of(frequency: str) -> float | None:
    """The share of patients, 0–1, None when it is not known. Raises ValueError."""
    if frequency in FREQUENCIES:
        return FREQUENCIES[frequency]
    if found := re.fullmatch(r"(\d+)/(\d+)", frequency):
        some, all_ = float(found[1]), float(found[2])
    elif found := re.fullmatch(r"(\d+(?:\.\d+)?)%", frequency):
        some, all_ = float(found[1]), 100.0
    else:
        raise ValueError("accepted is n/m, n% or a term below HP:0040279, Frequency")
    if some > all_ or all_ == 0:
        raise ValueError("accepted is a share from 0 to 1")
    return some / all_


@dataclass(frozen=True)
class _Match:
    hgnc_id: str
    by: Literal["entrez_id", "symbol"]


def _match(genes: Mapping[str, _Gene], catalogue: Catalogue) -> Mapping[str, _Match | str]:
    """By Entrez id, the gene of ours, or why there is none. No gene is matched twice."""
    matches: dict[str, _Match | str] = {}
    unknown = []
    for entrez_id, gene in genes.items():
        ours = catalogue.by_entrez_id.get(entrez_id, ())
        chosen = ours if len(ours) == 1 else [one for one in ours if one.symbol in gene.symbols]
        if len(chosen) == 1:
            matches[entrez_id] = _Match(chosen[0].hgnc_id, "entrez_id")
        elif ours:
            ids = ", ".join(sorted(one.hgnc_id for one in ours))
            matches[entrez_id] = f"ambiguous: this Entrez id is that of {ids}"
        else:
            unknown.append(entrez_id)
    taken = {match.hgnc_id for match in matches.values() if isinstance(match, _Match)}
    named = {
        entrez_id: {
            catalogue.by_symbol[one].hgnc_id: catalogue.by_symbol[one]
            for one in genes[entrez_id].symbols
            if one in catalogue.by_symbol
        }
        for entrez_id in unknown
    }
    claims = Counter(hgnc_id for found in named.values() for hgnc_id in found)
    for entrez_id, found in named.items():
        if len(found) != 1:
            symbols = " or ".join(sorted(genes[entrez_id].symbols))
            matches[entrez_id] = f"no gene has this Entrez id, nor just one the symbol {symbols}"
            continue
        (claimed,) = found.values()
        # The order of rows says nothing: of two that claim a gene it must not choose one.
        if claimed.hgnc_id in taken or claims[claimed.hgnc_id] > 1:
            matches[entrez_id] = (
                f"no gene has this Entrez id; {claimed.hgnc_id} has the symbol {claimed.symbol},"
                " but others here claim it too"
            )
        else:
            matches[entrez_id] = _Match(claimed.hgnc_id, "symbol")
    return matches


def _value(
    entrez_id: str,
    gene: _Gene,
    matched_by: Literal["entrez_id", "symbol"],
    ontology: _Ontology,
    diseases: _Diseases,
) -> HpoGene:
    modes = {mode for one in gene.diseases for mode in diseases.inheritance.get(one, ())}
    terms = [
        _term(id_, ontology.names[id_], phenotype)
        for id_, phenotype in sorted(gene.phenotypes.items())
    ]
    # Validated as a whole: one by one, 240,000 terms take three times as long.
    return HpoGene.model_validate(
        {
            "entrez_id": entrez_id,
            "matched_by": matched_by,
            "term_count": len(terms),
            "terms": terms,
            "diseases": [
                {"id": one, "name": diseases.names.get(one)} for one in sorted(gene.diseases)
            ],
            "inheritance_modes": [
                {"id": one, "name": ontology.names[one]} for one in sorted(modes)
            ],
        }
    )


def _term(id_: str, name: str, phenotype: _Phenotype) -> dict[str, object]:
    """A PhenotypeTerm that is still to be validated."""
    share, diseases = phenotype.max_frequency, phenotype.diseases
    return {
        "id": id_,
        "name": name,
        "max_frequency": None if share is None else round(share, SHARE_DIGITS),
        "diseases": diseases if len(diseases) == 1 else sorted(set(diseases)),
    }


def _rows(
    files: _Files, name: str, columns: tuple[str, ...]
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Each row with its line number: the cells of the columns, found by name, in their order."""
    lines = _lines(files, name)
    header = _header(lines, name, columns)
    width, pick = len(header), itemgetter(*(header.index(column) for column in columns))
    for number, text in lines:
        line = text.strip(" \n")  # Not the tabs at its ends: an empty cell is one, too.
        if line[:1] in ("", "#"):
            continue
        cells = line.split("\t")
        if len(cells) != width:
            raise SchemaChanged(f"{name}, line {number} has {len(cells)} of {width} cells")
        # Most lines have no space beside a tab: they are spared a call for each cell.
        padded = " \t" in line or "\t " in line
        yield number, tuple(map(str.strip, pick(cells))) if padded else pick(cells)


def _header(lines: Iterator[tuple[int, str]], name: str, columns: tuple[str, ...]) -> list[str]:
    """The first line that is no comment, if it has these columns. Raises SchemaChanged."""
    for _, line in lines:
        # The format before 2023 has its header in a comment.
        if line[0] in "#\n" and not line.startswith("#Format:"):
            continue
        header = [cell.strip() for cell in line.split("\t")]
        if missing := [column for column in columns if column not in header]:
            raise SchemaChanged(f"{name}: no column {missing[0]} in the header {header}")
        return header
    raise SchemaChanged(f"{name} has no header; accepted is one with {columns}")


def _lines(files: _Files, name: str) -> Iterator[tuple[int, str]]:
    try:
        with TextIOWrapper(files[name].open(), encoding="utf-8-sig") as file:
            yield from enumerate(file, start=1)
    except UnicodeDecodeError as error:
        raise SchemaChanged(f"{name} is not UTF-8: {error}") from error


def _find_in_header(files: _Files, name: str, pattern: re.Pattern[str], accepted: str) -> str:
    for number, line in _lines(files, name):
        if found := pattern.match(line):
            return found[1]
        if number >= HEADER_LINES_MAX:
            break
    raise SchemaChanged(f"{name}: no {accepted} YYYY-MM-DD in {HEADER_LINES_MAX} lines")
