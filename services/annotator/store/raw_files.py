"""Which raw files somebody needs still, and which may go."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


async def list_droppable(tx: AsyncConnection, age: timedelta) -> list[bytes]:
    """Hashes of files that nobody needs and that were retrieved longer ago than this, the oldest
    first.

    Needed are the files of a release that waits for something, of the newest one that readers rely
    on, and of each from which a value was read that holds now. Of an API it is the single answer.
    """
    rows = await tx.scalars(
        text("""
            WITH in_use AS MATERIALIZED (
                SELECT DISTINCT release_id, file_id FROM annotation
                WHERE valid_to = 'infinity' AND value IS NOT NULL
            ), needed AS MATERIALIZED (
                SELECT file_id AS id FROM in_use
                UNION
                SELECT f.id FROM release_file f JOIN release r ON r.id = f.release_id
                WHERE r.sha256 IS NOT NULL AND (
                    r.state IN ('fetched', 'staged', 'quarantined', 'accepted')
                    OR r.id IN (SELECT release_id FROM in_use)
                    OR r.id IN (SELECT DISTINCT ON (source) id FROM release
                                WHERE readable_since IS NOT NULL
                                ORDER BY source, retrieved_at DESC))
            )
            SELECT f.sha256 FROM release_file f
            WHERE f.removed_at IS NULL
            GROUP BY f.sha256
            HAVING max(f.retrieved_at) <= now() - CAST(:age AS interval)
               AND bool_and(f.id NOT IN (SELECT id FROM needed))
            ORDER BY max(f.retrieved_at)
        """),
        {"age": age},
    )
    return list(rows)


async def mark_removed(tx: AsyncConnection, sha256s: Sequence[bytes]) -> None:
    """What was read from them stays, and says that its raw record is gone."""
    await tx.execute(
        text("""
            UPDATE release_file SET removed_at = now()
            WHERE sha256 = ANY(CAST(:sha256s AS bytea[])) AND removed_at IS NULL
        """),
        {"sha256s": list(sha256s)},
    )


async def mark_kept(tx: AsyncConnection, sha256s: Sequence[bytes]) -> None:
    """They could not be removed."""
    await tx.execute(
        text("""
            UPDATE release_file SET removed_at = NULL WHERE sha256 = ANY(CAST(:sha256s AS bytea[]))
        """),
        {"sha256s": list(sha256s)},
    )
