"""Releases: their files, and what became of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.messages import DecideRelease, Decision
from contracts.views import Cause, ReleaseState
from services.annotator.errors import ReleaseRefused
from services.annotator.store.annotations import Origin
from services.chassis.errors import Problem


@dataclass(frozen=True)
class FetchedFile:
    """A file of a release whose bytes lie in the raw store."""

    name: str
    url: str
    etag: str | None
    last_modified: str | None
    sha256: bytes
    bytes: int
    media_type: str | None = None


@dataclass(frozen=True)
class KnownFile(FetchedFile):
    id: int = field(kw_only=True)


@dataclass(frozen=True)
class Release:
    id: UUID
    source: str
    version: str | None
    state: ReleaseState
    synthetic: bool
    parser_version: int
    method: str
    catalogue_id: UUID | None
    retrieved_at: datetime
    checked_at: datetime
    cause: Cause | None
    is_new_method: bool
    doubts: Sequence[Mapping[str, str]] | None
    decision: Decision | None
    problem: Problem | None
    files: Mapping[str, KnownFile]

    @property
    def is_decided(self) -> bool:
        """A person has accepted it in spite of its doubts."""
        return self.decision == "accept"

    def origin(self) -> Origin:
        """Where the staged values of this release come from."""
        first = min(file.id for file in self.files.values())
        return Origin(
            release_id=self.id,
            file_id=first,
            retrieved_at=self.retrieved_at,
            parser_version=self.parser_version,
            run_id=None,
            cause=self.cause,
            is_one_change=self.is_new_method,
            tells_first=True,
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
                SELECT id, source, version, state, synthetic, parser_version, method, catalogue_id,
                       retrieved_at, checked_at, cause, is_new_method, doubts::text AS doubts,
                       decision, problem::text AS problem
                FROM release WHERE id = :release_id
            """),
            {"release_id": release_id},
        )
    ).one()
    files = await tx.execute(
        text("""
            SELECT id, name, url, etag, last_modified, sha256, bytes, media_type
            FROM release_file WHERE release_id = :release_id ORDER BY id
        """),
        {"release_id": release_id},
    )
    known = {
        **row._mapping,
        "doubts": orjson.loads(row.doubts) if row.doubts else None,
        "problem": orjson.loads(row.problem) if row.problem else None,
        "files": {file.name: KnownFile(**file._mapping) for file in files},
    }
    return Release(**known)


async def insert_fetched_release(
    tx: AsyncConnection,
    source: str,
    parser_version: int,
    method: str,
    sha256: bytes,
    synthetic: bool,
    files: Iterable[FetchedFile],
    version: str | None = None,
    checked_at: datetime | None = None,
) -> UUID:
    """A release whose files lie in the raw store. `sha256` is over the sorted file hashes. The
    upstream was asked now, unless `checked_at` says when."""
    release_id: UUID = await tx.scalar(
        text("""
            INSERT INTO release (source, version, state, synthetic, sha256, parser_version, method,
                                 retrieved_at, checked_at)
            VALUES (:source, :version, 'fetched', :synthetic, :sha256, :parser_version, :method,
                    clock_timestamp(), coalesce(CAST(:checked_at AS timestamptz), now()))
            RETURNING id
        """),
        {
            "source": source,
            "version": version,
            "synthetic": synthetic,
            "sha256": sha256,
            "parser_version": parser_version,
            "method": method,
            "checked_at": checked_at,
        },
    )
    for file in files:
        await tx.execute(
            text("""
                INSERT INTO release_file
                    (release_id, name, url, etag, last_modified, media_type, sha256, bytes)
                VALUES (:release_id, :name, :url, :etag, :last_modified, :media_type, :sha256,
                        :bytes)
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
                                 checked_at, accepted_at, readable_since, cause)
            VALUES (:source, :version, 'accepted', :synthetic, :parser_version,
                    clock_timestamp(), now(), now(), now(), coalesce((
                        SELECT CASE WHEN before.version = :version
                                     AND before.parser_version <> :parser_version
                                    THEN 'parser' ELSE 'upstream' END
                        FROM release before WHERE before.source = :source
                        ORDER BY before.retrieved_at DESC LIMIT 1), 'upstream'))
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
) -> tuple[UUID, int, Cause]:
    """One answer of an API as a file of the release its run follows. Returns release, file, and
    why a value in it is another than before."""
    row = (
        await tx.execute(
            text("""
                INSERT INTO release_file (release_id, name, url, sha256, bytes)
                SELECT release_id, 'page', :url, :sha256, :bytes
                FROM run_source WHERE run_id = :run_id AND source = :source
                ON CONFLICT (release_id, name, sha256)
                DO UPDATE SET url = excluded.url, removed_at = NULL
                RETURNING release_id, id, (
                    SELECT cause FROM release WHERE release.id = release_file.release_id) AS cause
            """),
            {"run_id": run_id, "source": source, "url": url, "sha256": sha256, "bytes": size},
        )
    ).one()
    return row.release_id, row.id, row.cause


async def accept_release(tx: AsyncConnection, release_id: UUID) -> None:
    """A staged release is what readers shall have: its slices may be stored.

    One that is accepted again began with its first transaction all the same, and what its slices
    have changed is counted on while it has them.
    """
    await tx.execute(
        text("""
            UPDATE release SET state = 'accepted', accepted_at = now(),
                accepted_xid = coalesce(accepted_xid, pg_current_xact_id()),
                changed_count = CASE WHEN EXISTS (
                    SELECT FROM batch WHERE batch.release_id = release.id AND kind = 'store')
                    THEN changed_count ELSE 0 END
            WHERE id = :release_id AND state = 'staged'
        """),
        {"release_id": release_id},
    )


# Whether readers have, or are getting, what the source published after a release `r`.
_IS_SUPERSEDED = """EXISTS (
    SELECT FROM release newer
    WHERE newer.source = r.source AND newer.retrieved_at > r.retrieved_at
      AND (newer.accepted_xid IS NOT NULL OR newer.readable_since IS NOT NULL))"""


async def decide_release(tx: AsyncConnection, command: DecideRelease) -> bool:
    """Note what a person has decided; false when the release is not quarantined, or would be
    accepted though it is superseded: its values would never be stored over newer ones."""
    decided = await tx.scalar(
        text(f"""
            UPDATE release r SET
                state = CASE :decision WHEN 'accept' THEN 'staged' ELSE 'rejected' END,
                problem = CAST(:problem AS jsonb), decision = :decision, decided_at = now(),
                decided_by = :decided_by, decision_note = :note
            WHERE id = :release_id AND source = :source AND state = 'quarantined'
              AND NOT (:decision = 'accept' AND {_IS_SUPERSEDED})
            RETURNING true
        """),
        {
            "release_id": command.release_id,
            "source": command.source,
            "decision": command.decision,
            "decided_by": command.decided_by,
            "note": command.note,
            "problem": _rejection(command) if command.decision == "reject" else None,
        },
    )
    return bool(decided)


async def accepted_release(tx: AsyncConnection, source: str) -> Release | None:
    """The newest release that a person has accepted and that is not being stored yet."""
    row = (
        await tx.execute(
            text(f"""
                SELECT r.id FROM release r
                WHERE r.source = :source AND r.decision = 'accept'
                  AND r.state IN ('fetched', 'staged') AND NOT {_IS_SUPERSEDED}
                ORDER BY r.retrieved_at DESC LIMIT 1
            """),
            {"source": source},
        )
    ).one_or_none()
    return await get_release(tx, row.id) if row else None


def _rejection(command: DecideRelease) -> str:
    refused = ReleaseRefused(f"{command.decided_by} has rejected it: {command.note}")
    return orjson.dumps(refused.problem()).decode()


async def complete_release(tx: AsyncConnection, release_id: UUID, changed_count: int) -> str | None:
    """Note what a slice has changed, and if it is the last one, that the release is stored whole.
    Returns its version then, once."""
    await tx.execute(
        text("UPDATE release SET changed_count = changed_count + :count WHERE id = :release_id"),
        {"release_id": release_id, "count": changed_count},
    )
    version: str | None = await tx.scalar(
        text("""
            UPDATE release SET state = 'stored', stored_at = now(),
                               readable_since = coalesce(readable_since, now()),
                               stored_xid = pg_current_xact_id()
            WHERE id = :release_id AND state = 'accepted' AND NOT EXISTS (
                SELECT FROM batch
                WHERE batch.release_id = :release_id AND kind = 'store' AND batch.state <> 'done')
            RETURNING version
        """),
        {"release_id": release_id},
    )
    if version is not None:
        await tx.execute(
            text("""
                INSERT INTO release_change (release_id, baseline_id, cause, gene_count)
                SELECT id, baseline_id, cause, changed_count FROM release
                WHERE id = :release_id AND (cause IS NULL OR is_new_method) AND changed_count > 0
            """),
            {"release_id": release_id},
        )
    return version
