"""Genes as files: the same rows in every format, and what is told of them."""

import asyncio
import csv
import hashlib
import io
import os
import sys
import time
import zipfile
from asyncio.subprocess import PIPE
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import orjson
import pyarrow.parquet
import pytest
import pytest_asyncio

from services.chassis import database
from services.gateway import exporter, exports
from services.gateway.errors import ExportsCrowded
from services.gateway.export_order import ExportOrder, Format
from services.gateway.exports import Exports
from services.gateway.settings import GatewaySettings
from tests.builders import build_release
from tests.integration.gateway.desk import PKD1, PKD2, TAFAZZIN, WWTR1, Desk
from tests.integration.gateway.storing import Storing
from tests.waiting import until

COLUMNS = (
    *("hgnc_id", "symbol", "gnomad.loeuf", "gnomad.is_constrained", "gnomad.status"),
    *("hpo.diseases", "hpo.term_count", "clinvar.matched_by"),
)
MIB = 1024 * 1024
WIDE_BYTES = 3_200  # Of a gene's location: twice what a row of all columns has.
PEAK_BYTES_MAX = 155 * MIB  # With some 20 of mapped files that its gateway has as well.
GROWTH_BYTES_MAX = 14 * MIB  # Of 19 that the further genes have; were they kept, 26 were seen.
XML = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
FORMULA = "=HYPERLINK(1)"
SLOW_SECONDS = 1.0
VALUES: Mapping[str, Mapping[str, Any]] = {
    PKD1: {
        "gnomad": {"loeuf": 0.35, "is_constrained": True},
        "hpo": {"term_count": 2, "diseases": [{"id": "OMIM:1", "name": 'a "b", c\n'}]},
        "clinvar": {"matched_by": FORMULA},
    },
    PKD2: {"gnomad": {"loeuf": -0.5, "is_constrained": False}},
}
ROWS: Sequence[Sequence[Any]] = [
    [PKD1, "PKD1", 0.35, True, "ok", '[{"id":"OMIM:1","name":"a \\"b\\", c\\n"}]', 2, FORMULA],
    [PKD2, "PKD2", -0.5, False, "ok", None, None, None],
    [TAFAZZIN, "TAFAZZIN", None, None, "empty", None, None, None],
    [WWTR1, "WWTR1", None, None, "empty", None, None, None],
]


@pytest_asyncio.fixture
async def annotated(stocked: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    for name, value in stocked.database.environment.items():
        monkeypatch.setenv(name, value)  # A child reads the same settings as its gateway.
    async with stocked.database.begin("annotator") as tx:
        await build_release(tx, "gnomad", "v4.1.1")
    for hgnc_id, values in VALUES.items():
        said = {
            source: {"status": "ok", "value": value, "valid_from": "2026-01-01T00:00:00+00:00"}
            for source, value in values.items()
        }
        await stocked.put_document(
            hgnc_id, "PKD1" if hgnc_id == PKD1 else "PKD2", version=2, annotations=said
        )
    return stocked


async def export(desk: Desk, form: str, **parameters: str) -> bytes:
    chosen = {"columns": ",".join(COLUMNS), **parameters}
    answer = await desk.client.get("/api/export", params={"format": form, **chosen})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-disposition"].endswith(f'.{form}"')
    return answer.content


def told(lines: Sequence[str]) -> dict[str, str]:
    comments = (line.removeprefix("# ") for line in lines if line.startswith("# "))
    return dict(line.split(": ", 1) for line in comments)


def read_csv(content: bytes, delimiter: str) -> Iterator[dict[str, str]]:
    body = "".join(
        line for line in io.StringIO(content.decode(), newline="") if not line.startswith("# ")
    )
    yield from csv.DictReader(io.StringIO(body, newline=""), delimiter=delimiter)


async def test_every_format_has_the_same_rows_and_the_hash_of_them(annotated: Desk) -> None:
    expected = hashlib.sha256(b"".join(orjson.dumps(row) + b"\n" for row in ROWS)).hexdigest()

    for form, delimiter in (("csv", ","), ("tsv", "\t")):
        content = await export(annotated, form)
        rows = list(read_csv(content, delimiter))
        assert [row["symbol"] for row in rows] == [row[1] for row in ROWS]
        assert [row["gnomad.loeuf"] for row in rows] == ["0.35", "-0.5", "", ""]
        assert [row["gnomad.is_constrained"] for row in rows] == ["true", "false", "", ""]
        assert rows[0]["hpo.diseases"] == ROWS[0][5]
        assert rows[0]["clinvar.matched_by"] == f"'{FORMULA}"
        said = told(content.decode().splitlines())
        assert (said["sha256"], said["genes"]) == (expected, "4")
        assert "release v4.1.1" in said["source gnomad"]
        assert "CC0" in said["source gnomad"]
        assert "source ensembl" not in said  # None of its columns is there.

    begin, *lines, end = (await export(annotated, "jsonl")).splitlines()
    assert [list(orjson.loads(line)) for line in lines] == [list(COLUMNS)] * 4
    assert orjson.loads(lines[0])["hpo.diseases"] == VALUES[PKD1]["hpo"]["diseases"]
    assert orjson.loads(end)["meta"]["sha256"] == expected
    assert "v4.1.1" in orjson.loads(begin)["meta"]["source gnomad"]

    file = pyarrow.parquet.ParquetFile(io.BytesIO(await export(annotated, "parquet")))
    table = file.read()
    assert [list(row.values()) for row in table.to_pylist()] == [list(row) for row in ROWS]
    assert [str(table.schema.field(name).type) for name in COLUMNS[2:5]] == [
        *("double", "bool", "string")
    ]
    assert file.metadata.metadata[b"sha256"].decode() == expected


def sheets_of(content: bytes) -> dict[str, list[list[tuple[str, Any]]]]:
    """Name → rows → cells, each with its kind."""
    names = {"n": "number", "b": "boolean", "inlineStr": "text"}
    with zipfile.ZipFile(io.BytesIO(content)) as book:
        index = ElementTree.fromstring(book.read("xl/workbook.xml"))  # noqa: S314
        titles = [one.attrib["name"] for one in index.iter(f"{XML}sheet")]
        found: dict[str, list[list[tuple[str, Any]]]] = {}
        for number, title in enumerate(titles, start=1):
            sheet = book.read(f"xl/worksheets/sheet{number}.xml")
            found[title] = [
                [
                    (
                        "formula"
                        if cell.find(f"{XML}f") is not None
                        else names[cell.get("t", "n")],
                        "".join(cell.itertext()),
                    )
                    for cell in row.iter(f"{XML}c")
                ]
                for row in ElementTree.fromstring(sheet).iter(f"{XML}row")  # noqa: S314
            ]
    return found


async def test_a_workbook_has_texts_as_texts_and_a_sheet_of_provenance(annotated: Desk) -> None:
    content = await export(annotated, "xlsx")
    sheets = sheets_of(content)
    assert list(sheets) == ["Genes", "Provenance"]
    header, first, *_ = sheets["Genes"]
    assert header == [("text", name) for name in COLUMNS]
    assert first[1:5] == [("text", "PKD1"), ("number", "0.35"), ("boolean", "1"), ("text", "ok")]
    assert first[7] == ("text", FORMULA)  # No formula.
    said = {row[0][1]: row[1][1] for row in sheets["Provenance"]}
    assert said["genes"] == "4"
    assert "v4.1.1" in said["source gnomad"]


async def test_a_file_has_the_genes_and_the_order_of_the_same_list(annotated: Desk) -> None:
    for parameters, expected in (
        ({"filter[gnomad.loeuf][lt]": "0"}, [PKD2]),
        ({"sort": "gnomad.loeuf"}, [PKD2, PKD1, TAFAZZIN, WWTR1]),
        ({"sort": "-symbol", "filter[sources]": "gnomad"}, [PKD2, PKD1]),
        ({"filter[symbol]": "NOSUCH"}, []),
    ):
        rows = list(read_csv(await export(annotated, "csv", **parameters), ","))
        assert [row["hgnc_id"] for row in rows] == expected, parameters


async def test_without_columns_a_file_has_all(annotated: Desk) -> None:
    answer = await annotated.client.get("/api/export?format=csv&filter[symbol]=PKD1")
    (row,) = read_csv(answer.content, ",")
    assert {"symbol", "gnomad.loeuf", "gnomad.release", "hpo.terms", "ensembl.start"} <= set(row)
    assert row["gnomad.loeuf"] == "0.35"


async def test_a_file_of_a_time_has_what_was_known_then(
    desk: Desk, storing: Storing, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in desk.database.environment.items():
        monkeypatch.setenv(name, value)
    hgnc = await storing.release("hgnc", "2026-01-01")
    await storing.name(hgnc, {PKD1: "PKD1", PKD2: "PKD2"})
    first = await storing.release("ensembl", "115")
    then = await storing.store("ensembl", first, {PKD1: 1})
    await storing.store("ensembl", await storing.release("ensembl", "116"), {PKD1: 2})
    content = await export(
        desk, "csv", columns="symbol,ensembl.start", as_of=then.isoformat().replace("+00:00", "Z")
    )
    assert [list(row.values()) for row in read_csv(content, ",")] == [["PKD1", "1"], ["PKD2", ""]]
    assert told(content.decode().splitlines())["as_of"] == then.isoformat()


async def test_a_file_of_a_panel_at_a_time_has_its_genes(
    desk: Desk, storing: Storing, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in desk.database.environment.items():
        monkeypatch.setenv(name, value)
    hgnc = await storing.release("hgnc", "2026-01-01")
    then = await storing.name(hgnc, {PKD1: "PKD1", PKD2: "PKD2"})
    made = await desk.client.post("/api/panels", json={"name": "one", "genes": [PKD2]})
    panel = made.json()["data"]["id"]
    at = then.isoformat().replace("+00:00", "Z")
    content = await export(desk, "csv", columns="symbol", as_of=at, **{"filter[panel]": panel})
    assert [row["symbol"] for row in read_csv(content, ",")] == ["PKD2"]
    assert f"{panel}%401" in told(content.decode().splitlines())["query"]


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"as_of": "2025-01-01", "filter[symbol]": "PKD1"}, "but for a panel"),
        ({"format": "docx"}, "csv, tsv, jsonl, parquet, xlsx"),
        ({"columns": "symbol,nothing"}, "gnomad.loeuf"),
        ({"columns": ","}, "gnomad.loeuf"),
        ({"filter[nothing]": "1"}, "filter[gnomad.loeuf]"),
        ({"page[size]": "3"}, "filter[gnomad.loeuf]"),
        ({"as_of": "2025-01-01", "sort": "symbol"}, "without filters"),
        ({"as_of": "June"}, "a time with its zone"),
    ],
)
async def test_what_no_file_can_be_made_of_is_refused(
    annotated: Desk, parameters: Mapping[str, str], says: str
) -> None:
    answer = await annotated.client.get("/api/export", params=dict(parameters))
    assert answer.status_code == 400
    assert says in answer.json()["detail"]


async def test_who_comes_when_too_many_files_are_written_is_told_to_come_back(
    annotated: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "EXPORTS_MAX", 0)
    answer = await annotated.client.get("/api/export")
    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:annobus:problem:exports-crowded"


async def test_a_file_that_cannot_be_written_is_an_error_of_the_request(
    annotated: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = annotated.database.environment["GATEWAY_DATABASE_URL"].rsplit("@", 1)[0]
    monkeypatch.setenv("GATEWAY_DATABASE_URL", f"{nobody}@127.0.0.1:9/x")
    answer = await annotated.client.get("/api/export")
    assert answer.status_code == 500
    assert answer.json()["type"] == "urn:annobus:problem:export-failed"
    monkeypatch.undo()


async def test_an_export_that_nobody_reads_gives_its_place_back(annotated: Desk) -> None:
    """As of a client that has left before anything was sent."""
    files = Exports()
    order = ExportOrder(format="csv", service_pid=os.getpid(), query="", columns=None, as_of=None)
    for _ in range(exports.EXPORTS_MAX):
        export = await files.start(order)
        await export.end()
        await export.end()  # Once is enough, twice does no harm.
    taken = [await files.start(order) for _ in range(exports.EXPORTS_MAX)]
    with pytest.raises(ExportsCrowded):
        await files.start(order)
    for export in taken:
        await export.end()
    assert await _count_exports(annotated) == 0


async def test_a_client_that_leaves_ends_the_work(annotated: Desk) -> None:
    """The file is far larger than what is kept on its way."""
    await annotated.execute(
        """INSERT INTO cache.gene (hgnc_id, version, document, status)
           SELECT 'HGNC:' || n, 1, json_build_object('symbol', 'X' || n, 'status', 'approved',
               'name', repeat('x', 20000), 'annotations', '{}'::json), 'approved'
           FROM generate_series(100000, 100999) n"""
    )
    await annotated.execute(
        "SELECT cache.summarise(array_agg(hgnc_id)) FROM cache.gene WHERE hgnc_id > 'HGNC:1000'"
    )
    # The client of the other tests reads on, whether anybody takes what it has read or not.
    reader, writer = await asyncio.open_connection("127.0.0.1", annotated.port)
    writer.write(b"GET /api/export?format=jsonl HTTP/1.1\r\nHost: here\r\n\r\n")
    assert b"200 OK" in await reader.readline()
    assert await _count_exports(annotated) == 1
    writer.transport.abort()

    async def none_is_read() -> bool:
        return await _count_exports(annotated) == 0

    await until(none_is_read, "the child has ended")


async def test_what_an_export_takes_does_not_grow_with_its_genes(annotated: Desk) -> None:
    """Texts that nothing packs, so that what is kept of them is seen. A row group is full long
    before the fewer of them have been written."""
    forms: tuple[Format, ...] = ("csv", "parquet")
    few, many = 3_000, 9_000
    await _add_wide_genes(annotated, few)
    before = {form: await _peak_bytes(form, few) for form in forms}
    await _add_wide_genes(annotated, many)
    after = {form: await _peak_bytes(form, many) for form in forms}
    for form in forms:
        assert after[form] - before[form] < GROWTH_BYTES_MAX, (form, before, after)
        assert after[form] < PEAK_BYTES_MAX, (form, after)


async def _add_wide_genes(desk: Desk, number: int) -> None:
    """Up to so many."""
    await desk.execute(
        """INSERT INTO cache.gene (hgnc_id, version, document, status)
           SELECT 'HGNC:' || n, 1, json_build_object('symbol', 'X' || n, 'status', 'approved',
               'location', (SELECT string_agg(encode(sha512((n || '-' || m)::bytea), 'hex'), '')
                            FROM generate_series(1, $2 / 128) m),
               'annotations', '{}'::json), 'approved'
           FROM generate_series(100000, 100000 + $1 - 1) n
           ON CONFLICT DO NOTHING""",
        number,
        WIDE_BYTES,
    )
    await desk.execute(
        "SELECT cache.summarise(array_agg(hgnc_id)) FROM cache.gene WHERE hgnc_id LIKE $1",
        "HGNC:1_____",
    )


async def _peak_bytes(form: Format, genes: int) -> int:
    """Of the child alone, the files that it maps included, as far as it was when its file's last
    part came."""
    order = ExportOrder(format=form, service_pid=os.getpid(), query="", columns=None, as_of=None)
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.gateway.exporter"), stdin=PIPE, stdout=PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(order.model_dump_json().encode())
    child.stdin.close()
    peak = written = 0
    while part := await child.stdout.read(exports.PART_BYTES):
        written += len(part)
        peak = max(peak, _read_peak(child.pid))
    assert await child.wait() == 0
    assert written > genes * WIDE_BYTES / 2  # Half of a hexadecimal text is nothing new.
    return peak


def _read_peak(pid: int) -> int:
    """Nothing of a process that has just ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        for line in text.splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


class Slow(io.BytesIO):
    """What is written to it is read slowly."""

    def write(self, part: Any) -> int:
        time.sleep(SLOW_SECONDS)
        return super().write(part)


@pytest.mark.usefixtures("annotated")
async def test_a_reader_that_is_slow_gets_the_whole_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked of the database meanwhile, for longer than other transactions may idle."""
    monkeypatch.setattr(database, "TRANSACTION_TIMEOUT", f"{SLOW_SECONDS / 2:g}s")
    order = ExportOrder(format="csv", service_pid=os.getpid(), query="", columns=None, as_of=None)
    out = Slow()
    await exporter.export(order, GatewaySettings(), out)
    assert told(out.getvalue().decode().splitlines())["genes"] == "4"


async def _count_exports(desk: Desk) -> int:
    (row,) = await desk.rows(
        """SELECT count(*) FROM pg_stat_activity
           WHERE datname = current_database() AND application_name LIKE 'gateway-export %'"""
    )
    return int(row[0])
