"""Dry runs: what a source would be asked for, or what its newest release would change."""

from collections.abc import Mapping
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.messages import RunFact
from services.annotator.domain import Counts
from services.annotator.store import counting, scope
from services.annotator.store.releases import Release


async def complete_source(
    tx: AsyncConnection, run_id: UUID, source: str, preview: Mapping[str, object]
) -> list[RunFact]:
    """Keep what a dry run has found out of a source: it fetches nothing, so its total is 0."""
    await tx.execute(
        text("""
            UPDATE run_source SET preview = CAST(:preview AS jsonb)
            WHERE run_id = :run_id AND source = :source
        """),
        {"run_id": run_id, "source": source, "preview": orjson.dumps(preview).decode()},
    )
    return list((await counting.advance(tx, run_id, source, Counts())).facts)


async def preview_runs(tx: AsyncConnection, release: Release) -> list[RunFact]:
    """Tell every dry run that waits for this source what the release would change of its genes.

    What is stored already changes nothing. The caller holds the source's store lock, and has not
    accepted the release yet.
    """
    rows = await tx.execute(
        text(f"""
            WITH waiting AS (
                SELECT run.* FROM run_source rs JOIN run ON run.id = rs.run_id
                WHERE rs.source = :source AND rs.state = 'waiting' AND run.dry_run
                  AND run.planned_all
            ), compared AS (
                SELECT run.id AS run_id, a.value AS before, a.digest AS digest_before,
                       CASE WHEN :is_stored THEN a.value ELSE s.value END AS after,
                       CASE WHEN :is_stored THEN a.digest ELSE s.digest END AS digest_after
                FROM waiting run CROSS JOIN LATERAL ({scope.GENES}) g
                LEFT JOIN LATERAL (
                    SELECT a.value, a.digest FROM annotation a
                    WHERE a.hgnc_id = g.hgnc_id AND a.source = :source AND a.valid_to = 'infinity'
                      AND a.value IS NOT NULL LIMIT 1) a ON true
                LEFT JOIN LATERAL (
                    SELECT s.value, s.digest FROM staged s
                    WHERE s.release_id = :release_id AND s.hgnc_id = g.hgnc_id LIMIT 1) s ON true
            ), judged AS (
                SELECT run_id, CASE
                    WHEN digest_before IS NULL THEN 'new'
                    WHEN digest_after IS NULL THEN 'withdrawn'
                    WHEN digest_before <> digest_after THEN 'changed'
                    ELSE 'unchanged' END AS becomes, before, after
                FROM compared WHERE digest_before IS NOT NULL OR digest_after IS NOT NULL
            ), weighed AS (
                SELECT run_id, becomes, CASE
                    WHEN becomes <> 'unchanged' AND NOT :is_one_change THEN coalesce(severity_of(
                        (SELECT severities FROM source WHERE name = :source), before, after),
                        'none') END AS severity
                FROM judged
            )
            SELECT waiting.id AS run_id,
                   count(*) FILTER (WHERE becomes = 'new') AS new_count,
                   count(*) FILTER (WHERE becomes = 'changed') AS changed_count,
                   count(*) FILTER (WHERE becomes = 'withdrawn') AS withdrawn_count,
                   count(*) FILTER (WHERE becomes = 'unchanged') AS unchanged_count,
                   count(*) FILTER (WHERE severity = 'none') AS none,
                   count(*) FILTER (WHERE severity = 'minor') AS minor,
                   count(*) FILTER (WHERE severity = 'major') AS major,
                   count(*) FILTER (WHERE severity = 'clinical') AS clinical
            FROM waiting LEFT JOIN weighed ON weighed.run_id = waiting.id
            GROUP BY waiting.id ORDER BY waiting.id
        """),
        {
            "source": release.source,
            "release_id": release.id,
            "is_stored": release.state == "stored",
            "is_one_change": release.cause is None or release.is_new_method,
        },
    )
    facts: list[RunFact] = []
    for row in rows.all():
        preview = {
            "release": release.version,
            "is_new_release": release.state != "stored",
            "new_count": row.new_count,
            "changed_count": row.changed_count,
            "withdrawn_count": row.withdrawn_count,
            "unchanged_count": row.unchanged_count,
            "severities": {
                "none": row.none,
                "minor": row.minor,
                "major": row.major,
                "clinical": row.clinical,
            },
        }
        facts += await complete_source(tx, row.run_id, release.source, preview)
    return facts
