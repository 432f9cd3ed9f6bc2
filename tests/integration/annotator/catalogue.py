"""A catalogue of a few real genes, for tests that do not need all of them."""

from uuid import UUID

from sqlalchemy import text

from services.annotator import domain
from services.annotator.sources import SOURCES
from tests.integration.annotator.desk import Desk

# HGNC id, symbol, Entrez id, Ensembl id; the last has no Ensembl id on purpose.
GENES = [
    ("HGNC:9008", "PKD1", "5310", "ENSG00000008710"),
    ("HGNC:9009", "PKD2", "5311", "ENSG00000118762"),
    ("HGNC:1097", "BRAF", "673", "ENSG00000157764"),
    ("HGNC:1100", "BRCA1", "672", "ENSG00000012048"),
    ("HGNC:1101", "BRCA2", "675", "ENSG00000139618"),
    ("HGNC:11998", "TP53", "7157", "ENSG00000141510"),
    ("HGNC:3236", "EGFR", "1956", "ENSG00000146648"),
    ("HGNC:12547", "UGT1A", "7361", None),
]
IDS = [gene[0] for gene in GENES]
FILE = b"the catalogue"
ASKABLE = [gene[0] for gene in GENES if gene[3]]


async def write_catalogue(desk: Desk) -> UUID:
    """The genes, and the release that they are said to come from. Returns its id."""
    source = SOURCES["hgnc"]
    assert not domain.is_api(source)
    sha256 = domain.digest(FILE)
    await desk.handlers.raw_store.keep_bytes(FILE, sha256)
    async with desk.engine.begin() as tx:
        for hgnc_id, symbol, entrez_id, ensembl_gene_id in GENES:
            await tx.execute(
                text("""
                    INSERT INTO gene (hgnc_id, symbol, status, entrez_id, ensembl_gene_id)
                    VALUES (:hgnc_id, :symbol, 'approved', :entrez_id, :ensembl_gene_id)
                """),
                {
                    "hgnc_id": hgnc_id,
                    "symbol": symbol,
                    "entrez_id": entrez_id,
                    "ensembl_gene_id": ensembl_gene_id,
                },
            )
        release_id: UUID = await tx.scalar(
            text("""
                INSERT INTO release (source, version, state, parser_version, retrieved_at,
                                     checked_at, accepted_at, stored_at, readable_since)
                VALUES ('hgnc', 'few', 'stored', 1, now(), now(), now(), now(), now()) RETURNING id
            """)
        )
        for file in source.files:
            await tx.execute(
                text("""
                    INSERT INTO release_file (release_id, name, url, sha256, bytes)
                    VALUES (:release_id, :name, 'http://made.up', :sha256, :bytes)
                """),
                {
                    "release_id": release_id,
                    "name": file.name,
                    "sha256": sha256,
                    "bytes": len(FILE),
                },
            )
    return release_id
