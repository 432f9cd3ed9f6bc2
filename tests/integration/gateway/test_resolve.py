"""What names mean: found by id, symbol, alias or successor, and reported where they are not."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import text

from services.gateway.store import names
from tests.builders import build_release
from tests.integration.gateway.desk import Desk, open_desk
from tests.system import Database, SharedCluster, database_to_read

PKD1, MARCHF2, MTARC2, SEPTIN1, HLA_A = (
    "HGNC:9008",
    "HGNC:28038",
    "HGNC:26064",
    "HGNC:2879",
    "HGNC:4931",
)
GLA, NAT8, UBA1, C1ORF127 = "HGNC:4296", "HGNC:18069", "HGNC:12469", "HGNC:26730"
OCT4, TWIN_A, TWIN_B = "HGNC:9221", "HGNC:101", "HGNC:102"
MERGED, CHAIN, SPLIT, HALF, CIRCLE, GONE, CIRCLE_2, SAME_1, SAME_2, REUSED, PART_1, PART_2 = (
    f"HGNC:{number}" for number in range(1, 13)
)

APPROVED = [
    (PKD1, "PKD1", "5310", "ENSG00000008710"),
    (MARCHF2, "MARCHF2", "51257", None),
    (MTARC2, "MTARC2", "54996", None),
    (SEPTIN1, "SEPTIN1", "1731", None),
    (HLA_A, "HLA-A", "3105", None),
    (GLA, "GLA", "2717", None),
    (NAT8, "NAT8", "9027", None),
    (UBA1, "UBA1", "7317", None),
    (C1ORF127, "C1orf127", "148345", None),
    (OCT4, "POU5F1", "5460", None),
    (TWIN_A, "TWINA", "11", "ENSG00000230417"),
    (TWIN_B, "TWINB", "12", "ENSG00000230417"),
]
WITHDRAWN = [
    (MERGED, "A1S9T", "merged", [UBA1]),
    (CHAIN, "CHAIN1", "merged", [MERGED]),  # What it was merged into was merged itself.
    (SPLIT, "SPLIT1", "merged", [PKD1, UBA1]),
    (HALF, "HALF1", "merged", [PKD1, GONE]),  # Of its two successors one is left.
    (CIRCLE, "CIRCLE1", "merged", [CIRCLE_2]),
    (CIRCLE_2, "CIRCLE2", "merged", [CIRCLE]),
    (GONE, "GONE1", "withdrawn", []),
    (SAME_1, "SAME", "merged", [UBA1]),  # Two withdrawn genes of one name and one end.
    (SAME_2, "SAME", "merged", [MERGED]),
    (REUSED, "REUSED", "withdrawn", []),  # Its symbol is an approved gene's alias now.
    (PART_1, "PART", "merged", [UBA1]),  # Of two withdrawn genes of one name, one has an end.
    (PART_2, "PART", "withdrawn", []),
]
NAMES = [
    ("MARCH2", "previous", MARCHF2),
    ("MARC2", "previous", MTARC2),
    ("SEPT1", "previous", SEPTIN1),
    ("TWIN", "previous", TWIN_A),
    ("TWIN", "previous", TWIN_B),
    ("TWIN", "alias", PKD1),
    ("GLA", "alias", NAT8),  # Another gene's approved symbol.
    ("Pbp", "alias", PKD1),
    ("PBP", "alias", PKD1),
    ("SHARED", "alias", PKD1),
    ("SHARED", "alias", GLA),
    ("TAZ", "previous", UBA1),
    ("TAZ", "alias", GLA),
    ("OCT-4", "alias", OCT4),
    ("REUSED", "alias", PKD1),
    ("ENSG00000184796", "alias", NAT8),
    ("AC000111.1", "previous", NAT8),
]


async def name_genes(database: Database) -> None:
    """A catalogue that has every case there is."""
    async with database.connect() as connection:
        await connection.executemany(
            "INSERT INTO annotator.gene (hgnc_id, symbol, status, entrez_id, ensembl_gene_id) "
            "VALUES ($1, $2, 'approved', $3, $4)",
            APPROVED,
        )
        await connection.executemany(
            "INSERT INTO annotator.gene (hgnc_id, symbol, status, successors) "
            "VALUES ($1, $2, $3, $4)",
            WITHDRAWN,
        )
        await connection.executemany(
            "INSERT INTO annotator.gene_name (folded, name, kind, hgnc_id) "
            "VALUES (lower($1), $1, $2, $3)",
            [
                *NAMES,
                *((symbol, "approved", hgnc_id) for hgnc_id, symbol, *_ in APPROVED),
                *((symbol, "withdrawn", hgnc_id) for hgnc_id, symbol, *_ in WITHDRAWN),
            ],
        )


@pytest.fixture(scope="module")
def named_database(cluster: SharedCluster, template: str) -> Iterator[Database]:
    yield from database_to_read(cluster, template, name_genes)


@pytest_asyncio.fixture
async def named(named_database: Database) -> AsyncIterator[Desk]:
    async with open_desk(named_database) as desk:
        yield desk


async def resolve(desk: Desk, *genes: str) -> list[dict[str, Any]]:
    answer = await desk.client.post("/api/genes/resolve", json={"genes": genes})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/vnd.api+json"
    data = answer.json()["data"]
    assert [item["id"] for item in data] == [str(place) for place in range(len(genes))]
    assert [item["attributes"]["value"] for item in data] == list(genes)
    return [item["attributes"] for item in data]


def candidates(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [(gene["hgnc_id"], gene["matched_by"]) for gene in row["candidates"]]


@pytest.mark.parametrize(
    ("value", "hgnc_id", "matched_by", "flags"),
    [
        (PKD1, PKD1, "hgnc_id", []),
        ("hgnc:HGNC:9008", PKD1, "hgnc_id", []),
        ("5310", PKD1, "entrez_id", []),
        ("NCBIGene:5310", PKD1, "entrez_id", []),
        ("ensembl:ENSG00000008710.17", PKD1, "ensembl_gene_id", []),
        (" PKD1\t", PKD1, "approved", []),
        ("pkd1", PKD1, "approved", ["case_differs"]),
        ("C1ORF127", C1ORF127, "approved", ["case_differs"]),
        ("C1orf127", C1ORF127, "approved", []),
        ("MARCH2", MARCHF2, "previous", []),
        ("AC000111.1", NAT8, "previous", []),  # Dots are part of a name.
        ("PBP", PKD1, "alias", []),
        ("Pbp", PKD1, "alias", []),
        ("OCT-4", OCT4, "alias", []),  # An alias in these letters, no date.
        ("REUSED", PKD1, "alias", []),
        ("ENSG00000184796", NAT8, "alias", []),  # An id that was given up.
        ("GLA", GLA, "approved", ["name_shared"]),
        ("TAZ", UBA1, "previous", ["name_shared"]),
        ("TWINA", TWIN_A, "approved", ["ensembl_gene_id_shared"]),
    ],
)
async def test_what_names_one_gene_is_resolved(
    named: Desk, value: str, hgnc_id: str, matched_by: str, flags: Sequence[str]
) -> None:
    (row,) = await resolve(named, value)
    assert (row["outcome"], row["hgnc_id"]) == ("resolved", hgnc_id)
    assert row["symbol"] == next(gene[1] for gene in APPROVED if gene[0] == hgnc_id)
    assert (row["matched_by"], row["flags"], row["note"]) == (matched_by, flags, None)
    assert row["successor_of"] == []
    assert bool(row["candidates"]) == ("name_shared" in flags)


async def test_other_genes_with_less_right_to_a_name_are_told(named: Desk) -> None:
    (row,) = await resolve(named, "GLA")
    assert candidates(row) == [(GLA, "approved"), (NAT8, "alias")]


@pytest.mark.parametrize(
    ("value", "hgnc_id", "matched_by", "successor_of"),
    [
        (MERGED, UBA1, "hgnc_id", [MERGED]),
        ("A1S9T", UBA1, "withdrawn", [MERGED]),
        (CHAIN, UBA1, "hgnc_id", [CHAIN]),
        (HALF, PKD1, "hgnc_id", [HALF]),
        ("same", UBA1, "withdrawn", [SAME_1, SAME_2]),
    ],
)
async def test_a_withdrawn_gene_s_one_successor_stands_for_it(
    named: Desk, value: str, hgnc_id: str, matched_by: str, successor_of: Sequence[str]
) -> None:
    (row,) = await resolve(named, value)
    assert (row["outcome"], row["hgnc_id"]) == ("resolved", hgnc_id)
    assert (row["matched_by"], row["successor_of"]) == (matched_by, successor_of)


@pytest.mark.parametrize(
    ("value", "matched_by", "meant"),
    [
        ("TWIN", "previous", [(TWIN_A, "previous"), (TWIN_B, "previous"), (PKD1, "alias")]),
        ("shared", "alias", [(GLA, "alias"), (PKD1, "alias")]),
        (
            "ENSG00000230417",
            "ensembl_gene_id",
            [(TWIN_A, "ensembl_gene_id"), (TWIN_B, "ensembl_gene_id")],
        ),
        (SPLIT, "hgnc_id", [(PKD1, "successor"), (UBA1, "successor")]),
        ("SPLIT1", "withdrawn", [(PKD1, "successor"), (UBA1, "successor")]),
        (
            "PART",
            "withdrawn",
            [(UBA1, "successor"), (PART_1, "withdrawn"), (PART_2, "withdrawn")],
        ),
    ],
)
async def test_what_names_several_genes_is_ambiguous(
    named: Desk, value: str, matched_by: str, meant: list[tuple[str, str]]
) -> None:
    (row,) = await resolve(named, value)
    assert (row["outcome"], row["hgnc_id"], row["symbol"]) == ("ambiguous", None, None)
    assert (row["matched_by"], candidates(row)) == (matched_by, meant)


@pytest.mark.parametrize("value", [GONE, "GONE1", CIRCLE, "circle2"])
async def test_what_has_no_successor_is_withdrawn(named: Desk, value: str) -> None:
    (row,) = await resolve(named, value)
    assert (row["outcome"], row["hgnc_id"]) == ("withdrawn", None)
    assert len(row["candidates"]) == 1


@pytest.mark.parametrize("value", ["NOSUCH", "HGNC:424242", "999999", "ENSG00000000000", "  "])
async def test_what_names_no_gene_is_unknown(named: Desk, value: str) -> None:
    (row,) = await resolve(named, value)
    assert (row["outcome"], row["hgnc_id"], row["matched_by"]) == ("unknown", None, None)
    assert (row["candidates"], row["flags"], row["note"]) == ([], [], None)


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("2-Mar", [(MTARC2, "previous"), (MARCHF2, "previous")]),
        ("Mar-02", [(MTARC2, "previous"), (MARCHF2, "previous")]),
        ("02.Mrz", [(MTARC2, "previous"), (MARCHF2, "previous")]),
        ("1-Sep", [(SEPTIN1, "previous")]),
        ("2001-09-01", [(SEPTIN1, "previous")]),
        ("Oct-4", [(OCT4, "alias")]),  # The alias OCT-4, but for its letters.
        ("15-Jul", []),
    ],
)
async def test_a_spreadsheet_s_date_is_told_and_never_resolved(
    named: Desk, value: str, meant: list[tuple[str, str]]
) -> None:
    (row,) = await resolve(named, value)
    assert (row["outcome"], row["hgnc_id"]) == ("unknown", None)
    assert row["flags"] == ["spreadsheet_date"]
    assert "spreadsheet" in row["note"]
    assert candidates(row) == meant
    answer = await named.client.post("/api/runs", json={"genes": [value]})
    assert answer.status_code == 422
    for hgnc_id, _ in meant:
        assert hgnc_id in answer.json()["detail"]


async def test_dots_that_were_hyphens_are_told_and_never_resolved(named: Desk) -> None:
    told, silent = await resolve(named, "HLA.A", "HLA.Z")
    assert (told["outcome"], told["flags"]) == ("unknown", ["dots_for_hyphens"])
    assert candidates(told) == [(HLA_A, "approved")]
    assert (silent["outcome"], silent["flags"], silent["candidates"]) == ("unknown", [], [])


async def test_the_answer_counts_what_it_says(named: Desk) -> None:
    genes = ["PKD1", "PKD1", "5310", "PBP", MERGED, "TWIN", "NOSUCH", "2-Mar", "GONE1"]
    answer = (await named.client.post("/api/genes/resolve", json={"genes": genes})).json()
    meta = answer["meta"]
    assert meta["total"] == len(genes)
    assert meta["outcomes"] == {"resolved": 5, "unknown": 2, "ambiguous": 1, "withdrawn": 1}
    assert {match: count for match, count in meta["matched_by"].items() if count} == {
        "approved": 2,
        "entrez_id": 1,
        "alias": 1,
        "hgnc_id": 1,
    }
    flagged = {flag for item in answer["data"] for flag in item["attributes"]["flags"]}
    assert flagged <= set(meta["flags"])


async def test_orders_and_single_genes_are_resolved_alike(desk: Desk) -> None:
    await name_genes(desk.database)
    values = [
        *(PKD1, "C1ORF127", "MARCH2", "TAZ", MERGED, "A1S9T", "TWIN", "SPLIT1", "GONE1"),
        *("NOSUCH", "2-Mar", "HLA.A", "ENSG00000230417"),
    ]
    statuses = {"resolved": 404, "unknown": 404, "ambiguous": 409, "withdrawn": 410}
    for row in await resolve(desk, *values):
        value, outcome = row["value"], row["outcome"]
        gene = await desk.client.get(f"/api/genes/{value}")
        kind = "gene-not-built" if outcome == "resolved" else f"gene-{outcome}"
        assert (gene.status_code, gene.json()["type"]) == (
            statuses[outcome],
            f"urn:annobus:problem:{kind}",
        ), value
        # Of a file's source: whom an API is being asked for already is not ordered again.
        order = await desk.client.post("/api/runs", json={"genes": [value], "sources": ["hpo"]})
        assert order.status_code == (202 if outcome == "resolved" else 422), value
        if outcome == "resolved":
            assert gene.json()["detail"].startswith(f"{row['hgnc_id']} ")
            command = (await desk.outbox())[-1]
            assert command["genes"] == [row["hgnc_id"]]
        else:
            assert order.json()["errors"][0]["code"] == f"gene-{outcome}"


@pytest.mark.parametrize(
    ("body", "pointer", "accepted"),
    [
        ({}, "/genes", "required"),
        ({"genes": []}, "/genes", "1 item"),
        ({"genes": ["PKD1"] * 50_001}, "/genes", "50000"),
        ({"genes": ["PKD1", 5310]}, "/genes/1", "string"),
        ({"genes": ["PKD1", None]}, "/genes/1", "string"),
        ({"genes": ["PKD1", ""]}, "/genes/1", "1 character"),
        ({"genes": ["PKD1", "x" * 101]}, "/genes/1", "100"),
        ({"genes": ["PKD1", "a\x00"]}, "/genes/1", "pattern"),
        ({"genes": "PKD1"}, "/genes", "list"),
        ({"genes": ["PKD1"], "gene": "PKD1"}, "/gene", "genes"),
    ],
)
async def test_a_body_that_does_not_fit_is_told_where_and_why(
    named: Desk, body: Any, pointer: str, accepted: str
) -> None:
    answer = await named.client.post("/api/genes/resolve", json=body)
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["pointer"] == pointer
    assert accepted in error["accepted"]


async def test_fifty_thousand_names_are_one_answer(named: Desk) -> None:
    rows = await resolve(named, *["PKD1", "NOSUCH"] * 25_000)
    assert {(row["value"], row["outcome"]) for row in rows} == {
        ("PKD1", "resolved"),
        ("NOSUCH", "unknown"),
    }


async def test_a_long_list_has_the_time_it_takes(named: Desk) -> None:
    for count, timeout in ((1, "5s"), (names.SHORT_LIST_MAX + 1, "2min")):
        for ask in (names.resolve, names.answer_each):
            async with named.engine.begin() as tx:
                await ask(tx, ["PKD1"] * count)
                assert await tx.scalar(text("SHOW transaction_timeout")) == timeout


async def test_names_cannot_be_resolved_before_there_is_a_catalogue(desk: Desk) -> None:
    async with desk.database.begin("annotator") as tx:
        await build_release(tx, "hgnc", state="fetched", is_readable=False)
    answer = await desk.client.post("/api/genes/resolve", json={"genes": ["PKD1"]})
    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:annobus:problem:catalogue-empty"
