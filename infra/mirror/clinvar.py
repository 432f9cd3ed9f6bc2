"""ClinVar's two tables: real files of a folder, and what there is not made up and marked so.

Variants are made from the rows of the summary, be it a real one or not, so that both name the
same genes. They are few: their counts are not those of the summary.
"""

import gzip
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, NamedTuple

from infra.mirror.files import Offer, ServedFile, UnusableData, publish, unpacked, write_bytes

SUMMARY: Final = "gene_specific_summary.txt"
VARIANTS: Final = "variant_summary.txt.gz"
DATED: Final = re.compile(r"#.*dated (\w+ \d{1,2}, \d{4})")
SUMMARY_HEADER: Final = (
    *("Symbol", "GeneID", "Total_submissions", "Total_alleles"),
    *("Submissions_reporting_this_gene", "Alleles_reported_Pathogenic_Likely_pathogenic"),
    *("Gene_MIM_number", "Number_uncertain", "Number_with_conflicts"),
)
HEADER: Final = (
    *("AlleleID", "Type", "Name", "GeneID", "GeneSymbol", "HGNC_ID", "ClinicalSignificance"),
    *("ClinSigSimple", "LastEvaluated", "RS# (dbSNP)", "nsv/esv (dbVar)", "RCVaccession"),
    *("PhenotypeIDS", "PhenotypeList", "Origin", "OriginSimple", "Assembly"),
    *("ChromosomeAccession", "Chromosome", "Start", "Stop", "ReferenceAllele"),
    *("AlternateAllele", "Cytogenetic", "ReviewStatus", "NumberSubmitters", "Guidelines"),
    *("TestedInGTR", "OtherIDs", "SubmitterCategories", "VariationID", "PositionVCF"),
    *("ReferenceAlleleVCF", "AlternateAlleleVCF", "SomaticClinicalImpact"),
    *("SomaticClinicalImpactLastEvaluated", "ReviewStatusClinicalImpact", "Oncogenicity"),
    *("OncogenicityLastEvaluated", "ReviewStatusOncogenicity"),
    "SCVsForAggregateGermlineClassification",
    "SCVsForAggregateSomaticClinicalImpact",
    "SCVsForAggregateOncogenicityClassification",
)
# Raised when other values are made, so that an older cache is not taken for these.
MAKING: Final = 1
MADE_AT: Final = datetime(2026, 3, 2, tzinfo=UTC)
LEVEL: Final = 1
NOT_GIVEN: Final = "-"

# How many of 256 genes are made so.
SUMMARISED_256THS: Final = 128
OF_THEIR_OWN_256THS: Final = 144
RETIRED_256THS: Final = 1
# Every release has these genes: PKD1, BRCA1 and TP53.
ALWAYS: Final = frozenset({"HGNC:9008", "HGNC:1100", "HGNC:11998"})
VARIANTS_OF_A_GENE_MAX: Final = 6
FIRST_ID: Final = 1_000_001
FIRST_DAY: Final = date(2012, 1, 1)
DAYS: Final = 5_000
SEVERAL_EVERY: Final = 20  # One variant of so many is one of two genes.

PATHOGENIC: Final = (
    *["Pathogenic", "Likely pathogenic", "Pathogenic/Likely pathogenic"] * 2,
    "Pathogenic/Likely pathogenic; risk factor",
    "Pathogenic, low penetrance",
)
OTHERS: Final = (
    *["Uncertain significance"] * 8,
    *["Likely benign"] * 4,
    *("Benign", "Benign/Likely benign", "not provided"),
    "Conflicting classifications of pathogenicity",
)
REVIEWS: Final = (
    *["criteria provided, single submitter"] * 10,
    *["criteria provided, multiple submitters, no conflicts"] * 3,
    *("no assertion criteria provided", "reviewed by expert panel", "practice guideline"),
)
CHANGES: Final = ("Arg2Gly", "Gln3fs", "Trp4Ter", "Leu5=")


class WellKnown(NamedTuple):
    """A variant whose ids, name and places are real; what is said of it is not."""

    id: str
    name: str
    entrez_id: str
    symbol: str
    hgnc_id: str
    chromosome: str
    places: Mapping[str, str]  # By assembly.


WELL_KNOWN: Final = (
    WellKnown(
        *("13961", "NM_004333.6(BRAF):c.1799T>A (p.Val600Glu)", "673", "BRAF", "HGNC:1097", "7"),
        {"GRCh37": "140453136", "GRCh38": "140753336"},
    ),
    WellKnown(
        *("17864", "NM_000041.4(APOE):c.388T>C (p.Cys130Arg)", "348", "APOE", "HGNC:613", "19"),
        {"GRCh37": "45411941", "GRCh38": "44908684"},
    ),
)

Row = Sequence[str]


def offer(
    records: Sequence[Mapping[str, Any]], catalogue: str, cache: Path, data: Path | None
) -> Offer:
    """Real files of `data` as far as there are any. Raises UnusableData."""
    folder = data / "clinvar" if data is not None else None
    summary = _found(folder, SUMMARY, cache)
    summarised = _publish_summary(summary, records, cache)
    released, rows = read_summary(summarised.path)
    variants = folder / VARIANTS if folder is not None and (folder / VARIANTS).exists() else None
    if variants is None:
        served = _publish_made_variants(rows, records, cache)
    else:
        modified = datetime.fromtimestamp(variants.stat().st_mtime, UTC)
        served = publish(variants, cache, modified, "application/x-gzip")
    made = [name for name, file in ((SUMMARY, summarised), (VARIANTS, served)) if file.synthetic]
    return Offer(
        origin=(
            f"{' and '.join(made)} made up, for the genes of {catalogue}"
            if made
            else "files of the folder clinvar"
        ),
        release=released.date().isoformat(),
        synthetic=bool(made),
        rows=len(rows),
        licence="none: synthetic" if summarised.synthetic else "public domain (NCBI)",
        citation=(
            f"none: the values of {' and '.join(made)} are not ClinVar's and must not be cited"
            if made
            else "ClinVar; Landrum et al. 2025, doi:10.1093/nar/gkae1090"
        ),
        files={f"/{SUMMARY}": summarised, f"/{VARIANTS}": served},
        counts={"genes": len(rows)},
    )


def _found(folder: Path | None, name: str, cache: Path) -> Path | None:
    if folder is None:
        return None
    plain, packed = folder / name, folder / f"{name}.gz"
    if plain.exists():
        return plain
    return unpacked(packed, cache) if packed.exists() else None


def _publish_summary(
    real: Path | None, records: Iterable[Mapping[str, Any]], cache: Path
) -> ServedFile:
    if real is not None:
        released, _ = read_summary(real)
        return publish(real, cache, released, "text/plain")
    lines = [
        f"#Overview of made-up data by gene, dated {MADE_AT:%B} {MADE_AT.day}, {MADE_AT.year}",
        "#" + "\t".join(SUMMARY_HEADER),
        *("\t".join(row) for row in make_summary(records)),
    ]
    content = "".join(f"{line}\n" for line in lines).encode()
    path = cache / f"clinvar-{_key(content)}-{MAKING}" / SUMMARY
    if not path.exists():
        write_bytes(path, content)
    return publish(path, cache, MADE_AT, "text/plain", synthetic=True)


def _publish_made_variants(
    rows: Iterable[Row], records: Iterable[Mapping[str, Any]], cache: Path
) -> ServedFile:
    hgnc_ids = {
        record["entrez_id"]: record["hgnc_id"] for record in records if "entrez_id" in record
    }
    summarised = "".join("\t".join(row) for row in rows) + repr(sorted(hgnc_ids.items()))
    path = cache / f"clinvar-{_key(summarised.encode())}-{MAKING}" / VARIANTS
    if not path.exists():
        made = ["#" + "\t".join(HEADER), *make_variants(list(rows), hgnc_ids)]
        content = "".join(f"{line}\n" for line in made).encode()
        write_bytes(path, gzip.compress(content, LEVEL, mtime=0))
    return publish(path, cache, MADE_AT, "application/x-gzip", synthetic=True)


def _key(content: bytes) -> str:
    return blake2b(content, digest_size=8).hexdigest()


def read_summary(path: Path) -> tuple[datetime, list[Row]]:
    """Its day, and its rows. Raises UnusableData."""
    first, header, *lines = [*path.read_text(encoding="utf-8-sig").splitlines(), "", ""]
    found = DATED.match(first)
    if found is None or header.removeprefix("#").split("\t") != list(SUMMARY_HEADER):
        accepted = f"'#… dated November 7, 2021' and the columns {', '.join(SUMMARY_HEADER)}"
        raise UnusableData(f"{path} begins with {first[:60]!r}; accepted is {accepted}.")
    released = datetime.strptime(found[1], "%B %d, %Y").replace(tzinfo=UTC)
    return released, [line.split("\t") for line in lines if line]


def make_summary(records: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    """A row for most genes; half of these have variants of their own, as far as it says."""
    for record in records:
        hgnc_id, entrez_id = record["hgnc_id"], record.get("entrez_id")
        seed = blake2b(b"clinvar" + hgnc_id.encode(), digest_size=32).digest()
        always = hgnc_id in ALWAYS
        if entrez_id is None or (seed[0] >= SUMMARISED_256THS and not always):
            continue
        # An id that NCBI has not given so far stands for one that it has given up.
        named = f"9{entrez_id.zfill(9)}" if seed[1] < RETIRED_256THS and not always else entrez_id
        if seed[2] < OF_THEIR_OWN_256THS or always:
            alleles = 1 + seed[3] % VARIANTS_OF_A_GENE_MAX
            p_lp = max(seed[4] % (alleles + 1), int(always))
            own = [str(alleles), str(p_lp) if p_lp else NOT_GIVEN]
        else:
            alleles, own = 1 + seed[3] % 40, [NOT_GIVEN, NOT_GIVEN]
        mim_number = f"9{seed[5] * 256 + seed[6]:05d}" if seed[7] < 128 else NOT_GIVEN
        counts = [str(alleles * 2), str(alleles)]
        yield [
            *(record["symbol"], named, *counts, *own, mim_number),
            *(str(seed[8] % (alleles + 1)), str(seed[9] % 2)),
        ]


def make_variants(rows: Sequence[Row], hgnc_ids: Mapping[str, str]) -> Iterator[str]:
    """A line for each assembly of some variants of each gene that has any of its own."""
    at = {name: HEADER.index(name) for name in HEADER}
    blank = [NOT_GIVEN] * len(HEADER)
    id_ = FIRST_ID
    for number, row in enumerate(rows):
        symbol, entrez_id, _, alleles, reported, p_lp, *_ = row
        if reported == NOT_GIVEN:
            continue
        seed = blake2b(entrez_id.encode() + b"variants", digest_size=48).digest()
        pathogenic = int(p_lp) if p_lp != NOT_GIVEN else 0
        for part in range(min(int(alleles), VARIANTS_OF_A_GENE_MAX)):
            own = seed[8 * part : 8 * part + 8]
            said = PATHOGENIC if part < pathogenic else OTHERS
            day = FIRST_DAY + timedelta(int.from_bytes(own[:2]) % DAYS)
            cells = blank.copy()
            cells[at["AlleleID"]] = cells[at["VariationID"]] = str(id_)
            cells[at["Type"]] = "single nucleotide variant"
            change = CHANGES[own[2] % len(CHANGES)]
            cells[at["Name"]] = f"NM_9{id_}.1({symbol}):c.{own[3] + 1}A>G (p.{change})"
            if id_ % SEVERAL_EVERY:
                named = (entrez_id, symbol, hgnc_ids.get(entrez_id, NOT_GIVEN))
            else:
                named = ("-1", f"{symbol};{rows[number - 1][0]}", NOT_GIVEN)
            cells[at["GeneID"]], cells[at["GeneSymbol"]], cells[at["HGNC_ID"]] = named
            cells[at["ClinicalSignificance"]] = said[own[4] % len(said)]
            cells[at["ClinSigSimple"]] = str(int(said is PATHOGENIC))
            cells[at["LastEvaluated"]] = f"{day:%b %d, %Y}" if own[5] >= 16 else NOT_GIVEN
            cells[at["ReviewStatus"]] = REVIEWS[own[6] % len(REVIEWS)]
            start = 1_000_000 + id_
            yield from _by_assembly(
                cells,
                at,
                str(1 + own[7] % 22),
                # Some were never placed on the other assembly.
                [("GRCh37", str(start))] * (own[7] >= 16)
                + [("GRCh38", str(start + 5_000))] * (own[7] < 240),
            )
            id_ += 1
    for one in WELL_KNOWN:
        cells = blank.copy()
        cells[at["AlleleID"]] = cells[at["VariationID"]] = one.id
        cells[at["Name"]], cells[at["ClinicalSignificance"]] = one.name, "not provided"
        cells[at["GeneID"]], cells[at["GeneSymbol"]] = one.entrez_id, one.symbol
        cells[at["HGNC_ID"]] = one.hgnc_id
        yield from _by_assembly(cells, at, one.chromosome, one.places.items())


def _by_assembly(
    cells: list[str], at: Mapping[str, int], chromosome: str, places: Iterable[tuple[str, str]]
) -> Iterator[str]:
    cells[at["Chromosome"]] = chromosome
    for assembly, start in places:
        cells[at["Assembly"]] = assembly
        cells[at["Start"]] = cells[at["Stop"]] = cells[at["PositionVCF"]] = start
        yield "\t".join(cells)
