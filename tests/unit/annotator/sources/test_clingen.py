"""ClinGen's gene-disease validity, read into one value for each gene."""

import csv
import gzip
import io
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import date
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from services.annotator.domain import (
    Catalogue,
    Columns,
    Doubt,
    Entry,
    Gene,
    Record,
    StoredFile,
    Unmapped,
    identity,
    open_raw,
    severities,
)
from services.annotator.errors import SchemaChanged
from services.annotator.sources.clingen import CLASSES, FILE, REPEATED, Clingen, ClingenGene

CATALOGUE = Catalogue(
    [
        Gene("HGNC:900001", "TSTA1", None, None),
        Gene("HGNC:900002", "TSTB1", None, None),
        Gene("HGNC:900003", "TSTC1", None, None),
    ]
)
COLUMNS = {
    "GENE SYMBOL": "TSTA1",
    "GENE ID (HGNC)": "HGNC:900001",
    "DISEASE LABEL": "example syndrome",
    "DISEASE ID (MONDO)": "MONDO:9000001",
    "MOI": "AD",
    "SOP": "SOP10",
    "CLASSIFICATION": "Definitive",
    "ONLINE REPORT": "https://example.org/kb/gene-validity/CGGV:assertion_9a-2024-01-12T160000.000Z",
    "CLASSIFICATION DATE": "2024-01-12T16:00:00.000Z",
    "GCEP": "Example Gene Curation Expert Panel",
}
B1 = {"GENE SYMBOL": "TSTB1", "GENE ID (HGNC)": "HGNC:900002"}

Row = dict[str, str]
Keep = Callable[[str | bytes], dict[str, StoredFile]]


def build_file(*rows: Row, created: str = "2026-03-06", columns: Row = COLUMNS) -> str:
    """A file with its banner; each row says what is special in it."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    empty = [""] * (len(columns) - 1)
    writer.writerow(["CLINGEN GENE DISEASE VALIDITY CURATIONS", *empty])
    writer.writerow([f"FILE CREATED: {created}", *empty])
    writer.writerow(["WEBPAGE: https://example.org/kb/gene-validity", *empty])
    for line in (["+++++"] * len(columns), columns, ["+++++"] * len(columns)):
        writer.writerow(line)
    writer.writerows((columns | row).values() for row in rows)
    return text.getvalue()


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    """Lays the file down as the raw store does: its name says nothing."""

    def keep(content: str | bytes) -> dict[str, StoredFile]:
        held = content.encode() if isinstance(content, str) else content
        (path := tmp_path / "0123").write_bytes(held)
        return {FILE: StoredFile(partial(open_raw, path), b"", None, None)}

    return keep


def read_all(files: dict[str, StoredFile], catalogue: Catalogue = CATALOGUE) -> list[Entry]:
    return list(Clingen().read(files, catalogue))


def read(files: dict[str, StoredFile]) -> tuple[dict[str, Record], list[Unmapped]]:
    entries = read_all(files)
    records = [entry for entry in entries if isinstance(entry, Record)]
    by_id = {record.hgnc_id: record for record in records}
    assert len(by_id) == len(records)
    return by_id, [entry for entry in entries if isinstance(entry, Unmapped)]


def value(record: Record) -> ClingenGene:
    assert isinstance(record.value, ClingenGene)
    return record.value


def test_an_assertion_is_read_field_by_field(keep: Keep) -> None:
    records, unmapped = read(keep(build_file({})))
    assert unmapped == []
    (record,) = records.values()
    assert (record.hgnc_id, record.file, record.position) == ("HGNC:900001", FILE, 7)
    assert record.matched_by == "hgnc_id"
    assert value(record).model_dump() == {
        "symbol": "TSTA1",
        "matched_by": "hgnc_id",
        "strongest": "definitive",
        "counts_by_classification": {"definitive": 1},
        "assertion_count": 1,
        "assertions": [
            {
                "id": "CGGV:assertion_9a-2024-01-12T160000.000Z",
                "disease": "example syndrome",
                "mondo_id": "MONDO:9000001",
                "moi": "AD",
                "classification": "definitive",
                "classification_said": "Definitive",
                "sop": "SOP10",
                "gcep": "Example Gene Curation Expert Panel",
                "date": date(2024, 1, 12),
                "report_url": COLUMNS["ONLINE REPORT"],
            }
        ],
        "classes_version": 1,
    }


@pytest.mark.parametrize(
    ("said", "harmonised"),
    [
        ("Definitive", "definitive"),
        ("STRONG", "strong"),
        ("Moderate", "moderate"),
        ("Limited", "limited"),
        ("Limited*", "limited"),
        ("No Known Disease Relationship", "no_known_disease_relationship"),
        ("No Reported Evidence", "no_known_disease_relationship"),
        ("Disputed", "disputed"),
        ("Refuted", "refuted"),
    ],
)
def test_a_classification_is_harmonised_and_kept_as_it_was_said(
    keep: Keep, said: str, harmonised: str
) -> None:
    records, _ = read(keep(build_file({"CLASSIFICATION": said})))
    (assertion,) = value(records["HGNC:900001"]).assertions
    assert (assertion.classification, assertion.classification_said) == (harmonised, said)


@pytest.mark.parametrize("said", ["Disputed", "Refuted", "No Known Disease Relationship", "Green"])
def test_what_speaks_against_a_disease_or_is_unknown_never_counts_as_support(
    keep: Keep, said: str
) -> None:
    records, _ = read(keep(build_file({"CLASSIFICATION": said})))
    assert value(records["HGNC:900001"]).strongest is None
    both = build_file({"CLASSIFICATION": said}, {"CLASSIFICATION": "Limited", "MOI": "AR"})
    found = value(read(keep(both))[0]["HGNC:900001"])
    assert (found.strongest, found.assertion_count) == ("limited", 2)


def test_an_unknown_classification_is_kept_and_doubted(keep: Keep) -> None:
    entries = read_all(keep(build_file({"CLASSIFICATION": "Green"}, B1)))
    (doubt,) = [entry for entry in entries if isinstance(entry, Doubt)]
    assert doubt == Doubt("classification", "1 rows say 'Green'", ", ".join(CLASSES))
    (record, _) = [entry for entry in entries if isinstance(entry, Record)]
    assert value(record).assertions[0].classification == "unknown"
    assert value(record).assertions[0].classification_said == "Green"


def test_assertions_that_differ_in_their_unit_are_all_kept_in_the_same_order(keep: Keep) -> None:
    rows: list[Row] = [
        {},
        {"DISEASE ID (MONDO)": "MONDO:9000002"},
        {"MOI": "AR"},
        {"GCEP": "Another Gene Curation Expert Panel"},
        {"CLASSIFICATION DATE": "2016-09-27T00:00:00", "CLASSIFICATION": "Disputed"},
        {"ONLINE REPORT": "https://example.org/other"},
    ]
    records, unmapped = read(keep(build_file(*rows)))
    again, _ = read(keep(build_file(*reversed(rows))))
    found = value(records["HGNC:900001"])
    assert unmapped == []
    assert found.assertion_count == len(found.assertions) == len(rows)
    assert value(again["HGNC:900001"]) == found
    assert found.counts_by_classification == {"definitive": 5, "disputed": 1}
    assert [one.date.year for one in found.assertions].count(2016) == 1
    assert [one.id for one in found.assertions].count(None) == 1


def test_a_row_that_is_there_again_counts_once_and_is_reported(keep: Keep) -> None:
    padded = {"DISEASE LABEL": " example syndrome  "}
    records, unmapped = read(keep(build_file({}, B1, {}, padded)))
    assert value(records["HGNC:900001"]).assertion_count == 1
    assert unmapped == [Unmapped("HGNC:900001", REPEATED)] * 2


def test_a_gene_of_two_symbols_has_that_of_its_newest_assertion(keep: Keep) -> None:
    rows = [
        {"GENE SYMBOL": "NEW", "CLASSIFICATION DATE": "2025-01-01T00:00:00"},
        {"GENE SYMBOL": "OLD"},
    ]
    for order in (rows, rows[::-1]):
        records, _ = read(keep(build_file(*order)))
        assert value(records["HGNC:900001"]).symbol == "NEW"


@pytest.mark.parametrize("hgnc_id", ["HGNC:999999", "-", "", "900003"])
def test_a_retired_id_is_found_by_the_approved_symbol_and_says_so(keep: Keep, hgnc_id: str) -> None:
    row = {"GENE ID (HGNC)": hgnc_id, "GENE SYMBOL": "TSTC1"}
    records, unmapped = read(keep(build_file(row, {**row, "MOI": "AR"})))
    assert unmapped == []
    record = records["HGNC:900003"]
    assert (record.matched_by, value(record).matched_by) == ("symbol", "symbol")
    assert value(record).assertion_count == 2


@pytest.mark.parametrize("symbol", ["tstc1", "NOGENE"])
def test_a_gene_that_is_none_of_ours_is_reported_with_its_rows(keep: Keep, symbol: str) -> None:
    row = {"GENE ID (HGNC)": "HGNC:999999", "GENE SYMBOL": symbol}
    records, unmapped = read(keep(build_file(row, {**row, "MOI": "AR"})))
    assert records == {}
    reason = f"no gene has this HGNC id, nor the symbol {symbol}"
    assert unmapped == [Unmapped("HGNC:999999", reason, 2)]


def test_a_symbol_never_adds_a_second_id_to_a_gene(keep: Keep) -> None:
    for ids in (["HGNC:999999", "HGNC:900001"], ["HGNC:900001", "HGNC:999999"]):
        records, unmapped = read(keep(build_file(*({"GENE ID (HGNC)": one} for one in ids))))
        assert records["HGNC:900001"].matched_by == "hgnc_id"
        assert [entry.key for entry in unmapped] == ["HGNC:999999"]
        assert "HGNC:900001 has the symbol TSTA1, but others" in unmapped[0].reason


def test_a_symbol_of_two_retired_ids_tells_nothing(keep: Keep) -> None:
    ids = ["HGNC:999998", "HGNC:999999"]
    records, unmapped = read(keep(build_file(*({"GENE ID (HGNC)": one} for one in ids))))
    assert records == {}
    assert [entry.key for entry in unmapped] == ids


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("DISEASE LABEL", ""),
        ("DISEASE ID (MONDO)", "OMIM:1"),
        ("DISEASE ID (MONDO)", "NA"),
        ("CLASSIFICATION", ""),
        ("CLASSIFICATION DATE", "-"),
        ("CLASSIFICATION DATE", "Infinity"),
        ("CLASSIFICATION DATE", "12/01/2024"),
        ("GCEP", " "),
    ],
)
def test_a_row_that_cannot_be_an_assertion_is_reported_with_its_place(
    keep: Keep, column: str, cell: str
) -> None:
    records, unmapped = read(keep(build_file({column: cell}, B1)))
    assert set(records) == {"HGNC:900002"}
    assert [entry.key for entry in unmapped] == ["HGNC:900001"]
    assert f"{FILE}, line 7: {column} is {cell.strip()[:10]!r}" in unmapped[0].reason


@pytest.mark.parametrize(("column", "field"), [("MOI", "moi"), ("SOP", "sop")])
def test_an_empty_cell_is_null(keep: Keep, column: str, field: str) -> None:
    records, _ = read(keep(build_file({column: ""})))
    assert value(records["HGNC:900001"]).assertions[0].model_dump()[field] is None


def test_the_banner_may_be_padded_longer_or_absent(keep: Keep) -> None:
    plain = build_file({}, B1)
    bare = "\n".join(line for line in plain.splitlines()[4:] if "+++" not in line)
    longer = '"A NOTE"\n\n' + plain + "\n,,,,,,,,,\n"
    expected = {id_: value(record) for id_, record in read(keep(plain))[0].items()}
    for text in (bare, "\ufeff" + bare, longer):
        found = {id_: value(record) for id_, record in read(keep(text))[0].items()}
        assert found == expected
        assert len(found) == 2


def test_windows_line_ends_and_a_byte_order_mark_make_no_difference(keep: Keep) -> None:
    text = build_file({}, B1)
    plain, version = read(keep(text)), Clingen().version(keep(text))
    files = keep("\ufeff" + text.replace("\n", "\r\n"))
    assert read(files) == plain
    assert Clingen().version(files) == version


def test_an_extra_column_and_another_order_make_no_difference(keep: Keep) -> None:
    plain = read(keep(build_file({}, B1)))
    first = {"GENE SYMBOL": COLUMNS["GENE SYMBOL"]}
    turned = first | {"INCLUDED MIMS": "900001"} | dict(reversed(COLUMNS.items()))
    assert read(keep(build_file({}, B1, columns=turned))) == plain


def test_a_cell_may_hold_commas_quotes_and_line_ends(keep: Keep) -> None:
    label = 'syndrome, of the "example"\nkind'
    records, _ = read(keep(build_file({"DISEASE LABEL": label}, B1)))
    assert value(records["HGNC:900001"]).assertions[0].disease == label
    assert records["HGNC:900002"].position == 9


@pytest.mark.parametrize("column", [name for name in COLUMNS if name != "GENE SYMBOL"])
@pytest.mark.parametrize("renamed", [True, False])
def test_a_missing_or_renamed_column_is_named(keep: Keep, column: str, renamed: bool) -> None:
    other = {("OTHER" if name == column else name): cell for name, cell in COLUMNS.items()}
    columns = other if renamed else {name: other[name] for name in other if name != "OTHER"}
    files = keep(build_file({}, columns=columns))
    for refused in (lambda: read(files), lambda: Clingen().version(files)):
        with pytest.raises(SchemaChanged, match=re.escape(f"no column {column} in")):
            refused()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<!DOCTYPE html>\n<html><body>Maintenance</body></html>\n",
        b"GENE,OTHER\nTSTA1,x\n",
        build_file({}).replace("GENE SYMBOL", "SYMBOL").encode(),
    ],
    ids=["nothing", "a page", "another table", "another first column"],
)
def test_what_has_no_header_is_refused(keep: Keep, content: bytes) -> None:
    with pytest.raises(SchemaChanged, match="no row that begins with GENE SYMBOL"):
        read(keep(content))


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(build_file({}).encode(), mtime=0),
        gzip.compress(build_file({}).encode(), mtime=0)[:-9],
        gzip.compress(build_file().encode(), mtime=0) + gzip.compress(b"", mtime=0),
        build_file({"DISEASE LABEL": "\xe9"}).encode("latin-1"),
    ],
    ids=["gzip", "truncated gzip", "many gzips", "latin"],
)
def test_what_is_not_utf_8_is_refused(keep: Keep, packed: bytes) -> None:
    """The file is never packed in itself, and what the transfer packs the engine unpacks."""
    with pytest.raises(SchemaChanged, match="is no CSV in UTF-8"):
        read(keep(packed))


@pytest.mark.parametrize("cells", ['"TSTB1","HGNC:900002"', ",".join(['"x"'] * 11)])
def test_a_row_with_another_number_of_cells_is_refused_with_its_line(
    keep: Keep, cells: str
) -> None:
    count = cells.count(",") + 1
    with pytest.raises(SchemaChanged, match=f"line 8 has {count} of 10 cells"):
        read(keep(build_file({}) + cells + "\n"))


def test_a_file_that_ends_in_the_middle_of_a_cell_is_refused(keep: Keep) -> None:
    with pytest.raises(SchemaChanged, match="is no CSV in UTF-8"):
        read(keep(build_file({}, B1)[:-20]))


def test_the_version_is_that_of_what_is_said_and_not_of_the_day_it_was_asked(keep: Keep) -> None:
    version = Clingen().version
    first = version(keep(build_file({}, B1)))
    assert len(first) == 12
    assert version(keep(build_file({}, B1, created="2026-03-07"))) == first
    assert version(keep(build_file(B1, {}))) == first
    assert version(keep(build_file({}, B1 | {"CLASSIFICATION": "Strong"}))) != first
    assert version(keep(build_file({}))) != first


def test_a_change_of_classification_is_clinical_and_one_of_a_label_is_not() -> None:
    declared = severities(ClingenGene)
    assert declared["strongest"] == declared["counts_by_classification"] == "clinical"
    assert declared["assertions"] == "major"


def test_a_file_without_rows_has_no_record(keep: Keep) -> None:
    entries = read_all(keep(build_file()))
    assert entries == [Columns(FILE, list(COLUMNS))]


def real_rows(upstream_data: Path) -> tuple[bytes, list[Row]]:
    path = upstream_data / "clingen" / "Clingen-Gene-Disease-Summary-2025-01-09.csv.gz"
    if not path.exists():
        pytest.skip(f"no {path.name} among the upstream files")
    content = gzip.decompress(path.read_bytes())
    table = content.decode().split("\n", 4)[4]
    rows = [row for row in csv.DictReader(io.StringIO(table)) if row["GENE SYMBOL"][0] != "+"]
    return content, rows


def test_every_assertion_of_the_real_file_is_the_one_in_it(keep: Keep, upstream_data: Path) -> None:
    content, rows = real_rows(upstream_data)
    symbols = {row["GENE ID (HGNC)"]: row["GENE SYMBOL"] for row in rows}
    catalogue = Catalogue([Gene(id_, symbol, None, None) for id_, symbol in symbols.items()])
    entries = read_all(keep(content), catalogue)
    records = [entry for entry in entries if isinstance(entry, Record)]
    assert len(entries) == len(records) + 1  # Nothing is unmapped and nothing doubted.
    assert len(records) == len(symbols) == 2_426
    expected: defaultdict[str, Counter[tuple[Any, ...]]] = defaultdict(Counter)
    for row in rows:
        expected[row["GENE ID (HGNC)"]][tuple(list(row.values())[2:])] += 1
    moments = {row["ONLINE REPORT"]: row["CLASSIFICATION DATE"] for row in rows}
    found = {
        record.hgnc_id: Counter(
            (
                *(one.disease, one.mondo_id, one.moi, one.sop, one.classification_said),
                *(one.report_url, moments[one.report_url], one.gcep),
            )
            for one in value(record).assertions
        )
        for record in records
    }
    assert found == expected
    for record in records:
        for one in value(record).assertions:
            assert one.date.isoformat() == moments[one.report_url][:10]
            assert one.id is not None
    ranks = ["Definitive", "Strong", "Moderate", "Limited"]
    for record in records:
        said = {cells[4] for cells in expected[record.hgnc_id]}
        strongest = next((rank.lower() for rank in ranks if rank in said), None)
        assert value(record).strongest == strongest


def same(one: str, another: str) -> bool:
    (file,) = Clingen().files
    assert file.varying is not None
    first, second = (identity(BytesIO(text.encode()), file.varying) for text in (one, another))
    return first == second


def test_a_file_that_was_asked_for_on_another_day_is_the_same() -> None:
    today = build_file({}, created="2026-11-25")
    assert same(today, build_file({}, created="2026-11-26"))
    assert same(today.replace("\n", "\r\n"), today.replace("-25", "-26").replace("\n", "\r\n"))


@pytest.mark.parametrize(
    "change",
    [
        ("WEBPAGE", "HOMEPAGE"),
        ("FILE CREATED: 2026-11-25", "FILE CREATED: 2026-11-25 of another kind"),
        ("FILE CREATED: 2026-11-25", ""),
        ("CLASSIFICATION DATE", "DATE"),
        ("Definitive", "Strong"),
    ],
)
def test_whatever_else_is_another_makes_it_another_file(change: tuple[str, str]) -> None:
    today = build_file({}, created="2026-11-25")
    assert change[0] in today
    assert not same(today, today.replace(*change, 1))
