"""HGNC's two files, read into the catalogue's records."""

import codecs
import csv
import gzip
import hashlib
import io
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from infra.mirror.hgnc import record_of_row
from services.annotator.domain import Catalogue, Record, StoredFile, Unmapped, open_raw
from services.annotator.errors import ReleaseRefused, SchemaChanged
from services.annotator.sources.hgnc import COMPLETE_SET, WITHDRAWN, Hgnc, HgncGene

UPSTREAM_DATA = Path(__file__).parents[5] / "shared" / "data" / "hgnc"
HEADER = "HGNC_ID\tSTATUS\tWITHDRAWN_SYMBOL\tMERGED_INTO_REPORT(S) (i.e HGNC_ID|SYMBOL|STATUS)"
REFERENCE: dict[str, Any] = {
    "hgnc_id": "HGNC:900001",
    "symbol": "TSTA1",
    "name": "test alpha 1",
    "status": "Approved",
    "locus_group": "protein-coding gene",
    "locus_type": "gene with protein product",
    "location": "7q34",
    "alias_symbol": ["TA-1", "TSTB1"],
    "prev_symbol": ["C7orf900"],
    "prev_name": ["chromosome 7 open reading frame 900"],
    "entrez_id": "999001",
    "ensembl_gene_id": "ENSG00000900001",
    "uniprot_ids": ["P90001"],
    "refseq_accession": ["NM_900001"],
    "mane_select": ["NM_900001.6", "ENST00000900001.2"],
    "gene_group": ["Test family", "Other family"],
    "gene_group_id": [11, 12],
    "omim_id": ["900100"],
    "mgd_id": ["MGI:90001"],
    "date_approved_reserved": "1991-07-16",
    "date_modified": "2023-01-20T00:00:00Z",
    "orphanet": 119066,
    "uuid": "da085d68-6c9a-4696-87d1-55d0c6d7a36b",
    "_version_": 1755000000000000000,
}
SPARE = {"hgnc_id": "HGNC:900002", "symbol": "TSTB1", "status": "Approved"}

Files = dict[str, StoredFile]
Keep = Callable[..., Files]


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    """Lays the two files down as the raw store does: their names say nothing of what they are."""

    def keep(
        *docs: object,
        withdrawn: str = HEADER + "\n",
        content: bytes | None = None,
        etag: str | None = None,
        last_modified: str | None = None,
    ) -> Files:
        if content is None:
            content = orjson.dumps({"response": {"numFound": len(docs), "docs": list(docs)}})
        files = {}
        for name, held in ((COMPLETE_SET, content), (WITHDRAWN, withdrawn.encode())):
            sha256 = hashlib.sha256(held).digest()
            (path := tmp_path / sha256.hex()).write_bytes(held)
            files[name] = StoredFile(partial(open_raw, path), sha256, etag, last_modified)
        return files

    return keep


def read(files: Files) -> tuple[dict[str, Record], list[Unmapped]]:
    entries = list(Hgnc().read(files, Catalogue([])))
    records = [entry for entry in entries if isinstance(entry, Record)]
    by_id = {record.hgnc_id: record for record in records}
    assert len(by_id) == len(records)
    return by_id, [entry for entry in entries if isinstance(entry, Unmapped)]


def value(record: Record) -> HgncGene:
    assert isinstance(record.value, HgncGene)
    return record.value


def test_an_approved_record_is_read_field_by_field(keep: Keep) -> None:
    records, unmapped = read(keep(SPARE, REFERENCE))
    assert unmapped == []
    record = records["HGNC:900001"]
    assert (record.file, record.position) == (COMPLETE_SET, 1)
    assert value(record).model_dump() == {
        "hgnc_id": "HGNC:900001",
        "status": "approved",
        "symbol": "TSTA1",
        "name": "test alpha 1",
        "locus_group": "protein-coding gene",
        "locus_type": "gene with protein product",
        "location": "7q34",
        "entrez_id": "999001",
        "ensembl_gene_id": "ENSG00000900001",
        "aliases": ["TA-1", "TSTB1"],
        "previous_symbols": ["C7orf900"],
        "successors": [],
        "previous_names": ["chromosome 7 open reading frame 900"],
        "gene_groups": [{"id": 11, "name": "Test family"}, {"id": 12, "name": "Other family"}],
        "uniprot_ids": ["P90001"],
        "refseq_accessions": ["NM_900001"],
        "mane_select_enst": "ENST00000900001.2",
        "mane_select_nm": "NM_900001.6",
        "ccds_ids": [],
        "omim_ids": ["900100"],
        "mgd_ids": ["MGI:90001"],
        "rgd_ids": [],
        "approved_at": date(1991, 7, 16),
        "modified_at": date(2023, 1, 20),
    }


def test_absent_and_empty_keys_are_null_or_empty_lists(keep: Keep) -> None:
    empty = {**SPARE, "hgnc_id": "HGNC:900003", "name": "", "entrez_id": "", "alias_symbol": []}
    records, _ = read(keep(SPARE, empty))
    for gene in map(value, records.values()):
        assert gene.name is gene.location is gene.entrez_id is gene.ensembl_gene_id is None
        assert gene.aliases == gene.previous_symbols == []
        assert gene.gene_groups == []
        assert gene.modified_at is None


@pytest.mark.parametrize("day", ["2023-01-20", "2023-01-20T00:00:00Z"])
def test_a_date_is_read_with_and_without_a_time(keep: Keep, day: str) -> None:
    records, _ = read(keep({**SPARE, "date_modified": day}))
    assert value(records["HGNC:900002"]).modified_at == date(2023, 1, 20)


def test_an_alias_that_is_another_gene_s_symbol_is_kept_as_it_stands(keep: Keep) -> None:
    records, _ = read(keep(REFERENCE, SPARE))
    assert "TSTB1" in value(records["HGNC:900001"]).aliases
    assert value(records["HGNC:900002"]).symbol == "TSTB1"


def test_withdrawn_and_merged_entries_are_records_with_their_line(keep: Keep) -> None:
    records, unmapped = read(
        keep(
            SPARE,
            withdrawn=f"{HEADER}\n"
            "HGNC:1\tEntry Withdrawn\tA12M1\t\n"
            "HGNC:6\tMerged/Split\tA1S9T\tHGNC:12469|UBA1|Approved\n"
            "HGNC:7\tMerged/Split\tTST7\tHGNC:6692|LRP1|Approved, HGNC:8|T|Entry Withdrawn\n",
        )
    )
    assert unmapped == []
    seen = {
        record.position: (id_, value(record).status, value(record).successors)
        for id_, record in records.items()
        if record.file == WITHDRAWN
    }
    assert seen == {
        2: ("HGNC:1", "withdrawn", []),
        3: ("HGNC:6", "merged", ["HGNC:12469"]),
        4: ("HGNC:7", "merged", ["HGNC:6692", "HGNC:8"]),
    }
    assert value(records["HGNC:6"]).symbol == "A1S9T"


def test_windows_line_ends_a_byte_order_mark_and_lost_tabs_make_no_difference(keep: Keep) -> None:
    content = b"\xef\xbb\xbf" + orjson.dumps({"response": {"docs": [SPARE]}})
    withdrawn = f"\ufeff{HEADER}\r\nHGNC:1\tEntry Withdrawn\tA12M1\r\n\r\n"
    records, unmapped = read(keep(content=content, withdrawn=withdrawn))
    assert unmapped == []
    assert value(records["HGNC:1"]).symbol == "A12M1"
    assert set(records) == {"HGNC:900002", "HGNC:1"}


def test_an_extra_column_and_another_order_make_no_difference(keep: Keep) -> None:
    withdrawn = (
        "STATUS\tNEW\tMERGED_INTO_REPORT(S)\tHGNC_ID\tWITHDRAWN_SYMBOL\n"
        'Merged/Split\tx\t"HGNC:12469|UBA1|Approved"\tHGNC:6\tA1S9T\n'
    )
    records, _ = read(keep(SPARE, withdrawn=withdrawn))
    assert value(records["HGNC:6"]).successors == ["HGNC:12469"]


@pytest.mark.parametrize("column", ["HGNC_ID", "STATUS", "WITHDRAWN_SYMBOL", "MERGED_INTO_REPORT"])
def test_a_missing_column_is_named(keep: Keep, column: str) -> None:
    withdrawn = HEADER.replace(column, "OTHER") + "\n"
    with pytest.raises(SchemaChanged, match=rf"withdrawn\.txt: the column {column} is missing"):
        read(keep(SPARE, withdrawn=withdrawn))


@pytest.mark.parametrize("key", ["hgnc_id", "symbol", "status"])
def test_a_key_that_no_record_has_any_more_is_named(keep: Keep, key: str) -> None:
    docs = [{name: item for name, item in doc.items() if name != key} for doc in (REFERENCE, SPARE)]
    with pytest.raises(SchemaChanged, match=f"no record has the key {key}"):
        read(keep(*docs))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"response": []}',
        b'{"response": {"docs": [{"hgnc_id"',
        b"<!DOCTYPE html><html></html>",
        gzip.compress(orjson.dumps({"response": {"docs": [SPARE]}}), mtime=0),
        gzip.compress(orjson.dumps({"response": {"docs": [SPARE]}}), mtime=0)[:-9],
    ],
    ids=[*("nothing", "list", "object", "no docs", "cut off"), "page", "gzip", "truncated gzip"],
)
def test_what_is_not_the_complete_set_is_refused(keep: Keep, content: bytes) -> None:
    with pytest.raises(SchemaChanged, match=r"accepted is JSON with response\.docs"):
        read(keep(content=content))


@pytest.mark.parametrize("withdrawn", ["", "<!DOCTYPE html>\n<html></html>\n"])
def test_what_is_not_the_withdrawn_file_is_refused(keep: Keep, withdrawn: str) -> None:
    with pytest.raises(SchemaChanged, match="the column HGNC_ID is missing"):
        read(keep(SPARE, withdrawn=withdrawn))


def test_a_withdrawn_file_that_is_not_utf_8_is_refused(keep: Keep, tmp_path: Path) -> None:
    """It is never packed in itself, and what the transfer packs the engine unpacks."""
    (path := tmp_path / "packed").write_bytes(gzip.compress(HEADER.encode(), mtime=0))
    with pytest.raises(SchemaChanged, match=r"withdrawn\.txt is not UTF-8"):
        read(keep(SPARE) | {WITHDRAWN: StoredFile(partial(open_raw, path), b"", None, None)})


def test_a_withdrawn_entry_with_too_many_cells_is_refused_with_its_line(keep: Keep) -> None:
    withdrawn = f"{HEADER}\nHGNC:1\tEntry Withdrawn\tA12M1\t\textra\n"
    with pytest.raises(SchemaChanged, match=r"withdrawn\.txt, line 2 has 5 of 4 cells"):
        read(keep(SPARE, withdrawn=withdrawn))


def test_fewer_records_than_announced_are_refused(keep: Keep) -> None:
    content = orjson.dumps({"response": {"numFound": 2, "docs": [SPARE]}})
    with pytest.raises(ReleaseRefused, match="has 1 records, numFound is 2"):
        read(keep(content=content))


@pytest.mark.parametrize(
    ("change", "key", "reason"),
    [
        ({"hgnc_id": None}, "TSTA1", "hgnc_id is missing"),
        ({"hgnc_id": "900001"}, "900001", "hgnc_id is '900001'"),
        ({"symbol": " "}, "HGNC:900001", "symbol is ' '"),
        ({"entrez_id": "GeneID:1"}, "HGNC:900001", "entrez_id is 'GeneID:1'"),
        ({"entrez_id": 999001}, "HGNC:900001", "entrez_id is 999001"),
        ({"entrez_id": "NA"}, "HGNC:900001", "entrez_id is 'NA'"),
        ({"entrez_id": "-"}, "HGNC:900001", "entrez_id is '-'"),
        ({"entrez_id": "Infinity"}, "HGNC:900001", "entrez_id is 'Infinity'"),
        ({"status": "Entry Withdrawn"}, "HGNC:900001", "status is 'Entry Withdrawn'"),
        ({"alias_symbol": "TA-1"}, "HGNC:900001", "alias_symbol is 'TA-1'"),
        ({"date_modified": "soon"}, "HGNC:900001", "date_modified is 'soon'"),
        ({"gene_group_id": [11]}, "HGNC:900001", "gene_groups is {'gene_group_id': [11]"),
    ],
)
def test_a_malformed_record_is_reported_with_its_field(
    keep: Keep, change: dict[str, Any], key: str, reason: str
) -> None:
    records, unmapped = read(keep(SPARE, {**REFERENCE, **change}))
    assert set(records) == {"HGNC:900002"}
    assert len(unmapped) == 1
    assert unmapped[0].key == key
    assert f"{COMPLETE_SET}, 1: {reason}" in unmapped[0].reason


def test_what_is_no_record_at_all_is_reported(keep: Keep) -> None:
    records, unmapped = read(keep(SPARE, "TSTA1", None, [1]))
    assert set(records) == {"HGNC:900002"}
    assert [entry.key for entry in unmapped] == [f"{COMPLETE_SET}, {at}" for at in (1, 2, 3)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("HGNC:6\tMerged/Split\tA1S9T\t", "MERGED_INTO_REPORT.0 is ''"),
        ("HGNC:6\tMerged/Split\tA1S9T\tUBA1", "MERGED_INTO_REPORT.0 is 'UBA1'"),
        ("HGNC:6\tReserved\tA1S9T\t", "status is 'Reserved'"),
        ("HGNC:6\tEntry Withdrawn", "symbol is ''"),
    ],
)
def test_a_malformed_withdrawn_entry_is_reported(keep: Keep, line: str, reason: str) -> None:
    _, unmapped = read(keep(SPARE, withdrawn=f"{HEADER}\n{line}\n"))
    assert [entry.key for entry in unmapped] == ["HGNC:6"]
    assert f"{WITHDRAWN}, 2: {reason}" in unmapped[0].reason


def test_of_records_with_one_id_the_first_counts_and_each_other_is_reported(keep: Keep) -> None:
    again = [{**REFERENCE, "symbol": symbol} for symbol in ("TSTA2", "TSTA3")]
    records, unmapped = read(keep(REFERENCE, *again))
    assert value(records["HGNC:900001"]).symbol == "TSTA1"
    taken = f"the id is that of {COMPLETE_SET}, 0 already"
    assert unmapped == [
        Unmapped("HGNC:900001", f"{COMPLETE_SET}, {position}: {taken}") for position in (1, 2)
    ]


def test_an_id_that_is_approved_and_withdrawn_is_approved(keep: Keep) -> None:
    withdrawn = f"{HEADER}\nHGNC:900001\tEntry Withdrawn\tTSTA1\t\n"
    records, unmapped = read(keep(REFERENCE, withdrawn=withdrawn))
    assert value(records["HGNC:900001"]).status == "approved"
    assert [entry.key for entry in unmapped] == ["HGNC:900001"]
    assert unmapped[0].reason.startswith(f"{WITHDRAWN}, 2: ")


def test_the_version_is_the_day_of_the_newest_change(keep: Keep) -> None:
    older = {**SPARE, "date_modified": "2022-12-31"}
    published = "Fri, 24 Apr 2026 03:00:00 GMT"
    files = keep(older, REFERENCE, etag='"abc"', last_modified=published)
    assert Hgnc().version(files) == "2023-01-20"


def test_a_set_without_dates_is_named_by_what_came_with_it(keep: Keep) -> None:
    published = "Fri, 24 Apr 2026 03:00:00 GMT"
    version = Hgnc().version
    assert version(keep(SPARE, etag='"abc"', last_modified=published)) == "2026-04-24"
    no_year = "Wed, 1 Jan 99999999999999999999 10:00:00 GMT"
    for no_day in ("lately", "Mon, 31 Feb 2025 10:00:00 GMT", no_year):
        assert version(keep(SPARE, etag='W/"abc"', last_modified=no_day)) == "abc"
    files = keep(SPARE)
    assert version(files) == files[COMPLETE_SET].sha256.hex()[:12]


def upstream(name: str) -> Path:
    path = UPSTREAM_DATA / name
    if not path.exists():
        pytest.skip(f"shared/data/hgnc/{name} is not beside the project")
    return path


def test_hgnc_s_own_answer_is_read_whole(keep: Keep) -> None:
    content = upstream("hgnc_20260424.json").read_bytes()
    withdrawn = upstream("withdrawn_3rows.txt").read_text()
    records, unmapped = read(keep(content=content, withdrawn=withdrawn))
    assert unmapped == []
    docs = orjson.loads(content)["response"]["docs"]
    assert {doc["hgnc_id"]: doc["symbol"] for doc in docs}.items() <= {
        id_: value(record).symbol for id_, record in records.items()
    }.items()
    assert len(records) == len(docs) + 3


def test_all_of_hgnc_s_table_is_read_and_counts_the_same_by_hand(keep: Keep) -> None:
    """The table as the mirror converts it, counted from the table's own cells."""
    with gzip.open(upstream("non_alt_loci_set.txt.gz"), "rt", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    records, unmapped = read(keep(*map(record_of_row, rows)))
    assert unmapped == []
    assert len(records) == len(rows) > 40_000
    genes = [value(record) for record in records.values()]
    for column, fields in {
        "entrez_id": [gene.entrez_id for gene in genes if gene.entrez_id],
        "ensembl_gene_id": [gene.ensembl_gene_id for gene in genes if gene.ensembl_gene_id],
        "alias_symbol": [alias for gene in genes for alias in gene.aliases],
        "prev_symbol": [symbol for gene in genes for symbol in gene.previous_symbols],
        "gene_group": [group.name for gene in genes for group in gene.gene_groups],
        "mane_select": [
            name
            for gene in genes
            for name in (gene.mane_select_enst, gene.mane_select_nm)
            if name is not None
        ],
    }.items():
        parts = [part.strip() for row in rows for part in row[column].split("|")]
        assert fields == [part for part in parts if part]


# ------------------------------------------------------------------------- the same as a table

TABLE = (
    b"hgnc_id\tsymbol\tname\tstatus\talias_symbol\tmane_select\tgene_group\tgene_group_id"
    b"\tdate_modified\n"
    b'HGNC:900001\tTSTA1\ta gene, "quoted"\tApproved\t"TA|TB"\tENST00000900001.2|NM_900001.3'
    b"\tfirst|second\t7|8\t2026-01-05\n"
    b"HGNC:900002\tTSTB1\t\tApproved\t\t\t\t\t2026-02-03\n"
)


def test_the_table_says_the_same_as_the_json(keep: Keep) -> None:
    records, unmapped = read(keep(content=TABLE))
    assert unmapped == []
    first, second = value(records["HGNC:900001"]), value(records["HGNC:900002"])
    assert (first.aliases, first.name) == (["TA", "TB"], 'a gene, "quoted"')
    assert (first.mane_select_enst, first.mane_select_nm) == ("ENST00000900001.2", "NM_900001.3")
    assert [(group.id, group.name) for group in first.gene_groups] == [(7, "first"), (8, "second")]
    assert (second.name, second.aliases, second.gene_groups) == (None, [], [])
    assert [records[id_].position for id_ in ("HGNC:900001", "HGNC:900002")] == [2, 3]
    assert Hgnc().version(keep(content=TABLE)) == "2026-02-03"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(codecs.BOM_UTF8 + TABLE, id="BOM"),
        pytest.param(TABLE.replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param(
            TABLE.replace(b"date_modified\n", b"date_modified\textra\n")
            .replace(b"-05\n", b"-05\tx\n")
            .replace(b"-03\n", b"-03\tx\n"),
            id="extra column",
        ),
    ],
)
def test_a_table_in_another_dress_is_read_the_same(keep: Keep, content: bytes) -> None:
    assert {id_: value(one) for id_, one in read(keep(content=content))[0].items()} == {
        id_: value(one) for id_, one in read(keep(content=TABLE))[0].items()
    }


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(TABLE.replace(b"\tsymbol", b"\tname2"), "no column symbol", id="renamed"),
        pytest.param(
            TABLE.replace(b"\t2026-01-05", b""), "line 2 has 8 of 9 cells", id="short row"
        ),
        pytest.param(b"<html>sorry</html>", "no column hgnc_id", id="HTML"),
        pytest.param(TABLE + b"\xff\n", "or a table in UTF-8", id="not UTF-8"),
    ],
)
def test_what_is_no_such_table_is_refused(keep: Keep, content: bytes, says: str) -> None:
    with pytest.raises(SchemaChanged, match=says):
        read(keep(content=content))


def test_the_table_of_2026_and_the_answer_of_2026_are_read_alike(keep: Keep) -> None:
    content = upstream("hgnc_complete_set.2026-09.head6.txt").read_bytes()
    records, unmapped = read(keep(content=content))
    rows = list(csv.DictReader(io.StringIO(content.decode()), delimiter="\t"))
    assert unmapped == []
    assert {id_: value(one).symbol for id_, one in records.items()} == {
        row["hgnc_id"]: row["symbol"] for row in rows
    }


def test_all_of_hgnc_s_table_is_read_as_the_mirror_s_json_of_it(keep: Keep) -> None:
    with gzip.open(upstream("non_alt_loci_set.txt.gz")) as file:
        content = file.read()
    rows = csv.DictReader(io.StringIO(content.decode(), newline=""), delimiter="\t")
    of_json, _ = read(keep(*map(record_of_row, rows)))
    of_table, unmapped = read(keep(content=content))
    assert unmapped == []
    assert {id_: value(one) for id_, one in of_table.items()} == {
        id_: value(one) for id_, one in of_json.items()
    }
