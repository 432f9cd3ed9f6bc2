"""The gene catalogue: read for joining and asking, rewritten as a whole from one release."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.messages import (
    GeneEvent,
    GeneMerged,
    GeneRenamed,
    GeneRestored,
    GeneSplit,
    GeneWithdrawn,
)
from services.annotator.domain import Catalogue, Gene

GIVEN_UP_MAX = 4_000  # Stored beside one slice, and a release of the catalogue has ten of them.


async def get_catalogue(tx: AsyncConnection) -> Catalogue:
    """All approved genes, in the order of their numbers."""
    rows = await tx.execute(
        text("""
            SELECT hgnc_id, symbol, entrez_id, ensembl_gene_id FROM gene
            WHERE status = 'approved' ORDER BY hgnc_number
        """)
    )
    return Catalogue([Gene(*row) for row in rows])


async def get_genes(tx: AsyncConnection, hgnc_ids: Sequence[str]) -> list[Gene]:
    """Genes of the catalogue with the identifiers that upstreams know them by, in this order."""
    rows = await tx.execute(
        text("""
            SELECT g.hgnc_id, g.symbol, g.entrez_id, g.ensembl_gene_id
            FROM unnest(CAST(:hgnc_ids AS text[])) WITH ORDINALITY AS asked (hgnc_id, place)
            JOIN gene g ON g.hgnc_id = asked.hgnc_id ORDER BY asked.place
        """),
        {"hgnc_ids": list(hgnc_ids)},
    )
    return [Gene(**row._mapping) for row in rows]


async def current_catalogue_id(tx: AsyncConnection) -> UUID | None:
    """The release that the tables gene and gene_name were last written from."""
    catalogue_id: UUID | None = await tx.scalar(
        text("""
            SELECT r.id FROM release r JOIN source s ON s.name = r.source
            WHERE s.is_catalogue AND r.state IN ('accepted', 'stored')
            ORDER BY r.retrieved_at DESC LIMIT 1
        """)
    )
    return catalogue_id


async def list_given_up(tx: AsyncConnection, source: str, release_id: UUID) -> list[str]:
    """Some genes that are not approved any more and of which the staged release of the catalogue's
    source says something else than the version that holds; none when all of them are stored.

    No slice has them, because no run counts them: without a version of their own, what is asked
    for of a later time would have them approved.
    """
    rows = await tx.scalars(
        text("""
            SELECT g.hgnc_id FROM gene g CROSS JOIN LATERAL (
                SELECT a.digest FROM annotation a
                WHERE a.hgnc_id = g.hgnc_id AND a.source = :source AND a.valid_to = 'infinity'
                  AND a.value IS NOT NULL LIMIT 1
            ) a
            LEFT JOIN staged s ON s.release_id = :release_id AND s.hgnc_id = g.hgnc_id
            WHERE g.status <> 'approved' AND s.digest IS DISTINCT FROM a.digest
            LIMIT :genes_max
        """),
        {"source": source, "release_id": release_id, "genes_max": GIVEN_UP_MAX},
    )
    return list(rows)


@dataclass(frozen=True)
class Rewritten:
    """What a release made of the catalogue.

    `restated` are the known genes whose status is another now: what else changes is in a gene's
    value, and told when that is stored; a gene that comes back may have the value that it had.
    `events` are what became of known genes, `approved_count` is how many are new.
    """

    restated: Sequence[str]
    events: Sequence[GeneEvent]
    approved_count: int


async def rewrite_catalogue(tx: AsyncConnection, release_id: UUID) -> Rewritten:
    """Make the staged release of the catalogue's source the catalogue, all at once.

    Genes that it does not name any more keep their row: annotations stay attached to their id.
    """
    row = (
        await tx.execute(
            text("""
                WITH rewritten AS (
                    INSERT INTO gene (hgnc_id, symbol, name, status, locus_group, locus_type,
                                      location, entrez_id, ensembl_gene_id, successors, listed_at)
                    SELECT s.hgnc_id, v.*, r.retrieved_at
                    FROM staged s JOIN release r ON r.id = s.release_id
                    CROSS JOIN LATERAL json_to_record(s.value)
                        AS v (symbol text, name text, status text, locus_group text,
                              locus_type text, location text, entrez_id text,
                              ensembl_gene_id text, successors text[])
                    WHERE s.release_id = :release_id
                    ON CONFLICT (hgnc_id) DO UPDATE SET
                        symbol = excluded.symbol, name = excluded.name, status = excluded.status,
                        locus_group = excluded.locus_group, locus_type = excluded.locus_type,
                        location = excluded.location, entrez_id = excluded.entrez_id,
                        ensembl_gene_id = excluded.ensembl_gene_id,
                        successors = excluded.successors,
                        listed_at = CASE WHEN gene.status <> 'approved'
                                          AND excluded.status = 'approved'
                                         THEN excluded.listed_at ELSE gene.listed_at END
                    WHERE (gene.symbol, gene.name, gene.status, gene.locus_group, gene.locus_type,
                           gene.location, gene.entrez_id, gene.ensembl_gene_id, gene.successors)
                        IS DISTINCT FROM
                          (excluded.symbol, excluded.name, excluded.status, excluded.locus_group,
                           excluded.locus_type, excluded.location, excluded.entrez_id,
                           excluded.ensembl_gene_id, excluded.successors)
                    RETURNING old.status AS status_before, old.symbol AS symbol_before,
                              old.successors AS successors_before, new.*
                ), absent AS (
                    UPDATE gene SET status = 'withdrawn' WHERE status = 'approved' AND NOT EXISTS (
                        SELECT FROM staged s
                        WHERE s.release_id = :release_id AND s.hgnc_id = gene.hgnc_id)
                    RETURNING old.status AS status_before, old.symbol AS symbol_before,
                              old.successors AS successors_before, new.*
                ), step AS (
                    SELECT *, (SELECT count(DISTINCT successor) FROM unnest(successors) successor)
                        AS successor_count
                    FROM (SELECT * FROM rewritten UNION ALL SELECT * FROM absent) known
                    WHERE status_before IS NOT NULL  -- Else the gene is new.
                ), told AS (
                    SELECT *, CASE
                        WHEN status = 'approved' AND status_before <> 'approved' THEN 'restored'
                        WHEN status = 'approved' AND symbol <> symbol_before THEN 'renamed'
                        -- Given up now, or said to have other successors than before.
                        WHEN status <> 'approved' AND (status_before = 'approved' OR NOT (
                            successors @> successors_before AND successors <@ successors_before))
                        THEN CASE successor_count
                            WHEN 0 THEN 'withdrawn' WHEN 1 THEN 'merged' ELSE 'split' END
                        END AS kind
                    FROM step
                ), event AS (
                    INSERT INTO gene_event (hgnc_id, kind, symbol_before, symbol_after, successors,
                                            release_id)
                    SELECT hgnc_id, kind, symbol_before, symbol, successors, :release_id
                    FROM told WHERE kind IS NOT NULL ORDER BY hgnc_number
                    RETURNING id, hgnc_id, kind, symbol_before, symbol_after, successors,
                              release_id
                )  -- Only these: 44,000 rows would hold the loop for a tenth of a second.
                SELECT ARRAY(SELECT hgnc_id FROM step WHERE status <> status_before) AS restated,
                       (SELECT count(*) FROM rewritten
                        WHERE status_before IS NULL AND status = 'approved') AS approved_count,
                       (SELECT coalesce(json_agg(event ORDER BY id), '[]') FROM event)::text
                           AS events
            """),
            {"release_id": release_id},
        )
    ).one()
    await tx.execute(text("DELETE FROM gene_name"))
    await tx.execute(
        text("""
            WITH names AS (
                SELECT s.hgnc_id, n.name, n.kind
                FROM staged s CROSS JOIN LATERAL json_to_record(s.value) AS v
                    (symbol text, status text, previous_symbols text[], aliases text[])
                CROSS JOIN LATERAL (
                    SELECT v.symbol AS name, CASE v.status WHEN 'approved' THEN 'approved'
                                                           ELSE 'withdrawn' END AS kind
                    UNION ALL SELECT unnest(v.previous_symbols), 'previous'
                    UNION ALL SELECT unnest(v.aliases), 'alias'
                ) n
                WHERE s.release_id = :release_id
                UNION ALL  -- What is not named any more was called something, too.
                SELECT hgnc_id, symbol, 'withdrawn' FROM gene WHERE NOT EXISTS (
                    SELECT FROM staged s
                    WHERE s.release_id = :release_id AND s.hgnc_id = gene.hgnc_id)
            )
            INSERT INTO gene_name (folded, name, kind, hgnc_id)
            SELECT lower(name), name, kind, hgnc_id FROM names ON CONFLICT DO NOTHING
        """),
        {"release_id": release_id},
    )
    await tx.execute(text("ANALYZE gene, gene_name"))
    return Rewritten(
        restated=row.restated,
        events=[_EVENTS[event["kind"]](event) for event in orjson.loads(row.events)],
        approved_count=row.approved_count,
    )


_EVENTS: Mapping[str, Callable[[Mapping[str, Any]], GeneEvent]] = {
    "renamed": GeneRenamed.model_validate,
    "restored": GeneRestored.model_validate,
    "merged": lambda event: GeneMerged(
        hgnc_id=event["hgnc_id"],
        release_id=event["release_id"],
        symbol=event["symbol_before"],
        successor=event["successors"][0],
    ),
    "split": lambda event: GeneSplit(
        hgnc_id=event["hgnc_id"],
        release_id=event["release_id"],
        symbol=event["symbol_before"],
        successors=tuple(event["successors"]),
    ),
    "withdrawn": lambda event: GeneWithdrawn(
        hgnc_id=event["hgnc_id"], release_id=event["release_id"], symbol=event["symbol_before"]
    ),
}
