"""Gene documents of the cache: lists, and one by its id."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.gateway.jsonapi import Query

# The order of a list, and what comes behind the gene where a page ended.
_ORDERS = {
    "hgnc_id": ("hgnc_number", "hgnc_number > :after_number"),
    "-hgnc_id": ("hgnc_number DESC", "hgnc_number < :after_number"),
    "symbol": ("symbol, hgnc_number", "(symbol, hgnc_number) > (:after_symbol, :after_number)"),
    "-symbol": (
        "symbol DESC, hgnc_number DESC",
        "(symbol, hgnc_number) < (:after_symbol, :after_number)",
    ),
}
SORTS = tuple(_ORDERS)

# What a client may filter by. Names and identifiers are looked up in the catalogue, which has
# indexes for them; symbols there are compared folded.
_CONDITIONS = {
    "hgnc_id": "hgnc_id = ANY(CAST(:hgnc_id AS text[]))",
    "symbol": """hgnc_id IN (SELECT n.hgnc_id FROM annotator.gene_name_v1 n
        WHERE n.kind = 'approved' AND n.folded = ANY(CAST(:symbol AS text[])))""",
    "entrez_id": """hgnc_id IN (SELECT g.hgnc_id FROM annotator.gene_v1 g
        WHERE g.entrez_id = ANY(CAST(:entrez_id AS text[])))""",
    "ensembl_gene_id": """hgnc_id IN (SELECT g.hgnc_id FROM annotator.gene_v1 g
        WHERE g.ensembl_gene_id = ANY(CAST(:ensembl_gene_id AS text[])))""",
    "locus_group": "locus_group = ANY(CAST(:locus_group AS text[]))",
    "locus_type": "locus_type = ANY(CAST(:locus_type AS text[]))",
}
FILTERS = tuple(_CONDITIONS)

_DOCUMENT = "document::text"
_FIELDS = """(SELECT coalesce(json_object_agg(key, value), '{}') FROM json_each(document)
    WHERE key = ANY(CAST(:fields AS text[])))::text"""


@dataclass(frozen=True)
class Document:
    """A gene's document as the cache has it; `text` is JSON that nothing here parses."""

    hgnc_id: str
    number: int
    symbol: str
    version: int
    text: str


async def list_documents(connection: AsyncConnection, query: Query) -> list[Document]:
    """One page of approved genes, and one gene more where there is a next page."""
    order, behind = _ORDERS[query.sort]
    conditions = _conditions(query)
    parameters: dict[str, object] = {
        **query.filters,
        "fields": query.fields,
        "limit": query.size + 1,
        "offset": query.offset,
    }
    if query.after is not None:
        conditions.append(behind)
        parameters["after_number"], parameters["after_symbol"] = query.after
    rows = await connection.execute(
        text(f"""
            SELECT hgnc_id, hgnc_number, symbol, version, {_content(query.fields)} AS document
            FROM (  -- Only the page's documents become text, not those that are skipped.
                SELECT hgnc_id, hgnc_number, symbol, version, document
                FROM cache.gene_v1 WHERE {" AND ".join(conditions)}
                ORDER BY {order} LIMIT :limit OFFSET :offset
            ) page ORDER BY {order}
        """),
        parameters,
    )
    return [
        Document(row.hgnc_id, row.hgnc_number, row.symbol, row.version, row.document)
        for row in rows
    ]


async def count_documents(connection: AsyncConnection, query: Query) -> int:
    count = await connection.scalar(
        text(f"SELECT count(*) FROM cache.gene_v1 WHERE {' AND '.join(_conditions(query))}"),
        dict(query.filters),
    )
    return int(count or 0)


async def get_document(
    connection: AsyncConnection, hgnc_id: str, fields: Sequence[str] | None
) -> Document | None:
    """None when the cache has no document of an approved gene with this id."""
    row = (
        await connection.execute(
            text(f"""
                SELECT hgnc_id, hgnc_number, symbol, version, {_content(fields)} AS document
                FROM cache.gene_v1 WHERE hgnc_id = :hgnc_id AND status = 'approved'
            """),
            {"hgnc_id": hgnc_id, "fields": fields},
        )
    ).one_or_none()
    if row is None:
        return None
    return Document(row.hgnc_id, row.hgnc_number, row.symbol, row.version, row.document)


async def has_gene(connection: AsyncConnection, hgnc_id: str) -> bool:
    """Whether the catalogue has this id, withdrawn ones included."""
    return bool(
        await connection.scalar(
            text("SELECT EXISTS (SELECT FROM annotator.gene_v1 WHERE hgnc_id = :hgnc_id)"),
            {"hgnc_id": hgnc_id},
        )
    )


async def list_events(
    connection: AsyncConnection,
    hgnc_ids: Sequence[str],
    before: int | None,
    limit: int,
    offset: int,
) -> list[dict[str, Any]]:
    """What became of these genes, and of those that they stand for; newest first, from before
    the event with the id `before`."""
    rows = await connection.execute(
        text("""
            SELECT id, hgnc_id, kind, symbol_before, symbol_after, successors,
                   release_id::text AS release_id, at
            FROM annotator.gene_event_v1
            WHERE (hgnc_id = ANY(CAST(:hgnc_ids AS text[]))
                   OR successors && CAST(:hgnc_ids AS text[]))
              AND (CAST(:before AS bigint) IS NULL OR id < :before)
            ORDER BY id DESC LIMIT :limit OFFSET :offset
        """),
        {"hgnc_ids": list(hgnc_ids), "before": before, "limit": limit, "offset": offset},
    )
    return [dict(row) for row in rows.mappings()]


def _conditions(query: Query) -> list[str]:
    return ["status = 'approved'", *(_CONDITIONS[name] for name in query.filters)]


def _content(fields: Sequence[str] | None) -> str:
    return _DOCUMENT if fields is None else _FIELDS
