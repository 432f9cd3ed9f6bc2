"""Lists in files: the column that is meant, every line of it, and nothing guessed."""

import pytest

from services.gateway import workbooks
from services.gateway.tables import VALUES_MAX, Format, Listed, read
from services.gateway.workbooks import Unreadable
from tests.workbooks import mishap, number, rows, shared, text, workbook


def listed(said: str | bytes, form: Format, column: str | None = None) -> Listed:
    return read(said.encode() if isinstance(said, str) else said, form, column, None)


@pytest.mark.parametrize(
    ("said", "form", "column", "values", "lines"),
    [
        ("PKD1\n\n# old\n  PKD2 \n", "txt", None, ["PKD1", "PKD2"], [1, 4]),
        ("Gene\nPKD1\n", "txt", None, ["PKD1"], [2]),
        ("PKD1\r\nPKD2\rTTN", "txt", None, ["PKD1", "PKD2", "TTN"], [1, 2, 3]),
        ("PKD1, PKD2\n", "txt", None, ["PKD1, PKD2"], [1]),  # Nothing is taken apart.
        ("note,Gene Symbol\nx,PKD1\ny,\n,\n", "csv", None, ["PKD1", ""], [2, 3]),
        ("symbol,HGNC ID\nPKD1,HGNC:9008\n", "csv", None, ["HGNC:9008"], [2]),
        ("symbol,HGNC ID\nPKD1,HGNC:9008\n", "csv", "Symbol", ["PKD1"], [2]),
        ("a;gene\n1,5;PKD1\n", "csv", None, ["PKD1"], [2]),
        ('gene,note\nPKD1,"two\nlines"\nPKD2,\n', "csv", None, ["PKD1", "PKD2"], [3, 4]),
        ('gene,note\n# an "open quote,"\nPKD1,x\n', "csv", None, ["PKD1"], [3]),
        ("gene\n#NAME?\n#N/A\n#no\n", "csv", None, ["#NAME?", "#N/A"], [2, 3]),
        ("gene\tnote\nPKD1\n", "tsv", None, ["PKD1"], [2]),
        ("gene\tnote\n2-Mar\tx\n", "tsv", None, ["2-Mar"], [2]),
    ],
)
def test_a_list_is_read_line_by_line(
    said: str, form: Format, column: str | None, values: list[str], lines: list[int]
) -> None:
    found = listed(said, form, column)
    assert (found.values, found.lines) == (values, lines)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_comes_in_several_encodings(encoding: str) -> None:
    assert listed("gène,gene\né,PKD1\n".encode(encoding), "csv").values == ["PKD1"]


@pytest.mark.parametrize(
    ("said", "form", "column", "what", "shows"),
    [
        (b"PKD1\xff\n", "txt", None, "the file", "byte 4"),
        ("PKD1\n".encode("utf-16-le"), "txt", None, "the file", "NUL"),
        ("PKD1\n".encode("utf-32"), "txt", None, "the file", "NUL"),
        (b"", "txt", None, "the file", "no line"),
        (b"# all\n# of it\n", "csv", None, "the file", "no line"),
        (b"gene\n", "csv", None, "the file", "no line"),
        (b"a,b\n1,2\n", "csv", None, "column", "a, b"),
        (b"gene,b\n1,2\n", "csv", "c", "column", "gene, b"),
        (b"gene,Gene\n1,2\n", "csv", None, "column", "2 columns"),
        (b'gene\n"PKD1\n', "csv", None, "line 2", "unexpected end"),
        (b"PKD1\nPKD2,x\n", "csv", None, "line 2", "2 values"),
        (b"gene\n" + b"A\n" * (VALUES_MAX + 1), "txt", None, "the file", "more than 50000"),
        (b"PK\x03\x04", "xlsx", None, "the file", "no workbook"),
    ],
)
def test_what_cannot_be_read_is_told(
    said: bytes, form: Format, column: str | None, what: str, shows: str
) -> None:
    with pytest.raises(Unreadable) as refused:
        read(said, form, column, None)
    assert refused.value.what == what
    assert shows in f"{refused.value.value} {refused.value.accepted}"


def test_a_long_value_is_cut_so_that_it_names_nothing() -> None:
    (value,) = listed("x" * 5_000, "txt").values
    assert len(value) == 101


SHEET = rows(
    [shared("A1", 0), text("B1", "Note")],
    [shared("A2", 1)],
    [number("A3", 45718, 1)],  # A date that was MARCH2.
    [number("A4", 45718, 2)],
    [number("A5", 5310)],
    [mishap("A6", "#NAME?")],
    [text("B7", "no gene")],
    ['<c r="A8" t="str"><f>A2</f><v>PKD2</v></c>'],
    [number("A9", 5310.5)],
)
TEXTS = [
    "<si><t>Gene</t></si>",
    "<si><r><t>PK</t></r><r><t>D1</t></r><rPh sb='0' eb='1'><t>spoken</t></rPh></si>",
]


def test_a_workbook_is_read_cell_by_cell_and_a_date_stays_one() -> None:
    found = read(workbook({"Genes": SHEET}, TEXTS), "xlsx", None, None)
    day = "2025-03-02"
    assert found.values == ["PKD1", day, day, "5310", "#NAME?", "", "PKD2", "5310.5"]
    assert found.lines == [2, 3, 4, 5, 6, 7, 8, 9]
    assert (found.column, found.sheet) == ("Gene", "Genes")


def test_the_first_sheet_that_is_seen_is_read_or_the_one_that_is_named() -> None:
    sheets = {name: rows([text("A1", f"GENE{name}")]) for name in ("A", "B", "C")}
    made = workbook(sheets, hidden=["A"])
    assert read(made, "xlsx", None, None).values == ["GENEB"]
    assert read(made, "xlsx", None, "C").values == ["GENEC"]
    with pytest.raises(Unreadable, match="one of B, C"):
        read(made, "xlsx", None, "D")


FAR = rows([text("A1", "PKD1")]) + rows([text("XFD1048576", "x")], first=1_048_576)
BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("made", "shows"),
    [
        (workbook({"A": FAR}), "16384 values"),
        (workbook({"A": rows([text("A1", "PKD1")])}, doctype=BOMB), "DOCTYPE"),
        (workbook({}), "sheet"),
        (workbook({"A": "<row r='2'/><row r='1'/>"}), "not below"),
        (workbook({"A": rows([text("B1", "x"), text("A1", "x")])}), "not behind"),
        (workbook({"A": rows([text("ZZZ1", "x")])}), "not behind"),
        (workbook({"A": rows([shared("A1", 7)])}), "no text of the file"),
        (workbook({"A": "<row>"}), "mismatched tag"),
        (workbook({"A": rows([text("A1", "x")])})[:-200], "no workbook"),
        (workbook({"A": ""}), "no line"),
        (workbook({"A": ""}, parts={f"x/{n}": "" for n in range(2_001)}), "parts"),
        (workbook({"A": ""}, parts={"xl/workbook.xml": "<workbook/>"}), "sheet"),
        (workbook({"A": ""}, parts={"_rels/.rels": "<Relationships/>"}), "no part"),
    ],
)
def test_a_hostile_workbook_is_refused(made: bytes, shows: str) -> None:
    with pytest.raises(Unreadable) as refused:
        read(made, "xlsx", None, None)
    assert shows in f"{refused.value.what} {refused.value.value} {refused.value.accepted}"


def test_a_workbook_is_unpacked_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbooks, "UNPACKED_BYTES_MAX", 100_000)
    parts = {f"x/{number}": "x" * 60_000 for number in range(2)}
    many = workbook({"A": rows([text("A1", "PKD1")])}, parts=parts)
    with pytest.raises(Unreadable, match=r"12[0-9]{4} bytes, unpacked"):
        read(many, "xlsx", None, None)

    # Its directory may say what it will; what comes out of it is counted.
    monkeypatch.setattr(workbooks, "sum", lambda _: 0, raising=False)
    large = workbook({"A": rows([text("A1", "x" * 200_000)])})
    assert len(large) < 10_000
    with pytest.raises(Unreadable, match="too much"):
        read(large, "xlsx", None, None)
