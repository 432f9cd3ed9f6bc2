"""Statistics as the cache has made them."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

Row = Mapping[str, Any]


async def list_sources(connection: AsyncConnection) -> list[Row]:
    """Each source with its counts, and the mean and the median of its score; null where it
    declares none, and all null before the first statistics were made."""
    rows = await connection.execute(
        text("""
            SELECT s.name, s.title, s.kind, s.is_retired, s.release, s.synthetic, s.ttl_seconds,
                t.gene_count, t.annotation_count, t.no_data_count, t.pending_count, t.error_count,
                t.stale_count, t.oldest_checked_at, t.newest_checked_at, t.as_of,
                s.score, f.known_count AS score_count, f.mean AS score_mean,
                f.median AS score_median
            FROM annotator.source_v1 s
            LEFT JOIN cache.source_statistics_v1 t ON t.source = s.name
            LEFT JOIN cache.field_statistics_v1 f ON f.source = s.name AND f.field = s.score
            ORDER BY NOT s.is_catalogue, s.name
        """)
    )
    return [dict(row) for row in rows.mappings()]


async def list_fields(connection: AsyncConnection) -> list[Row]:
    rows = await connection.execute(
        text("""
            SELECT source, field, known_count, mean, median, least, greatest
            FROM cache.field_statistics_v1 ORDER BY source, field
        """)
    )
    return [dict(row) for row in rows.mappings()]


async def cover(connection: AsyncConnection, hgnc_ids: Sequence[str]) -> list[Row]:
    """How many of these genes each source has a value of, and those that it has none of."""
    rows = await connection.execute(
        text("""
            SELECT s.name AS source, s.release, s.synthetic,
                count(g.hgnc_id) FILTER (WHERE g.sources @> ARRAY[s.name]) AS annotation_count,
                count(*) AS gene_count,
                coalesce(array_agg(asked.hgnc_id ORDER BY asked.place)
                    FILTER (WHERE g.sources @> ARRAY[s.name] IS NOT TRUE), '{}') AS without
            FROM annotator.source_v1 s
            CROSS JOIN unnest(CAST(:hgnc_ids AS text[])) WITH ORDINALITY AS asked (hgnc_id, place)
            LEFT JOIN cache.gene_summary_v1 g ON g.hgnc_id = asked.hgnc_id
            WHERE NOT s.is_retired
            GROUP BY s.name, s.release, s.synthetic, s.is_catalogue
            ORDER BY NOT s.is_catalogue, s.name
        """),
        {"hgnc_ids": list(hgnc_ids)},
    )
    return [dict(row) for row in rows.mappings()]


async def list_overlaps(
    connection: AsyncConnection, sources: Sequence[str] | None, limit: int
) -> list[Row]:
    """How many genes have values of exactly these, of the sources that are asked for; most genes
    first."""
    rows = await connection.execute(
        text("""
            SELECT sources, sum(gene_count)::bigint AS gene_count FROM (
                SELECT CASE WHEN CAST(:sources AS text[]) IS NULL THEN sources
                    ELSE ARRAY(SELECT one FROM unnest(sources) one
                               WHERE one = ANY (CAST(:sources AS text[])) ORDER BY 1)
                    END AS sources, gene_count
                FROM cache.overlap_v1) chosen
            GROUP BY sources ORDER BY 2 DESC, 1 LIMIT :limit
        """),
        {"sources": sources, "limit": limit},
    )
    return [dict(row) for row in rows.mappings()]
