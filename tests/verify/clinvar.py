"""ClinVar's variants and its summary by gene, read independently, and a converter of records that
others made of its variants."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from tests.verify.reading import Claim, Genes, Match, Reading, Value, read_lines, read_rows

NOT_GIVEN = ("", "-", "-1", "na", "NA")
SUMMARY = {
    "submissions": "Total_submissions",
    "alleles": "Total_alleles",
    "submissions_of_this_gene": "Submissions_reporting_this_gene",
    "alleles_p_lp": "Alleles_reported_Pathogenic_Likely_pathogenic",
    "uncertain": "Number_uncertain",
    "conflicts": "Number_with_conflicts",
}
SUMMARY_HEADER = (
    *("Symbol", "GeneID", "Total_submissions", "Total_alleles"),
    *("Submissions_reporting_this_gene", "Alleles_reported_Pathogenic_Likely_pathogenic"),
    *("Gene_MIM_number", "Number_uncertain", "Number_with_conflicts"),
)
STARS = {
    "practice guideline": 4,
    "reviewed by expert panel": 3,
    "criteria provided, multiple submitters, no conflicts": 2,
    "criteria provided, multiple submitters": 2,
    "criteria provided, conflicting classifications": 1,
    "criteria provided, conflicting interpretations": 1,
    "criteria provided, single submitter": 1,
}
P_LP = ("pathogenic", "likely_pathogenic", "pathogenic_likely_pathogenic")
SIGNIFICANCES = (
    *P_LP,
    *("vus", "likely_benign", "benign", "benign_likely_benign", "conflicting"),
    *("not_provided", "other"),
)
JOINS = ("hgnc_id", "entrez_id", "symbol")

Row = dict[str, str]


class Name(NamedTuple):
    """What ClinVar calls a gene."""

    hgnc_id: str
    entrez_id: str
    symbol: str

    def claim(self) -> Claim:
        given = Name(*("" if one in NOT_GIVEN else one for one in self))
        return Claim(
            self.entrez_id, frozenset({self.symbol}), given.hgnc_id, entrez_id=given.entrez_id
        )


@dataclass
class Gene:
    name: Name
    by: str
    variants: list[Row] = field(default_factory=list)
    shared: list[Row] = field(default_factory=list)
    summary: Value | None = None


def read(summary: Path, variants: Path, genes: Genes) -> Reading:
    reading = Reading()
    summaries = _read_summary(summary, reading)
    single, several = _read_variants(variants, reading)
    names = list(dict.fromkeys([*single, *summaries]))
    matches = dict(zip(names, genes.match([name.claim() for name in names]), strict=True))
    found: dict[str, Gene] = {}

    def gene_of(name: Name, row_count: int) -> Gene | None:
        match = matches[name]
        if match is None:
            reading.unmapped["no gene of ours"] += row_count
            return None
        return found.setdefault(match.hgnc_id, Gene(name, match.by))

    # By the best join first: that is what the gene is called.
    for join in (*JOINS, None):
        for name, rows in single.items():
            match = matches[name]
            by = match.by if match is not None else None
            if by == join and (gene := gene_of(name, len(rows))):
                gene.variants += rows
    for name, said in summaries.items():
        gene = gene_of(name, 1)
        if gene is not None and gene.summary is None:
            gene.summary = said
        elif gene is not None:
            reading.unmapped["another row of the summary is of this gene"] += 1
    _share_out(several, _by_symbol(matches, genes), found, reading)
    reading.values = {hgnc_id: _value(gene) for hgnc_id, gene in found.items()}
    return reading


def _by_symbol(matches: Mapping[Name, Match | None], genes: Genes) -> Mapping[str, str]:
    """ClinVar's own symbols, and approved ones that it uses for no other gene."""
    own = {name.symbol: match.hgnc_id for name, match in matches.items() if match is not None}
    return genes.by_symbol | own


def _share_out(
    several: Sequence[tuple[Sequence[str], Row]],
    by_symbol: Mapping[str, str],
    found: dict[str, Gene],
    reading: Reading,
) -> None:
    for symbols, row in several:
        for symbol in dict.fromkeys(symbols):
            hgnc_id = by_symbol.get(symbol)
            if hgnc_id is None:
                reading.unmapped["a gene of a variant of several"] += 1
            else:
                gene = found.setdefault(hgnc_id, Gene(Name("", "", symbol), "symbol"))
                gene.shared.append(row)


def _read_summary(path: Path, reading: Reading) -> dict[Name, Value]:
    """The sex chromosomes share genes: such a gene has a row, and a number of OMIM's, for each."""
    summaries: dict[Name, Value] = {}
    lines = read_lines(path)
    next(lines)  # The day.
    for row in read_rows(lines, next(lines).removeprefix("#")):
        name = Name("", row["GeneID"], row["Symbol"])
        counts: Value = {
            key: None if row[column] in NOT_GIVEN else int(row[column])
            for key, column in SUMMARY.items()
        }
        mim_numbers = {row["Gene_MIM_number"]} - set(NOT_GIVEN)
        before = summaries.get(name)
        if before is None:
            summaries[name] = {**counts, "mim_numbers": sorted(mim_numbers)}
        elif all(before[key] == count for key, count in counts.items()):
            before["mim_numbers"] = sorted(mim_numbers | set(before["mim_numbers"]))
        else:
            reading.unmapped["another row of the summary is of this gene"] += 1
    return summaries


def _read_variants(
    path: Path, reading: Reading
) -> tuple[Mapping[Name, list[Row]], Sequence[tuple[Sequence[str], Row]]]:
    """Each VariationID once, by its row of GRCh38 if it has one: by gene, and of several."""
    rows: dict[str, Row] = {}
    lines = read_lines(path)
    for row in read_rows(lines, next(lines).removeprefix("#")):
        before = rows.get(row["VariationID"])
        if before is None or (row["Assembly"] == "GRCh38" != before["Assembly"]):
            rows[row["VariationID"]] = row
    single: defaultdict[Name, list[Row]] = defaultdict(list)
    several = []
    for row in rows.values():
        name = Name(row["HGNC_ID"], row["GeneID"], row["GeneSymbol"])
        symbols = name.symbol.split(":")[-1].strip().split(";")
        if " " in symbols[0] or len(name.symbol) > 256:
            reading.unmapped["variants of genes that are not all named"] += 1
        elif len(symbols) > 1:
            several.append((symbols, row))
        elif set(name) <= set(NOT_GIVEN):
            reading.unmapped["variants of no gene"] += 1
        else:
            single[name].append(row)
    return single, several


def significance(said: str) -> str:
    """The first of these that ClinVar's words say: "conflicting" has "pathogenic" in it, too."""
    terms = [
        {word.strip() for word in term.split("/")}
        for term in said.lower().replace(",", ";").split(";")
    ]
    words = set().union(*terms)

    def is_said(*together: str) -> bool:
        return any(term.issuperset(together) for term in terms)

    rules = {
        "conflicting": any(word.startswith("conflicting") for word in words),
        "pathogenic_likely_pathogenic": is_said("pathogenic", "likely pathogenic"),
        "likely_pathogenic": is_said("likely pathogenic"),
        "pathogenic": is_said("pathogenic"),
        "vus": is_said("uncertain significance") or is_said("uncertain risk allele"),
        "benign_likely_benign": is_said("benign", "likely benign"),
        "likely_benign": is_said("likely benign"),
        "benign": is_said("benign"),
        "not_provided": any(
            word in NOT_GIVEN or word.startswith(("not provided", "no ")) for word in words
        ),
    }
    return next((kind for kind, applies in rules.items() if applies), "other")


def consequence(name: str) -> str | None:
    """By the change of the protein in the last brackets of a Name."""
    start = name.rfind("(p.")
    if start < 0 or "=" in (change := name[start + 3 :].partition(")")[0]):
        return None
    is_truncating = any(sign in change for sign in ("fs", "Ter", "*"))
    return "truncating" if is_truncating else "missense"


def _value(gene: Gene) -> Value:
    crossed = {one: [0] * 5 for one in SIGNIFICANCES}
    consequences: Counter[str | None] = Counter()
    days = []
    for row in gene.variants:
        kind = significance(row["ClinicalSignificance"])
        crossed[kind][STARS.get(row["ReviewStatus"].lower(), 0)] += 1
        if kind in P_LP:
            consequences[consequence(row["Name"])] += 1
        if row["LastEvaluated"] not in NOT_GIVEN:
            days.append(datetime.strptime(row["LastEvaluated"], "%b %d, %Y").date())  # noqa: DTZ007
    p_lp = [sum(crossed[one]) for one in P_LP]
    well_reviewed = sum(sum(crossed[one][2:]) for one in P_LP)
    return {
        "symbol": gene.name.symbol,
        "entrez_id": None if gene.name.entrez_id in NOT_GIVEN else gene.name.entrez_id,
        "matched_by": gene.by,
        "has_p_lp": sum(p_lp) > 0,
        "has_p_lp_2plus_stars": well_reviewed > 0,
        "has_conflicting": sum(crossed["conflicting"]) > 0,
        "variants_total": len(gene.variants),
        "p_lp_total": sum(p_lp),
        "p_lp_2plus_stars": well_reviewed,
        "truncating_p_lp": consequences["truncating"],
        "missense_p_lp": consequences["missense"],
        "counts_by_significance": {one: sum(stars) for one, stars in crossed.items()},
        "counts_by_stars": [sum(stars[at] for stars in crossed.values()) for at in range(5)],
        "counts_by_significance_and_stars": {
            one: stars for one, stars in crossed.items() if any(stars)
        },
        "last_evaluated_max": max(days).isoformat() if days else None,
        "multi_gene_total": len(gene.shared),
        "multi_gene_p_lp": sum(
            significance(row["ClinicalSignificance"]) in P_LP for row in gene.shared
        ),
        "summary": gene.summary,
    }


VARIANT_HEADER = (
    *("VariationID", "Assembly", "HGNC_ID", "GeneID", "GeneSymbol", "ClinicalSignificance"),
    *("ReviewStatus", "LastEvaluated", "Name", "Start"),
)
REVIEW = "AGGREGATE_GERMLINE_REVIEW_STATUS_"
# Those whose words are told apart by more than an underscore.
REVIEWS = {
    one.upper().replace(", ", "_").replace(" ", "_"): one
    for one in (*STARS, "no assertion criteria provided", "no classification provided")
}


def convert_records(path: Path, genes: Genes) -> Iterator[str]:
    """The lines of a table of variants, in the columns that are read, of annonars' records.

    They name genes by HGNC id alone: the symbol is ours.
    """
    yield "#" + "\t".join(VARIANT_HEADER)
    for line in read_lines(path):
        record = json.loads(line)
        germline = record.get("classifications", {}).get("germlineClassification", {})
        location = record["sequenceLocation"]
        hgnc_ids = record.get("hgncIds", [])
        evaluated = germline.get("dateLastEvaluated")
        day = datetime.fromisoformat(evaluated) if evaluated else None
        cells = {
            "VariationID": str(int(record["accession"]["accession"].removeprefix("VCV"))),
            "Assembly": location["assembly"],
            "HGNC_ID": hgnc_ids[0] if len(hgnc_ids) == 1 else "-",
            "GeneID": "-1",
            "GeneSymbol": ";".join(genes.symbols.get(one, one) for one in hgnc_ids) or "-",
            "ClinicalSignificance": germline.get("description", "-"),
            "ReviewStatus": _review(germline.get("reviewStatus", "")),
            "LastEvaluated": f"{day:%b %d, %Y}" if day else "-",
            "Name": record["name"],
            "Start": str(location.get("start", location.get("displayStart", "-1"))),
        }
        yield "\t".join(cells[name] for name in VARIANT_HEADER)


def _review(said: str) -> str:
    name = said.removeprefix(REVIEW)
    return REVIEWS[name] if name else "-"


def empty_summary() -> Iterable[str]:
    yield "#Overview of no data, dated November 7, 2021"
    yield "#" + "\t".join(SUMMARY_HEADER)
