"""HPO's three files, read into what is known of a gene."""

import gzip
import hashlib
import re
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from services.annotator.domain import Catalogue, Gene, Record, StoredFile, Unmapped, open_raw
from services.annotator.errors import SchemaChanged
from services.annotator.sources.hpo import DISEASES, GENES, ONTOLOGY, Hpo, HpoGene, share_of

UPSTREAM_DATA = Path(__file__).parents[5] / "shared" / "data" / "hpo"
GENES_HEADER = "ncbi_gene_id\tgene_symbol\thpo_id\thpo_name\tfrequency\tdisease_id"
DISEASES_HEADER = (
    "database_id\tdisease_name\tqualifier\thpo_id\treference\tevidence"
    "\tonset\tfrequency\tsex\tmodifier\taspect\tbiocuration"
)
OBO = """format-version: 1.2
data-version: hp/releases/2026-06-23
ontology: hp.obo

[Term]
id: HP:0000001
name: All

[Term]
id: HP:0000005
name: Mode of inheritance
is_a: HP:0000001 ! All

[Term]
id: HP:0000006
name: Autosomal dominant inheritance
alt_id: HP:0001444
is_a: HP:0000005 ! Mode of inheritance

[Term]
id: HP:0000118
name: Phenotypic abnormality
is_a: HP:0000001 ! All

[Term]
id: HP:9000010
name: Abnormal example
is_a: HP:0000118 ! Phenotypic abnormality

[Term]
id: HP:9000011
name: Small example
alt_id: HP:9000091
is_a: HP:9000010 ! Abnormal example

[Term]
id: HP:9000012
name: Large example
is_a: HP:9000010 ! Abnormal example

[Term]
id: HP:9000092
name: obsolete Big example
is_obsolete: true
replaced_by: HP:9000012

[Term]
id: HP:9000093
name: obsolete Odd example
is_obsolete: true
replaced_by: HP:9000011
replaced_by: HP:9000012

[Term]
id: HP:9000094
name: obsolete Strange example
is_obsolete: true
consider: HP:9000011

[Typedef]
id: part_of
name: part of
"""
CATALOGUE = Catalogue(
    [
        Gene("HGNC:900001", "TSTA1", "999001", None),
        Gene("HGNC:900002", "TSTB1", "999002", None),
        Gene("HGNC:900003", "TSTC1", None, None),
        Gene("HGNC:900004", "TSTD1", "999004", None),
        Gene("HGNC:900005", "TSTE1", "999004", None),
    ]
)
A1 = ("999001", "TSTA1")
SMALL, LARGE, DOMINANT = "HP:9000011", "HP:9000012", "HP:0000006"

Files = dict[str, StoredFile]
Row = tuple[str, ...]  # Entrez id, symbol, term, frequency, disease.
Keep = Callable[..., Files]


def genes_text(*rows: Row) -> str:
    lines = ["\t".join((row[0], row[1], row[2], "a name", row[3], row[4])) for row in rows]
    return "\n".join([GENES_HEADER, *lines]) + "\n"


def diseases_text(*rows: Row) -> str:
    """Rows of disease, name, qualifier, term and aspect."""
    lines = [
        "\t".join((*row[:4], "PMID:1", "PCS", "", "", "", "", row[4], "HPO:x[2020-01-01]"))
        for row in rows
    ]
    head = ['#description: "HPO annotations"', "#version: 2026-06-23", DISEASES_HEADER]
    return "\n".join([*head, *lines]) + "\n"


DISEASE_ROWS = (
    ("OMIM:900001", "Example syndrome 1", "", SMALL, "P"),
    ("OMIM:900001", "EXAMPLE SYNDROME 1", "", "HP:0001444", "I"),
    ("ORPHA:900002", "Example syndrome 2", "NOT", LARGE, "P"),
    ("ORPHA:900002", "Example syndrome 2", "NOT", SMALL, "P"),
    ("ORPHA:900002", "Example syndrome 2", "", SMALL, "P"),
)


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    """Lays the three files down as the raw store does: their names say nothing."""

    def keep(
        *rows: Row, genes: str | None = None, diseases: str | None = None, obo: str = OBO
    ) -> Files:
        held = {
            GENES: genes_text(*rows) if genes is None else genes,
            DISEASES: diseases_text(*DISEASE_ROWS) if diseases is None else diseases,
            ONTOLOGY: obo,
        }
        files = {}
        for name, text in held.items():
            sha256 = hashlib.sha256(text.encode()).digest()
            (path := tmp_path / sha256.hex()).write_bytes(text.encode())
            files[name] = StoredFile(partial(open_raw, path), sha256, None, None)
        return files

    return keep


def read(
    files: Files, catalogue: Catalogue = CATALOGUE
) -> tuple[dict[str, Record], list[Unmapped]]:
    entries = list(Hpo().read(files, catalogue))
    records = [entry for entry in entries if isinstance(entry, Record)]
    by_id = {record.hgnc_id: record for record in records}
    assert len(by_id) == len(records)
    return by_id, [entry for entry in entries if isinstance(entry, Unmapped)]


def value(record: Record) -> HpoGene:
    assert isinstance(record.value, HpoGene)
    return record.value


def test_a_gene_has_its_terms_diseases_and_inheritance_once_and_sorted(keep: Keep) -> None:
    files = keep(
        (*A1, LARGE, "-", "OMIM:900001"),
        (*A1, SMALL, "3/7", "ORPHA:900002"),
        (*A1, SMALL, "HP:0040283", "OMIM:900001"),
        (*A1, DOMINANT, "-", "OMIM:900001"),
        (*A1, SMALL, "-", "DECIPHER:9"),
    )
    records, unmapped = read(files)
    assert unmapped == []
    assert set(records) == {"HGNC:900001"}
    record = records["HGNC:900001"]
    assert (record.file, record.position) == (GENES, 2)
    assert value(record).model_dump() == {
        "entrez_id": "999001",
        "matched_by": "entrez_id",
        "term_count": 2,
        "terms": [
            {
                "id": SMALL,
                "name": "Small example",
                "max_frequency": 0.4286,
                "diseases": ["DECIPHER:9", "OMIM:900001", "ORPHA:900002"],
            },
            {
                "id": LARGE,
                "name": "Large example",
                "max_frequency": None,
                "diseases": ["OMIM:900001"],
            },
        ],
        "diseases": [
            {"id": "DECIPHER:9", "name": None},
            {"id": "OMIM:900001", "name": "Example syndrome 1"},
            {"id": "ORPHA:900002", "name": "Example syndrome 2"},
        ],
        "inheritance_modes": [{"id": DOMINANT, "name": "Autosomal dominant inheritance"}],
    }


@pytest.mark.parametrize(
    ("frequency", "share"),
    [
        ("-", None),
        ("", None),
        ("3/5", 0.6),
        ("25%", 0.25),
        ("12.5%", 0.125),
        ("HP:0040280", 1.0),
        ("HP:0040281", 0.99),
        ("HP:0040282", 0.79),
        ("HP:0040283", 0.29),
        ("HP:0040284", 0.04),
        ("HP:0040285", 0.0),
        ("0/7", 0.0),
    ],
)
def test_each_form_of_frequency_becomes_a_share(frequency: str, share: float | None) -> None:
    assert share_of(frequency) == share


@pytest.mark.parametrize(
    "frequency", ["often", "3/0", "4/3", "101%", "HP:0000118", "-1/3", "3/", "NA", "Infinity"]
)
def test_a_frequency_that_cannot_be_read_is_reported_and_its_row_still_counts(
    keep: Keep, frequency: str
) -> None:
    records, unmapped = read(keep((*A1, SMALL, frequency, "OMIM:900001")))
    assert value(records["HGNC:900001"]).terms[0].max_frequency is None
    assert [(entry.key, entry.row_count) for entry in unmapped] == [(f"frequency {frequency}", 1)]


@pytest.mark.parametrize("frequency", ["0/7", "0%", "HP:0040285"])
def test_a_phenotype_that_no_patient_had_is_left_out(keep: Keep, frequency: str) -> None:
    records, unmapped = read(
        keep((*A1, SMALL, "1/9", "OMIM:900001"), (*A1, LARGE, frequency, "OMIM:900001"))
    )
    assert unmapped == []
    assert [term.id for term in value(records["HGNC:900001"]).terms] == [SMALL]


def test_a_phenotype_seen_in_very_few_patients_is_kept(keep: Keep) -> None:
    records, _ = read(keep((*A1, SMALL, "1/90000", "OMIM:900001")))
    assert value(records["HGNC:900001"]).term_count == 1


def test_a_phenotype_that_the_disease_has_not_is_left_out(keep: Keep) -> None:
    """genes_to_phenotype.txt lists it without a sign; only phenotype.hpoa says NOT."""
    records, unmapped = read(
        keep(
            (*A1, LARGE, "-", "ORPHA:900002"),
            (*A1, SMALL, "-", "ORPHA:900002"),  # Denied once, affirmed once.
        )
    )
    assert unmapped == []
    assert [term.id for term in value(records["HGNC:900001"]).terms] == [SMALL]


def test_a_denied_phenotype_of_one_disease_is_kept_for_another(keep: Keep) -> None:
    records, _ = read(keep((*A1, LARGE, "-", "ORPHA:900002"), (*A1, LARGE, "-", "OMIM:900001")))
    (term,) = value(records["HGNC:900001"]).terms
    assert (term.id, term.diseases) == (LARGE, ["OMIM:900001"])


def test_a_gene_without_any_phenotypic_abnormality_has_no_record(keep: Keep) -> None:
    records, unmapped = read(
        keep(
            (*A1, DOMINANT, "-", "OMIM:900001"),
            (*A1, "HP:0000118", "-", "OMIM:900001"),
            (*A1, SMALL, "0/3", "OMIM:900001"),
        )
    )
    assert (records, unmapped) == ({}, [])


def test_a_retired_term_counts_as_the_one_that_replaced_it(keep: Keep) -> None:
    records, unmapped = read(
        keep(
            (*A1, "HP:9000091", "-", "OMIM:900001"),
            (*A1, SMALL, "-", "OMIM:900001"),
            (*A1, "HP:9000092", "-", "OMIM:900001"),
        )
    )
    assert unmapped == []
    assert [term.id for term in value(records["HGNC:900001"]).terms] == [SMALL, LARGE]


@pytest.mark.parametrize("term", ["HP:9000093", "HP:9000094", "HP:9999999"])
def test_a_term_that_no_single_one_replaced_is_reported(keep: Keep, term: str) -> None:
    row = (*A1, term, "-", "OMIM:900001")
    records, unmapped = read(keep((*A1, SMALL, "-", "OMIM:900001"), row, row))
    assert value(records["HGNC:900001"]).term_count == 1
    assert [(entry.key, entry.row_count) for entry in unmapped] == [(term, 2)]
    assert "no term of hp.obo" in unmapped[0].reason


def test_a_circle_of_replacements_ends(keep: Keep) -> None:
    circle = "".join(
        f"\n[Term]\nid: {id_}\nname: x\nis_obsolete: true\nreplaced_by: {other}\n"
        for id_, other in (("HP:9000095", "HP:9000096"), ("HP:9000096", "HP:9000095"))
    )
    row = (*A1, "HP:9000095", "-", "OMIM:900001")
    assert [entry.key for entry in read(keep(row, obo=OBO + circle))[1]] == ["HP:9000095"]


def test_a_renamed_gene_is_found_by_its_entrez_id(keep: Keep) -> None:
    records, _ = read(keep(("999001", "OLDNAME", SMALL, "-", "OMIM:900001")))
    assert value(records["HGNC:900001"]).matched_by == "entrez_id"


def test_a_gene_of_unknown_entrez_id_is_found_by_its_approved_symbol(keep: Keep) -> None:
    records, unmapped = read(keep(("999003", "TSTC1", SMALL, "-", "OMIM:900001")))
    assert unmapped == []
    found = value(records["HGNC:900003"])
    assert (found.matched_by, found.entrez_id) == ("symbol", "999003")


@pytest.mark.parametrize("symbol", ["tstc1", "-", "NOGENE"])
def test_an_entrez_id_that_is_no_gene_of_ours_is_reported(keep: Keep, symbol: str) -> None:
    row = ("999009", symbol, SMALL, "-", "OMIM:900001")
    records, unmapped = read(keep(row, (*A1, SMALL, "-", "OMIM:900001"), row))
    assert set(records) == {"HGNC:900001"}
    assert [(entry.key, entry.row_count) for entry in unmapped] == [("999009", 2)]
    assert symbol in unmapped[0].reason


def test_a_symbol_never_adds_a_second_entrez_id_to_a_gene(keep: Keep) -> None:
    records, unmapped = read(
        keep(("999009", "TSTA1", LARGE, "-", "OMIM:900001"), (*A1, SMALL, "-", "OMIM:900001"))
    )
    assert value(records["HGNC:900001"]).entrez_id == "999001"
    assert [entry.key for entry in unmapped] == ["999009"]
    assert "HGNC:900001 has the symbol TSTA1" in unmapped[0].reason


def test_of_two_unknown_entrez_ids_with_one_symbol_none_is_chosen(keep: Keep) -> None:
    row = (SMALL, "-", "OMIM:900001")
    records, unmapped = read(keep(("999008", "TSTC1", *row), ("999009", "TSTC1", *row)))
    assert records == {}
    assert [entry.key for entry in unmapped] == ["999008", "999009"]
    assert "HGNC:900003 has the symbol TSTC1" in unmapped[0].reason


def test_an_entrez_id_of_two_genes_goes_to_the_one_whose_symbol_it_has(keep: Keep) -> None:
    records, unmapped = read(keep(("999004", "TSTE1", SMALL, "-", "OMIM:900001")))
    assert (set(records), unmapped) == ({"HGNC:900005"}, [])


def test_an_entrez_id_of_two_genes_with_another_symbol_is_reported_as_ambiguous(
    keep: Keep,
) -> None:
    records, unmapped = read(keep(("999004", "TSTX1", SMALL, "-", "OMIM:900001")))
    assert records == {}
    reason = "ambiguous: this Entrez id is that of HGNC:900004, HGNC:900005"
    assert unmapped == [Unmapped("999004", reason)]


def test_rows_of_a_gene_need_not_stand_together(keep: Keep) -> None:
    records, _ = read(
        keep(
            (*A1, SMALL, "-", "OMIM:900001"),
            ("999002", "TSTB1", SMALL, "-", "OMIM:900001"),
            (*A1, LARGE, "-", "OMIM:900001"),
        )
    )
    assert {id_: (one.position, value(one).term_count) for id_, one in records.items()} == {
        "HGNC:900001": (2, 2),
        "HGNC:900002": (3, 1),
    }


def test_windows_line_ends_and_byte_order_marks_make_no_difference(keep: Keep) -> None:
    rows = [(*A1, SMALL, "3/5", "OMIM:900001"), (*A1, LARGE, "-", "ORPHA:900002")]
    plain = keep(*rows)
    texts = (genes_text(*rows), diseases_text(*DISEASE_ROWS), OBO)
    genes, diseases, obo = ("\ufeff" + text.replace("\n", "\r\n") for text in texts)
    other = keep(genes=genes, diseases=diseases, obo=obo)
    assert read(other) == read(plain)
    assert Hpo().version(other) == Hpo().version(plain)


def test_an_extra_column_and_another_order_make_no_difference(keep: Keep) -> None:
    genes = (
        "disease_id\tnew\thpo_id\tfrequency\tgene_symbol\tncbi_gene_id\n"
        f"OMIM:900001\tx\t {SMALL} \t3/5\tTSTA1\t999001 \n"
    )
    records, _ = read(keep(genes=genes))
    assert value(records["HGNC:900001"]).terms[0].max_frequency == 0.6


@pytest.mark.parametrize(
    "column", ["ncbi_gene_id", "gene_symbol", "hpo_id", "frequency", "disease_id"]
)
def test_a_missing_column_of_the_genes_is_named(keep: Keep, column: str) -> None:
    genes = genes_text((*A1, SMALL, "-", "OMIM:900001")).replace(column, "other")
    with pytest.raises(SchemaChanged, match=rf"genes_to_phenotype\.txt: no column {column}"):
        read(keep(genes=genes))


@pytest.mark.parametrize("column", ["database_id", "disease_name", "qualifier", "hpo_id", "aspect"])
def test_a_missing_column_of_the_diseases_is_named(keep: Keep, column: str) -> None:
    diseases = diseases_text(*DISEASE_ROWS).replace(column, "other")
    with pytest.raises(SchemaChanged, match=rf"phenotype\.hpoa: no column {column}"):
        read(keep(diseases=diseases))


def test_the_format_before_2023_is_refused(keep: Keep) -> None:
    genes = "#Format: entrez-gene-id<tab>entrez-gene-symbol<tab>HPO-Term-ID\n8192\tCLPP\tHP:1\n"
    with pytest.raises(SchemaChanged, match=r"no column ncbi_gene_id in the header \['#Format:"):
        read(keep(genes=genes))


@pytest.mark.parametrize("name", ["genes", "diseases"])
def test_an_empty_file_is_refused(keep: Keep, name: str) -> None:
    with pytest.raises(SchemaChanged, match="has no header"):
        read(keep(**{name: ""}))


def test_a_row_that_ends_too_early_is_refused_with_its_line(keep: Keep) -> None:
    genes = genes_text((*A1, SMALL, "-", "OMIM:900001")) + "999002\tTSTB1\tHP:9"
    with pytest.raises(SchemaChanged, match=r"genes_to_phenotype\.txt, line 3 has 3 of 6 cells"):
        read(keep(genes=genes))


def test_a_row_with_too_many_cells_is_refused_with_its_line(keep: Keep) -> None:
    genes = genes_text((*A1, SMALL, "-", "OMIM:900001")).removesuffix("\n") + "\textra\n"
    with pytest.raises(SchemaChanged, match=r"genes_to_phenotype\.txt, line 2 has 7 of 6 cells"):
        read(keep(genes=genes))


@pytest.mark.parametrize("obo", ["", "<!DOCTYPE html>\n<html></html>\n"])
def test_what_is_no_ontology_is_refused(keep: Keep, obo: str) -> None:
    files = keep((*A1, SMALL, "-", "OMIM:900001"), obo=obo)
    with pytest.raises(SchemaChanged, match="no term has is_a: HP:0000118"):
        read(files)
    with pytest.raises(SchemaChanged, match="no data-version:"):
        Hpo().version(files)


@pytest.mark.parametrize("name", ["genes", "diseases"])
def test_a_page_in_place_of_a_table_is_refused(keep: Keep, name: str) -> None:
    with pytest.raises(SchemaChanged, match=r"no column .* in the header .*DOCTYPE html"):
        read(keep(**{name: "<!DOCTYPE html>\n<html></html>\n"}))


@pytest.mark.parametrize("name", [GENES, DISEASES, ONTOLOGY])
@pytest.mark.parametrize("cut", [None, -9], ids=["gzip", "truncated gzip"])
def test_a_packed_file_is_refused(keep: Keep, tmp_path: Path, name: str, cut: int | None) -> None:
    """None is packed in itself, and what the transfer packs the engine unpacks."""
    (path := tmp_path / "packed").write_bytes(gzip.compress(b"packed" * 9, mtime=0)[:cut])
    with pytest.raises(SchemaChanged, match=f"{name} is not UTF-8"):
        read(keep() | {name: StoredFile(partial(open_raw, path), b"", None, None)})


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ("HP:0000118 ! Phenotypic abnormality", "no term has is_a: HP:0000118"),
        ("name: Small example", "a term has no id or no name"),
    ],
)
def test_an_ontology_of_another_form_is_refused(keep: Keep, cut: str, message: str) -> None:
    with pytest.raises(SchemaChanged, match=message):
        read(keep(obo=OBO.replace(cut, "x")))


def test_a_file_that_is_not_utf_8_is_refused(keep: Keep, tmp_path: Path) -> None:
    files = keep()
    (path := tmp_path / "latin").write_bytes(GENES_HEADER.encode() + b"\n999001\t\xe9\t\t\t\t\n")
    with pytest.raises(SchemaChanged, match=r"genes_to_phenotype\.txt is not UTF-8"):
        read(files | {GENES: StoredFile(partial(open_raw, path), b"", None, None)})


def test_the_version_is_that_of_the_annotations(keep: Keep) -> None:
    assert Hpo().version(keep()) == "2026-06-23"
    dated = diseases_text().replace("#version:", "#date:")
    assert Hpo().version(keep(diseases=dated)) == "2026-06-23"


def test_the_version_says_when_the_ontology_is_of_another_day(keep: Keep) -> None:
    files = keep(obo=OBO.replace("2026-06-23", "2026-01-08"))
    assert Hpo().version(files) == "2026-06-23 with ontology 2026-01-08"


def test_a_file_without_a_version_is_refused(keep: Keep) -> None:
    with pytest.raises(SchemaChanged, match="no #version: YYYY-MM-DD"):
        Hpo().version(keep(diseases=diseases_text().replace("#version", "#other")))


def test_all_of_hpo_s_files_are_read_and_count_the_same_by_hand(keep: Keep) -> None:
    """The real release: which genes, and which terms each of them has."""
    texts = {}
    for name in (GENES, DISEASES, ONTOLOGY):
        path = UPSTREAM_DATA / f"{name}.gz"
        if not path.exists():
            pytest.skip(f"shared/data/hpo/{name}.gz is not beside the project")
        texts[name] = gzip.decompress(path.read_bytes()).decode()
    children = defaultdict(set)
    for stanza in texts[ONTOLOGY].split("\n\n"):
        for parent in re.findall(r"^is_a: (\S+)", stanza, re.MULTILINE):
            children[parent].add(re.findall(r"^id: (\S+)", stanza, re.MULTILINE)[0])
    abnormalities: set[str] = set()
    ring = children["HP:0000118"]
    while ring:
        abnormalities |= ring
        ring = {child for term in ring for child in children[term]} - abnormalities
    said = [line.split("\t") for line in texts[DISEASES].splitlines() if line[0] != "#"][1:]
    affirmed = {(row[0], row[3]) for row in said if row[2] == ""}
    expected = defaultdict(set)
    entrez_ids = {}
    for line in texts[GENES].splitlines()[1:]:
        entrez_id, symbol, term, _, frequency, disease = line.split("\t")
        entrez_ids[entrez_id] = symbol
        seen = not frequency.startswith("0/") and frequency not in ("HP:0040285", "0%")
        if term in abnormalities and seen and (disease, term) in affirmed:
            expected[f"HGNC:{entrez_id}"].add(term)
    catalogue = Catalogue(
        [Gene(f"HGNC:{id_}", symbol, id_, None) for id_, symbol in entrez_ids.items()]
    )
    files = keep(genes=texts[GENES], diseases=texts[DISEASES], obo=texts[ONTOLOGY])
    records, unmapped = read(files, catalogue)
    assert unmapped == []
    assert len(records) > 4_000
    assert {
        hgnc_id: {term.id for term in value(record).terms} for hgnc_id, record in records.items()
    } == expected
    assert Hpo().version(files) == "2025-01-16"
