"""Sources, as the annotator publishes them."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.views import SummaryKind

Row = Mapping[str, Any]


async def list_source_names(connection: AsyncConnection) -> list[str]:
    """Those that can be asked, the catalogue first: the order in which a run works them."""
    rows = await connection.scalars(
        text("""
            SELECT name FROM annotator.source_v1 WHERE NOT is_retired
            ORDER BY NOT is_catalogue, name
        """)
    )
    return list(rows)


async def get_catalogue_name(connection: AsyncConnection) -> str | None:
    name: str | None = await connection.scalar(
        text("SELECT name FROM annotator.source_v1 WHERE is_catalogue")
    )
    return name


async def list_bulk_names(connection: AsyncConnection) -> frozenset[str]:
    """Sources whose files are worked as a whole."""
    rows = await connection.scalars(
        text("SELECT name FROM annotator.source_v1 WHERE kind = 'bulk'")
    )
    return frozenset(rows)


async def summary_fields(connection: AsyncConnection) -> dict[str, SummaryKind]:
    """What genes are filtered and sorted by: `source.field`, as clients name it, and its kind.
    Those that `cache.gene_summary_v1` has, whatever was declared since."""
    rows = await connection.execute(
        text("""
            SELECT name || '.' || key AS field, value AS kind
            FROM (SELECT name, summary_fields FROM annotator.source_v1) s,
                jsonb_each_text(summary_fields)
            WHERE name || '.' || key IN (SELECT attname FROM pg_attribute
                WHERE attrelid = 'cache.gene_summary_v1'::regclass)
            ORDER BY 1
        """)
    )
    return {row.field: row.kind for row in rows}


async def list_schemas(connection: AsyncConnection) -> list[Row]:
    """What the values of each source are, and what must be said where they are passed on."""
    rows = await connection.execute(
        text("""
            SELECT name, title, homepage, licence, citation, is_catalogue, release, synthetic,
                   retrieved_at::text AS retrieved_at, value_schema::text AS value_schema
            FROM annotator.source_v1 s
            LEFT JOIN LATERAL (SELECT retrieved_at FROM annotator.release_v1 r
                               WHERE r.release_id = s.release_id LIMIT 1) r ON true
            ORDER BY NOT is_catalogue, name
        """)
    )
    return [dict(row) for row in rows.mappings()]


_SOURCES = """
    SELECT name, title, kind, is_catalogue, identifier, joins, homepage, licence, citation,
           wire_format, parser_version, requests_per_second, concurrency, page_size, score,
           severities::text AS severities, summary_fields::text AS summary_fields,
           expected::text AS expected, is_retired, ttl_seconds,
           release_id::text AS release_id, release, synthetic, checked_at, stored_at,
           annotation_count {schema}
    FROM annotator.source_v1
"""


async def list_sources(connection: AsyncConnection) -> list[Row]:
    statement = _SOURCES.format(schema="")
    rows = await connection.execute(text(f"{statement} ORDER BY NOT is_catalogue, name"))
    return [_declared(row) for row in rows.mappings()]


async def get_source(connection: AsyncConnection, name: str) -> Row | None:
    if "\x00" in name:
        return None  # PostgreSQL has no such text.
    found = await get_sources(connection, [name])
    return found[0] if found else None


async def get_sources(connection: AsyncConnection, names: Sequence[str]) -> list[Row]:
    """Those of these names, with all that they declare."""
    statement = _SOURCES.format(schema=", value_schema::text AS value_schema")
    rows = await connection.execute(
        text(
            f"{statement} WHERE name = ANY(CAST(:names AS text[])) ORDER BY NOT is_catalogue, name"
        ),
        {"names": list(names)},
    )
    return [_declared(row) for row in rows.mappings()]


def _declared(row: RowMapping) -> Row:
    """What is JSON already goes out as it is."""
    found = dict(row)
    for name in ("severities", "summary_fields", "expected", "value_schema"):
        if found.get(name) is not None:
            found[name] = orjson.Fragment(found[name])
    return found


async def has_source(connection: AsyncConnection, name: str) -> bool:
    """Retired ones included: what they said stays."""
    return "\x00" not in name and bool(  # PostgreSQL has no such text.
        await connection.scalar(
            text("SELECT EXISTS (SELECT FROM annotator.source_v1 WHERE name = :name)"),
            {"name": name},
        )
    )
