"""ClinVar's two tables, read into counts for each gene."""

import gzip
import tracemalloc
from collections import Counter
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from services.annotator.domain import (
    LINE_BYTES_MAX,
    Catalogue,
    Columns,
    Count,
    Doubt,
    Entry,
    Gene,
    Record,
    StoredFile,
    Unmapped,
    canonical,
    open_raw,
    severities,
)
from services.annotator.errors import ReleaseRefused, SchemaChanged
from services.annotator.judging import Reading, judge
from services.annotator.sources import clinvar
from services.annotator.sources.clinvar import (
    GENE_SUMMARY,
    MANY_GENES,
    NO_GENE,
    OTHER_GENES,
    ROWS,
    SIGNIFICANCES,
    SUMMARY_COLUMNS,
    VARIANTS,
    VARIANTS_COLUMNS,
    Clinvar,
    ClinvarGene,
    significance_of,
)

CATALOGUE = Catalogue(
    [
        Gene("HGNC:900001", "TSTA1", "999001", None),
        Gene("HGNC:900002", "TSTB1", "999002", None),
        Gene("HGNC:900003", "TSTC1", None, None),
        Gene("HGNC:900004", "TSTD1", "999004", None),
        Gene("HGNC:900005", "TSTE1", "999004", None),
    ]
)
COLUMNS = {
    "AlleleID": "700001",
    "Type": "single nucleotide variant",
    "Name": 'NM_900001.4(TSTA1):c.5G>A "of old" (p.Arg2Gly)',
    "GeneID": "999001",
    "GeneSymbol": "TSTA1",
    "HGNC_ID": "HGNC:900001",
    "ClinicalSignificance": "Pathogenic",
    "ClinSigSimple": "1",
    "LastEvaluated": "Oct 01, 2024",
    "RS# (dbSNP)": "-1",
    "PhenotypeList": "Example syndrome|not provided",
    "Assembly": "GRCh38",
    "Chromosome": "7",
    "Start": "5",
    "ReviewStatus": "criteria provided, single submitter",
    "VariationID": "1",
    "PositionVCF": "5",
}
BRAF = {"VariationID": "13961", "Start": "140753336", "GeneSymbol": "-", "GeneID": "-1"}
APOE = {"VariationID": "17864", "Start": "44908684", "GeneSymbol": "-", "GeneID": "-1"}
SENTINELS = [{**row, "HGNC_ID": "-", "Name": "x"} for row in (BRAF, APOE)]
B1 = {"GeneID": "999002", "GeneSymbol": "TSTB1", "HGNC_ID": "HGNC:900002"}
SEVERAL = {"GeneID": "-1", "GeneSymbol": "TSTA1;TSTB1", "HGNC_ID": "-"}
GRCH37 = {"Assembly": "GRCh37"}
SUMMARY_ROW = {
    "Symbol": "TSTA1",
    "GeneID": "999001",
    "Total_submissions": "12",
    "Total_alleles": "9",
    "Submissions_reporting_this_gene": "7",
    "Alleles_reported_Pathogenic_Likely_pathogenic": "3",
    "Gene_MIM_number": "900001",
    "Number_uncertain": "2",
    "Number_with_conflicts": "0",
}
DATED = "#Overview of data in ClinVar by gene, dated November 7, 2021\n"

Row = dict[str, str]
Files = dict[str, StoredFile]
Keep = Callable[..., Files]


def build_table(*rows: Row, columns: Row = COLUMNS) -> bytes:
    """variant_summary.txt; each row says what is special in it, and is a variant of its own."""
    own = [{"VariationID": str(900_000 + at)} | row for at, row in enumerate(rows)]
    lines = ["#" + "\t".join(columns)]
    lines += ["\t".join((columns | row)[name] for name in columns) for row in [*own, *SENTINELS]]
    return "".join(f"{line}\n" for line in lines).encode()


def build_summary(*rows: Row, columns: Row = SUMMARY_ROW, dated: str = DATED) -> bytes:
    lines = ["#" + "\t".join(columns), *("\t".join((columns | row).values()) for row in rows)]
    return (dated + "".join(f"{line}\n" for line in lines)).encode()


def in_members(content: bytes, size: int = 100) -> bytes:
    """Packed as a bgzf file is: many gzip files, and an empty one at the end."""
    parts = [content[at : at + size] for at in range(0, len(content), size)]
    return b"".join(gzip.compress(part, mtime=0) for part in [*parts, b""])


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    """Lays the two files down as the raw store does: their names say nothing."""

    def keep(
        *rows: Row,
        variants: bytes | None = None,
        summary: bytes | None = None,
        last_modified: str | None = "Mon, 08 Nov 2021 09:00:00 GMT",
    ) -> Files:
        held = {
            VARIANTS: gzip.compress(build_table(*rows)) if variants is None else variants,
            GENE_SUMMARY: build_summary() if summary is None else summary,
        }
        files = {}
        for at, (name, content) in enumerate(held.items()):
            (path := tmp_path / str(at)).write_bytes(content)
            files[name] = StoredFile(partial(open_raw, path), b"\x12" * 32, None, last_modified)
        return files

    return keep


def read_all(files: Files, catalogue: Catalogue = CATALOGUE) -> list[Entry]:
    return list(Clinvar().read(files, catalogue))


def read(
    files: Files, catalogue: Catalogue = CATALOGUE
) -> tuple[dict[str, Record], list[Unmapped]]:
    """The records, and what is unmapped besides the two variants that tell the assembly."""
    entries = read_all(files, catalogue)
    assert not [entry for entry in entries if isinstance(entry, Doubt)]
    records = [entry for entry in entries if isinstance(entry, Record)]
    by_id = {record.hgnc_id: record for record in records}
    assert len(by_id) == len(records)
    unmapped = [entry for entry in entries if isinstance(entry, Unmapped)]
    return by_id, [entry for entry in unmapped if entry.key != NO_GENE]


def value(record: Record) -> ClinvarGene:
    assert isinstance(record.value, ClinvarGene)
    return record.value


def of_a1(files: Files) -> ClinvarGene:
    return value(read(files)[0]["HGNC:900001"])


def test_a_gene_has_the_counts_of_its_variants_and_clinvar_s_own(keep: Keep) -> None:
    two = "criteria provided, multiple submitters, no conflicts"
    files = keep(
        {},
        {"ReviewStatus": two, "Name": "NM_9.1(TSTA1):c.1del (p.Gln1fs)"},
        {"ClinicalSignificance": "Benign", "LastEvaluated": "Nov 11, 2025", "ReviewStatus": "-"},
        {"ClinicalSignificance": "Conflicting classifications of pathogenicity"},
        summary=build_summary({}),
    )
    records, unmapped = read(files)
    assert unmapped == []
    (record,) = records.values()
    assert (record.hgnc_id, record.file, record.position) == ("HGNC:900001", VARIANTS, 2)
    assert record.matched_by == "hgnc_id"
    nothing = dict.fromkeys(SIGNIFICANCES, 0)
    assert value(record).model_dump() == {
        "symbol": "TSTA1",
        "entrez_id": "999001",
        "matched_by": "hgnc_id",
        "has_p_lp": True,
        "has_p_lp_2plus_stars": True,
        "has_conflicting": True,
        "variants_total": 4,
        "p_lp_total": 2,
        "p_lp_2plus_stars": 1,
        "truncating_p_lp": 1,
        "missense_p_lp": 1,
        "counts_by_significance": nothing | {"pathogenic": 2, "benign": 1, "conflicting": 1},
        "counts_by_stars": [1, 2, 1, 0, 0],
        "counts_by_significance_and_stars": {
            "pathogenic": [0, 1, 1, 0, 0],
            "benign": [1, 0, 0, 0, 0],
            "conflicting": [0, 1, 0, 0, 0],
        },
        "last_evaluated_max": date(2025, 11, 11),
        "multi_gene_total": 0,
        "multi_gene_p_lp": 0,
        "summary": {
            "submissions": 12,
            "alleles": 9,
            "submissions_of_this_gene": 7,
            "alleles_p_lp": 3,
            "uncertain": 2,
            "conflicts": 0,
            "mim_numbers": ["900001"],
        },
    }
    assert canonical(value(record))


@pytest.mark.parametrize(
    ("said", "significance"),
    [
        ("Pathogenic", "pathogenic"),
        ("Pathogenic, low penetrance", "pathogenic"),
        ("Likely pathogenic", "likely_pathogenic"),
        ("Likely pathogenic; risk factor", "likely_pathogenic"),
        ("Pathogenic/Likely pathogenic", "pathogenic_likely_pathogenic"),
        ("Pathogenic/Likely pathogenic; risk factor", "pathogenic_likely_pathogenic"),
        (
            "Pathogenic/Likely pathogenic/Pathogenic, low penetrance",
            "pathogenic_likely_pathogenic",
        ),
        ("Conflicting classifications of pathogenicity", "conflicting"),
        ("Conflicting interpretations of pathogenicity; other", "conflicting"),
        ("association; Conflicting classifications of pathogenicity", "conflicting"),
        ("Uncertain significance", "vus"),
        ("Uncertain significance/Uncertain risk allele", "vus"),
        ("uncertain risk allele", "vus"),
        ("Likely benign", "likely_benign"),
        ("Benign", "benign"),
        ("Benign/Likely benign; other", "benign_likely_benign"),
        ("not provided", "not_provided"),
        ("no classification for the single variant", "not_provided"),
        ("no interpretation for the single variant", "not_provided"),
        ("-", "not_provided"),
        ("", "not_provided"),
        ("drug response", "other"),
        ("Likely risk allele", "other"),
        ("Affects", "other"),
    ],
)
def test_what_is_said_of_a_variant_has_one_significance(said: str, significance: str) -> None:
    assert SIGNIFICANCES[significance_of(said)] == significance


@pytest.mark.parametrize(
    ("review", "stars"),
    [
        ("practice guideline", 4),
        ("reviewed by expert panel", 3),
        ("criteria provided, multiple submitters, no conflicts", 2),
        ("criteria provided, multiple submitters", 2),
        ("criteria provided, conflicting classifications", 1),
        ("criteria provided, conflicting interpretations", 1),
        ("Criteria provided, single submitter ", 1),
        ("no assertion criteria provided", 0),
        ("no classifications from unflagged records", 0),
        ("starred by everybody", 0),
        ("-", 0),
    ],
)
def test_a_review_has_its_stars(keep: Keep, review: str, stars: int) -> None:
    found = of_a1(keep({"ReviewStatus": review}))
    assert found.counts_by_stars == [int(at == stars) for at in range(5)]
    assert found.has_p_lp_2plus_stars == (stars >= 2)


@pytest.mark.parametrize(
    ("name", "truncating", "missense"),
    [
        ("NM_9.1(TSTA1):c.1del (p.Gln1756fs)", 1, 0),
        ("NM_9.1(TSTA1):c.1G>A (p.Trp12Ter)", 1, 0),
        ("NM_9.1(TSTA1):c.1G>A (p.Trp12*)", 1, 0),
        ("NM_9.1(TSTA1):c.1G>A (p.Arg2Gly)", 0, 1),
        ("NM_9.1(TSTA1):c.1_3del (p.Lys618del)", 0, 1),
        ("NM_9.1(TSTA1):c.1G>A (p.Arg2=)", 0, 0),
        ("NM_9.1(TSTA1):c.1G>A (p.=)", 0, 0),
        ("NM_9.1(TSTA1):c.*23G>A", 0, 0),
        ("NM_9.1(TSTA1):c.5333-1G>A", 0, 0),
        ("GRCh38/hg38 7q34(chr7:1-2)x1", 0, 0),
    ],
)
def test_the_consequence_is_read_from_the_name(
    keep: Keep, name: str, truncating: int, missense: int
) -> None:
    found = of_a1(keep({"Name": name}, {"Name": name, "ClinicalSignificance": "Benign"}))
    assert (found.truncating_p_lp, found.missense_p_lp) == (truncating, missense)


def test_a_variant_of_two_assemblies_counts_once_by_its_row_of_grch38(keep: Keep) -> None:
    """Wherever its rows stand: next to each other, apart, and in either order."""
    variant = {"VariationID": "7"}
    old = {**variant, **GRCH37, "ClinicalSignificance": "Benign", "LastEvaluated": "Jan 01, 2026"}
    for rows in ([old, variant], [variant, old], [old, {}, variant], [variant, {}, old, old]):
        found = of_a1(keep(*rows))
        others = len([row for row in rows if not row])
        assert (found.variants_total, found.p_lp_total) == (1 + others, 1 + others)
        assert found.last_evaluated_max == date(2024, 10, 1)


@pytest.mark.parametrize("assembly", ["GRCh37", "NCBI36", "na"])
def test_a_variant_without_a_row_of_grch38_counts_by_its_first(keep: Keep, assembly: str) -> None:
    rows = [
        {"VariationID": "7", "Assembly": assembly, "ClinicalSignificance": said}
        for said in ("Benign", "Pathogenic")
    ]
    found = of_a1(keep(*rows))
    assert (found.variants_total, found.counts_by_significance["benign"]) == (1, 1)


def test_of_two_rows_of_grch38_the_first_counts(keep: Keep) -> None:
    """As of a variant on both sex chromosomes."""
    rows = [{"VariationID": "7", "ClinicalSignificance": said} for said in ("Benign", "Pathogenic")]
    found = of_a1(keep(*rows))
    assert (found.variants_total, found.counts_by_significance["benign"]) == (1, 1)


def test_a_variant_that_grch38_gives_to_another_gene_is_only_that_gene_s(keep: Keep) -> None:
    records, unmapped = read(keep({"VariationID": "7", **GRCH37}, {"VariationID": "7", **B1}))
    assert (set(records), unmapped) == ({"HGNC:900002"}, [])


def test_a_variant_of_several_genes_has_a_counter_of_its_own(keep: Keep) -> None:
    records, unmapped = read(
        keep(
            {},
            SEVERAL,
            {**SEVERAL, "ClinicalSignificance": "Benign"},
            {**SEVERAL, "GeneSymbol": "subset of 9 genes: TSTB1;TSTC1"},
        )
    )
    assert unmapped == []
    found = {
        id_: (one.variants_total, one.multi_gene_total, one.multi_gene_p_lp)
        for id_, one in ((id_, value(record)) for id_, record in records.items())
    }
    assert found == {
        "HGNC:900001": (1, 2, 1),
        "HGNC:900002": (0, 3, 2),
        "HGNC:900003": (0, 1, 1),
    }
    assert records["HGNC:900003"].matched_by == "symbol"


def test_a_variant_of_several_genes_may_name_one_as_clinvar_does_elsewhere(keep: Keep) -> None:
    records, unmapped = read(keep({"GeneSymbol": "OLD"}, {**SEVERAL, "GeneSymbol": "OLD;TSTB1"}))
    assert unmapped == []
    assert value(records["HGNC:900001"]).multi_gene_total == 1


@pytest.mark.parametrize(
    ("symbols", "key"),
    [
        ("covers 23 genes, none of which curated to show dosage sensitivity", MANY_GENES),
        (";".join(f"TST{number}" for number in range(100)), MANY_GENES),
        ("NOGENE1;NOGENE2", OTHER_GENES),
    ],
)
def test_variants_whose_genes_cannot_be_told_are_counted_under_one_reason(
    keep: Keep, symbols: str, key: str
) -> None:
    records, unmapped = read(keep({**SEVERAL, "GeneSymbol": symbols}))
    assert records == {}
    assert [entry.key for entry in unmapped] == [key]
    assert unmapped[0].row_count == (2 if key == OTHER_GENES else 1)


def test_variants_of_no_gene_are_counted_under_one_reason(keep: Keep) -> None:
    entries = read_all(keep())
    (entry,) = [entry for entry in entries if isinstance(entry, Unmapped)]
    assert (entry.key, entry.row_count) == (NO_GENE, 2)


@pytest.mark.parametrize(
    ("row", "hgnc_id", "matched_by"),
    [
        ({"GeneID": "999002", "GeneSymbol": "TSTB1"}, "HGNC:900001", "hgnc_id"),
        ({"HGNC_ID": "-", "GeneSymbol": "OLD"}, "HGNC:900001", "entrez_id"),
        ({"HGNC_ID": "HGNC:999999", "GeneSymbol": "OLD"}, "HGNC:900001", "entrez_id"),
        ({"HGNC_ID": "-", "GeneID": "999004", "GeneSymbol": "TSTE1"}, "HGNC:900005", "entrez_id"),
        ({"HGNC_ID": "-", "GeneID": "999009", "GeneSymbol": "TSTC1"}, "HGNC:900003", "symbol"),
        ({"HGNC_ID": "-", "GeneID": "-1", "GeneSymbol": "TSTC1"}, "HGNC:900003", "symbol"),
    ],
)
def test_a_gene_is_found_by_its_best_id(
    keep: Keep, row: Row, hgnc_id: str, matched_by: str
) -> None:
    records, unmapped = read(keep(row))
    assert unmapped == []
    record = records[hgnc_id]
    assert (record.matched_by, value(record).matched_by) == (matched_by, matched_by)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"GeneID": "999009", "GeneSymbol": "tstc1"}, "nor the symbol tstc1"),
        ({"GeneID": "999004", "GeneSymbol": "OLD"}, "that of HGNC:900004, HGNC:900005"),
        ({"GeneID": "999009", "GeneSymbol": "TSTA1"}, "HGNC:900001 has the symbol TSTA1, but"),
    ],
)
def test_a_gene_that_is_none_of_ours_is_reported_with_its_variants(
    keep: Keep, row: Row, reason: str
) -> None:
    theirs = {"HGNC_ID": "-", **row}
    records, unmapped = read(keep({}, theirs, theirs))
    assert set(records) == {"HGNC:900001"}
    assert value(records["HGNC:900001"]).variants_total == 1
    assert [(entry.key, entry.row_count) for entry in unmapped] == [(row["GeneID"], 2)]
    assert reason in unmapped[0].reason


def test_rows_of_a_gene_that_name_it_differently_are_added_up(keep: Keep) -> None:
    spaced = {"GeneSymbol": " TSTA1 "}
    records, unmapped = read(keep({"HGNC_ID": "-", "GeneSymbol": "OLD"}, {}, spaced))
    assert unmapped == []
    found = value(records["HGNC:900001"])
    assert (found.variants_total, found.matched_by, found.symbol) == (3, "hgnc_id", "TSTA1")


def test_a_gene_of_the_summary_alone_has_no_variants_and_says_so(keep: Keep) -> None:
    row = {"Symbol": "TSTC1", "GeneID": "999009"} | dict.fromkeys(list(SUMMARY_ROW)[2:], "-")
    records, unmapped = read(keep(summary=build_summary({}, row)))
    assert unmapped == []
    assert (records["HGNC:900001"].matched_by, records["HGNC:900003"].matched_by) == (
        "entrez_id",
        "symbol",
    )
    record = records["HGNC:900003"]
    assert (record.file, record.position) == (GENE_SUMMARY, 4)
    found = value(record)
    assert (found.variants_total, found.has_p_lp, found.last_evaluated_max) == (0, False, None)
    assert found.summary is not None
    numbers = found.summary.model_dump(exclude={"mim_numbers"})
    assert set(numbers.values()) == {None}
    assert found.summary.mim_numbers == []


def test_a_gene_that_the_summary_lacks_says_so(keep: Keep) -> None:
    assert of_a1(keep({})).summary is None


def test_a_gene_with_two_numbers_of_omim_s_has_both(keep: Keep) -> None:
    records, unmapped = read(keep(summary=build_summary({"Gene_MIM_number": "900002"}, {}, {})))
    assert unmapped == []
    summary = value(records["HGNC:900001"]).summary
    assert summary is not None
    assert summary.mim_numbers == ["900001", "900002"]


def test_of_two_rows_of_a_gene_the_first_counts_and_the_other_is_reported(keep: Keep) -> None:
    summary = build_summary({}, {"Total_alleles": "10"}, {"Symbol": "OLD", "Total_alleles": "11"})
    records, unmapped = read(keep(summary=summary))
    found = value(records["HGNC:900001"]).summary
    assert found is not None
    assert found.alleles == 9
    assert [(entry.key, entry.row_count) for entry in unmapped] == [("999001", 2)]


@pytest.mark.parametrize("nothing", ["-", "", " ", "NA", "na"])
def test_a_number_that_is_not_given_is_null_and_not_zero(keep: Keep, nothing: str) -> None:
    summary = of_a1(keep({}, summary=build_summary({"Number_uncertain": nothing}))).summary
    assert summary is not None
    assert (summary.uncertain, summary.conflicts) == (None, 0)


@pytest.mark.parametrize("cell", ["many", "Infinity", "1.5", "-2", "1,000"])
def test_a_cell_that_is_no_number_is_refused_with_its_place(keep: Keep, cell: str) -> None:
    summary = build_summary({}, {"Symbol": "TSTB1", "Number_uncertain": cell})
    with pytest.raises(
        SchemaChanged, match=f"{GENE_SUMMARY}, line 4: Number_uncertain is '{cell}'"
    ):
        read(keep(summary=summary))


@pytest.mark.parametrize("cell", ["-", "NA", "Infinity", "", "-1", "0", "VCV7", "1_3"])
def test_a_row_without_an_id_cannot_be_counted_and_is_reported(keep: Keep, cell: str) -> None:
    records, unmapped = read(keep({}, {"VariationID": cell}))
    assert value(records["HGNC:900001"]).variants_total == 1
    assert [(entry.key, entry.row_count) for entry in unmapped] == [("VariationID", 1)]


def test_an_id_that_no_memory_would_hold_is_refused(keep: Keep) -> None:
    with pytest.raises(ReleaseRefused, match="line 2: VariationID is 9000000000; accepted"):
        read(keep({"VariationID": "9000000000"}))


def test_more_genes_than_there_can_be_are_refused(
    keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clinvar, "NAMES_MAX", 2)
    with pytest.raises(ReleaseRefused, match="line 4: accepted are 2 genes and lists of genes"):
        read(keep({}, B1, SEVERAL))


@pytest.mark.parametrize("cell", ["2024-10-01", "Okt 01, 2024", "Feb 30, 2024", "Jan 01, 1800"])
def test_a_day_that_cannot_be_read_is_reported_and_its_variant_counts(
    keep: Keep, cell: str
) -> None:
    records, unmapped = read(keep({"LastEvaluated": cell}))
    found = value(records["HGNC:900001"])
    assert (found.variants_total, found.last_evaluated_max) == (1, None)
    assert [(entry.key, entry.row_count) for entry in unmapped] == [("LastEvaluated", 1)]


@pytest.mark.parametrize("cell", ["-", "", "na"])
def test_a_day_that_is_not_given_is_null(keep: Keep, cell: str) -> None:
    records, unmapped = read(keep({"LastEvaluated": cell}))
    assert value(records["HGNC:900001"]).last_evaluated_max is None
    assert unmapped == []


def doubts(files: Files) -> list[Doubt]:
    return [entry for entry in read_all(files) if isinstance(entry, Doubt)]


SWAPPED = [
    {**BRAF, "Start": "140453136"},
    {**BRAF, **GRCH37},
    {**APOE, "Start": "45411941"},
    {**APOE, **GRCH37},
]


@pytest.mark.parametrize("row", SWAPPED)
def test_swapped_assemblies_are_doubted(keep: Keep, row: Row) -> None:
    (doubt,) = doubts(keep({}, row))
    other = "GRCh38" if "Assembly" in row else "GRCh37"
    assert doubt.check == "assembly"
    assert doubt.found.startswith(f"variant {row['VariationID']} is at {row['Start']} on ")
    assert doubt.found.endswith(f", where it is on {other}")
    assert "13961 at 140753336 on GRCh38" in doubt.accepted


def test_a_well_known_variant_that_has_moved_is_doubted(keep: Keep) -> None:
    (doubt,) = doubts(keep({}, {**BRAF, "Start": "17"}))
    assert (doubt.check, doubt.found) == ("assembly", "variant 13961 is at 17 on GRCh38")


def test_a_file_with_none_of_the_well_known_variants_is_doubted(keep: Keep) -> None:
    table = build_table({}).splitlines(keepends=True)
    assert [one.check for one in doubts(keep(variants=b"".join(table[:-2])))] == ["assembly"]
    assert doubts(keep(variants=b"".join(table[:-1]))) == []


@pytest.mark.parametrize("of", ["variants", "summary"])
@pytest.mark.parametrize(
    "packed",
    [
        bytes,
        gzip.compress,
        in_members,
        lambda content: b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"),
        lambda content: in_members(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n")),
        lambda content: content + b"\n\n",
        lambda content: content.removesuffix(b"\n"),
    ],
    ids=["plain", "gzip", "bgzf", "windows", "windows in bgzf", "blank lines", "no last line end"],
)
def test_however_a_file_is_packed_it_says_the_same(
    keep: Keep, packed: Callable[[bytes], bytes], of: str
) -> None:
    tables = {"variants": build_table({}, B1), "summary": build_summary({})}
    files = keep(**tables)
    plain, version = read(files), Clinvar().version(files)
    assert set(plain[0]) == {"HGNC:900001", "HGNC:900002"}
    files = keep(**(tables | {of: packed(tables[of])}))
    assert read(files) == plain
    assert Clinvar().version(files) == version


@pytest.mark.parametrize("cut", [-1, -30, -200])
@pytest.mark.parametrize("packed", [gzip.compress, in_members])
@pytest.mark.parametrize("of", ["variants", "summary"])
def test_a_truncated_gzip_is_refused(
    keep: Keep, packed: Callable[[bytes], bytes], of: str, cut: int
) -> None:
    tables = {"variants": build_table({}, {}), "summary": build_summary({}, {"Symbol": "TSTB1"})}
    with pytest.raises(ReleaseRefused, match="no whole gzip file"):
        read(keep(**(tables | {of: packed(tables[of])[:cut]})))


def test_a_table_that_unpacks_to_more_than_accepted_is_refused(
    keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clinvar, "UNPACKED_BYTES_MAX", 2_000)
    with pytest.raises(ReleaseRefused, match="accepted are less than 2000"):
        read(keep(*[{}] * 20))


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(keep: Keep) -> None:
    with pytest.raises(ReleaseRefused, match=f"{LINE_BYTES_MAX} in a line"):
        read(keep(variants=gzip.compress(b"x" * (LINE_BYTES_MAX + 1))))


@pytest.mark.parametrize("renamed", [True, False])
@pytest.mark.parametrize("column", VARIANTS_COLUMNS)
def test_a_missing_or_renamed_column_of_the_variants_is_named(
    keep: Keep, column: str, renamed: bool
) -> None:
    other = {("Other" if name == column else name): cell for name, cell in COLUMNS.items()}
    columns = other if renamed else {name: other[name] for name in other if name != "Other"}
    with pytest.raises(SchemaChanged, match=f"{VARIANTS}: no column {column} in the header"):
        read(keep(variants=build_table({}, columns=columns)))


@pytest.mark.parametrize("renamed", [True, False])
@pytest.mark.parametrize("column", SUMMARY_COLUMNS)
def test_a_missing_or_renamed_column_of_the_summary_is_named(
    keep: Keep, column: str, renamed: bool
) -> None:
    other = {("Other" if name == column else name): cell for name, cell in SUMMARY_ROW.items()}
    columns = other if renamed else {name: other[name] for name in other if name != "Other"}
    with pytest.raises(SchemaChanged, match=f"{GENE_SUMMARY}: no column {column} in the header"):
        read(keep(summary=build_summary(columns=columns)))


def test_another_order_and_extra_columns_make_no_difference(keep: Keep) -> None:
    plain = read(keep({}, B1, summary=build_summary({})))
    turned = {"New": "x"} | dict(reversed(COLUMNS.items()))
    summary = build_summary({}, columns={"New": "x"} | dict(reversed(SUMMARY_ROW.items())))
    assert read(keep(variants=build_table({}, B1, columns=turned), summary=summary)) == plain


def test_a_byte_order_mark_and_windows_line_ends_touch_no_column(keep: Keep) -> None:
    plain = read(keep({}, B1))
    first, last = ("VariationID", "Start")
    names = [first, *(name for name in COLUMNS if name not in {first, last}), last]
    table = build_table({}, B1, columns={name: COLUMNS[name] for name in names})
    assert read(keep(variants=b"\xef\xbb\xbf" + table.replace(b"\n", b"\r\n"))) == plain


@pytest.mark.parametrize("of", ["variants", "summary"])
@pytest.mark.parametrize(
    "content",
    [b"", gzip.compress(b"", mtime=0), b"<!DOCTYPE html>\n<html>\n<body>Maintenance\n"],
    ids=["nothing", "packed nothing", "a page"],
)
def test_what_is_no_table_is_refused(keep: Keep, of: str, content: bytes) -> None:
    with pytest.raises(SchemaChanged, match=r"no column (VariationID|Symbol) in the header"):
        read(keep(**{of: content}))


@pytest.mark.parametrize("change", [b"\textra", b""])
def test_a_row_with_another_number_of_cells_is_refused_with_its_line(
    keep: Keep, change: bytes
) -> None:
    table = build_table({}, B1).splitlines()
    table[2] = table[2] + change if change else table[2].rpartition(b"\t")[0]
    count = len(COLUMNS) + (1 if change else -1)
    expected = f"{VARIANTS}, line 3 has {count} of {len(COLUMNS)} cells"
    with pytest.raises(SchemaChanged, match=expected):
        read(keep(variants=b"\n".join(table)))
    summary = build_summary({}, {}).splitlines()
    summary[3] = summary[3] + change if change else summary[3].rpartition(b"\t")[0]
    with pytest.raises(SchemaChanged, match=f"{GENE_SUMMARY}, line 4 has "):
        read(keep(summary=b"\n".join(summary)))


@pytest.mark.parametrize("column", ["GeneSymbol", "ClinicalSignificance", "LastEvaluated"])
def test_variants_that_are_not_utf_8_are_refused(keep: Keep, column: str) -> None:
    table = build_table({column: "BROKEN"}).replace(b"BROKEN", b"\xe9")
    with pytest.raises(SchemaChanged, match="is not UTF-8"):
        read(keep(variants=table))


def test_the_version_is_the_day_on_which_variants_were_published(keep: Keep) -> None:
    version = Clinvar().version
    assert version(keep()) == "2021-11-08"
    older = keep(summary=build_summary(dated=DATED.replace("November 7", "September 27")))
    assert version(older) == "2021-11-08 with gene summary 2021-09-27"
    for no_day in (None, "lately", "Mon, 31 Feb 2025 10:00:00 GMT"):
        unnamed = "121212121212 with gene summary 2021-11-07"
        assert version(keep(last_modified=no_day)) == unnamed


@pytest.mark.parametrize("dated", ["#Overview of data\n", "", "#x, dated Brumaire 7, 2021\n"])
def test_a_summary_without_its_day_is_refused(keep: Keep, dated: str) -> None:
    with pytest.raises(SchemaChanged, match="accepted is #… dated November 7, 2021"):
        Clinvar().version(keep(summary=build_summary({}, dated=dated)))


def test_counts_that_drift_each_week_are_not_clinical() -> None:
    declared = severities(ClinvarGene)
    clinical = {name for name, one in declared.items() if one == "clinical"}
    assert clinical == {"has_p_lp", "has_p_lp_2plus_stars", "has_conflicting"}
    assert declared["p_lp_total"] == "major"
    assert declared["last_evaluated_max"] == "none"


def test_variants_that_are_missing_are_doubted_though_the_summary_has_every_gene() -> None:
    expected = Clinvar().declaration.expected
    assert expected is not None
    reading = Reading(27_600, nulls={"last_evaluated_max": 27_600}, counts={ROWS: 9_000_000})
    found = [doubt.check for doubt in judge(expected, reading, {}, None)]
    assert found == ["nulls of last_evaluated_max"]


def test_counts_agree_with_those_of_a_table_that_is_held_whole(keep: Keep) -> None:
    """A few thousand rows of every kind, counted in the plainest way beside it."""
    random = Random(7)  # noqa: S311 - rows, not secrets
    rows: list[Row] = []
    for id_ in range(1, 2_001):
        gene = random.choice([{}, B1, SEVERAL])
        row = {
            **gene,
            "VariationID": str(id_),
            "ClinicalSignificance": random.choice(["Pathogenic", "Benign", "not provided"]),
            "ReviewStatus": random.choice(["practice guideline", "-"]),
        }
        assemblies = random.choice([["GRCh37", "GRCh38"], ["GRCh38"], ["GRCh37"], ["na"]])
        rows += [{**row, "Assembly": one} for one in assemblies]
    random.shuffle(rows)
    by_id = {row["VariationID"]: row for row in rows}
    expected: Counter[tuple[Any, ...]] = Counter()
    for row in by_id.values():
        kind = row["ClinicalSignificance"].lower().replace(" ", "_")
        stars = 4 if row["ReviewStatus"] == "practice guideline" else 0
        symbols = row.get("GeneSymbol", "TSTA1").split(";")
        for symbol in symbols:
            expected[(symbol, "several") if len(symbols) > 1 else (symbol, kind, stars)] += 1
    found: Counter[tuple[Any, ...]] = Counter()
    for record in read(keep(*rows))[0].values():
        one = value(record)
        for significance, by_stars in one.counts_by_significance_and_stars.items():
            for stars, count in enumerate(by_stars):
                found[one.symbol, significance, stars] += count
        found[one.symbol, "several"] = one.multi_gene_total
    assert +found == expected


def test_memory_does_not_grow_with_the_rows(keep: Keep) -> None:
    def peak(times: int) -> int:
        files = keep(*[{"VariationID": str(at), **GRCH37} for at in range(1, 200)] * times)
        tracemalloc.start()
        read_all(files)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(1)
    assert peak(50) < peak(1) * 1.1


def test_both_files_are_needed(keep: Keep) -> None:
    assert {file.name for file in Clinvar().files} == {GENE_SUMMARY, VARIANTS}
    columns = [entry for entry in read_all(keep({})) if isinstance(entry, Columns)]
    assert {entry.file for entry in columns} == {GENE_SUMMARY, VARIANTS}


def test_every_number_of_the_real_summary_is_the_one_in_it(keep: Keep, upstream_data: Path) -> None:
    path = upstream_data / "clinvar" / "gene_specific_summary.txt.gz"
    if not path.exists():
        pytest.skip(f"no {path.name} among the upstream files")
    _, header, *lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    columns = header.removeprefix("#").split("\t")
    rows = [dict(zip(columns, line.split("\t"), strict=True)) for line in lines]
    ids = {row["GeneID"]: row["Symbol"] for row in rows}
    catalogue = Catalogue([Gene(f"HGNC:{id_}", name, id_, None) for id_, name in ids.items()])
    files = keep(summary=path.read_bytes())
    records, unmapped = read(files, catalogue)
    assert unmapped == []
    assert len(records) == len(ids) == 33_879
    assert Clinvar().version(files) == "2021-11-08"
    numbers = {
        "submissions": "Total_submissions",
        "alleles": "Total_alleles",
        "submissions_of_this_gene": "Submissions_reporting_this_gene",
        "alleles_p_lp": "Alleles_reported_Pathogenic_Likely_pathogenic",
        "uncertain": "Number_uncertain",
        "conflicts": "Number_with_conflicts",
    }
    for row in rows:
        summary = value(records[f"HGNC:{row['GeneID']}"]).summary
        assert summary is not None
        said = summary.model_dump()
        for name, column in numbers.items():
            assert said[name] == (None if row[column] == "-" else int(row[column])), row
        assert row["Gene_MIM_number"] in {"-", *summary.mim_numbers}


def test_the_rows_of_variants_are_counted_of_all_assemblies(keep: Keep) -> None:
    table = build_table({"Assembly": "GRCh37"}, {"Assembly": "GRCh38"}) + b"\n"
    rows = len(table.splitlines()) - 2  # The header, and what is blank at the end.
    (count,) = [entry for entry in read_all(keep(variants=table)) if isinstance(entry, Count)]
    assert count == Count(ROWS, rows)


@pytest.mark.parametrize(("share", "is_doubted"), [(0.1, True), (1, False), (10, True)])
def test_a_tenth_or_ten_times_the_rows_of_variants_are_doubted(
    share: float, is_doubted: bool
) -> None:
    expected = Clinvar().declaration.expected
    assert expected is not None
    reading = Reading(27_600, counts={ROWS: round(9_000_000 * share)})
    found = [doubt.check for doubt in judge(expected, reading, {}, None)]
    assert found == ([ROWS] if is_doubted else [])
