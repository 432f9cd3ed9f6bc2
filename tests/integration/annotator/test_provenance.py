"""Every value leads back to its raw record, which read again gives the same value."""

from functools import partial
from random import Random
from typing import Any

import pytest

from services.annotator import domain
from services.annotator.domain import (
    Catalogue,
    Client,
    Record,
    Response,
    StoredFile,
)
from services.annotator.raw_store import RawStore
from services.annotator.sources import SOURCES
from services.annotator.store import catalogue
from tests.integration.annotator.desk import Desk

VALUES = 1_200  # Of each bulk source that has so many.
PAGES = 3

ORIGIN = """
    SELECT a.hgnc_id, a.value::text AS value, a.position, a.matched_by, a.parser_version,
           a.release_id, f.name AS file, f.sha256, f.url
    FROM annotation_v1 a JOIN release_file_v1 f ON f.file_id = a.file_id
        AND f.release_id = a.release_id
    WHERE a.source = :source AND a.is_current AND a.value IS NOT NULL
    ORDER BY a.hgnc_id
"""


async def read_again(
    desk: Desk, source: str, release_id: Any, genes: Catalogue
) -> dict[str, Record]:
    """The records of a release, from nothing but its raw files."""
    reader = SOURCES[source]
    assert not domain.is_api(reader)
    rows = await desk.rows(
        "SELECT name, sha256, etag, last_modified FROM release_file_v1 WHERE release_id = :id",
        id=release_id,
    )
    files = {row.name: stored(desk.releases.raw_store, row) for row in rows}
    records = [entry for entry in reader.read(files, genes) if isinstance(entry, Record)]
    return {record.hgnc_id: record for record in records}


def stored(raw_store: RawStore, row: Any) -> StoredFile:
    sha256 = bytes.fromhex(row.sha256)
    return StoredFile(partial(raw_store.open, sha256), sha256, row.etag, row.last_modified)


@pytest.mark.timeout(180)
async def test_a_thousand_values_of_each_bulk_source(loaded_desk: Desk) -> None:
    desk = loaded_desk
    bulk = [name for name, source in SOURCES.items() if not domain.is_api(source)]
    await desk.order([name for name in bulk if name != "hgnc"], ["HGNC:9008"])
    await desk.work()
    async with desk.engine.connect() as connection:
        genes = await catalogue.get_catalogue(connection)
    seen = {}
    for source in bulk:
        rows = await desk.rows(ORIGIN, source=source)
        chosen = Random(source).sample(rows, min(VALUES, len(rows)))  # noqa: S311
        again = {
            release_id: await read_again(desk, source, release_id, genes)
            for release_id in {row.release_id for row in chosen}
        }
        for row in chosen:
            record = again[row.release_id][row.hgnc_id]
            assert domain.canonical(record.value).decode() == row.value
            assert (record.file, record.position) == (row.file, row.position)
            assert record.matched_by == row.matched_by
            assert row.parser_version == SOURCES[source].declaration.parser_version
        seen[source] = len(chosen)
    assert seen["hgnc"] == seen["hpo"] == seen["gnomad"] == VALUES


class Archive(Client):
    """Answers a call with the bytes of an answer that was kept."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def get(self, path: str) -> Response:
        raise AssertionError(f"nothing but the kept answer is asked for, not {path}")

    async def post(self, path: str, body: object, refusal: object = None) -> Response:  # noqa: ARG002 - of its protocol
        return Response(path, self._content, synthetic=False)


async def test_the_values_of_an_api_are_in_the_answers_that_were_kept(loaded_desk: Desk) -> None:
    desk = loaded_desk
    source = SOURCES["ensembl"]
    assert domain.is_api(source)
    rows = await desk.rows(
        """SELECT hgnc_id FROM gene WHERE status = 'approved' AND ensembl_gene_id IS NOT NULL
           ORDER BY hgnc_number LIMIT :count""",
        count=PAGES * source.page_size,
    )
    await desk.order(["ensembl"], [row.hgnc_id for row in rows])
    await desk.work()
    found: dict[str, list[Any]] = {}
    for row in await desk.rows(ORIGIN, source="ensembl"):
        found.setdefault(row.sha256, []).append(row)
    assert len(found) == PAGES
    for sha256, values in found.items():
        content = desk.releases.raw_store.open(bytes.fromhex(sha256)).read()
        async with desk.engine.connect() as connection:
            genes = await catalogue.get_genes(connection, [row.hgnc_id for row in values])
        for row, gene in zip(values, genes, strict=True):
            page = await source.fetch(Archive(content), [gene])
            (answer,) = page.answers
            assert answer.value is not None
            assert domain.canonical(answer.value).decode() == row.value
            assert row.matched_by == "ensembl_gene_id"
