"""`annobus genes export`: what it asks for, and that a file is there whole or not at all."""

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

import orjson
import pytest

from services.cli import exported
from services.cli.exported import Delimited, JsonLines
from services.gateway.columns import Column
from services.gateway.export_order import Format
from services.gateway.writers import open_writer
from tests.integration.cli.conftest import Annobus
from tests.integration.cli.stub_gateway import Answer, Ending, Stub

ADDRESS = "/api/export"
COLUMNS = (
    Column("hgnc_id", "text", ()),
    Column("gnomad.loeuf", "number", ()),
    Column("hpo.term_count", "integer", ()),
    Column("hpo.diseases", "json", ()),
    Column("name", "text", ()),
)
ROWS: Sequence[Sequence[Any]] = [
    ["HGNC:9008", 0.35, 2, '[{"id":"OMIM:1","name":"a \\"b\\", c\\n# d"}]', "# no fact"],
    ["HGNC:9009", 4.8e-11, None, None, 'two\n"lines'],
    ["HGNC:9010", 1.0, 0, "[]", "=1+1"],
]
HASH = hashlib.sha256(b"".join(orjson.dumps(row) + b"\n" for row in ROWS)).hexdigest()
FACTS = [
    ("as_of", "2026-11-28T07:00:00+00:00"),
    ("source hpo", 'HPO "human" & more, release 2025-01-16; licence; cite us'),
]
FORMATS: Sequence[Format] = ("csv", "tsv", "jsonl", "parquet", "xlsx")
CHECKED: Sequence[Format] = ("jsonl", "parquet")  # Whose hash can be made again.


def written(
    form: Format, *, rows: Sequence[Sequence[Any]] = ROWS, said: str = HASH, count: int = 3
) -> bytes:
    """As the gateway writes it."""
    out = io.BytesIO()
    writer = open_writer(form, out, COLUMNS)
    writer.begin(FACTS)
    writer.write(rows)
    writer.end([("genes", str(count)), ("sha256", said)])
    return out.getvalue()


def sent(content: bytes, ending: Ending = "whole") -> Answer:
    return Answer(200, content, "application/octet-stream", ending)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_is_written_checked_and_told_of(
    stub: Stub, annobus: Annobus, tmp_path: Path, form: Format
) -> None:
    content = written(form)
    stub.send(ADDRESS, sent(content))
    ended = annobus("genes", "export", f"genes.{form}", "--url", stub.url)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == ""
    assert names(tmp_path) == [f"genes.{form}"]
    assert (tmp_path / f"genes.{form}").read_bytes() == content
    assert f"3 genes, {len(content):,} bytes" in ended.stderr
    how = "made again, the same" if form in CHECKED else "the rows were counted"
    assert re.search(f"rows: {HASH} .*{how}", ended.stderr)
    assert hashlib.sha256(content).hexdigest() in ended.stderr
    assert 'hpo: HPO "human" & more, release 2025-01-16; licence; cite us' in ended.stderr
    assert dict(parse_qsl(urlsplit(stub.asked[0][1]).query)) == {"format": form}


SHORT = ({"rows": ROWS[:2]}, "it says that it has 3 genes, and has 2")
LONG = ({"count": 2}, "says that it has 2 genes, and has 3")
OTHER = ({"said": "0" * 64}, "the file is not to be used: its rows are not those that were sent")


@pytest.mark.parametrize(
    ("form", "wrong", "says"),
    [
        *((form, *wrong) for form in FORMATS for wrong in (SHORT, LONG)),
        *((form, *OTHER) for form in CHECKED),
    ],
)
def test_what_is_not_what_it_says_is_no_file(
    stub: Stub,
    annobus: Annobus,
    tmp_path: Path,
    form: Format,
    wrong: Mapping[str, Any],
    says: str,
) -> None:
    stub.send(ADDRESS, sent(written(form, **wrong)))
    ended = annobus("genes", "export", f"genes.{form}", "--url", stub.url)
    assert ended.returncode == 1
    assert says in ended.stderr
    assert names(tmp_path) == []


@pytest.mark.parametrize(("ending", "code"), [("broken", 4), ("whole", 1)])
def test_what_breaks_off_leaves_what_was_there(
    stub: Stub, annobus: Annobus, tmp_path: Path, ending: Ending, code: int
) -> None:
    """Also where the connection ends as if all had come, but the end of the file is not there."""
    (tmp_path / "genes.csv").write_text("before")
    stub.send(ADDRESS, sent(written("csv").partition(b"# genes: ")[0], ending))
    ended = annobus("genes", "export", "genes.csv", "--force", "--url", stub.url)
    assert ended.returncode == code
    assert ("broke off" if ending == "broken" else "has no end") in ended.stderr
    assert "Traceback" not in ended.stderr
    assert names(tmp_path) == ["genes.csv"]
    assert (tmp_path / "genes.csv").read_text() == "before"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("content", [b"<!doctype html>\n<p>\n", b"", b"PK\x03\x04\n[1]\n"])
def test_what_is_no_export_is_refused_in_words(
    stub: Stub, annobus: Annobus, tmp_path: Path, form: Format, content: bytes
) -> None:
    stub.send(ADDRESS, sent(content))
    ended = annobus("genes", "export", f"genes.{form}", "--url", stub.url)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: the file is not to be used: ")
    assert names(tmp_path) == []


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_it_does_not_matter_in_which_parts_a_file_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    for form, stream in (("csv", Delimited()), ("tsv", Delimited()), ("jsonl", JsonLines())):
        content = written(cast(Format, form))
        for begin in range(0, len(content), size):
            stream.feed(content[begin : begin + size])
        stream.told().check()
        assert stream.told().row_count == 3
    monkeypatch.setattr(exported, "PIECE_BYTES", size)
    (tmp_path / "genes.xlsx").write_bytes(written("xlsx"))
    assert exported.read_workbook(tmp_path / "genes.xlsx").row_count == 3


def test_a_file_that_is_there_is_replaced_only_when_that_is_said(
    stub: Stub, annobus: Annobus, tmp_path: Path
) -> None:
    (tmp_path / "genes.csv").write_text("before")
    stub.send(ADDRESS, sent(written("csv")))
    refused = annobus("genes", "export", "genes.csv", "--url", stub.url)
    assert refused.returncode == 2
    assert "--force" in refused.stderr
    assert stub.asked == []
    ended = annobus("genes", "export", "genes.csv", "--force", "--url", stub.url)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "genes.csv").read_bytes() == written("csv")


def test_a_text_may_go_to_standard_output(stub: Stub, annobus: Annobus) -> None:
    stub.send(ADDRESS, sent(written("tsv")))
    ended = annobus("genes", "export", "--format", "tsv", "--url", stub.url)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.encode() == written("tsv")
    assert "3 genes" in ended.stderr


def test_what_lists_are_asked_for_exports_are_too(stub: Stub, annobus: Annobus) -> None:
    stub.send(ADDRESS, sent(written("csv")))
    stub.answer("/api/genes", {"data": []})
    shared = [
        *("--filter", "gnomad.loeuf[lt]=0.6", "--filter", "symbol=A,B", "--sort", "-symbol"),
        *("--panel", "P@2", "--as-of", "2026-06-01", "--url", stub.url),
    ]
    annobus("genes", "export", "--columns", "symbol,gnomad.loeuf", *shared)
    annobus("genes", "list", *shared)
    exported, listed = (dict(parse_qsl(urlsplit(path).query)) for _, path, _ in stub.asked)
    same = {
        "filter[gnomad.loeuf][lt]": "0.6",
        "filter[symbol]": "A,B",
        "sort": "-symbol",
        "filter[panel]": "P@2",
        "as_of": "2026-06-01",
    }
    assert exported == {"format": "csv", "columns": "symbol,gnomad.loeuf", **same}
    assert listed == {"page[size]": "20", **same}


def test_a_script_is_told_in_json(stub: Stub, annobus: Annobus) -> None:
    stub.send(ADDRESS, sent(written("jsonl")))
    ended = annobus("genes", "export", "genes.jsonl", "--json", "--url", stub.url)
    told = json.loads(ended.stdout)
    assert told["genes"] == 3
    assert (told["rows_sha256"], told["is_checked"]) == (HASH, True)
    assert told["told"]["as_of"] == "2026-11-28T07:00:00+00:00"


@pytest.mark.parametrize(
    "arguments",
    [
        ["genes.docx"],
        ["-", "--format", "parquet"],
        ["-", "--json"],
        ["."],
        ["genes.csv", "--filter", "symbol"],
        ["genes.csv", "--filter", "a[lt=1"],
    ],
)
def test_what_cannot_be_is_refused_before_it_is_asked(
    stub: Stub, annobus: Annobus, tmp_path: Path, arguments: list[str]
) -> None:
    ended = annobus("genes", "export", *arguments, "--url", stub.url)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert stub.asked == []
    assert names(tmp_path) == []


def test_a_folder_that_is_not_there_is_told(stub: Stub, annobus: Annobus) -> None:
    stub.send(ADDRESS, sent(written("csv")))
    ended = annobus("genes", "export", "nowhere/genes.csv", "--url", stub.url)
    assert ended.returncode == 1
    assert "'nowhere/genes.csv' cannot be written: No such file" in ended.stderr
