"""The database as its owner sees it: what was stored and when, and how to have it to do again."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import asyncpg

CONNECT_TIMEOUT_SECONDS = 10.0
COMMAND_TIMEOUT_SECONDS = 60.0
SAMPLE_GENES = 200


@dataclass(frozen=True)
class SourceTimes:
    """One source of one run. `found_at` is when its release was known, `claimed_at` when the
    batch that looked for it was handed out."""

    source: str
    state: str
    release: str
    synthetic: bool
    done: int
    no_data: int
    failed: int
    claimed_at: datetime
    found_at: datetime
    staged_at: datetime | None
    first_stored_at: datetime
    last_stored_at: datetime
    counted_at: datetime


@dataclass(frozen=True)
class Sample:
    """Some of a source's values, evenly from the whole catalogue."""

    source: str
    hgnc_ids: list[str]
    valid_from: list[datetime]


class Owner:
    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._connection = connection

    async def forget(self, sources: Sequence[str]) -> None:
        """As if these sources had never been asked; the catalogue and the documents stay.

        What is known of a release is that it was fetched, so it is read, staged and stored again.
        """
        async with self._connection.transaction():
            for statement in (
                "DELETE FROM annotator.annotation WHERE source = ANY($1)",
                "DELETE FROM annotator.checked WHERE source = ANY($1)",
                "DELETE FROM annotator.batch WHERE kind = 'store' AND source = ANY($1)",
                """UPDATE annotator.release SET state = 'fetched', accepted_at = NULL,
                          stored_at = NULL, readable_since = NULL
                   FROM annotator.source
                   WHERE source.name = release.source AND source.kind = 'bulk'
                     AND source.name = ANY($1)""",
            ):
                await self._connection.execute(statement, sources)
        await self._connection.execute("VACUUM ANALYZE annotator.annotation, annotator.checked")

    async def count_genes(self) -> int:
        return int(
            await self._connection.fetchval(
                "SELECT count(*) FROM annotator.gene WHERE status = 'approved'"
            )
        )

    async def any_gene(self) -> str:
        found: str = await self._connection.fetchval(
            "SELECT min(hgnc_id) FROM annotator.gene WHERE status = 'approved'"
        )
        return found

    async def list_symbols(self, number: int) -> list[str]:
        rows = await self._connection.fetch(
            """SELECT symbol FROM annotator.gene WHERE status = 'approved'
               ORDER BY hgnc_number LIMIT $1""",
            number,
        )
        return [row["symbol"] for row in rows]

    async def count_values(self, sources: Sequence[str]) -> int:
        return int(
            await self._connection.fetchval(
                """SELECT count(*) FROM annotator.annotation
                   WHERE valid_to = 'infinity' AND value IS NOT NULL AND source = ANY($1)""",
                sources,
            )
        )

    async def count_facts(self, run_id: str) -> int:
        return int(
            await self._connection.fetchval(
                "SELECT count(*) FROM annotator.run_fact WHERE run_id = $1", run_id
            )
        )

    async def counted_sources(self, run_id: str) -> list[str]:
        """The sources of a run that have said something of every gene."""
        rows = await self._connection.fetch(
            """SELECT source FROM annotator.run_source
               WHERE run_id = $1 AND finished_at IS NOT NULL ORDER BY finished_at""",
            run_id,
        )
        return [row["source"] for row in rows]

    async def failures(self, run_id: str) -> list[str]:
        """Why sources of a run are not complete, one line each."""
        rows = await self._connection.fetch(
            """SELECT source, state, failed_count, coalesce(problem->>'detail', 'no reason') AS why
               FROM annotator.run_source
               WHERE run_id = $1 AND (state <> 'completed' OR failed_count > 0)""",
            run_id,
        )
        return [
            f"{row['source']} is {row['state']}, {row['failed_count']} genes failed: {row['why']}"
            for row in rows
        ]

    async def finished_at(self, run_id: str) -> datetime | None:
        found: datetime | None = await self._connection.fetchval(
            "SELECT finished_at FROM annotator.run WHERE id = $1", run_id
        )
        return found

    async def sample(self, source: str) -> Sample:
        rows = await self._connection.fetch(
            """SELECT hgnc_id, valid_from FROM (
                   SELECT hgnc_id, valid_from, row_number() OVER (ORDER BY hgnc_id) AS place,
                          count(*) OVER () AS all_values
                   FROM annotator.annotation
                   WHERE source = $1 AND valid_to = 'infinity' AND value IS NOT NULL) placed
               WHERE place % greatest(all_values / $2, 1) = 0 ORDER BY hgnc_id DESC""",
            source,
            SAMPLE_GENES,
        )
        return Sample(source, [row["hgnc_id"] for row in rows], [row["valid_from"] for row in rows])

    async def is_readable(self, sample: Sample) -> bool:
        """Whether the documents of all these genes show these values."""
        return bool(
            await self._connection.fetchval(
                # The first that is not ends the search; the last in order are the last rebuilt.
                """SELECT NOT EXISTS (
                       SELECT FROM unnest($1::text[], $2::timestamptz[]) AS s (hgnc_id, valid_from)
                       LEFT JOIN LATERAL (
                           SELECT document->'annotations'->$3->>'valid_from' AS valid_from
                           FROM cache.gene g WHERE g.hgnc_id = s.hgnc_id LIMIT 1) g ON true
                       WHERE g.valid_from::timestamptz IS DISTINCT FROM s.valid_from)""",
                sample.hgnc_ids,
                sample.valid_from,
                sample.source,
            )
        )

    async def is_at_rest(self) -> bool:
        """Whether no change waits to be told, and no document to be rebuilt."""
        return bool(
            await self._connection.fetchval(
                """SELECT NOT EXISTS (SELECT FROM annotator.outbox)
                      AND NOT EXISTS (SELECT FROM cache.dirty_gene)"""
            )
        )

    async def count_unreadable(self) -> int:
        """Gene × source pairs, of all there are, whose document does not say what is stored."""
        return int(
            await self._connection.fetchval(
                """SELECT count(*) FROM annotator.gene g CROSS JOIN annotator.source s
                   LEFT JOIN annotator.annotation a ON a.hgnc_id = g.hgnc_id
                       AND a.source = s.name AND a.valid_to = 'infinity'
                   LEFT JOIN cache.gene d ON d.hgnc_id = g.hgnc_id
                   WHERE g.status = 'approved' AND (
                       d.hgnc_id IS NULL
                       OR s.kind = 'api' AND d.document->'annotations'->s.name IS NULL
                       OR (d.document->'annotations'->s.name->>'valid_from')::timestamptz
                           IS DISTINCT FROM a.valid_from)"""
            )
        )

    async def times(self, run_id: str) -> list[SourceTimes]:
        rows = await self._connection.fetch(
            """SELECT rs.source, rs.state, rs.done_count AS done, rs.no_data_count AS no_data,
                      rs.failed_count AS failed, r.version AS release, r.synthetic,
                      looked.queued_at AS claimed_at, looked.finished_at AS found_at,
                      CASE WHEN s.kind = 'bulk' THEN r.accepted_at END AS staged_at,
                      stored.first AS first_stored_at,
                      coalesce(CASE WHEN s.kind = 'bulk' THEN r.stored_at END, stored.last)
                          AS last_stored_at,
                      rs.finished_at AS counted_at
               FROM annotator.run_source rs
               JOIN annotator.source s ON s.name = rs.source
               JOIN annotator.release r ON r.id = rs.release_id
               CROSS JOIN LATERAL (
                   SELECT b.queued_at, b.finished_at FROM annotator.batch b
                   WHERE b.kind = 'release' AND b.source = rs.source AND b.state = 'done'
                   ORDER BY b.finished_at DESC LIMIT 1) looked
               CROSS JOIN LATERAL (
                   SELECT min(b.finished_at) AS first, max(b.finished_at) AS last
                   FROM annotator.batch b
                   WHERE b.source = rs.source AND b.state = 'done' AND (
                       (b.kind = 'fetch' AND b.run_id = rs.run_id)
                       OR (b.kind = 'store' AND b.release_id = rs.release_id))) stored
               WHERE rs.run_id = $1 ORDER BY rs.finished_at""",
            run_id,
        )
        return [SourceTimes(**dict(row)) for row in rows]

    async def stored_values(self, source: str) -> list[tuple[str, str, bytes]]:
        """(gene, value in its one spelling, digest) of all current values of a source."""
        rows = await self._connection.fetch(
            """SELECT a.hgnc_id, a.value::text AS value, a.digest FROM annotator.annotation a
               JOIN annotator.gene g USING (hgnc_id)
               WHERE a.source = $1 AND a.valid_to = 'infinity' AND a.value IS NOT NULL
               ORDER BY g.hgnc_number""",
            source,
        )
        return [(row["hgnc_id"], row["value"], row["digest"]) for row in rows]


@asynccontextmanager
async def connect(database_url: str) -> AsyncIterator[Owner]:
    connection = await asyncpg.connect(
        database_url, timeout=CONNECT_TIMEOUT_SECONDS, command_timeout=COMMAND_TIMEOUT_SECONDS
    )
    try:
        yield Owner(connection)
    finally:
        await connection.close(timeout=CONNECT_TIMEOUT_SECONDS)
