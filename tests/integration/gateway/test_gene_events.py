"""What became of a gene, as its address tells it."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from sqlalchemy import text

from tests.builders import build_release
from tests.integration.gateway.desk import GONE, OLD, PKD1, PKD2, Desk, open_desk
from tests.system import Database, SharedCluster, database_to_read

EVENTS = [
    (PKD1, "renamed", "OLDER", "PKD1", []),
    (OLD, "merged", "OLD1", "OLD1", [PKD1]),
    (PKD2, "withdrawn", "PKD2", "PKD2", []),
    (PKD2, "restored", "PKD2", "PKD2", []),
    (GONE, "withdrawn", "GONE1", "GONE1", []),
]


async def tell(database: Database) -> None:
    async with open_desk(database) as desk:
        await desk.add_genes()
    async with database.begin("annotator") as tx:
        release_id = await build_release(tx, "hgnc")
        for hgnc_id, kind, before, after, successors in EVENTS:
            await tx.execute(
                text("""
                    INSERT INTO gene_event (hgnc_id, kind, symbol_before, symbol_after,
                                            successors, release_id)
                    VALUES (:hgnc_id, :kind, :before, :after, :successors, :release_id)
                """),
                {
                    "hgnc_id": hgnc_id,
                    "kind": kind,
                    "before": before,
                    "after": after,
                    "successors": successors,
                    "release_id": release_id,
                },
            )


@pytest.fixture(scope="module")
def told_database(cluster: SharedCluster, template: str) -> Iterator[Database]:
    yield from database_to_read(cluster, template, tell)


@pytest_asyncio.fixture
async def told(told_database: Database) -> AsyncIterator[Desk]:
    async with open_desk(told_database) as desk:
        yield desk


async def kinds(desk: Desk, gene: str) -> list[tuple[str, str]]:
    answer = await desk.client.get(f"/api/genes/{gene}/events")
    assert answer.status_code == 200, answer.text
    events = [item["attributes"] for item in answer.json()["data"]]
    return [(event["hgnc_id"], event["kind"]) for event in events]


@pytest.mark.parametrize(
    ("gene", "expected"),
    [
        (PKD1, [(OLD, "merged"), (PKD1, "renamed")]),  # And what was merged into it.
        ("pkd1", [(OLD, "merged"), (PKD1, "renamed")]),
        (OLD, [(OLD, "merged")]),
        ("OLD1", [(OLD, "merged"), (PKD1, "renamed")]),  # The name means its successor.
        (GONE, [(GONE, "withdrawn")]),
        ("GONE1", [(GONE, "withdrawn")]),
        ("PKD2", [(PKD2, "restored"), (PKD2, "withdrawn")]),
        ("TAFAZZIN", []),
    ],
)
async def test_events_are_told_newest_first(
    told: Desk, gene: str, expected: list[tuple[str, str]]
) -> None:
    assert await kinds(told, gene) == expected


async def test_an_event_says_what_was_and_what_is(told: Desk) -> None:
    answer = await told.client.get(f"/api/genes/{OLD}/events")
    (item,) = answer.json()["data"]
    event = item["attributes"]
    assert (event["symbol_before"], event["symbol_after"]) == ("OLD1", "OLD1")
    assert event["successors"] == [PKD1]
    assert event["release_id"]
    assert event["at"]


async def test_events_are_paged_by_key(told: Desk) -> None:
    address, found = f"/api/genes/{PKD1}/events?page[size]=1", []
    while address:
        page = (await told.client.get(address)).json()
        found += [item["attributes"]["kind"] for item in page["data"]]
        address = page["links"]["next"]
    assert found == ["merged", "renamed"]


@pytest.mark.parametrize(
    ("gene", "status", "kind"),
    [
        ("NOSUCH", 404, "gene-unknown"),
        ("HGNC:99999999", 404, "gene-unknown"),
        ("SHARED", 409, "gene-ambiguous"),
        ("%00", 400, "parameter-invalid"),
    ],
)
async def test_what_is_no_gene_is_told(told: Desk, gene: str, status: int, kind: str) -> None:
    answer = await told.client.get(f"/api/genes/{gene}/events")
    assert answer.status_code == status
    assert answer.json()["type"] == f"urn:annobus:problem:{kind}"
