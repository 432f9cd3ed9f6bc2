"""Staged rows of a release: made in a child process, lost in a database crash, dropped in time."""

from collections.abc import Mapping, Sequence
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.annotator.domain import Doubt
from services.annotator.errors import LeaseLost
from services.annotator.judging import Reading
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
    release_id: UUID,
    catalogue_id: UUID | None,
    version: str,
    found: Reading,
    unmapped: Mapping[tuple[str, str], int],
    doubts: Sequence[Doubt],
) -> None:
    """Mark the rows as complete, and the release as one that can be accepted or is doubtful; note
    why its values will differ from those that readers have."""
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
            UPDATE release r SET
                state = CASE WHEN CAST(:doubts AS jsonb) IS NULL THEN 'staged'
                             ELSE 'quarantined' END,
                version = :version, row_count = :row_count, unmapped_count = :unmapped_count,
                catalogue_id = :catalogue_id, columns = CAST(:columns AS jsonb),
                counts = CAST(:counts AS jsonb),
                doubts = coalesce(CAST(:doubts AS jsonb), r.doubts),
                baseline_id = b.id,
                is_new_method = coalesce(b.method <> r.method, false),
                cause = CASE
                    WHEN b.id IS NULL THEN NULL  -- The first one: nothing is another than before.
                    WHEN b.id = r.id THEN 'mapping'
                    WHEN b.sha256 = r.sha256 AND b.parser_version <> r.parser_version THEN 'parser'
                    WHEN b.sha256 = r.sha256 THEN 'mapping'
                    WHEN b.version = :version THEN 'correction'  -- The same name for other bytes.
                    ELSE 'upstream' END
            FROM (SELECT) one LEFT JOIN LATERAL (
                SELECT * FROM release b
                WHERE b.source = (SELECT source FROM release WHERE id = :release_id)
                  AND b.readable_since IS NOT NULL
                ORDER BY b.retrieved_at DESC LIMIT 1
            ) b ON true
            WHERE r.id = :release_id AND r.state IN ('fetched', 'staged')
        """),
        {
            "release_id": release_id,
            "version": version,
            "row_count": found.record_count,
            "unmapped_count": found.unmapped_count,
            "catalogue_id": catalogue_id,
            "columns": orjson.dumps(found.columns).decode(),
            "counts": orjson.dumps(found.counts).decode(),
            "doubts": orjson.dumps(list(doubts)).decode() if doubts else None,
        },
    )


async def reject_release(tx: AsyncConnection, release_id: UUID, problem: Problem) -> None:
    """Its form is none that we read."""
    await tx.execute(
        text("""
            UPDATE release SET state = 'rejected', problem = CAST(:problem AS jsonb)
            WHERE id = :release_id AND state = 'fetched'
        """),
        {"release_id": release_id, "problem": orjson.dumps(problem).decode()},
    )


async def require_lease(tx: AsyncConnection, batch_id: UUID, lease_token: int) -> None:
    """Raises LeaseLost when another worker stages the batch's release now."""
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
