"""Sources and cache namespaces, as their services publish them."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

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


_SOURCES = """
    SELECT name, title, kind, is_catalogue, identifier, homepage, licence, citation, is_retired,
           ttl_seconds, release_id::text AS release_id, release, synthetic, checked_at, stored_at,
           annotation_count
    FROM annotator.source_v1
"""


async def list_sources(connection: AsyncConnection) -> list[Row]:
    rows = await connection.execute(text(f"{_SOURCES} ORDER BY NOT is_catalogue, name"))
    return [dict(row) for row in rows.mappings()]


async def get_source(connection: AsyncConnection, name: str) -> Row | None:
    rows = await connection.execute(text(f"{_SOURCES} WHERE name = :name"), {"name": name})
    row = rows.mappings().one_or_none()
    return None if row is None else dict(row)


async def has_source(connection: AsyncConnection, name: str) -> bool:
    """Retired ones included: what they said stays."""
    return bool(
        await connection.scalar(
            text("SELECT EXISTS (SELECT FROM annotator.source_v1 WHERE name = :name)"),
            {"name": name},
        )
    )


async def list_namespaces(connection: AsyncConnection) -> list[Row]:
    rows = await connection.execute(
        text("SELECT namespace, epoch, invalidated_at FROM cache.namespace_v1 ORDER BY namespace")
    )
    return [dict(row) for row in rows.mappings()]
