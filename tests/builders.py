"""Rows as the annotator writes them, for tests of what comes after."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

Gene = tuple[str, str, str | None, str | None]  # HGNC id, symbol, Entrez id, Ensembl id.

# The last has no Ensembl id on purpose.
GENES: Sequence[Gene] = (
    ("HGNC:9008", "PKD1", "5310", "ENSG00000008710"),
    ("HGNC:9009", "PKD2", "5311", "ENSG00000118762"),
    ("HGNC:1097", "BRAF", "673", "ENSG00000157764"),
    ("HGNC:1100", "BRCA1", "672", "ENSG00000012048"),
    ("HGNC:1101", "BRCA2", "675", "ENSG00000139618"),
    ("HGNC:11998", "TP53", "7157", "ENSG00000141510"),
    ("HGNC:3236", "EGFR", "1956", "ENSG00000146648"),
    ("HGNC:12547", "UGT1A", "7361", None),
)
IDS = [gene[0] for gene in GENES]
ASKABLE = [gene[0] for gene in GENES if gene[3]]


async def build_genes(tx: AsyncConnection, genes: Sequence[Gene] = GENES) -> None:
    """Approved genes, each found by its symbol. `tx` is of the role annotator, here and below."""
    ids, symbols, entrez_ids, ensembl_gene_ids = map(list, zip(*genes, strict=True))
    await tx.execute(
        text("""
            WITH built AS (
                INSERT INTO gene (hgnc_id, symbol, status, entrez_id, ensembl_gene_id)
                SELECT id, symbol, 'approved', entrez_id, ensembl_gene_id
                FROM unnest(CAST(:ids AS text[]), CAST(:symbols AS text[]),
                            CAST(:entrez_ids AS text[]), CAST(:ensembl_gene_ids AS text[]))
                    AS g (id, symbol, entrez_id, ensembl_gene_id)
                RETURNING hgnc_id, symbol
            )
            INSERT INTO gene_name (folded, name, kind, hgnc_id)
            SELECT lower(symbol), symbol, 'approved', hgnc_id FROM built
        """),
        {
            "ids": ids,
            "symbols": symbols,
            "entrez_ids": entrez_ids,
            "ensembl_gene_ids": ensembl_gene_ids,
        },
    )


async def build_catalogue(tx: AsyncConnection, genes: Sequence[Gene] = GENES) -> UUID:
    """Genes as if HGNC had been read, so that a list can be annotated at once. Returns the id of
    their release."""
    await build_genes(tx, genes)
    return await build_release(tx, "hgnc", "few")


async def build_release(
    tx: AsyncConnection,
    source: str,
    version: str = "made-up",
    *,
    state: str = "stored",
    is_readable: bool = True,
    parser_version: int = 1,
    catalogue_id: UUID | None = None,
) -> UUID:
    """Without files and values. Each is retrieved later than the one before, also in one `tx`."""
    release_id: UUID = await tx.scalar(
        text("""
            INSERT INTO release (source, version, state, parser_version, catalogue_id,
                                 retrieved_at, checked_at, accepted_at, stored_at, readable_since)
            VALUES (:source, :version, :state, :parser_version, :catalogue_id,
                    clock_timestamp(), now(),
                    CASE WHEN :state IN ('accepted', 'stored') THEN now() END,
                    CASE WHEN :state = 'stored' THEN now() END,
                    CASE WHEN :is_readable THEN now() END)
            RETURNING id
        """),
        {
            "source": source,
            "version": version,
            "state": state,
            "parser_version": parser_version,
            "catalogue_id": catalogue_id,
            "is_readable": is_readable,
        },
    )
    return release_id


async def build_file(
    tx: AsyncConnection,
    release_id: UUID,
    name: str = "made-up",
    sha256: bytes = b"\0",
    bytes_count: int = 1,
) -> int:
    file_id: int = await tx.scalar(
        text("""
            INSERT INTO release_file (release_id, name, url, sha256, bytes)
            VALUES (:release_id, :name, 'http://made.up', :sha256, :bytes) RETURNING id
        """),
        {"release_id": release_id, "name": name, "sha256": sha256, "bytes": bytes_count},
    )
    return file_id
