"""Releases of a source as the annotator publishes them, with their files and reports."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

FILES_MAX = 200  # Shown of one release: each answer of an API is a file.
REASONS_MAX = 20  # Of a report, the most frequent ones.

Row = dict[str, Any]

_RELEASES = """
    SELECT release_id::text AS release_id, source, version, state, synthetic, sha256,
           parser_version, method, baseline_id::text AS baseline_id, cause, is_new_method,
           row_count, unmapped_count, changed_count, doubts::text AS doubts, decision, decided_at,
           decided_by, decision_note, retrieved_at, checked_at, accepted_at, stored_at,
           problem::text AS problem
    FROM annotator.release_v1
"""


_JSON = ("doubts", "problem")


async def list_releases(
    connection: AsyncConnection, source: str, limit: int, offset: int
) -> list[Row]:
    """Newest first."""
    rows = await connection.execute(
        text(f"""
            {_RELEASES} WHERE source = :source
            ORDER BY retrieved_at DESC, release_id DESC LIMIT :limit OFFSET :offset
        """),
        {"source": source, "limit": limit, "offset": offset},
    )
    return [_readable(row) for row in rows.mappings()]


async def get_release(connection: AsyncConnection, source: str, release_id: UUID) -> Row | None:
    row = (
        await connection.execute(
            text(f"{_RELEASES} WHERE source = :source AND release_id = :release_id"),
            {"source": source, "release_id": release_id},
        )
    ).mappings()
    found = row.one_or_none()
    return None if found is None else _readable(found)


async def newer_release(connection: AsyncConnection, release_id: UUID) -> str | None:
    """The newest release of the same source that was retrieved later and that readers have, or
    are getting."""
    newer: str | None = await connection.scalar(
        text("""
            SELECT newer.release_id::text
            FROM annotator.release_v1 r JOIN annotator.release_v1 newer
                ON newer.source = r.source AND newer.retrieved_at > r.retrieved_at
            WHERE r.release_id = :release_id
              AND (newer.accepted_xid IS NOT NULL OR newer.readable_since IS NOT NULL)
            ORDER BY newer.retrieved_at DESC LIMIT 1
        """),
        {"release_id": release_id},
    )
    return newer


def _readable(row: Any) -> Row:  # noqa: ANN401 - a row's columns have any types
    """What is JSON goes out as it came in: nothing parses it here."""
    found = {name: orjson.Fragment(row[name]) if row[name] else None for name in _JSON}
    return {**row, **found}


async def list_files(connection: AsyncConnection, release_id: UUID) -> list[Row]:
    rows = await connection.execute(
        text("""
            SELECT name, url, etag, last_modified, media_type, sha256, bytes, retrieved_at,
                   removed_at
            FROM annotator.release_file_v1 WHERE release_id = :release_id
            ORDER BY file_id LIMIT :files_max
        """),
        {"release_id": release_id, "files_max": FILES_MAX},
    )
    return [dict(row) for row in rows.mappings()]


async def count_files(connection: AsyncConnection, release_id: UUID) -> int:
    count = await connection.scalar(
        text("SELECT count(*) FROM annotator.release_file_v1 WHERE release_id = :release_id"),
        {"release_id": release_id},
    )
    return int(count or 0)


@dataclass(frozen=True)
class Wanted:
    """Which entries of a report: all, or those with this key, this reason or both."""

    release_id: UUID
    key: str | None
    reason: str | None


_WANTED = """release_id = :release_id
    AND (CAST(:key AS text) IS NULL OR key = :key)
    AND (CAST(:reason AS text) IS NULL OR reason = :reason)"""


async def list_unmapped(
    connection: AsyncConnection, wanted: Wanted, after: int, limit: int, offset: int
) -> list[Row]:
    """In the order in which they were found, from behind the position `after`."""
    rows = await connection.execute(
        text(f"""
            SELECT position, key, reason, row_count FROM annotator.unmapped_v1
            WHERE {_WANTED} AND position > :after ORDER BY position LIMIT :limit OFFSET :offset
        """),
        {**vars(wanted), "after": after, "limit": limit, "offset": offset},
    )
    return [dict(row) for row in rows.mappings()]


@dataclass(frozen=True)
class Totals:
    """`kept` is of the whole report, the others of what is wanted of it. Rows are the upstream's:
    one entry may stand for many."""

    kept: int
    entries: int
    rows: int
    reasons: Sequence[Row]


async def count_unmapped(connection: AsyncConnection, wanted: Wanted) -> Totals:
    row = (
        await connection.execute(
            text(f"""
                WITH counted AS (
                    SELECT reason, count(*) AS entries, sum(row_count) AS rows
                    FROM annotator.unmapped_v1 WHERE {_WANTED} GROUP BY reason
                ), frequent AS (
                    SELECT * FROM counted ORDER BY entries DESC, reason LIMIT :reasons_max
                )
                SELECT (SELECT count(*) FROM annotator.unmapped_v1
                        WHERE release_id = :release_id) AS kept,
                       (SELECT coalesce(sum(entries), 0)::bigint FROM counted) AS entries,
                       (SELECT coalesce(sum(rows), 0)::bigint FROM counted) AS rows,
                       (SELECT coalesce(json_agg(json_build_object(
                            'reason', reason, 'count', entries, 'row_count', rows)
                            ORDER BY entries DESC, reason), '[]') FROM frequent)::text AS reasons
            """),
            {**vars(wanted), "reasons_max": REASONS_MAX},
        )
    ).one()
    return Totals(row.kept, row.entries, row.rows, orjson.loads(row.reasons))
