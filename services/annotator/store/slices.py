"""Slices: the batches that store an accepted release, each some thousand genes of the catalogue."""

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.annotator.store import scope
from services.annotator.store.releases import Release

SLICE_GENES_MAX = 4_000  # Fewer are stored more slowly, and more hold others up for longer.


async def cut_slices(tx: AsyncConnection, release: Release) -> None:
    """Cut the catalogue into the slices of a release, in place of an older release's.

    A release that is accepted again, because its staged rows were lost, keeps its slices.
    """
    await tx.execute(
        text("""
            DELETE FROM batch USING release
            WHERE batch.source = :source AND batch.kind = 'store' AND release.id = batch.release_id
              AND release.id <> :release_id AND batch.state NOT IN ('done', 'dead')
        """),
        {"source": release.source, "release_id": release.id},
    )
    await tx.execute(
        text("""
            INSERT INTO batch (kind, source, release_id, genes)
            SELECT 'store', :source, :release_id, array_agg(hgnc_id ORDER BY place)
            FROM (SELECT hgnc_id, (row_number() OVER (ORDER BY hgnc_number) - 1) AS place
                  FROM gene WHERE status = 'approved') placed
            WHERE NOT EXISTS (SELECT FROM batch WHERE release_id = :release_id)
            GROUP BY place / :size ORDER BY place / :size
        """),
        {"source": release.source, "release_id": release.id, "size": SLICE_GENES_MAX},
    )


async def delete_slices(tx: AsyncConnection, release_id: UUID) -> None:
    """A release that is stored again is cut into batches again."""
    await tx.execute(
        text("DELETE FROM batch WHERE release_id = :release_id AND kind = 'store'"),
        {"release_id": release_id},
    )


async def revive_slices(tx: AsyncConnection, release_id: UUID) -> None:
    """Try again what is dead of a release that somebody asks for anew.

    Runs that follow it have counted those genes as failed; they will be counted again.
    """
    await tx.execute(
        text(f"""
            WITH taken_back AS (
                UPDATE run_source rs SET failed_count = rs.failed_count - dead.genes,
                    problem = CASE WHEN rs.failed_count > dead.genes THEN rs.problem END
                FROM (
                    SELECT rs.run_id, count(*) AS genes
                    FROM run_source rs JOIN run ON run.id = rs.run_id
                    JOIN batch b ON b.release_id = rs.release_id AND b.kind = 'store'
                        AND b.state = 'dead'
                    CROSS JOIN unnest(b.genes) AS g (hgnc_id)
                    WHERE rs.release_id = :release_id AND rs.state = 'running'
                      AND {scope.HAS_GENE}
                    GROUP BY rs.run_id
                ) dead
                WHERE rs.run_id = dead.run_id AND rs.release_id = :release_id
                RETURNING rs.run_id
            ), moved AS MATERIALIZED (  -- Locked in one order, as wherever several runs move.
                SELECT id FROM run WHERE id IN (SELECT run_id FROM taken_back)
                ORDER BY id FOR UPDATE
            )
            UPDATE run SET seq = seq + 1 FROM moved WHERE run.id = moved.id
        """),
        {"release_id": release_id},
    )
    await tx.execute(
        text("""
            UPDATE batch SET state = 'pending', attempt = 0, problem = NULL, finished_at = NULL,
                             next_attempt_at = now()
            WHERE release_id = :release_id AND kind = 'store' AND state = 'dead'
        """),
        {"release_id": release_id},
    )
