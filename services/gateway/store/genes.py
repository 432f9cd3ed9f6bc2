"""Genes: documents of the cache, and names of the catalogue."""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.gateway.domain import Named, Refused, Resolved, fold
from services.gateway.jsonapi import Query

REFUSED_MAX = 1_000  # Refused genes that one answer names; it says how many there are.

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


async def is_known(connection: AsyncConnection, hgnc_id: str) -> bool:
    known = await connection.scalar(
        text("SELECT EXISTS (SELECT FROM annotator.gene_v1 WHERE hgnc_id = :hgnc_id)"),
        {"hgnc_id": hgnc_id},
    )
    return bool(known)


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


def _conditions(query: Query) -> list[str]:
    return ["status = 'approved'", *(_CONDITIONS[name] for name in query.filters)]


def _content(fields: Sequence[str] | None) -> str:
    return _DOCUMENT if fields is None else _FIELDS


async def resolve(connection: AsyncConnection, values: Sequence[str]) -> Resolved:
    """Find genes by what people call them; whatever is not one gene alone is refused.

    HGNC ids with their prefix, Ensembl gene ids with or without prefix and version, Entrez ids
    with or without prefix, so a bare number is an Entrez id. Everything else is a name: an
    approved symbol before a previous one before an alias, and the exact case first.
    """
    row = (
        await connection.execute(
            text("""
                WITH asked AS MATERIALIZED (
                    SELECT place - 1 AS place, value, folded, CASE
                        WHEN folded ~ '^(hgnc:){1,2}[0-9]{1,9}$' THEN 'hgnc_id'
                        WHEN folded ~ '^((ncbigene|entrez|geneid):)?[0-9]{1,12}$' THEN 'entrez_id'
                        WHEN folded ~ '^(ensembl:)?ensg[0-9]{11}([.][0-9]{1,3})?$'
                            THEN 'ensembl_gene_id'
                        ELSE 'name' END AS kind
                    FROM unnest(CAST(:values AS text[]), CAST(:folded AS text[]))
                        WITH ORDINALITY AS given (value, folded, place)
                ), meant AS MATERIALIZED (
                    SELECT a.place, g.hgnc_id, (g.status <> 'approved')::integer AS rank
                    FROM asked a JOIN annotator.gene_v1 g
                        ON g.hgnc_id = 'HGNC:' || substring(a.folded FROM '[0-9]+$')
                    WHERE a.kind = 'hgnc_id'
                    UNION ALL
                    SELECT a.place, g.hgnc_id, (g.status <> 'approved')::integer
                    FROM asked a JOIN annotator.gene_v1 g
                        ON g.entrez_id = substring(a.folded FROM '[0-9]+$')
                    WHERE a.kind = 'entrez_id'
                    UNION ALL
                    SELECT a.place, g.hgnc_id, (g.status <> 'approved')::integer
                    FROM asked a JOIN annotator.gene_v1 g
                        ON g.ensembl_gene_id = upper(substring(a.folded FROM 'ensg[0-9]{11}'))
                    WHERE a.kind = 'ensembl_gene_id'
                    UNION ALL
                    SELECT a.place, n.hgnc_id, CASE
                        WHEN n.kind = 'approved' AND n.name = btrim(a.value) THEN 0
                        WHEN n.kind = 'approved' THEN 1
                        WHEN n.kind = 'previous' THEN 2
                        WHEN n.kind = 'alias' THEN 3
                        ELSE 4 END
                    FROM asked a JOIN annotator.gene_name_v1 n ON n.folded = a.folded
                    WHERE a.kind = 'name'
                ), best AS (
                    SELECT place, array_agg(DISTINCT hgnc_id ORDER BY hgnc_id) AS genes
                    FROM (SELECT *, min(rank) OVER (PARTITION BY place) AS lowest FROM meant) m
                    WHERE rank = lowest GROUP BY place
                ), judged AS MATERIALIZED (
                    SELECT a.place, a.value, g.hgnc_id, CASE
                        WHEN b.genes IS NULL THEN 'unknown'
                        WHEN cardinality(b.genes) > 1 THEN 'ambiguous'
                        WHEN g.status <> 'approved' THEN 'withdrawn'
                        END AS outcome,
                        CASE WHEN cardinality(b.genes) > 1 THEN b.genes
                             ELSE g.successors END AS others
                    FROM asked a LEFT JOIN best b USING (place)
                    LEFT JOIN annotator.gene_v1 g
                        ON g.hgnc_id = b.genes[1] AND cardinality(b.genes) = 1
                ), refused AS (
                    SELECT place, value, outcome, (
                        SELECT coalesce(jsonb_agg(jsonb_build_object(
                            'hgnc_id', other, 'symbol', o.symbol) ORDER BY other), '[]')
                        FROM unnest(j.others) other
                        LEFT JOIN annotator.gene_v1 o ON o.hgnc_id = other
                    ) AS genes
                    FROM judged j WHERE outcome IS NOT NULL ORDER BY place LIMIT :refused_max
                )
                SELECT (SELECT coalesce(array_agg(DISTINCT hgnc_id), '{}') FROM judged
                        WHERE outcome IS NULL) AS hgnc_ids,
                       (SELECT coalesce(jsonb_agg(to_jsonb(refused) ORDER BY place), '[]')
                        FROM refused)::text AS refused,
                       (SELECT count(*) FROM judged WHERE outcome IS NOT NULL) AS refused_count,
                       NOT EXISTS (SELECT FROM annotator.gene_v1) AS catalogue_empty
            """),
            {
                "values": list(values),
                "folded": [fold(value) for value in values],
                "refused_max": REFUSED_MAX,
            },
        )
    ).one()
    return Resolved(
        hgnc_ids=row.hgnc_ids,
        refused=[
            Refused(
                place=item["place"],
                value=item["value"],
                outcome=item["outcome"],
                genes=[Named(**gene) for gene in item["genes"]],
            )
            for item in orjson.loads(row.refused)
        ],
        refused_count=row.refused_count,
        catalogue_empty=row.catalogue_empty,
    )
