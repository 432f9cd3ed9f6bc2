"""HPO, read independently: phenotypes and diseases of genes, with ontology and annotations."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.verify.reading import Claim, Genes, Match, Reading, Value, read_lines, read_rows

ROOT = "HP:0000118"
RANGES = {
    "HP:0040280": 1.0,
    "HP:0040281": 0.99,
    "HP:0040282": 0.79,
    "HP:0040283": 0.29,
    "HP:0040284": 0.04,
    "HP:0040285": 0.0,
}
SHARE_DIGITS = 4


@dataclass
class Ontology:
    names: dict[str, str] = field(default_factory=dict)
    replacements: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    parents: dict[str, set[str]] = field(default_factory=dict)
    _phenotypic: dict[str, bool] = field(default_factory=dict)

    def today(self, term: str) -> str | None:
        """The term, or what stands for it now."""
        for _ in range(len(self.replacements) + 1):
            if term in self.names:
                return term
            if len(self.replacements.get(term, ())) != 1:
                return None
            (term,) = self.replacements[term]
        return None

    def is_phenotypic(self, term: str) -> bool:
        if term not in self._phenotypic:
            parents = self.parents[term]
            self._phenotypic[term] = ROOT in parents or any(map(self.is_phenotypic, parents))
        return self._phenotypic[term]


@dataclass
class Disease:
    name: str
    affirmed: set[str] = field(default_factory=set)
    denied: set[str] = field(default_factory=set)
    inheritance: set[str] = field(default_factory=set)


@dataclass
class Said:
    """What is said of one Entrez id."""

    row_count: int = 0
    symbols: set[str] = field(default_factory=set)
    diseases: set[str] = field(default_factory=set)
    seen_in: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    shares: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def read(genes_to_phenotype: Path, annotations: Path, obo: Path, genes: Genes) -> Reading:
    reading = Reading()
    ontology = _read_ontology(obo)
    diseases = _read_diseases(annotations, ontology, reading)
    said = _read_genes(genes_to_phenotype, ontology, diseases, reading)
    claims = [Claim(id_, frozenset(one.symbols), entrez_id=id_) for id_, one in said.items()]
    for (entrez_id, one), match in zip(said.items(), genes.match(claims), strict=True):
        if match is None:
            reading.unmapped["no gene of ours"] += one.row_count
        elif one.seen_in:
            reading.values[match.hgnc_id] = _value(entrez_id, one, match, ontology, diseases)
        else:
            reading.valueless["no phenotypic abnormality is said of them"] += 1
    return reading


def _read_ontology(path: Path) -> Ontology:
    ontology = Ontology()
    for stanza in "\n".join(read_lines(path)).split("\n\n"):
        kind, *lines = stanza.strip().split("\n")
        if kind != "[Term]":
            continue
        tags: defaultdict[str, list[str]] = defaultdict(list)
        for line in lines:
            tag, _, said = line.partition(": ")
            tags[tag].append(said.strip())
        (id_,) = tags["id"]
        if tags["is_obsolete"] == ["true"]:
            ontology.replacements[id_].update(tags["replaced_by"])
            continue
        (ontology.names[id_],) = tags["name"]
        ontology.parents[id_] = {parent.split(" ! ")[0].split()[0] for parent in tags["is_a"]}
        for other in tags["alt_id"]:
            ontology.replacements[other].add(id_)
    return ontology


def _read_diseases(path: Path, ontology: Ontology, reading: Reading) -> Mapping[str, Disease]:
    diseases: dict[str, Disease] = {}
    lines = (line for line in read_lines(path) if not line.startswith("#"))
    for row in read_rows(lines, next(lines)):
        disease = diseases.setdefault(row["database_id"], Disease(row["disease_name"]))
        term = ontology.today(row["hpo_id"])
        if term is None:
            reading.unmapped["no term of the ontology"] += 1
        elif row["qualifier"] == "NOT":
            disease.denied.add(term)
        else:
            disease.affirmed.add(term)
            if row["aspect"] == "I":
                disease.inheritance.add(term)
    return diseases


def _read_genes(
    path: Path, ontology: Ontology, diseases: Mapping[str, Disease], reading: Reading
) -> Mapping[str, Said]:
    said: dict[str, Said] = {}
    lines = read_lines(path)
    for row in read_rows(lines, next(lines)):
        one = said.setdefault(row["ncbi_gene_id"], Said())
        one.row_count += 1
        one.symbols.add(row["gene_symbol"])
        one.diseases.add(row["disease_id"])
        term = ontology.today(row["hpo_id"])
        if term is None:
            reading.unmapped["no term of the ontology"] += 1
            continue
        disease = diseases.get(row["disease_id"], Disease(""))
        is_denied = term in disease.denied and term not in disease.affirmed
        if not ontology.is_phenotypic(term) or is_denied:
            continue
        shares = list(_share(row["frequency"], reading))
        if shares == [0]:
            continue
        one.seen_in[term].add(row["disease_id"])
        one.shares[term] += shares
    return said


def _share(frequency: str, reading: Reading) -> Iterator[float]:
    """The share of patients, if one is given."""
    if frequency in RANGES:
        yield RANGES[frequency]
    elif frequency not in ("", "-"):
        some, _, all_ = frequency.replace("%", "/100").partition("/")
        if all_.isdigit() and some.replace(".", "", 1).isdigit() and float(some) <= int(all_) > 0:
            yield float(some) / int(all_)
        else:
            reading.unmapped["a frequency that is none"] += 1


def _value(
    entrez_id: str, one: Said, match: Match, ontology: Ontology, diseases: Mapping[str, Disease]
) -> Value:
    modes = {mode for id_ in one.diseases if id_ in diseases for mode in diseases[id_].inheritance}
    return {
        "entrez_id": entrez_id,
        "matched_by": match.by,
        "term_count": len(one.seen_in),
        "terms": [
            {
                "id": term,
                "name": ontology.names[term],
                "max_frequency": (
                    round(max(one.shares[term]), SHARE_DIGITS) if one.shares[term] else None
                ),
                "diseases": sorted(one.seen_in[term]),
            }
            for term in sorted(one.seen_in)
        ],
        "diseases": [
            {"id": id_, "name": diseases[id_].name if id_ in diseases else None}
            for id_ in sorted(one.diseases)
        ],
        "inheritance_modes": [{"id": id_, "name": ontology.names[id_]} for id_ in sorted(modes)],
    }
