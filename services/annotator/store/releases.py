"""Releases: their files, their staged rows, their acceptance, and the catalogue one of them is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.views import ReleaseState
from services.annotator.domain import STORE_GENES_MAX, Catalogue, Gene, Unmapped
from services.annotator.errors import LeaseLost
from services.annotator.store.annotations import Origin
from services.chassis.errors import Problem

UNMAPPED_MAX = 50_000  # Kept entries of one release; the count is of all.
# Rewriting the catalogue, and staging, are the two transactions that may take longer.
LONG_TRANSACTION = "120s"


@dataclass(frozen=True)
class KnownFile:
    id: int
    name: str
    url: str
    etag: str | None
    last_modified: str | None
    sha256: bytes
    bytes: int


@dataclass(frozen=True)
class Release:
    id: UUID
    source: str
    version: str | None
    state: ReleaseState
    synthetic: bool
    parser_version: int
    catalogue_id: UUID | None
    retrieved_at: datetime
    problem: Problem | None
    files: Mapping[str, KnownFile]

    def origin(self) -> Origin:
        """Where the staged values of this release come from."""
        first = min(file.id for file in self.files.values())
        return Origin(self.id, first, self.retrieved_at, self.parser_version, run_id=None)


async def allow_long_transaction(tx: AsyncConnection) -> None:
    # Switched off first: PostgreSQL does not move the end of a timeout that runs already.
    await tx.execute(text("SET LOCAL transaction_timeout = 0"))
    await tx.execute(text(f"SET LOCAL transaction_timeout = '{LONG_TRANSACTION}'"))


async def open_release_batches(tx: AsyncConnection, sources: Iterable[str]) -> None:
    """Have somebody look what is new at these sources, unless somebody does already.

    A batch that is open stays locked until the caller commits: whoever finishes it then sees
    what the caller wrote, and a run that waits for it is never forgotten.
    """
    await tx.execute(
        text("""
            INSERT INTO batch (kind, source)
            SELECT 'release', name FROM unnest(CAST(:sources AS text[])) AS s (name)
            ORDER BY name  -- One order for all, so that two of these cannot deadlock.
            ON CONFLICT (source) WHERE kind = 'release' AND state NOT IN ('done', 'dead')
            DO UPDATE SET source = excluded.source  -- Only for the lock.
        """),
        {"sources": sorted(sources)},
    )


async def newest_release(tx: AsyncConnection, source: str) -> Release | None:
    """The release retrieved last, whatever became of it."""
    row = (
        await tx.execute(
            text("""
                SELECT id FROM release WHERE source = :source
                ORDER BY retrieved_at DESC LIMIT 1
            """),
            {"source": source},
        )
    ).one_or_none()
    return await get_release(tx, row.id) if row else None


async def get_release(tx: AsyncConnection, release_id: UUID) -> Release:
    row = (
        await tx.execute(
            text("""
                SELECT id, source, version, state, synthetic, parser_version, catalogue_id,
                       retrieved_at, problem::text AS problem
                FROM release WHERE id = :release_id
            """),
            {"release_id": release_id},
        )
    ).one()
    files = await tx.execute(
        text("""
            SELECT id, name, url, etag, last_modified, sha256, bytes
            FROM release_file WHERE release_id = :release_id ORDER BY id
        """),
        {"release_id": release_id},
    )
    known = {
        **row._mapping,
        "problem": orjson.loads(row.problem) if row.problem else None,
        "files": {file.name: KnownFile(**file._mapping) for file in files},
    }
    return Release(**known)


async def insert_fetched_release(
    tx: AsyncConnection,
    source: str,
    parser_version: int,
    sha256: bytes,
    synthetic: bool,
    files: Iterable[Mapping[str, str | int | bytes | None]],
) -> UUID:
    """A release whose files lie in the raw store. `sha256` is over the sorted file hashes."""
    release_id: UUID = await tx.scalar(
        text("""
            INSERT INTO release (source, state, synthetic, sha256, parser_version,
                                 retrieved_at, checked_at)
            VALUES (:source, 'fetched', :synthetic, :sha256, :parser_version,
                    clock_timestamp(), now())
            RETURNING id
        """),
        {
            "source": source,
            "synthetic": synthetic,
            "sha256": sha256,
            "parser_version": parser_version,
        },
    )
    for file in files:
        await tx.execute(
            text("""
                INSERT INTO release_file
                    (release_id, name, url, etag, last_modified, sha256, bytes)
                VALUES (:release_id, :name, :url, :etag, :last_modified, :sha256, :bytes)
            """),
            {"release_id": release_id, **file},
        )
    return release_id


async def mark_release_checked(tx: AsyncConnection, release_id: UUID) -> None:
    """The upstream still publishes this release."""
    await tx.execute(
        text("UPDATE release SET checked_at = now() WHERE id = :release_id"),
        {"release_id": release_id},
    )


async def record_api_release(
    tx: AsyncConnection, source: str, version: str, parser_version: int, synthetic: bool
) -> UUID:
    """The release an API serves at the moment; known ones are only marked as checked."""
    known: UUID | None = await tx.scalar(
        text("""
            UPDATE release SET checked_at = now()
            WHERE id = (
                SELECT id FROM release
                WHERE source = :source AND state = 'accepted' ORDER BY retrieved_at DESC LIMIT 1)
              AND version = :version AND parser_version = :parser_version
              AND synthetic = :synthetic
            RETURNING id
        """),
        {
            "source": source,
            "version": version,
            "parser_version": parser_version,
            "synthetic": synthetic,
        },
    )
    if known is not None:
        return known
    release_id: UUID = await tx.scalar(
        text("""
            INSERT INTO release (source, version, state, synthetic, parser_version, retrieved_at,
                                 checked_at, accepted_at)
            VALUES (:source, :version, 'accepted', :synthetic, :parser_version,
                    clock_timestamp(), now(), now())
            RETURNING id
        """),
        {
            "source": source,
            "version": version,
            "parser_version": parser_version,
            "synthetic": synthetic,
        },
    )
    return release_id


async def record_page(
    tx: AsyncConnection, run_id: UUID, source: str, url: str, sha256: bytes, size: int
) -> tuple[UUID, int]:
    """One answer of an API as a file of the release its run follows. Returns release and file."""
    row = (
        await tx.execute(
            text("""
                INSERT INTO release_file (release_id, name, url, sha256, bytes)
                SELECT release_id, 'page', :url, :sha256, :bytes
                FROM run_source WHERE run_id = :run_id AND source = :source
                ON CONFLICT (release_id, name, sha256) DO UPDATE SET url = excluded.url
                RETURNING release_id, id
            """),
            {"run_id": run_id, "source": source, "url": url, "sha256": sha256, "bytes": size},
        )
    ).one()
    return row.release_id, row.id


async def get_catalogue(tx: AsyncConnection) -> Catalogue:
    """All approved genes, in the order of their numbers."""
    rows = await tx.execute(
        text("""
            SELECT hgnc_id, symbol, entrez_id, ensembl_gene_id FROM gene
            WHERE status = 'approved' ORDER BY hgnc_number
        """)
    )
    return Catalogue([Gene(**row._mapping) for row in rows])


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


async def is_staged(tx: AsyncConnection, release_id: UUID) -> bool:
    staged = await tx.scalar(
        text("SELECT EXISTS (SELECT FROM staged_release WHERE release_id = :release_id)"),
        {"release_id": release_id},
    )
    return bool(staged)


async def clear_staged(tx: AsyncConnection, release_id: UUID) -> None:
    for table in ("staged", "staged_release", "unmapped"):
        await tx.execute(
            text(f"DELETE FROM {table} WHERE release_id = :release_id"), {"release_id": release_id}
        )


async def unstage_release(tx: AsyncConnection, release_id: UUID) -> None:
    """Back to its raw bytes: its rows are gone, or were matched against an older catalogue."""
    await clear_staged(tx, release_id)
    await tx.execute(
        text("""
            UPDATE release SET state = 'fetched', accepted_at = NULL, stored_at = NULL
            WHERE id = :release_id AND state IN ('staged', 'accepted', 'stored')
        """),
        {"release_id": release_id},
    )


async def delete_finished_slices(tx: AsyncConnection, release_id: UUID) -> None:
    """A release that is stored again is cut into batches again."""
    await tx.execute(
        text("DELETE FROM batch WHERE release_id = :release_id AND kind = 'store'"),
        {"release_id": release_id},
    )


async def finish_staging(
    tx: AsyncConnection,
    batch_id: UUID,
    lease_token: int,
    release_id: UUID,
    version: str,
    row_count: int,
    unmapped: Mapping[tuple[str, str], int],
) -> None:
    """Mark the rows as complete. Raises LeaseLost when another worker stages this release now."""
    await _require_lease(tx, batch_id, lease_token)
    kept = list(unmapped.items())[:UNMAPPED_MAX]
    await tx.execute(
        text("""
            INSERT INTO unmapped (release_id, key, reason, row_count)
            SELECT :release_id, * FROM unnest(CAST(:keys AS text[]), CAST(:reasons AS text[]),
                                              CAST(:counts AS integer[]))
        """),
        {
            "release_id": release_id,
            "keys": [key for (key, _), _ in kept],
            "reasons": [reason for (_, reason), _ in kept],
            "counts": [count for _, count in kept],
        },
    )
    await tx.execute(
        text("INSERT INTO staged_release (release_id, rows) VALUES (:release_id, :row_count)"),
        {"release_id": release_id, "row_count": row_count},
    )
    await tx.execute(
        text("""
            UPDATE release SET state = 'staged', version = :version, row_count = :row_count,
                               unmapped_count = :unmapped_count, catalogue_id = :catalogue_id
            WHERE id = :release_id AND state IN ('fetched', 'staged')
        """),
        {
            "release_id": release_id,
            "version": version,
            "row_count": row_count,
            "unmapped_count": len(unmapped),
            "catalogue_id": await current_catalogue_id(tx),
        },
    )


async def reject_release(
    tx: AsyncConnection, batch_id: UUID, lease_token: int, release_id: UUID, problem: Problem
) -> None:
    """Raises LeaseLost when another worker stages this release now."""
    await _require_lease(tx, batch_id, lease_token)
    await tx.execute(
        text("""
            UPDATE release SET state = 'rejected', problem = CAST(:problem AS jsonb)
            WHERE id = :release_id AND state = 'fetched'
        """),
        {"release_id": release_id, "problem": orjson.dumps(problem).decode()},
    )


async def _require_lease(tx: AsyncConnection, batch_id: UUID, lease_token: int) -> None:
    held = await tx.scalar(
        text("""
            SELECT true FROM batch
            WHERE id = :batch_id AND state = 'leased' AND lease_token = :lease_token FOR UPDATE
        """),
        {"batch_id": batch_id, "lease_token": lease_token},
    )
    if not held:
        raise LeaseLost(f"batch {batch_id}, token {lease_token}")


async def accept_release(tx: AsyncConnection, release: Release) -> None:
    """Let readers have a staged release: cut the catalogue into batches that store it.

    A release that is accepted again, because its staged rows were lost, keeps its batches.
    """
    await tx.execute(
        text("""
            UPDATE release SET state = 'accepted', accepted_at = now()
            WHERE id = :release_id AND state = 'staged'
        """),
        {"release_id": release.id},
    )
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
        {"source": release.source, "release_id": release.id, "size": STORE_GENES_MAX},
    )


async def revive_slices(tx: AsyncConnection, release_id: UUID) -> None:
    """Try again what is dead of a release that somebody asks for anew."""
    await tx.execute(
        text("""
            UPDATE batch SET state = 'pending', attempt = 0, problem = NULL, finished_at = NULL,
                             next_attempt_at = now()
            WHERE release_id = :release_id AND kind = 'store' AND state = 'dead'
        """),
        {"release_id": release_id},
    )


async def rewrite_catalogue(tx: AsyncConnection, release_id: UUID) -> list[str]:
    """Make the staged release of the catalogue's source the catalogue, all at once.

    Genes that it does not name any more keep their row: annotations stay attached to their id.
    Returns the genes that were approved and are not any more.
    """
    rewritten = await tx.execute(
        text("""
            INSERT INTO gene (hgnc_id, symbol, name, status, locus_group, locus_type, location,
                              entrez_id, ensembl_gene_id, successors)
            SELECT hgnc_id, value->>'symbol', value->>'name', value->>'status',
                   value->>'locus_group', value->>'locus_type', value->>'location',
                   value->>'entrez_id', value->>'ensembl_gene_id',
                   ARRAY(SELECT jsonb_array_elements_text(value->'successors'))
            FROM staged WHERE release_id = :release_id ORDER BY hgnc_id
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
            RETURNING new.hgnc_id,
                      old.status = 'approved' AND new.status <> 'approved' AS withdrawn
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
                SELECT hgnc_id, value->>'symbol' AS name,
                       CASE value->>'status' WHEN 'approved' THEN 'approved'
                                             ELSE 'withdrawn' END AS kind
                FROM staged WHERE release_id = :release_id
                UNION ALL
                SELECT hgnc_id, jsonb_array_elements_text(value->'previous_symbols'), 'previous'
                FROM staged WHERE release_id = :release_id
                UNION ALL
                SELECT hgnc_id, jsonb_array_elements_text(value->'aliases'), 'alias'
                FROM staged WHERE release_id = :release_id
            )
            INSERT INTO gene_name (folded, name, kind, hgnc_id)
            SELECT lower(name), name, kind, hgnc_id FROM names ON CONFLICT DO NOTHING
        """),
        {"release_id": release_id},
    )
    await tx.execute(text("ANALYZE gene"))
    return [row.hgnc_id for row in rewritten if row.withdrawn] + list(absent)


async def complete_release(tx: AsyncConnection, release_id: UUID) -> str | None:
    """Note that every slice of a release is stored. Returns its version, once."""
    version: str | None = await tx.scalar(
        text("""
            UPDATE release SET state = 'stored', stored_at = now()
            WHERE id = :release_id AND state = 'accepted' AND NOT EXISTS (
                SELECT FROM batch
                WHERE batch.release_id = :release_id AND kind = 'store' AND batch.state <> 'done')
            RETURNING version
        """),
        {"release_id": release_id},
    )
    return version


async def drop_stored_rows(tx: AsyncConnection) -> int:
    """Let go of staged rows that nobody needs any more; the raw bytes can make them again."""
    dropped = await tx.execute(
        text("""
            DELETE FROM staged_release USING release
            WHERE release.id = staged_release.release_id
              AND release.state IN ('stored', 'rejected')
            RETURNING release_id
        """)
    )
    for row in dropped.all():
        await tx.execute(
            text("DELETE FROM staged WHERE release_id = :release_id"),
            {"release_id": row.release_id},
        )
    return dropped.rowcount


def count_unmapped(found: dict[tuple[str, str], int], entry: Unmapped) -> None:
    key = (entry.key, entry.reason)
    found[key] = found.get(key, 0) + entry.row_count
