"""gnomAD's constraint tables, read into one value for each gene."""

import csv
import gzip
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from services.annotator.domain import (
    LINE_BYTES_MAX,
    Catalogue,
    Gene,
    Record,
    StoredFile,
    Unmapped,
    open_raw,
)
from services.annotator.errors import ReleaseRefused, SchemaChanged
from services.annotator.sources import gnomad
from services.annotator.sources.gnomad import FILE, RELEASES, Gnomad, GnomadGene

CATALOGUE = Catalogue(
    [
        Gene("HGNC:900001", "TSTA1", None, "ENSG00000900001"),
        Gene("HGNC:900002", "TSTB1", None, "ENSG00000900002"),
        Gene("HGNC:900003", "TSTC1", None, None),
        Gene("HGNC:900004", "TSTD1", None, "ENSG00000900004"),
        Gene("HGNC:900005", "TSTE1", None, "ENSG00000900004"),
    ]
)
V4_COLUMNS = {
    "gene": "TSTA1",
    "gene_id": "ENSG00000900001",
    "transcript": "ENST00000900001",
    "canonical": "true",
    "mane_select": "true",
    "lof.obs": "4",
    "lof.exp": "4.0125e+01",
    "lof.oe": "9.9688e-02",
    "lof.z_score": "5.5000e+00",
    "lof.oe_ci.lower": "4.6000e-02",
    "lof.oe_ci.upper": "2.4500e-01",
    "lof.oe_ci.upper_rank": "700",
    "lof.oe_ci.upper_bin_decile": "0",
    "lof.pLI": "9.9990e-01",
    "mis.obs": "707",
    "mis.exp": "6.4703e+02",
    "mis.oe": "1.0927e+00",
    "mis.z_score": "-8.6092e-01",
    "mis.oe_ci.lower": "1.0260e+00",
    "mis.oe_ci.upper": "1.1630e+00",
    "syn.obs": "316",
    "syn.exp": "2.9594e+02",
    "syn.oe": "1.0678e+00",
    "syn.z_score": "-6.3527e-01",
    "syn.oe_ci.lower": "9.7300e-01",
    "syn.oe_ci.upper": "1.1720e+00",
    "constraint_flags": '["outlier_mis","outlier_syn"]',
}
V4_1_1_COLUMNS = {
    **V4_COLUMNS,
    "transcript_version": "ENST00000900001.7",
    "gene_flags": '["low_exome_coverage"]',
    "lof.gen_anc_obs.global": "[0,1,2]",
}
V2_COLUMNS = {
    "gene": "TSTA1",
    "transcript": "ENST00000900001",
    "obs_mis": "707",
    "exp_mis": "6.4703e+02",
    "oe_mis": "1.0927e+00",
    "obs_syn": "316",
    "exp_syn": "2.9594e+02",
    "oe_syn": "1.0678e+00",
    "obs_lof": "4",
    "exp_lof": "4.0125e+01",
    "pLI": "9.9990e-01",
    "oe_lof": "9.9688e-02",
    "oe_syn_lower": "9.7300e-01",
    "oe_syn_upper": "1.1720e+00",
    "oe_mis_lower": "1.0260e+00",
    "oe_mis_upper": "1.1630e+00",
    "oe_lof_lower": "4.6000e-02",
    "oe_lof_upper": "2.4500e-01",
    "constraint_flag": "outlier_mis|outlier_syn",
    "syn_z": "-6.3527e-01",
    "mis_z": "-8.6092e-01",
    "lof_z": "5.5000e+00",
    "oe_lof_upper_bin": "0",
    "gene_id": "ENSG00000900001",
    "chromosome": "1",
}
COLUMNS = {"v2.1.1": V2_COLUMNS, "v4.0": V4_COLUMNS, "v4.1": V4_COLUMNS, "v4.1.1": V4_1_1_COLUMNS}
VALUE = {
    "ensembl_gene_id": "ENSG00000900001",
    "symbol": "TSTA1",
    "matched_by": "ensembl_gene_id",
    "assembly": "GRCh38",
    "transcript": "ENST00000900001",
    "transcript_version": None,
    "transcript_chosen_by": "mane_select",
    "pli": 0.9999,
    "oe_lof": 0.099688,
    "oe_lof_lower": 0.046,
    "loeuf": 0.245,
    "loeuf_decile": 0,
    "is_constrained": True,
    "obs_lof": 4,
    "exp_lof": 40.125,
    "lof_z": 5.5,
    "oe_mis": 1.0927,
    "oe_mis_lower": 1.026,
    "oe_mis_upper": 1.163,
    "obs_mis": 707,
    "exp_mis": 647.03,
    "mis_z": -0.86092,
    "oe_syn": 1.0678,
    "oe_syn_lower": 0.973,
    "oe_syn_upper": 1.172,
    "obs_syn": 316,
    "exp_syn": 295.94,
    "syn_z": -0.63527,
    "constraint_flags": ["outlier_mis", "outlier_syn"],
    "gene_flags": None,
}
NUMBERS = [
    *("pli", "oe_lof", "oe_lof_lower", "loeuf", "loeuf_decile", "obs_lof", "exp_lof", "lof_z"),
    *("oe_mis", "oe_mis_lower", "oe_mis_upper", "obs_mis", "exp_mis", "mis_z"),
    *("oe_syn", "oe_syn_lower", "oe_syn_upper", "obs_syn", "exp_syn", "syn_z"),
]

Row = dict[str, str]
Keep = Callable[[bytes], dict[str, StoredFile]]


def build_table(*rows: Row, release: str = "v4.1.1") -> bytes:
    """A table of the release's columns; each row says what is special in it."""
    columns = COLUMNS[release]
    lines = ["\t".join(columns), *("\t".join((columns | row).values()) for row in rows)]
    return "".join(f"{line}\n" for line in lines).encode()


def in_members(content: bytes, size: int) -> bytes:
    """Packed as a bgzf file is: many gzip files, and an empty one at the end."""
    parts = [content[at : at + size] for at in range(0, len(content), size)]
    return b"".join(map(gzip.compress, [*parts, b""]))


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    """Lays a table down as the raw store does: its name says nothing."""

    def keep(content: bytes) -> dict[str, StoredFile]:
        (path := tmp_path / "0123").write_bytes(content)
        return {FILE: StoredFile(partial(open_raw, path), b"", None, None)}

    return keep


def read(
    files: dict[str, StoredFile], catalogue: Catalogue = CATALOGUE, release: str = "v4.1.1"
) -> tuple[dict[str, Record], list[Unmapped]]:
    entries = list(Gnomad(release).read(files, catalogue))
    records = [entry for entry in entries if isinstance(entry, Record)]
    by_id = {record.hgnc_id: record for record in records}
    assert len(by_id) == len(records)
    return by_id, [entry for entry in entries if isinstance(entry, Unmapped)]


def value(record: Record) -> GnomadGene:
    assert isinstance(record.value, GnomadGene)
    return record.value


@pytest.mark.parametrize(
    ("release", "special"),
    [
        ("v4.0", {"loeuf_threshold": 0.6}),
        ("v4.1", {"loeuf_threshold": 0.6}),
        (
            "v4.1.1",
            {
                "loeuf_threshold": 0.45,
                "transcript_version": "ENST00000900001.7",
                "gene_flags": ["low_exome_coverage"],
            },
        ),
        (
            "v2.1.1",
            {
                "loeuf_threshold": 0.35,
                "assembly": "GRCh37",
                "transcript_chosen_by": "canonical",
            },
        ),
    ],
)
def test_a_gene_is_read_from_the_columns_of_each_release(
    keep: Keep, release: str, special: dict[str, Any]
) -> None:
    files = keep(build_table({}, release=release))
    records, unmapped = read(files, release=release)
    assert unmapped == []
    (record,) = records.values()
    assert (record.hgnc_id, record.file, record.position) == ("HGNC:900001", FILE, 2)
    assert value(record).model_dump() == VALUE | special
    assert Gnomad(release).version(files) == release


@pytest.mark.parametrize("release", RELEASES)
def test_the_release_is_that_of_the_address_asked(release: str) -> None:
    (file,) = Gnomad(release).files
    number = release.removeprefix("v")
    assert file.path.startswith(f"release/{number}/constraint/gnomad.{release}.")


@pytest.mark.parametrize("nothing", ["NA", "na", "NaN", "nan", "", " ", "Infinity"])
@pytest.mark.parametrize("release", ["v4.1.1", "v2.1.1"])
def test_a_value_that_is_not_given_is_null_and_not_zero(
    keep: Keep, release: str, nothing: str
) -> None:
    names = RELEASES[release].columns.names
    absent = dict.fromkeys((names[field] for field in NUMBERS), nothing)
    records, _ = read(keep(build_table(absent, release=release)), release=release)
    read_value = value(records["HGNC:900001"]).model_dump()
    assert {field: read_value[field] for field in NUMBERS} == dict.fromkeys(NUMBERS)
    assert read_value["is_constrained"] is None
    assert read_value["loeuf_threshold"] == RELEASES[release].threshold


def test_zero_is_a_value(keep: Keep) -> None:
    zero = {"lof.obs": "0", "lof.oe": "0.0000e+00", "lof.oe_ci.lower": "0.0000e+00"}
    records, _ = read(keep(build_table(zero)))
    found = value(records["HGNC:900001"])
    assert (found.obs_lof, found.oe_lof, found.oe_lof_lower) == (0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("release", "loeuf", "constrained"),
    [
        ("v4.1.1", "0.4499", True),
        ("v4.1.1", "0.45", False),
        ("v4.1", "0.45", True),
        ("v4.1", "0.6", False),
        ("v2.1.1", "0.3499", True),
        ("v2.1.1", "0.35", False),
    ],
)
def test_a_gene_is_constrained_by_the_threshold_of_its_release(
    keep: Keep, release: str, loeuf: str, constrained: bool
) -> None:
    column = RELEASES[release].columns.names["loeuf"]
    records, _ = read(keep(build_table({column: loeuf}, release=release)), release=release)
    assert value(records["HGNC:900001"]).is_constrained is constrained


@pytest.mark.parametrize(
    ("cell", "flags"),
    [
        ("[]", []),
        ('["no_exp_lof"]', ["no_exp_lof"]),
        ('["no_exp_lof","outlier_syn"]', ["no_exp_lof", "outlier_syn"]),
        ("", []),
        ("no_exp_lof|outlier_syn", ["no_exp_lof", "outlier_syn"]),
        ("NA", None),
    ],
)
def test_flags_are_kept(keep: Keep, cell: str, flags: list[str] | None) -> None:
    records, _ = read(keep(build_table({"constraint_flags": cell, "gene_flags": cell})))
    found = value(records["HGNC:900001"])
    assert (found.constraint_flags, found.gene_flags) == (flags, flags)


NEITHER = {"mane_select": "false", "canonical": "false", "transcript": "ENST1", "lof.obs": "1"}
CANONICAL = {"mane_select": "false", "canonical": "true", "transcript": "ENST2", "lof.obs": "2"}
MANE = {"mane_select": "true", "canonical": "true", "transcript": "ENST3", "lof.obs": "3"}
MANE_ONLY = {"mane_select": "TRUE", "canonical": "false", "transcript": "ENST4", "lof.obs": "4"}


@pytest.mark.parametrize(
    ("rows", "transcript", "chosen_by", "line"),
    [
        ([NEITHER, CANONICAL, MANE], "ENST3", "mane_select", 4),
        ([MANE, CANONICAL, NEITHER], "ENST3", "mane_select", 2),
        ([CANONICAL, MANE_ONLY, NEITHER], "ENST4", "mane_select", 3),
        ([NEITHER, CANONICAL], "ENST2", "canonical", 3),
    ],
)
def test_mane_select_comes_before_canonical_in_whatever_order_they_stand(
    keep: Keep, rows: list[Row], transcript: str, chosen_by: str, line: int
) -> None:
    records, unmapped = read(keep(build_table(*rows)))
    assert unmapped == []
    record = records["HGNC:900001"]
    found = value(record)
    assert (found.transcript, found.transcript_chosen_by) == (transcript, chosen_by)
    assert (record.position, f"ENST{found.obs_lof}") == (line, transcript)


def test_a_gene_without_a_transcript_to_choose_is_reported_with_its_rows(keep: Keep) -> None:
    records, unmapped = read(keep(build_table(NEITHER, NEITHER)))
    assert records == {}
    assert unmapped == [Unmapped("ENSG00000900001", gnomad.NONE_CHOSEN, 2)]


@pytest.mark.parametrize("row", [MANE, CANONICAL])
def test_of_two_rows_to_choose_the_first_counts_and_the_second_is_reported(
    keep: Keep, row: Row
) -> None:
    records, unmapped = read(keep(build_table(row, row | {"transcript": "ENST9"})))
    assert value(records["HGNC:900001"]).transcript == row["transcript"]
    assert unmapped == [Unmapped("ENSG00000900001", gnomad.REPEATED, 1)]


def test_two_canonical_rows_are_no_matter_when_there_is_mane_select(keep: Keep) -> None:
    records, unmapped = read(keep(build_table(CANONICAL, CANONICAL, MANE, CANONICAL)))
    assert value(records["HGNC:900001"]).transcript_chosen_by == "mane_select"
    assert unmapped == []


def test_rows_of_refseq_are_counted_under_one_reason(keep: Keep) -> None:
    refseq = {"gene_id": "999001", "transcript": "NM_001.2", "lof.obs": "no number"}
    predicted = {"gene_id": "999002", "transcript": "XM_001.2"}
    records, unmapped = read(keep(build_table(refseq, {}, predicted)))
    assert set(records) == {"HGNC:900001"}
    assert unmapped == [Unmapped(gnomad.REFSEQ, gnomad.NOT_READ, 2)]


def test_a_gene_id_may_have_a_version(keep: Keep) -> None:
    records, _ = read(keep(build_table({"gene_id": "ENSG00000900001.12"})))
    assert value(records["HGNC:900001"]).ensembl_gene_id == "ENSG00000900001"


def test_a_renamed_gene_is_found_by_its_ensembl_id(keep: Keep) -> None:
    records, _ = read(keep(build_table({"gene": "TSTB1"})))
    found = value(records["HGNC:900001"])
    assert (found.symbol, found.matched_by) == ("TSTB1", "ensembl_gene_id")


def test_a_retired_id_is_found_by_the_approved_symbol_and_says_so(keep: Keep) -> None:
    records, unmapped = read(keep(build_table({"gene_id": "ENSG9", "gene": "TSTC1"})))
    assert unmapped == []
    found = value(records["HGNC:900003"])
    assert (found.ensembl_gene_id, found.matched_by) == ("ENSG9", "symbol")


@pytest.mark.parametrize("symbol", ["tstc1", "NOGENE"])
def test_a_gene_that_is_none_of_ours_is_reported(keep: Keep, symbol: str) -> None:
    records, unmapped = read(keep(build_table({"gene_id": "ENSG9", "gene": symbol})))
    assert records == {}
    reason = f"no gene has this Ensembl id, nor the symbol {symbol}"
    assert unmapped == [Unmapped("ENSG9", reason)]


def test_a_symbol_never_adds_a_second_ensembl_id_to_a_gene(keep: Keep) -> None:
    records, unmapped = read(keep(build_table({"gene_id": "ENSG9"}, {})))
    assert value(records["HGNC:900001"]).ensembl_gene_id == "ENSG00000900001"
    assert [entry.key for entry in unmapped] == ["ENSG9"]
    assert "HGNC:900001 has the symbol TSTA1, but is matched" in unmapped[0].reason


def test_a_symbol_of_two_retired_ids_tells_nothing(keep: Keep) -> None:
    rows = [{"gene_id": id_, "gene": "TSTC1"} for id_ in ("ENSG8", "ENSG9")]
    records, unmapped = read(keep(build_table(*rows)))
    assert records == {}
    assert [entry.key for entry in unmapped] == ["ENSG8", "ENSG9"]
    assert all("2 such ids have the symbol TSTC1" in entry.reason for entry in unmapped)


def test_an_ensembl_id_of_two_genes_goes_to_the_one_whose_symbol_it_has(keep: Keep) -> None:
    row = {"gene_id": "ENSG00000900004", "gene": "TSTE1"}
    records, unmapped = read(keep(build_table(row)))
    assert (set(records), unmapped) == ({"HGNC:900005"}, [])


def test_an_ensembl_id_of_two_genes_with_another_symbol_is_reported_as_ambiguous(
    keep: Keep,
) -> None:
    records, unmapped = read(keep(build_table({"gene_id": "ENSG00000900004", "gene": "OLD"})))
    assert records == {}
    reason = "ambiguous: this Ensembl id is that of HGNC:900004, HGNC:900005"
    assert unmapped == [Unmapped("ENSG00000900004", reason)]


def test_another_order_and_extra_columns_make_no_difference(keep: Keep) -> None:
    plain = read(keep(build_table({})))
    rows = csv.reader(io.StringIO(build_table({}).decode()), delimiter="\t", quoting=csv.QUOTE_NONE)
    turned = "".join("\t".join(["new", *reversed(row)]) + "\n" for row in rows)
    assert read(keep(turned.encode())) == plain


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress,
        lambda content: in_members(content, 100),
        lambda content: b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"),
        lambda content: content + b"\n",
        lambda content: content.removesuffix(b"\n"),
    ],
    ids=["gzip", "bgzf", "windows", "blank line", "no last line end"],
)
def test_however_a_table_is_packed_it_says_the_same(
    keep: Keep, packed: Callable[[bytes], bytes]
) -> None:
    table = build_table({}, {"gene_id": "ENSG00000900002", "gene": "TSTB1"})
    plain = read(keep(table))
    assert set(plain[0]) == {"HGNC:900001", "HGNC:900002"}
    files = keep(packed(table))
    assert read(files) == plain
    assert Gnomad().version(files) == "v4.1.1"


@pytest.mark.parametrize("cut", [-1, -30, -200])
@pytest.mark.parametrize("packed", [gzip.compress, lambda content: in_members(content, 700)])
def test_a_truncated_gzip_is_refused(
    keep: Keep, packed: Callable[[bytes], bytes], cut: int
) -> None:
    with pytest.raises(ReleaseRefused, match="no whole gzip file"):
        read(keep(packed(build_table({}, {}, {}))[:cut]))


def test_a_damaged_gzip_is_refused(keep: Keep) -> None:
    packed = bytearray(gzip.compress(build_table({})))
    packed[len(packed) // 2] ^= 0xFF
    with pytest.raises(ReleaseRefused, match="no whole gzip file"):
        read(keep(bytes(packed)))


def test_a_table_that_unpacks_to_more_than_accepted_is_refused(
    keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gnomad, "UNPACKED_BYTES_MAX", 2_000)
    with pytest.raises(ReleaseRefused, match="accepted are less than 2000"):
        read(keep(gzip.compress(build_table(*[{}] * 10))))


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(keep: Keep) -> None:
    with pytest.raises(ReleaseRefused, match=f"{LINE_BYTES_MAX} in a line"):
        read(keep(gzip.compress(b"x" * (LINE_BYTES_MAX + 1))))


@pytest.mark.parametrize(
    ("release", "column"),
    [(release, column) for release in RELEASES for column in RELEASES[release].columns.required],
)
def test_a_missing_column_is_named(keep: Keep, release: str, column: str) -> None:
    header, rest = build_table({}, release=release).decode().split("\n", 1)
    renamed = ["other" if name == column else name for name in header.split("\t")]
    files = keep(("\t".join(renamed) + "\n" + rest).encode())
    for refused in (lambda: read(files, release=release), lambda: Gnomad(release).version(files)):
        with pytest.raises(SchemaChanged, match=f"{release}: no column {column} in the header"):
            refused()


@pytest.mark.parametrize(
    ("release", "found", "said"),
    [
        ("v4.1.1", "v2.1.1", r"no column lof\.pLI .*the columns of v2\.1\.1"),
        ("v4.1.1", "v4.1", r"no column transcript_version .*the columns of v4\.0 or v4\.1"),
        ("v4.1", "v4.1.1", r"of v4\.1 has the columns of v4\.1\.1"),
        ("v2.1.1", "v4.1.1", r"no column pLI .*the columns of v4\.1\.1"),
    ],
)
def test_a_table_of_another_release_than_was_asked_for_is_refused(
    keep: Keep, release: str, found: str, said: str
) -> None:
    with pytest.raises(SchemaChanged, match=said):
        read(keep(build_table({}, release=found)), release=release)


@pytest.mark.parametrize(
    "content",
    [b"", gzip.compress(b""), b"<html>\n", b"{}\n"],
    ids=["nothing", "packed nothing", "a page", "an object"],  # Packed bytes hold the hour.
)
def test_what_is_no_table_is_refused(keep: Keep, content: bytes) -> None:
    with pytest.raises(SchemaChanged, match=r"is empty|no column gene_id"):
        read(keep(content))


def test_a_row_with_too_many_cells_is_refused_with_its_line(keep: Keep) -> None:
    with pytest.raises(SchemaChanged, match="line 2 has 31 of 30 cells"):
        read(keep(build_table({}).removesuffix(b"\n") + b"\textra\n"))


def test_a_row_that_ends_too_early_is_refused_with_its_line(keep: Keep) -> None:
    with pytest.raises(SchemaChanged, match="line 3 has 2 of 30 cells"):
        read(keep(build_table({}) + b"TSTB1\tENSG00000900002"))


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("lof.exp", "many"),
        ("lof.obs", "4.5"),
        ("syn.obs", "1,000"),
        ("lof.pLI", "-"),
        ("lof.pLI", "1_0"),
    ],
)
def test_a_cell_that_is_no_number_is_refused_with_its_place(
    keep: Keep, column: str, cell: str
) -> None:
    with pytest.raises(SchemaChanged, match=f"line 3: {column} is '{cell}'"):
        read(keep(build_table({}, {"gene_id": "ENSG00000900002", column: cell})))


@pytest.mark.parametrize("column", ["gene", "gene_id", "transcript_version"])
def test_a_file_that_is_not_utf_8_is_refused(keep: Keep, column: str) -> None:
    table = build_table({column: "BROKEN"})
    with pytest.raises(SchemaChanged, match="is not UTF-8"):
        read(keep(table.replace(b"BROKEN", b"\xe9")))


def real_rows(content: str) -> dict[str, Row]:
    """By Ensembl gene id, the row that is to count, found without the reader."""
    chosen: dict[str, Row] = {}
    rows = csv.DictReader(io.StringIO(content), delimiter="\t", quoting=csv.QUOTE_NONE)
    for row in rows:
        marks = (row["mane_select"] == "true", row["canonical"] == "true")
        before = chosen.get(row["gene_id"])
        if row["transcript"][:4] == "ENST" and any(marks) and (before is None or marks[0]):
            chosen[row["gene_id"]] = row
    return chosen


def number_in(cell: str) -> float | None:
    return None if cell in {"NA", "NaN", ""} else float(cell)


@pytest.mark.parametrize(
    ("name", "gene_count"),
    [
        ("gnomad.v4.1.1.constraint_metrics_reduced.no_gen_anc.tsv.gz", 253),
        ("gnomad.v4.1.1.constraint_metrics_reduced.first300.tsv.gz", None),
    ],
)
def test_every_value_of_the_real_file_is_the_one_in_it(
    upstream_data: Path, name: str, gene_count: int | None
) -> None:
    path = upstream_data / "gnomad" / name
    content = gzip.decompress(path.read_bytes()).decode()
    expected = real_rows(content)
    catalogue = Catalogue(
        [Gene(f"HGNC:{id_[4:]}", row["gene"], None, id_) for id_, row in expected.items()]
    )
    files = {FILE: StoredFile(partial(open_raw, path), b"", None, None)}
    records, unmapped = read(files, catalogue)
    assert Gnomad().version(files) == "v4.1.1"
    assert len(records) == len(expected) == (gene_count or len(expected)) > 20
    refseq = sum("\tENST" not in line for line in content.splitlines()[1:])
    assert unmapped == [Unmapped(gnomad.REFSEQ, gnomad.NOT_READ, refseq)]
    columns = RELEASES["v4.1.1"].columns.names
    lines = content.splitlines()
    for id_, row in expected.items():
        record = records[f"HGNC:{id_[4:]}"]
        found = value(record).model_dump()
        numbers = {field: number_in(row[columns[field]]) for field in NUMBERS}
        assert {field: found[field] for field in NUMBERS} == numbers, id_
        assert lines[record.position - 1].split("\t")[2] == row["transcript"]
        assert found["transcript"] == row["transcript"]
        assert found["transcript_version"] == row["transcript_version"]
        chosen_by = "mane_select" if row["mane_select"] == "true" else "canonical"
        assert found["transcript_chosen_by"] == chosen_by
        for field in ("constraint_flags", "gene_flags"):
            said = [flag.strip('"') for flag in row[field].strip("[]").split(",") if flag]
            assert found[field] == said
        loeuf = number_in(row["lof.oe_ci.upper"])
        assert found["is_constrained"] == (None if loeuf is None else loeuf < 0.45)
