"""Runs: what was ordered, its plan, its facts and where it stands."""

from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.messages import RunFact, RunProgress, SourceProgress, StartRun
from services.annotator.errors import RunUnknown
from services.annotator.store import scope


async def insert_run(tx: AsyncConnection, command: StartRun) -> bool:
    """Note what is ordered. False when this run is known: the command came twice. Raises RunUnknown
    for a retry of a run that never was.

    A run over all genes waits for the catalogue when that is missing or older than its source's
    time to live; a list was resolved against the catalogue there was, and a dry run makes do with
    it.
    """
    all_genes, genes = command.genes is None, list(command.genes or ())
    if command.retries is not None:
        all_genes, genes = await _failed_scope(tx, command.retries, command.sources)
    inserted = await tx.execute(
        text("""
            INSERT INTO run (id, priority, strategy, retries, dry_run, all_genes, awaits_catalogue,
                             open_sources)
            SELECT :run_id, :priority, :strategy, :retries, :dry_run, :all_genes,
                :all_genes AND NOT :dry_run AND NOT EXISTS (
                SELECT FROM release r JOIN source s ON s.name = r.source
                WHERE s.is_catalogue AND r.state IN ('accepted', 'stored')
                  AND r.checked_at > now() - s.ttl
            ), :open_sources
            ON CONFLICT DO NOTHING
        """),
        {
            "run_id": command.run_id,
            "priority": command.priority,
            "strategy": command.strategy,
            "retries": command.retries,
            "dry_run": command.dry_run,
            "all_genes": all_genes,
            "open_sources": len(set(command.sources)),
        },
    )
    if inserted.rowcount == 0:
        return False
    await tx.execute(
        text("""
            INSERT INTO run_gene (run_id, hgnc_id)
            SELECT DISTINCT CAST(:run_id AS uuid), unnest(CAST(:genes AS text[]))
        """),
        {"run_id": command.run_id, "genes": genes},
    )
    await tx.execute(
        text("""
            INSERT INTO run_source (run_id, source)
            SELECT DISTINCT CAST(:run_id AS uuid), unnest(CAST(:sources AS text[]))
        """),
        {"run_id": command.run_id, "sources": list(command.sources)},
    )
    return True


async def _failed_scope(
    tx: AsyncConnection, run_id: UUID, sources: Sequence[str]
) -> tuple[bool, list[str]]:
    """Over which genes a retry of a run is: all of them, or these. Raises RunUnknown.

    For a bulk source they are the run's own; where APIs alone are asked, what failed there.
    """
    row = (
        await tx.execute(
            text("""
                WITH retried AS (
                    SELECT s.name, s.kind, NOT EXISTS (
                        SELECT FROM batch b WHERE b.run_id = :run_id AND b.source = s.name
                    ) AS has_no_batch
                    FROM source s WHERE s.name = ANY (CAST(:sources AS text[]))
                ), failed AS (
                    SELECT unnest(b.genes[b.checkpoint + 1 : cardinality(b.genes)]) AS hgnc_id
                    FROM batch b JOIN retried ON retried.name = b.source
                    WHERE b.run_id = :run_id AND b.state = 'dead'
                ), whole AS (
                    SELECT coalesce(bool_or(kind = 'bulk' OR has_no_batch), false) AS is_whole
                    FROM retried
                )
                SELECT is_whole AND run.all_genes AS all_genes, CASE
                    WHEN NOT is_whole THEN ARRAY(SELECT DISTINCT hgnc_id FROM failed)
                    ELSE ARRAY(SELECT hgnc_id FROM run_gene WHERE run_gene.run_id = run.id)
                    END AS genes
                FROM run, whole WHERE run.id = :run_id
            """),
            {"run_id": run_id, "sources": list(sources)},
        )
    ).one_or_none()
    if row is None:
        raise RunUnknown(f"run {run_id}, which is to be retried, was never noted here")
    return bool(row.all_genes), list(row.genes)


async def awaits_catalogue(tx: AsyncConnection, run_id: UUID) -> bool:
    waits = await tx.scalar(
        text("SELECT awaits_catalogue FROM run WHERE id = :run_id"), {"run_id": run_id}
    )
    return bool(waits)


async def declared_sources(tx: AsyncConnection) -> list[str]:
    """The sources that `annobus migrate` has declared, those that were removed since included:
    an order may have been on its way."""
    return list(await tx.scalars(text("SELECT name FROM source ORDER BY name")))


async def next_to_plan(tx: AsyncConnection, known: Iterable[str]) -> UUID | None:
    """The oldest run that can be planned here: its catalogue is there, or could not be had, and
    each of its sources is known, or was removed."""
    run_id: UUID | None = await tx.scalar(
        text("""
            SELECT id FROM run
            WHERE state = 'planning' AND NOT planned_all
              AND NOT (awaits_catalogue AND EXISTS (
                  SELECT FROM batch b JOIN source s ON s.name = b.source
                  WHERE s.is_catalogue AND b.kind = 'release' AND b.state NOT IN ('done', 'dead')
              ))
              AND NOT EXISTS (
                  SELECT FROM run_source rs JOIN source s ON s.name = rs.source
                  WHERE rs.run_id = run.id AND rs.state = 'waiting' AND NOT s.is_retired
                    AND rs.source <> ALL (CAST(:known AS text[])))
            ORDER BY started_at LIMIT 1
        """),
        {"known": list(known)},
    )
    return run_id


async def retired_sources(tx: AsyncConnection, run_id: UUID) -> list[str]:
    rows = await tx.scalars(
        text("""
            SELECT source FROM run_source JOIN source s ON s.name = source
            WHERE run_id = :run_id AND s.is_retired
        """),
        {"run_id": run_id},
    )
    return list(rows)


async def waiting_sources(tx: AsyncConnection, run_id: UUID) -> list[str]:
    rows = await tx.scalars(
        text("SELECT source FROM run_source WHERE run_id = :run_id AND state = 'waiting'"),
        {"run_id": run_id},
    )
    return list(rows)


async def waiting_for_few(
    tx: AsyncConnection, source: str, genes_max: int
) -> Mapping[UUID, list[str]]:
    """Runs that wait for this source with so many named genes in all, the shortest ones first."""
    rows = await tx.execute(
        text("""
            SELECT run_id, genes FROM (
                SELECT s.run_id, array_agg(s.hgnc_id) AS genes,
                       sum(count(*)) OVER (ORDER BY count(*), s.run_id) AS so_far
                FROM run_source rs JOIN run ON run.id = rs.run_id
                JOIN run_gene s ON s.run_id = rs.run_id
                WHERE rs.source = :source AND rs.state = 'waiting' AND run.planned_all
                  AND run.state <> 'paused' AND NOT rs.is_paused AND NOT run.dry_run
                GROUP BY s.run_id) waiting
            WHERE so_far <= :genes_max
        """),
        {"source": source, "genes_max": genes_max},
    )
    return {row.run_id: row.genes for row in rows}


async def lock_waiting_sources(tx: AsyncConnection, run_id: UUID) -> list[str]:
    """The sources of a run that nothing has begun for, locked in the order of every store."""
    rows = await tx.scalars(
        text("""
            SELECT source FROM run_source WHERE run_id = :run_id AND state = 'waiting'
            ORDER BY source FOR UPDATE
        """),
        {"run_id": run_id},
    )
    return list(rows)


async def drop_withdrawn_genes(tx: AsyncConnection, run_id: UUID) -> list[str]:
    """Let a list be its genes that are approved now, for each of its sources, whatever becomes of
    them later. Returns the others."""
    dropped = await tx.scalars(
        text("""
            DELETE FROM run_gene s WHERE s.run_id = :run_id AND NOT EXISTS (
                SELECT FROM gene g WHERE g.hgnc_id = s.hgnc_id AND g.status = 'approved')
            RETURNING s.hgnc_id
        """),
        {"run_id": run_id},
    )
    return list(dropped)


async def count_genes(tx: AsyncConnection, run_id: UUID) -> int:
    """How many genes a run is over."""
    count = await tx.scalar(
        text(f"SELECT (SELECT count(*) FROM ({scope.GENES}) g) FROM run WHERE id = :run_id"),
        {"run_id": run_id},
    )
    return int(count or 0)


async def set_total(tx: AsyncConnection, run_id: UUID, source: str, total: int) -> None:
    await tx.execute(
        text("""
            UPDATE run_source SET total_count = :total WHERE run_id = :run_id AND source = :source
        """),
        {"run_id": run_id, "source": source, "total": total},
    )


async def mark_unaskable(tx: AsyncConnection, source: str, genes: Sequence[str]) -> list[str]:
    """Note that genes without the identifier a source needs have no data there.

    Returns those for which that is news.
    """
    rows = await tx.execute(
        text("""
            INSERT INTO checked (hgnc_id, source, checked_at, retrieved_at, outcome)
            SELECT g.hgnc_id, :source, now(), now(), 'empty'
            FROM unnest(CAST(:genes AS text[])) AS g (hgnc_id) ORDER BY g.hgnc_id
            -- A value from when it had one stays, and grows stale: nobody has said that it is gone.
            ON CONFLICT (hgnc_id, source) DO UPDATE SET
                checked_at = excluded.checked_at, retrieved_at = excluded.retrieved_at,
                outcome = 'empty', problem = NULL
            WHERE checked.outcome <> 'ok' AND NOT EXISTS (
                SELECT FROM annotation a
                WHERE a.hgnc_id = checked.hgnc_id AND a.source = checked.source
                  AND a.valid_to = 'infinity' AND a.value IS NOT NULL)
            RETURNING new.hgnc_id, old.outcome IS DISTINCT FROM new.outcome AS changed
        """),
        {"source": source, "genes": list(genes)},
    )
    return [row.hgnc_id for row in rows if row.changed]


async def mark_planned(tx: AsyncConnection, run_id: UUID, gene_count: int) -> int | None:
    """The plan is complete. Returns the fact's seq, or None when it was complete before."""
    seq: int | None = await tx.scalar(
        text("""
            UPDATE run SET planned_all = true, gene_count = :gene_count, seq = seq + 1,
                           state = CASE state WHEN 'planning' THEN 'running' ELSE state END
            WHERE id = :run_id AND NOT planned_all
            RETURNING seq
        """),
        {"run_id": run_id, "gene_count": gene_count},
    )
    return seq


async def save_facts(tx: AsyncConnection, facts: Sequence[RunFact]) -> None:
    """Keep facts as rows: what a client that comes back reads from."""
    if not facts:
        return
    await tx.execute(
        text("""
            INSERT INTO run_fact (run_id, seq, type, body)
            SELECT * FROM unnest(CAST(:run_ids AS uuid[]), CAST(:seqs AS bigint[]),
                                 CAST(:types AS text[]), CAST(:bodies AS jsonb[]))
        """),
        {
            "run_ids": [fact.run_id for fact in facts],
            "seqs": [fact.seq for fact in facts],
            "types": [fact.type for fact in facts],
            "bodies": [fact.model_dump_json() for fact in facts],
        },
    )


async def get_progress(connection: AsyncConnection, run_id: UUID) -> RunProgress | None:
    """Where a run stands, in one statement, so that its counters fit together."""
    rows = (
        await connection.execute(
            text("""
                SELECT r.seq, r.state AS run_state, s.*, s.problem::text AS problem_text
                FROM run_v1 r JOIN run_source_v1 s ON s.run_id = r.run_id
                WHERE r.run_id = :run_id ORDER BY s.source
            """),
            {"run_id": run_id},
        )
    ).mappings()
    found = list(rows)
    if not found:
        return None
    sources: Mapping[str, SourceProgress] = {
        row["source"]: SourceProgress(
            state=row["state"],
            total_count=row["total_count"],
            done_count=row["done_count"],
            no_data_count=row["no_data_count"],
            failed_count=row["failed_count"],
            cancelled_count=row["cancelled_count"],
            release=row["release"],
            synthetic=row["synthetic"],
            problem=orjson.loads(row["problem_text"]) if row["problem_text"] else None,
            waits_for=row["waits_for"],
            waits_until=row["waits_until"],
            waits_because=row["waits_because"],
        )
        for row in found
    }
    return RunProgress.of(run_id, found[0]["seq"], found[0]["run_state"], sources)
