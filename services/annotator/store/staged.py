"""Staged rows of a release: made in a child process, lost in a database crash, dropped in time."""

from collections.abc import Mapping
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.annotator.domain import Unmapped
from services.annotator.errors import LeaseLost
from services.chassis.errors import Problem

UNMAPPED_MAX = 50_000  # Kept entries of one release; the count is of all.
DROP_LOCK_TIMEOUT = "100ms"  # The planner, which feeds everybody, waits for it.


async def is_staged(tx: AsyncConnection, release_id: UUID) -> bool:
    staged = await tx.scalar(
        text("SELECT EXISTS (SELECT FROM staged_release WHERE release_id = :release_id)"),
        {"release_id": release_id},
    )
    return bool(staged)


async def clear_staged(tx: AsyncConnection, release_id: UUID) -> None:
    for table in ("staged", "staged_release", "unmapped"):
        await tx.execute(
            text(f"DELETE FROM {table} WHERE release_id = :release_id"), {"release_id": release_id}
        )


async def unstage_release(tx: AsyncConnection, release_id: UUID) -> None:
    """Back to its raw bytes: its rows are gone, or were matched against an older catalogue."""
    await clear_staged(tx, release_id)
    await tx.execute(
        text("""
            UPDATE release SET state = 'fetched', accepted_at = NULL, stored_at = NULL
            WHERE id = :release_id AND state IN ('staged', 'accepted', 'stored')
        """),
        {"release_id": release_id},
    )


async def finish_staging(
    tx: AsyncConnection,
    batch_id: UUID,
    lease_token: int,
    release_id: UUID,
    catalogue_id: UUID | None,
    version: str,
    row_count: int,
    unmapped: Mapping[tuple[str, str], int],
) -> None:
    """Mark the rows as complete. Raises LeaseLost when another worker stages this release now."""
    await _require_lease(tx, batch_id, lease_token)
    kept = list(unmapped.items())[:UNMAPPED_MAX]
    await tx.execute(
        text("""
            INSERT INTO unmapped (release_id, key, reason, row_count, position)
            SELECT :release_id, * FROM unnest(CAST(:keys AS text[]), CAST(:reasons AS text[]),
                                              CAST(:counts AS integer[])) WITH ORDINALITY
        """),
        {
            "release_id": release_id,
            "keys": [key for (key, _), _ in kept],
            "reasons": [reason for (_, reason), _ in kept],
            "counts": [count for _, count in kept],
        },
    )
    await tx.execute(
        text("INSERT INTO staged_release (release_id) VALUES (:release_id)"),
        {"release_id": release_id},
    )
    await tx.execute(
        text("""
            UPDATE release SET state = 'staged', version = :version, row_count = :row_count,
                               unmapped_count = :unmapped_count, catalogue_id = :catalogue_id
            WHERE id = :release_id AND state IN ('fetched', 'staged')
        """),
        {
            "release_id": release_id,
            "version": version,
            "row_count": row_count,
            "unmapped_count": len(unmapped),
            "catalogue_id": catalogue_id,
        },
    )


async def reject_release(
    tx: AsyncConnection, batch_id: UUID, lease_token: int, release_id: UUID, problem: Problem
) -> None:
    """Raises LeaseLost when another worker stages this release now."""
    await _require_lease(tx, batch_id, lease_token)
    await tx.execute(
        text("""
            UPDATE release SET state = 'rejected', problem = CAST(:problem AS jsonb)
            WHERE id = :release_id AND state = 'fetched'
        """),
        {"release_id": release_id, "problem": orjson.dumps(problem).decode()},
    )


async def _require_lease(tx: AsyncConnection, batch_id: UUID, lease_token: int) -> None:
    held = await tx.scalar(
        text("""
            SELECT true FROM batch
            WHERE id = :batch_id AND state = 'leased' AND lease_token = :lease_token FOR UPDATE
        """),
        {"batch_id": batch_id, "lease_token": lease_token},
    )
    if not held:
        raise LeaseLost(batch_id, lease_token)


async def drop_stored_rows(tx: AsyncConnection) -> int:
    """Let go of staged rows that nobody needs any more; the raw bytes can make them again.

    Raises at once when a child process that stages one of these releases anew holds its rows.
    """
    await tx.execute(text(f"SET LOCAL lock_timeout = '{DROP_LOCK_TIMEOUT}'"))
    dropped = await tx.execute(
        text("""
            DELETE FROM staged_release USING release
            WHERE release.id = staged_release.release_id
              AND (release.state IN ('stored', 'rejected') OR EXISTS (  -- Or superseded.
                  SELECT FROM release newer
                  WHERE newer.source = release.source AND newer.state IN ('accepted', 'stored')
                    AND newer.retrieved_at > release.retrieved_at))
            RETURNING release_id
        """)
    )
    for row in dropped.all():
        await tx.execute(
            text("DELETE FROM staged WHERE release_id = :release_id"),
            {"release_id": row.release_id},
        )
    return dropped.rowcount


def count_unmapped(found: dict[tuple[str, str], int], entry: Unmapped) -> None:
    key = (entry.key, entry.reason)
    found[key] = found.get(key, 0) + entry.row_count
