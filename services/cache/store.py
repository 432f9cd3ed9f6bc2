"""SQL of the cache: documents, and genes to rebuild."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import database

REBUILDER = "rebuilder"  # The rebuilder's duty: one process at a time, and what wakes it.


async def wake_rebuilder(tx: AsyncConnection) -> None:
    await database.notify(tx, REBUILDER)


async def mark_dirty(
    tx: AsyncConnection, hgnc_ids: Sequence[str], sources: Sequence[str] = ()
) -> None:
    """Remember genes whose documents must be rebuilt, and those in which a source says something.
    Who comes again finds them marked."""
    await tx.execute(
        text("""
            INSERT INTO dirty_gene (hgnc_id)
            SELECT unnest(CAST(:hgnc_ids AS text[]))
            UNION SELECT hgnc_id FROM gene
                WHERE cardinality(CAST(:sources AS text[])) > 0
                    AND annotated_by && CAST(:sources AS text[])
            ORDER BY 1
            ON CONFLICT DO NOTHING
        """),
        {"hgnc_ids": list(hgnc_ids), "sources": list(sources)},
    )


async def mark_all_dirty(tx: AsyncConnection) -> None:
    await tx.execute(
        text("""
            INSERT INTO dirty_gene (hgnc_id)
            SELECT hgnc_id FROM annotator.gene_v1 WHERE status = 'approved'
            UNION SELECT hgnc_id FROM gene
            ORDER BY 1
            ON CONFLICT DO NOTHING
        """)
    )


async def take_dirty(tx: AsyncConnection, genes_max: int) -> list[str]:
    """Take marks away in this transaction: who marks a gene again meanwhile marks it anew.

    Never those that another transaction is taking: no two rebuild one gene at a time.
    """
    rows = await tx.scalars(
        text("""
            -- An array is made once. A subquery is asked again for each row, and then takes all,
            -- when the table was empty at the time of its statistics, as it mostly is.
            DELETE FROM dirty_gene WHERE hgnc_id = ANY (ARRAY(
                SELECT hgnc_id FROM dirty_gene ORDER BY hgnc_id LIMIT :genes_max
                FOR UPDATE SKIP LOCKED))
            RETURNING hgnc_id
        """),
        {"genes_max": genes_max},
    )
    return list(rows)


async def note_change(tx: AsyncConnection) -> None:
    """Statistics are to be made anew."""
    await tx.execute(text("SELECT nextval('document_change')"))


@dataclass(frozen=True)
class Rebuilt:
    hgnc_id: str
    version: int


async def rebuild(tx: AsyncConnection, hgnc_ids: Sequence[str]) -> list[Rebuilt]:
    """Build documents anew, and what is filtered by. Returns those that differ, with their new
    version.

    A document has what sources said of its gene. What follows from a source alone, that it has
    nothing to say of a gene or that what it said is stale, readers add.
    """
    rows = await tx.execute(
        text("""
            WITH fresh AS (
                SELECT g.hgnc_id, g.status, g.listed_at, said.annotated_by, json_build_object(
                    'hgnc_id', g.hgnc_id, 'symbol', g.symbol, 'name', g.name,
                    'status', g.status, 'successors', g.successors,
                    'locus_group', g.locus_group, 'locus_type', g.locus_type,
                    'location', g.location, 'entrez_id', g.entrez_id,
                    'ensembl_gene_id', g.ensembl_gene_id, 'annotations', said.annotations)
                    AS document
                FROM unnest(CAST(:hgnc_ids AS text[])) AS dirty (hgnc_id)
                CROSS JOIN LATERAL (  -- As in D34: one look-up per gene.
                    SELECT * FROM annotator.gene_v1 g WHERE g.hgnc_id = dirty.hgnc_id LIMIT 1) g
                CROSS JOIN LATERAL (
                    SELECT coalesce(array_agg(source ORDER BY source), '{}') AS annotated_by,
                        coalesce(json_object_agg(source, json_build_object(
                            'status', CASE WHEN c.outcome = 'error' THEN 'error'
                                           WHEN a.value IS NULL THEN 'empty' ELSE 'ok' END,
                            'value', a.value, 'release', r.version,
                            'synthetic', coalesce(r.synthetic, false),
                            'valid_from', a.valid_from) ORDER BY source), '{}') AS annotations
                    FROM (SELECT * FROM annotator.annotation_v1
                          WHERE hgnc_id = dirty.hgnc_id AND is_current) a
                    FULL JOIN (SELECT * FROM annotator.checked_v1
                               WHERE hgnc_id = dirty.hgnc_id) c USING (source)
                    LEFT JOIN LATERAL (
                        SELECT version, synthetic FROM annotator.release_v1
                        WHERE release_id = a.release_id LIMIT 1) r ON true
                ) said
            )
            INSERT INTO gene (hgnc_id, version, document, status, annotated_by, listed_at)
            SELECT hgnc_id, 1, document, status, annotated_by, listed_at FROM fresh
            ON CONFLICT (hgnc_id) DO UPDATE SET
                version = gene.version + 1, document = excluded.document,
                status = excluded.status, annotated_by = excluded.annotated_by,
                listed_at = excluded.listed_at
            WHERE gene.document::text <> excluded.document::text
               OR gene.listed_at <> excluded.listed_at
            RETURNING hgnc_id, version
        """),
        {"hgnc_ids": list(hgnc_ids)},
    )
    rebuilt = [Rebuilt(row.hgnc_id, row.version) for row in rows]
    if rebuilt:
        await note_change(tx)
    await tx.execute(text("SELECT summarise(:hgnc_ids)"), {"hgnc_ids": list(hgnc_ids)})
    return rebuilt
