"""Cached entries, as the cache publishes them, and its two functions that the gateway may call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """A namespace as it is at `at`, and its valid entry of a key, if there is one."""

    at: datetime
    epoch: int  # Of the namespace.
    ttl_seconds: float
    negative_ttl_seconds: float
    entry_epoch: int | None  # None: there is no entry, and the rest of this means nothing.
    value: bytes | None
    made_at: datetime | None
    seconds_left: float | None


async def find_entry(connection: AsyncConnection, namespace: str, key: str) -> Found | None:
    """None: there is no such namespace of entries."""
    rows = await connection.execute(
        text("""
            SELECT now() AS at, n.epoch, n.ttl_seconds, n.negative_ttl_seconds,
                e.epoch AS entry_epoch, e.value, e.made_at,
                extract(epoch FROM e.expires_at - now())::float8 AS seconds_left
            FROM cache.namespace_v1 n
            LEFT JOIN cache.entry_v1 e ON e.namespace = n.namespace AND e.key = :key
            WHERE n.namespace = :namespace AND n.ttl_seconds IS NOT NULL
        """),
        {"namespace": namespace, "key": key},
    )
    row = rows.one_or_none()
    return None if row is None else Found(*row)


async def put_entry(
    tx: AsyncConnection,
    namespace: str,
    key: str,
    found: Found,
    parts: Sequence[str],
    value: bytes | None,
) -> bool:
    """Keep what was made after `found`; returns whether it is kept."""
    return bool(
        await tx.scalar(
            text("""
                SELECT cache.put_entry_v1(:namespace, :key, :epoch, :began,
                    CAST(:parts AS text[]), CAST(:value AS bytea))
            """),
            {
                "namespace": namespace,
                "key": key,
                "epoch": found.epoch,
                "began": found.at,
                "parts": list(parts),
                "value": value,
            },
        )
    )


async def count_reads(tx: AsyncConnection, counts: Mapping[tuple[str, str], int]) -> None:
    """Add what was counted since."""
    await tx.execute(
        text("""
            SELECT cache.count_reads_v1(CAST(:namespaces AS text[]), CAST(:outcomes AS text[]),
                CAST(:counts AS bigint[]))
        """),
        {
            "namespaces": [namespace for namespace, _ in counts],
            "outcomes": [outcome for _, outcome in counts],
            "counts": list(counts.values()),
        },
    )


async def list_namespaces(connection: AsyncConnection) -> list[Row]:
    rows = await connection.execute(
        text("""
            SELECT namespace, epoch, floor, invalidated_at, ttl_seconds, negative_ttl_seconds,
                entry_bytes_max, entries_max, entry_count, entry_bytes, reclaimable_count,
                reclaimed_count, oldest_at, newest_at, counted_at, dirty_count
            FROM cache.namespace_v1 ORDER BY namespace
        """)
    )
    return [dict(row) for row in rows.mappings()]


async def list_reads(connection: AsyncConnection) -> dict[tuple[str, str], int]:
    """Of all gateways, as far as they have sent them."""
    rows = await connection.execute(
        text("SELECT namespace, outcome, count AS number FROM cache.reads_v1")
    )
    return {(row.namespace, row.outcome): row.number for row in rows}
