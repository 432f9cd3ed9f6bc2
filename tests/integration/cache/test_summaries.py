"""Summaries of genes: typed columns that sources declare, with the values of the documents."""

from collections.abc import AsyncIterator, Mapping
from datetime import date
from typing import Any, TypeAlias

import asyncpg
import orjson
import pytest_asyncio

from tests.system import Database

PKD1 = "HGNC:9008"
ANNOTATIONS = {
    "gnomad": {
        "value": {
            "loeuf": 0.35,
            "pli": None,
            "obs_lof": 7,
            "is_constrained": True,
            "constraint_flags": ["no_exp_lof", "outlier_mis"],
        }
    },
    "hpo": {"value": {"term_count": 2, "diseases": [{"id": "OMIM:173900", "name": None}]}},
    "clinvar": {"value": {"last_evaluated_max": "2026-01-31", "has_p_lp": False}},
    "ensembl": {"value": None},
    "clingen": {"value": {"strongest": "Definitive"}},
}
DECLARE = """
UPDATE annotator.source SET summary_fields = $2 WHERE name = $1
"""

Owner: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@pytest_asyncio.fixture
async def owner(database: Database) -> AsyncIterator[Owner]:
    async with database.connect() as connection:
        await put(connection, PKD1, ANNOTATIONS)
        yield connection


async def put(owner: Owner, hgnc_id: str, annotations: Mapping[str, Any]) -> None:
    document = {"symbol": "PKD1", "status": "approved", "annotations": annotations}
    await owner.execute(
        """INSERT INTO cache.gene (hgnc_id, version, document, status)
           VALUES ($1, 1, $2, 'approved')
           ON CONFLICT (hgnc_id) DO UPDATE SET document = excluded.document""",
        *(hgnc_id, orjson.dumps(document).decode()),
    )
    await owner.execute("SELECT cache.summarise(ARRAY[$1])", hgnc_id)


async def summary(owner: Owner) -> Mapping[str, Any]:
    row = await owner.fetchrow(
        "SELECT *, xmin::text AS written FROM cache.gene_summary WHERE hgnc_id = $1", PKD1
    )
    assert row is not None
    return dict(row)


async def test_a_summary_has_the_values_of_its_document_with_their_types(owner: Owner) -> None:
    found = await summary(owner)
    expected = {
        "hgnc_number": 9008,
        "symbol": "PKD1",
        "status": "approved",
        "name": None,
        "sources": ["clingen", "clinvar", "gnomad", "hpo"],
        "annotation_count": 4,
        "gnomad.loeuf": 0.35,
        "gnomad.pli": None,
        "gnomad.oe_mis": None,
        "gnomad.obs_lof": 7,
        "gnomad.is_constrained": True,
        "gnomad.constraint_flags": ["no_exp_lof", "outlier_mis"],
        "hpo.term_count": 2,
        "hpo.diseases": ["OMIM:173900"],
        "hpo.terms": None,
        "clinvar.last_evaluated_max": date(2026, 1, 31),
        "clinvar.has_p_lp": False,
        "clingen.strongest": "Definitive",
        "ensembl.chromosome": None,
    }
    assert {name: found[name] for name in expected} == expected


async def test_a_value_that_is_gone_is_gone_and_an_equal_one_is_not_written(owner: Owner) -> None:
    before = await summary(owner)
    await put(owner, PKD1, ANNOTATIONS)
    assert (await summary(owner))["written"] == before["written"]
    await put(owner, PKD1, {"hpo": ANNOTATIONS["hpo"]})
    after = await summary(owner)
    assert after["written"] != before["written"]
    assert (after["gnomad.loeuf"], after["sources"], after["hpo.term_count"]) == (None, ["hpo"], 2)


async def test_a_field_that_is_declared_is_there_for_all_genes_and_one_that_is_not_goes(
    owner: Owner,
) -> None:
    assert not await owner.fetchval("SELECT cache.shape_summaries()")  # Nothing has changed.
    await owner.execute(DECLARE, "gnomad", '{"loeuf": "text", "loeuf_decile": "integer"}')
    async with owner.transaction():
        assert await owner.fetchval("SELECT cache.shape_summaries()")
    found = await summary(owner)
    fields = {name for name in found if name.startswith("gnomad.")}
    assert fields == {"gnomad.loeuf", "gnomad.loeuf_decile"}
    assert found["gnomad.loeuf"] == "0.35"
    columns = await owner.fetchval(
        """SELECT count(*) FROM information_schema.columns
           WHERE table_schema = 'cache' AND table_name = 'gene_summary_v1'
               AND column_name LIKE 'gnomad.%'"""
    )
    assert columns == 2


async def test_a_gateway_may_read_what_was_made_anew(owner: Owner, database: Database) -> None:
    await owner.execute(DECLARE, "gnomad", '{"loeuf": "number"}')
    await owner.fetchval("SELECT cache.shape_summaries()")
    async with database.connect("gateway") as gateway:
        query = 'SELECT hgnc_id FROM cache.gene_summary_v1 WHERE "gnomad.loeuf" < 0.6'
        assert await gateway.fetchval(query) == PKD1
    async with database.connect("cache") as cache:
        await cache.execute("SELECT summarise(ARRAY[$1])", PKD1)
