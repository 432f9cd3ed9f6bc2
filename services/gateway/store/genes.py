"""Gene documents of the cache: lists, and one by its id."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.views import SummaryKind
from services.gateway.annotations import SourceState, complete
from services.gateway.jsonapi import Query

# The order of a list, and what comes behind the gene where a page ended. These have indexes.
_ORDERS = {
    "hgnc_id": ("hgnc_number", "hgnc_number > :after_number"),
    "-hgnc_id": ("hgnc_number DESC", "hgnc_number < :after_number"),
    "symbol": ("symbol, hgnc_number", "(symbol, hgnc_number) > (:after_value, :after_number)"),
    "-symbol": (
        "symbol DESC, hgnc_number DESC",
        "(symbol, hgnc_number) < (:after_value, :after_number)",
    ),
}
SORTS = tuple(_ORDERS)

# Fields of the catalogue that genes are compared by, beside those that sources declare.
COMPARED: Mapping[str, SummaryKind] = {
    "locus_group": "text",
    "locus_type": "text",
    "location": "text",
    "sources": "texts",
    "annotation_count": "integer",
}

# What a client may filter by besides. Names and identifiers are looked up in the catalogue, which
# has indexes for them; symbols there are compared folded.
_CONDITIONS = {
    "hgnc_id": "hgnc_id = ANY(CAST(:hgnc_id AS text[]))",
    "symbol": """hgnc_id IN (SELECT n.hgnc_id FROM annotator.gene_name_v1 n
        WHERE n.kind = 'approved' AND n.folded = ANY(CAST(:symbol AS text[])))""",
    "entrez_id": """hgnc_id IN (SELECT g.hgnc_id FROM annotator.gene_v1 g
        WHERE g.entrez_id = ANY(CAST(:entrez_id AS text[])))""",
    "ensembl_gene_id": """hgnc_id IN (SELECT g.hgnc_id FROM annotator.gene_v1 g
        WHERE g.ensembl_gene_id = ANY(CAST(:ensembl_gene_id AS text[])))""",
    # Those of a version of a panel, as they are now.
    "panel": "hgnc_id = ANY(CAST(:panel AS text[]))",
    # A part of a symbol it has or had, or of its name.
    "text": """hgnc_id IN (
        SELECT n.hgnc_id FROM annotator.gene_name_v1 n
        WHERE n.folded LIKE ANY(CAST(:text AS text[]))
        UNION SELECT s.hgnc_id FROM cache.gene_summary_v1 s
        WHERE lower(s.name) LIKE ANY(CAST(:text AS text[])))""",
}
FILTERS = tuple(_CONDITIONS)

FACET_VALUES_MAX = 100
ANNOTATIONS = "annotations"  # The member of a document.
_DOCUMENT = "document::text"
_FIELDS = """(SELECT coalesce(json_object_agg(key, value), '{}') FROM json_each(document)
    WHERE key = ANY(CAST(:fields AS text[])))::text"""
# What completes a document, of the same moment as the document.
_COMPLETION = """
    (SELECT json_agg(json_build_array(s.name, s.kind, s.release_id IS NOT NULL,
                         extract(epoch FROM s.matched_until), extract(epoch FROM s.checked_at),
                         extract(epoch FROM now()) - s.ttl_seconds) ORDER BY s.name)
     FROM annotator.source_v1 s)::text AS sources,
    (SELECT coalesce(json_object_agg(c.source, extract(epoch FROM c.checked_at)), '{}')
     FROM annotator.checked_v1 c WHERE c.hgnc_id = found.hgnc_id)::text AS checked,
    found.annotated_by, extract(epoch FROM found.listed_at)::float8 AS listed_at
"""
# Of the same moment as the document, too; looked up only for who asks.
_LINKED = """(SELECT s.sources FROM cache.gene_summary_v1 s
    WHERE s.hgnc_id = found.hgnc_id LIMIT 1) AS linked"""
_NOT_LINKED = "NULL AS linked"


@dataclass(frozen=True)
class Document:
    """A gene's document with an annotation of each source; `text` is JSON."""

    hgnc_id: str
    number: int
    symbol: str
    version: int  # 0 for what was at some time: versions are of what the cache has now.
    text: str
    place: Any = None  # Its value of what the list is sorted by.
    sources: Sequence[str] = ()  # That it has a value of, where that was asked for.


class Place(NamedTuple):
    """A gene in a list, and its value of what that is sorted by."""

    hgnc_id: str
    number: int
    value: Any


async def list_documents(
    connection: AsyncConnection,
    query: Query,
    among: Sequence[str] | None = None,
    *,
    linked: bool = False,
) -> list[Document]:
    """One page of approved genes, and one gene more where there is a next page; of all genes, or
    of those with the ids `among`. With their sources if they are to be `linked`."""
    statement, parameters = _documents(query, among, linked=linked)
    parameters |= {"limit": query.size + 1, "offset": query.offset}
    rows = await connection.execute(text(statement), parameters)
    return _completed(rows.mappings().all(), query.fields)


async def stream_documents(
    connection: AsyncConnection, query: Query, size: int
) -> AsyncIterator[list[Document]]:
    """All documents of a list, `size` at a time, of one moment. In a transaction."""
    statement, parameters = _documents(query, None)
    parameters |= {"limit": None, "offset": 0}
    rows = await connection.stream(text(statement), parameters)
    async for part in rows.mappings().partitions(size):
        yield _completed(part, query.fields)


def _documents(
    query: Query, among: Sequence[str] | None, *, linked: bool = False
) -> tuple[str, dict[str, object]]:
    page, parameters = _page(query, among)
    order, _, _ = _order(query)
    statement = f"""
        SELECT found.hgnc_id, hgnc_number, symbol, place, version,
               {_content(query.fields)} AS document, {_LINKED if linked else _NOT_LINKED},
               {_COMPLETION}
        FROM ({page}) page  -- Only its documents become text, not those that are skipped.
        CROSS JOIN LATERAL (
            SELECT g.hgnc_id, version, document, annotated_by, listed_at
            FROM cache.gene_v1 g WHERE g.hgnc_id = page.hgnc_id LIMIT 1) found
        ORDER BY {order.format(value="place")}
    """
    return statement, parameters | {"fields": query.fields}


def _page(query: Query, among: Sequence[str] | None) -> tuple[str, dict[str, object]]:
    """The genes of a page in their order, `:limit` of them."""
    order, value, behind = _order(query)
    conditions, parameters = _conditions(query, among)
    if query.after is not None:
        conditions.append(behind)
        parameters["after_number"], parameters["after_value"] = query.after
    statement = f"""
        SELECT hgnc_id, hgnc_number, symbol, {value} AS place
        FROM cache.gene_summary_v1 WHERE {" AND ".join(conditions)}
        ORDER BY {order.format(value=value)} LIMIT :limit OFFSET :offset
    """
    return statement, parameters


async def count_documents(
    connection: AsyncConnection, query: Query, among: Sequence[str] | None = None
) -> int:
    conditions, parameters = _conditions(query, among)
    count = await connection.scalar(
        text(f"SELECT count(*) FROM cache.gene_summary_v1 WHERE {' AND '.join(conditions)}"),
        parameters,
    )
    return int(count or 0)


@dataclass(frozen=True)
class Facet:
    """How the genes of a list differ in a field; `values` are the most frequent ones."""

    known_count: int
    unknown_count: int
    values: Sequence[tuple[Any, int]] | None  # None: of what is measured, there are ends instead.
    least: Any
    greatest: Any


async def get_facet(
    connection: AsyncConnection, query: Query, field: str, kind: SummaryKind
) -> Facet:
    conditions, parameters = _conditions(query, None)
    genes = f"FROM cache.gene_summary_v1 WHERE {' AND '.join(conditions)}"
    column = _column(field)
    if kind in ("number", "integer", "date"):
        (row,) = await connection.execute(
            text(f"""
                SELECT count({column}), count(*) - count({column}), min({column}), max({column})
                {genes}
            """),
            parameters,
        )
        return Facet(row[0], row[1], None, row[2], row[3])
    value = "unnest(said)" if kind == "texts" else "said"
    (row,) = await connection.execute(
        text(f"""
            WITH counted AS MATERIALIZED (SELECT {column} AS said, count(*) AS n {genes} GROUP BY 1)
            SELECT coalesce(sum(n) FILTER (WHERE said IS NOT NULL), 0)::bigint,
                coalesce(sum(n) FILTER (WHERE said IS NULL), 0)::bigint,
                (SELECT coalesce(json_agg(json_build_array(value, n) ORDER BY n DESC, value), '[]')
                 FROM (SELECT value, sum(n)::bigint AS n FROM (
                           SELECT {value} AS value, n FROM counted WHERE said IS NOT NULL) each
                       GROUP BY value ORDER BY 2 DESC, 1 LIMIT :values_max) most)::text
            FROM counted
        """),
        parameters | {"values_max": FACET_VALUES_MAX},
    )
    return Facet(row[0], row[1], [(one, n) for one, n in orjson.loads(row[2])], None, None)


async def list_places(connection: AsyncConnection, query: Query) -> list[Place]:
    """The genes of one page, and one more where there is a next page, without their documents."""
    page, parameters = _page(query, None)
    parameters |= {"limit": query.size + 1, "offset": query.offset}
    rows = await connection.execute(text(page), parameters)
    return [Place(row.hgnc_id, row.hgnc_number, row.place) for row in rows]


async def get_documents(
    connection: AsyncConnection,
    hgnc_ids: Sequence[str],
    fields: Sequence[str] | None = None,
    *,
    linked: bool = False,
) -> list[Document]:
    """Those of these genes that are approved and have a document. With their sources if they are
    to be `linked`."""
    rows = await connection.execute(
        text(f"""
            SELECT hgnc_id, substr(hgnc_id, 6)::integer AS hgnc_number,
                   document->>'symbol' AS symbol, NULL AS place, version,
                   {_content(fields)} AS document, {_LINKED if linked else _NOT_LINKED},
                   {_COMPLETION}
            FROM unnest(CAST(:hgnc_ids AS text[])) AS asked (id) CROSS JOIN LATERAL (
                SELECT * FROM cache.gene_v1 g WHERE g.hgnc_id = asked.id LIMIT 1) found
            WHERE status = 'approved'
        """),
        {"hgnc_ids": list(hgnc_ids), "fields": fields},
    )
    return _completed(rows.mappings().all(), fields)


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


def _completed(rows: Sequence[RowMapping], fields: Sequence[str] | None) -> list[Document]:
    if not rows:
        return []
    sources = [SourceState(*state) for state in orjson.loads(rows[0]["sources"])]
    has_annotations = fields is None or ANNOTATIONS in fields
    return [
        Document(
            row["hgnc_id"],
            row["hgnc_number"],
            row["symbol"],
            row["version"],
            complete(
                row["document"],
                row["annotated_by"],
                row["listed_at"],
                sources,
                orjson.loads(row["checked"]),
            )
            if has_annotations
            else row["document"],
            row["place"],
            row["linked"] or (),
        )
        for row in rows
    ]


def _conditions(query: Query, among: Sequence[str] | None) -> tuple[list[str], dict[str, object]]:
    conditions = ["status = 'approved'", *(_CONDITIONS[name] for name in query.filters)]
    parameters: dict[str, object] = dict(query.filters)
    if among is not None:
        conditions.append("hgnc_id = ANY(CAST(:among AS text[]))")
        parameters["among"] = list(among)
    for number, condition in enumerate(query.conditions):
        conditions.append(condition.sql(_column(condition.field), f"value_{number}"))
        parameters[f"value_{number}"] = condition.values
    return conditions, parameters


def _order(query: Query) -> tuple[str, str, str]:
    """ORDER BY of a value, the column that it is, and the condition of what is behind a place."""
    if query.sort in _ORDERS:
        order, behind = _ORDERS[query.sort]
        return order, "symbol" if "symbol" in query.sort else "NULL::text", behind
    column = _column(query.sort.removeprefix("-"))
    direction, sign = ("DESC", "<") if query.sort.startswith("-") else ("ASC", ">")
    behind = f"{column} IS NULL AND hgnc_number > :after_number"
    if query.after is None or query.after[1] is not None:  # Genes without a value come last.
        behind = f"""({column} {sign} :after_value OR {column} IS NULL
            OR {column} = :after_value AND hgnc_number > :after_number)"""
    return f"{{value}} {direction} NULLS LAST, hgnc_number", column, behind


def _column(field: str) -> str:
    """Of a field that is known: it becomes a part of the statement."""
    return f'"{field}"'


def _content(fields: Sequence[str] | None) -> str:
    return _DOCUMENT if fields is None else _FIELDS
