"""The gene catalogue: read for joining and asking, rewritten as a whole from one release."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.annotator.domain import Catalogue, Gene


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


async def rewrite_catalogue(tx: AsyncConnection, release_id: UUID) -> list[str]:
    """Make the staged release of the catalogue's source the catalogue, all at once.

    Genes that it does not name any more keep their row: annotations stay attached to their id.
    Returns the known genes whose status is another now. What else changes is in a gene's value,
    and told when that is stored; a gene that comes back may have the value that it had.
    """
    restated = await tx.scalars(
        text("""
            WITH rewritten AS (
                INSERT INTO gene (hgnc_id, symbol, name, status, locus_group, locus_type, location,
                                  entrez_id, ensembl_gene_id, successors)
                SELECT s.hgnc_id, v.* FROM staged s CROSS JOIN LATERAL json_to_record(s.value) AS v
                    (symbol text, name text, status text, locus_group text, locus_type text,
                     location text, entrez_id text, ensembl_gene_id text, successors text[])
                WHERE s.release_id = :release_id
                ON CONFLICT (hgnc_id) DO UPDATE SET
                    symbol = excluded.symbol, name = excluded.name, status = excluded.status,
                    locus_group = excluded.locus_group, locus_type = excluded.locus_type,
                    location = excluded.location, entrez_id = excluded.entrez_id,
                    ensembl_gene_id = excluded.ensembl_gene_id, successors = excluded.successors
                WHERE (gene.symbol, gene.name, gene.status, gene.locus_group, gene.locus_type,
                       gene.location, gene.entrez_id, gene.ensembl_gene_id, gene.successors)
                    IS DISTINCT FROM
                      (excluded.symbol, excluded.name, excluded.status, excluded.locus_group,
                       excluded.locus_type, excluded.location, excluded.entrez_id,
                       excluded.ensembl_gene_id, excluded.successors)
                RETURNING new.hgnc_id, old.status <> new.status AS restated  -- NULL: a new gene.
            )  -- Only these: 44,000 rows would hold the loop for a tenth of a second.
            SELECT hgnc_id FROM rewritten WHERE restated
        """),
        {"release_id": release_id},
    )
    absent = await tx.scalars(
        text("""
            UPDATE gene SET status = 'withdrawn' WHERE status = 'approved' AND NOT EXISTS (
                SELECT FROM staged s
                WHERE s.release_id = :release_id AND s.hgnc_id = gene.hgnc_id)
            RETURNING hgnc_id
        """),
        {"release_id": release_id},
    )
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
            )
            INSERT INTO gene_name (folded, name, kind, hgnc_id)
            SELECT lower(name), name, kind, hgnc_id FROM names ON CONFLICT DO NOTHING
        """),
        {"release_id": release_id},
    )
    await tx.execute(text("ANALYZE gene, gene_name"))
    return [*restated, *absent]
