"""What a staged release is compared with: the release that readers rely on, and its values."""

from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.annotator.judging import Baseline


async def find_baseline(tx: AsyncConnection, release_id: UUID) -> Baseline | None:
    """None when readers have no release of this source yet. The release's rows must be staged."""
    row = (
        await tx.execute(
            text("""
                SELECT b.source, b.row_count, coalesce(b.columns, '{}')::text AS columns,
                       coalesce(b.counts, '{}')::text AS counts,
                       b.row_count IS NOT NULL AND b.method = r.method AND b.synthetic = r.synthetic
                       AND b.sha256 IS DISTINCT FROM r.sha256 AS is_comparable,
                       (SELECT coalesce(jsonb_object_agg(f.name, f.media_type), '{}')
                        FROM release_file f WHERE f.release_id = b.id)::text AS media_types
                FROM release r CROSS JOIN LATERAL (
                    SELECT * FROM release b
                    WHERE b.source = r.source AND b.readable_since IS NOT NULL
                    ORDER BY b.retrieved_at DESC LIMIT 1
                ) b
                WHERE r.id = :release_id
            """),
            {"release_id": release_id},
        )
    ).one_or_none()
    if row is None:
        return None
    current = churn = 0
    if row.is_comparable:
        current, churn = await _count_churn(tx, release_id, row.source)
    return Baseline(
        record_count=row.row_count or 0,
        columns=orjson.loads(row.columns),
        counts=orjson.loads(row.counts),
        media_types=orjson.loads(row.media_types),
        is_comparable=row.is_comparable,
        current_count=current,
        churn_count=churn,
    )


async def _count_churn(tx: AsyncConnection, release_id: UUID, source: str) -> tuple[int, int]:
    """The values that readers have, and those of them that would be another or none."""
    row = (
        await tx.execute(
            text("""
                SELECT count(*) AS current,
                       count(*) FILTER (WHERE s.digest IS DISTINCT FROM a.digest) AS churn
                FROM annotation a JOIN gene g ON g.hgnc_id = a.hgnc_id AND g.status = 'approved'
                LEFT JOIN staged s ON s.release_id = :release_id AND s.hgnc_id = a.hgnc_id
                WHERE a.source = :source AND a.valid_to = 'infinity' AND a.value IS NOT NULL
            """),
            {"release_id": release_id, "source": source},
        )
    ).one()
    return row.current, row.churn
