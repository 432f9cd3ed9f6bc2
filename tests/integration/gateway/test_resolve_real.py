"""Every gene that HGNC lists, and what laboratories and papers called some of them."""

import csv
import gzip
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
from sqlalchemy import text

from contracts.messages import GENES_MAX
from services.annotator import domain
from services.annotator.store import catalogue
from services.gateway.domain import fold
from tests.builders import build_release
from tests.integration.gateway.desk import Desk, open_desk
from tests.system import Database

NOISE = {"IV", "ACMG"}  # Scraped from headings of the pages, and reported as genes.
TIMED_NAMES = 20_000
TIMED_SECONDS_MAX = 2.0

COLUMNS = ("symbol", "prev_symbol", "alias_symbol")  # The best right to a name first.

Row = dict[str, Any]


@pytest.fixture(scope="module")
def genes(upstream_data: Path) -> list[dict[str, str]]:
    with gzip.open(upstream_data / "hgnc" / "non_alt_loci_set.txt.gz", "rt", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.fixture(scope="module")
def reported(upstream_data: Path) -> set[str]:
    """What the sources of the kidney seeds wrote for genes."""
    files = sorted((upstream_data / "kidney-seeds" / "seed").glob("*/*.json"))
    return {
        name
        for file in files
        for gene in orjson.loads(file.read_bytes())["genes"]
        for name in (gene["reported_as"], gene["symbol"])
    }


@pytest_asyncio.fixture
async def full(database: Database, genes: list[dict[str, str]]) -> AsyncIterator[Desk]:
    """A desk with HGNC's whole catalogue, written as the annotator writes it."""
    values = [
        {
            "symbol": row["symbol"],
            "status": "approved",
            "entrez_id": row["entrez_id"] or None,
            "ensembl_gene_id": row["ensembl_gene_id"] or None,
            "successors": [],
            "previous_symbols": split(row["prev_symbol"]),
            "aliases": split(row["alias_symbol"]),
        }
        for row in genes
    ]
    contents = [orjson.dumps(value) for value in values]
    async with database.begin("annotator") as tx:
        release_id = await build_release(tx, "hgnc", state="staged", is_readable=False)
        await tx.execute(
            text("""
                INSERT INTO staged (release_id, hgnc_id, value, digest, file_id, position,
                                    matched_by)
                SELECT :release_id, hgnc_id, value, digest, 1, 1, 'hgnc_id'
                FROM unnest(CAST(:hgnc_ids AS text[]), CAST(:contents AS json[]),
                            CAST(:digests AS bytea[])) AS s (hgnc_id, value, digest)
            """),
            {
                "release_id": release_id,
                "hgnc_ids": [row["hgnc_id"] for row in genes],
                "contents": [content.decode() for content in contents],
                "digests": [domain.digest(content) for content in contents],
            },
        )
        await catalogue.rewrite_catalogue(tx, release_id)
    async with open_desk(database) as desk:
        yield desk


def split(cell: str) -> list[str]:
    return [name for name in cell.split("|") if name]


async def resolve(desk: Desk, names: list[str]) -> list[Row]:
    answer = await desk.client.post("/api/genes/resolve", json={"genes": names})
    assert answer.status_code == 200, answer.text
    return [item["attributes"] for item in answer.json()["data"]]


def bearers_of(genes: list[dict[str, str]]) -> dict[str, dict[str, set[str]]]:
    """Folded name → column → the genes that have it there, from the file's own cells."""
    bearers: dict[str, dict[str, set[str]]] = {}
    for row in genes:
        for column in COLUMNS:
            for name in split(row[column]):
                bearers.setdefault(fold(name), {}).setdefault(column, set()).add(row["hgnc_id"])
    return bearers


def check(row: Row, bearers: dict[str, dict[str, set[str]]]) -> None:
    """One gene in the best column is the answer; several or none are reported, never guessed."""
    named = bearers.get(fold(row["value"]), {})
    best = next((named[column] for column in COLUMNS if column in named), set())
    if len(best) == 1:
        assert (row["outcome"], {row["hgnc_id"]}) == ("resolved", best), row
    else:
        assert row["outcome"] == ("ambiguous" if best else "unknown"), row
        assert row["hgnc_id"] is None
        assert best <= {gene["hgnc_id"] for gene in row["candidates"]}


async def test_noise_names_nothing_and_all_else_is_resolved_or_reported(
    full: Desk, genes: list[dict[str, str]], reported: set[str]
) -> None:
    bearers = bearers_of(genes)
    rows = await resolve(full, sorted(reported | NOISE))
    assert {row["value"] for row in rows} == reported | NOISE
    for row in rows:
        check(row, bearers)
        if row["value"] in NOISE:
            assert row["outcome"] == "unknown"


async def test_every_name_there_ever_was_is_resolved_or_reported(
    full: Desk, genes: list[dict[str, str]]
) -> None:
    """Also old ones that mean other genes today. A bare number is no name, but an Entrez id."""
    bearers = bearers_of(genes)
    names = {name for row in genes for column in COLUMNS for name in split(row[column])}
    names = {name for name in names if not name.strip().isdigit()}
    assert len(names) > GENES_MAX
    for part in range(0, len(names), GENES_MAX):
        for row in await resolve(full, sorted(names)[part : part + GENES_MAX]):
            check(row, bearers)


async def test_every_approved_symbol_is_its_own_gene_s(
    full: Desk, genes: list[dict[str, str]]
) -> None:
    rows = await resolve(full, [row["symbol"] for row in genes])
    for row, gene in zip(rows, genes, strict=True):
        assert (row["outcome"], row["hgnc_id"]) == ("resolved", gene["hgnc_id"]), row
        assert (row["matched_by"], row["symbol"]) == ("approved", gene["symbol"])


async def test_a_long_list_is_resolved_in_time(full: Desk, genes: list[dict[str, str]]) -> None:
    names = [
        (split(row["prev_symbol"]) + split(row["alias_symbol"]) + [row["symbol"]])[0]
        for row in genes
    ][:TIMED_NAMES]
    started = time.perf_counter()
    rows = await resolve(full, names)
    seconds = time.perf_counter() - started
    assert len(rows) == TIMED_NAMES
    assert seconds < TIMED_SECONDS_MAX
