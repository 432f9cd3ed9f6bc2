"""The gene catalogue, rewritten from one release after the other: what readers are told of it."""

from collections.abc import Mapping

import orjson
from sqlalchemy import text

from services.annotator import domain
from services.annotator.store import catalogue
from tests.builders import build_release
from tests.integration.annotator.desk import Desk

PKD1, PKD2 = "HGNC:9008", "HGNC:9009"
SYMBOLS = {PKD1: "PKD1", PKD2: "PKD2"}


async def rewrite(desk: Desk, statuses: Mapping[str, str]) -> list[str]:
    """Make a release of these genes the catalogue. Returns what readers are told of."""
    async with desk.engine.begin() as tx:
        release_id = await build_release(tx, "hgnc", state="staged", is_readable=False)
        for hgnc_id, status in statuses.items():
            value = orjson.dumps({"symbol": SYMBOLS[hgnc_id], "status": status, "successors": []})
            await tx.execute(
                text("""
                    INSERT INTO staged (release_id, hgnc_id, value, digest, file_id, position,
                                        matched_by)
                    VALUES (:release_id, :hgnc_id, CAST(:value AS json), :digest, 1, 1, 'hgnc_id')
                """),
                {
                    "release_id": release_id,
                    "hgnc_id": hgnc_id,
                    "value": value.decode(),
                    "digest": domain.digest(value),
                },
            )
        return sorted(await catalogue.rewrite_catalogue(tx, release_id))


async def status(desk: Desk, hgnc_id: str) -> str:
    row = await desk.row("SELECT status FROM gene WHERE hgnc_id = :hgnc_id", hgnc_id=hgnc_id)
    return str(row.status)


async def test_a_first_load_tells_of_no_gene(desk: Desk) -> None:
    """The batches that store it do, each of its own genes."""
    assert await rewrite(desk, {PKD1: "approved", PKD2: "withdrawn"}) == []


async def test_a_gene_that_comes_back_unchanged_is_told_as_one_that_went_was(desk: Desk) -> None:
    """Its record is the old one, so the store of its values finds nothing to tell."""
    both = {PKD1: "approved", PKD2: "approved"}
    await rewrite(desk, both)
    assert await rewrite(desk, both) == []

    assert await rewrite(desk, {PKD2: "approved"}) == [PKD1]  # A release that lacks it.
    assert await status(desk, PKD1) == "withdrawn"
    assert await rewrite(desk, both) == [PKD1]
    assert await status(desk, PKD1) == "approved"

    assert await rewrite(desk, both | {PKD2: "withdrawn"}) == [PKD2]  # One that withdraws it.
    assert await rewrite(desk, both) == [PKD2]
