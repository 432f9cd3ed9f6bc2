"""Releases: their files, what became of them, and the batches that store them."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.views import ReleaseState
from services.annotator.domain import STORE_GENES_MAX
from services.annotator.store.annotations import Origin
from services.chassis.errors import Problem

# Rewriting the catalogue, and staging, are the two transactions that may take longer.
LONG_TRANSACTION = "120s"


@dataclass(frozen=True)
class FetchedFile:
    """A file of a release whose bytes lie in the raw store."""

    name: str
    url: str
    etag: str | None
    last_modified: str | None
    sha256: bytes
    bytes: int


@dataclass(frozen=True)
class KnownFile(FetchedFile):
    id: int


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


async def newest_release(tx: AsyncConnection, source: str, files: Iterable[str]) -> Release | None:
    """The release retrieved last, whatever became of it; what stood in for its files is none."""
    row = (
        await tx.execute(
            text("""
                SELECT id FROM release WHERE source = :source AND EXISTS (
                    SELECT FROM release_file f
                    WHERE f.release_id = release.id AND f.name = ANY (CAST(:files AS text[])))
                ORDER BY retrieved_at DESC LIMIT 1
            """),
            {"source": source, "files": list(files)},
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
    files: Iterable[FetchedFile],
    version: str | None = None,
) -> UUID:
    """A release whose files lie in the raw store. `sha256` is over the sorted file hashes."""
    release_id: UUID = await tx.scalar(
        text("""
            INSERT INTO release (source, version, state, synthetic, sha256, parser_version,
                                 retrieved_at, checked_at)
            VALUES (:source, :version, 'fetched', :synthetic, :sha256, :parser_version,
                    clock_timestamp(), now())
            RETURNING id
        """),
        {
            "source": source,
            "version": version,
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
            {"release_id": release_id, **asdict(file)},
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
                                 checked_at, accepted_at, readable_since)
            VALUES (:source, :version, 'accepted', :synthetic, :parser_version,
                    clock_timestamp(), now(), now(), now())
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


async def delete_finished_slices(tx: AsyncConnection, release_id: UUID) -> None:
    """A release that is stored again is cut into batches again."""
    await tx.execute(
        text("DELETE FROM batch WHERE release_id = :release_id AND kind = 'store'"),
        {"release_id": release_id},
    )


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
    """Try again what is dead of a release that somebody asks for anew.

    Runs that follow it have counted those genes as failed; they will be counted again.
    """
    await tx.execute(
        text("""
            WITH taken_back AS (
                UPDATE run_source rs SET failed_count = rs.failed_count - dead.genes,
                    problem = CASE WHEN rs.failed_count > dead.genes THEN rs.problem END
                FROM (
                    SELECT rs.run_id, count(*) AS genes
                    FROM run_source rs JOIN run ON run.id = rs.run_id
                    JOIN batch b ON b.release_id = rs.release_id AND b.kind = 'store'
                        AND b.state = 'dead'
                    CROSS JOIN unnest(b.genes) AS g (hgnc_id)
                    WHERE rs.release_id = :release_id AND rs.state = 'running'
                      AND (run.all_genes OR EXISTS (
                          SELECT FROM run_gene s
                          WHERE s.run_id = rs.run_id AND s.hgnc_id = g.hgnc_id))
                    GROUP BY rs.run_id
                ) dead
                WHERE rs.run_id = dead.run_id AND rs.release_id = :release_id
                RETURNING rs.run_id
            ), moved AS MATERIALIZED (  -- Locked in one order, as wherever several runs move.
                SELECT id FROM run WHERE id IN (SELECT run_id FROM taken_back)
                ORDER BY id FOR UPDATE
            )
            UPDATE run SET seq = seq + 1 FROM moved WHERE run.id = moved.id
        """),
        {"release_id": release_id},
    )
    await tx.execute(
        text("""
            UPDATE batch SET state = 'pending', attempt = 0, problem = NULL, finished_at = NULL,
                             next_attempt_at = now()
            WHERE release_id = :release_id AND kind = 'store' AND state = 'dead'
        """),
        {"release_id": release_id},
    )


async def complete_release(tx: AsyncConnection, release_id: UUID) -> str | None:
    """Note that every slice of a release is stored. Returns its version, once."""
    version: str | None = await tx.scalar(
        text("""
            UPDATE release SET state = 'stored', stored_at = now(),
                               readable_since = coalesce(readable_since, now())
            WHERE id = :release_id AND state = 'accepted' AND NOT EXISTS (
                SELECT FROM batch
                WHERE batch.release_id = :release_id AND kind = 'store' AND batch.state <> 'done')
            RETURNING version
        """),
        {"release_id": release_id},
    )
    return version
