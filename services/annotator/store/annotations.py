"""Versions of annotations: two statements close what changed and insert what is new."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.views import Cause
from services.annotator.domain import MatchedBy, Offered
from services.annotator.errors import ReleaseMissing, StoreIncomplete
from services.chassis.errors import Problem


@dataclass(frozen=True)
class Origin:
    """Where values come from: their release, file and time; and why they are other values."""

    release_id: UUID
    file_id: int
    retrieved_at: datetime  # A later one is never replaced by an earlier one.
    parser_version: int
    run_id: UUID | None
    cause: Cause | None  # None: of a source whose first release this is.
    is_one_change: bool = False  # All values of the release are told together, none by itself.
    tells_first: bool = False  # Whether the first value of a gene is a change, too.
    matched_by: MatchedBy | None = None  # None: each staged row says it.


async def lock_store(tx: AsyncConnection, source: str) -> datetime:
    """Let one store of a source at a time pass. Returns the time from which its versions hold.

    First in every store, so that stores never wait for each other in a circle. The clock is read
    when the row is locked, and never goes back, though the machine's may be set back: versions
    of a gene follow each other, and none begins at a time of which a reader has been told already.
    """
    now: datetime = await tx.scalar(
        text("""
            INSERT INTO store_clock (source, at) VALUES (:source, clock_timestamp())
            ON CONFLICT (source) DO UPDATE
            SET at = greatest(clock_timestamp(), store_clock.at + interval '1 microsecond')
            RETURNING at
        """),
        {"source": source},
    )
    return now


# What is new for a set of genes, one row each; an empty digest says that there is no data.
_STAGED = """
    SELECT g.hgnc_id, s.value, coalesce(s.digest, '\\x') AS digest,
           coalesce(s.file_id, :file_id) AS file_id, coalesce(s.position, 0) AS position,
           coalesce(s.matched_by, 'hgnc_id') AS matched_by  -- It is absent: nothing was matched.
    FROM unnest(CAST(:genes AS text[])) AS g (hgnc_id)
    LEFT JOIN staged s ON s.release_id = :release_id AND s.hgnc_id = g.hgnc_id
"""
_OFFERED = """
    SELECT o.hgnc_id, CAST(o.value AS json) AS value, o.digest,
           CAST(:file_id AS bigint) AS file_id, o.position,
           CAST(:matched_by AS text) AS matched_by
    FROM unnest(CAST(:hgnc_ids AS text[]), CAST(:values AS text[]),
                CAST(:digests AS bytea[]), CAST(:positions AS integer[]))
        AS o (hgnc_id, value, digest, position)
    -- An unchanged value writes no version: when it was last offered, `checked` knows.
    LEFT JOIN LATERAL (
        SELECT c.retrieved_at > :retrieved_at AS newer FROM checked c
        WHERE c.hgnc_id = o.hgnc_id AND c.source = :source LIMIT 1
    ) c ON true
    WHERE c.newer IS NOT TRUE
"""


async def store_staged(
    tx: AsyncConnection, source: str, genes: Sequence[str], origin: Origin, now: datetime
) -> list[str]:
    """Store what the staged release says of these genes. Returns those that changed.

    Raises ReleaseMissing when the staged rows are gone: absent is then not the same as empty.
    """
    staged = await tx.scalar(
        text("SELECT EXISTS (SELECT FROM staged_release WHERE release_id = :release_id)"),
        {"release_id": origin.release_id},
    )
    if not staged:
        raise ReleaseMissing(f"release {origin.release_id} of {source} is not staged")
    return await _store(tx, _STAGED, {"genes": list(genes)}, source, origin, now)


async def store_offered(
    tx: AsyncConnection,
    source: str,
    offered: Offered,
    origin: Origin,
    now: datetime,
    *,
    keeps_empty: bool = False,
) -> list[str]:
    """Store what an API said. Returns the genes that changed.

    With `keeps_empty` that it has none is a version, too: of a gene without one, nobody knows later
    whether it was asked for.
    """
    values = {
        "hgnc_ids": offered.hgnc_ids,
        "values": offered.values,
        "digests": offered.digests,
        "positions": offered.positions,
    }
    return await _store(tx, _OFFERED, values, source, origin, now, keeps_empty=keeps_empty)


async def list_held(tx: AsyncConnection, source: str, genes: Sequence[str]) -> frozenset[str]:
    """Those of these genes that have a value of a release that readers rely on."""
    held = await tx.scalars(
        text("""
            SELECT g.hgnc_id FROM unnest(CAST(:genes AS text[])) AS g (hgnc_id)
            CROSS JOIN LATERAL (
                SELECT a.release_id FROM annotation a
                WHERE a.hgnc_id = g.hgnc_id AND a.source = :source AND a.valid_to = 'infinity'
                  AND a.value IS NOT NULL LIMIT 1
            ) a
            JOIN release r ON r.id = a.release_id WHERE r.readable_since IS NOT NULL
        """),
        {"source": source, "genes": list(genes)},
    )
    return frozenset(held)


async def _store(
    tx: AsyncConnection,
    fresh: str,
    values: Mapping[str, object],
    source: str,
    origin: Origin,
    now: datetime,
    *,
    keeps_empty: bool = False,
) -> list[str]:
    arguments = {
        **values,
        "source": source,
        "now": now,
        "release_id": origin.release_id,
        "file_id": origin.file_id,
        "retrieved_at": origin.retrieved_at,
        "parser_version": origin.parser_version,
        "run_id": origin.run_id,
        "cause": origin.cause,
        "is_one_change": origin.is_one_change,
        "tells_first": origin.tells_first,
        "matched_by": origin.matched_by,
    }
    # MATERIALIZED: otherwise the join order is a guess, and a wrong one costs three quarters.
    closed = (
        await tx.execute(
            text(f"""
                WITH fresh AS MATERIALIZED ({fresh}),
                standing AS MATERIALIZED (
                    SELECT a.row, f.digest AS offered, a.digest = f.digest AS same,
                           a.retrieved_at > :retrieved_at AS newer
                    FROM fresh f CROSS JOIN LATERAL (  -- One index look-up per gene.
                        SELECT a.ctid AS row, a.digest, a.retrieved_at FROM annotation a
                        WHERE a.hgnc_id = f.hgnc_id AND a.source = :source
                          AND a.valid_to = 'infinity' LIMIT 1
                    ) a
                ), closed AS (
                    UPDATE annotation a SET valid_to = :now FROM standing s
                    WHERE a.ctid = s.row  -- The lock keeps every row where it is.
                      AND NOT s.same AND NOT s.newer
                    RETURNING a.hgnc_id
                )
                SELECT (SELECT count(*) FROM fresh WHERE digest <> '\\x') AS offered,
                       (SELECT count(*) FROM standing
                        WHERE offered <> '\\x' AND (same OR newer)) AS kept,
                       coalesce((SELECT array_agg(hgnc_id) FROM closed), '{{}}') AS genes
            """),
            arguments,
        )
    ).one()
    inserted = (
        await tx.execute(
            text(f"""
                WITH fresh AS MATERIALIZED ({fresh})
                INSERT INTO annotation (hgnc_id, source, valid_from, value, digest, release_id,
                                        file_id, position, retrieved_at, parser_version,
                                        matched_by, run_id, cause, severity)
                SELECT hgnc_id, :source, :now, value, digest, :release_id, file_id, position,
                       :retrieved_at, :parser_version, matched_by, :run_id,
                       {_CAUSE_AND_SEVERITY if origin.cause else "NULL, NULL"}
                FROM fresh f
                WHERE digest <> '\\x' OR hgnc_id = ANY(CAST(:closed AS text[])) OR :keeps_empty
                ON CONFLICT (hgnc_id, source) WHERE valid_to = 'infinity' DO NOTHING
                RETURNING hgnc_id, value IS NOT NULL AS has_value
            """),
            arguments | {"closed": closed.genes, "keeps_empty": keeps_empty},
        )
    ).all()
    stored = sum(row.has_value for row in inserted)
    if stored + closed.kept != closed.offered:
        raise StoreIncomplete(
            f"{source}: offered {closed.offered}, stored {stored}, unchanged {closed.kept}"
        )
    return [row.hgnc_id for row in inserted]


# Why a value is another, and how much that matters. What was closed a moment ago is what it was.
_IS_CHANGE = "(:tells_first OR f.hgnc_id = ANY(CAST(:closed AS text[])))"
_CAUSE_AND_SEVERITY = f"""
    CASE WHEN {_IS_CHANGE} THEN :cause END,
    CASE WHEN {_IS_CHANGE} AND NOT :is_one_change THEN coalesce(severity_of(
        (SELECT severities FROM source WHERE name = :source),
        (SELECT a.value FROM annotation a
         WHERE a.hgnc_id = f.hgnc_id AND a.source = :source AND a.valid_to = :now
           AND a.valid_to <> 'infinity' LIMIT 1),
        f.value), 'none') END
"""


async def mark_checked(
    tx: AsyncConnection, source: str, offered: Offered, retrieved_at: datetime
) -> list[str]:
    """Note that an API was asked for these genes. Returns those whose outcome is another now."""
    outcomes = ["empty" if value is None else "ok" for value in offered.values]
    return await _mark(tx, source, offered.hgnc_ids, outcomes, None, retrieved_at)


async def mark_failed(
    tx: AsyncConnection, source: str, genes: list[str], problem: Problem, retrieved_at: datetime
) -> list[str]:
    """Note that an API could not be asked; what it said before stays."""
    return await _mark(tx, source, genes, ["error"] * len(genes), problem, retrieved_at)


async def _mark(
    tx: AsyncConnection,
    source: str,
    genes: list[str],
    outcomes: list[str],
    problem: Problem | None,
    retrieved_at: datetime,
) -> list[str]:
    rows = await tx.execute(
        text("""
            INSERT INTO checked (hgnc_id, source, checked_at, retrieved_at, outcome, problem)
            SELECT c.hgnc_id, :source, now(), :retrieved_at, c.outcome, CAST(:problem AS jsonb)
            FROM unnest(CAST(:genes AS text[]), CAST(:outcomes AS text[]))
                AS c (hgnc_id, outcome)
            ORDER BY c.hgnc_id
            ON CONFLICT (hgnc_id, source) DO UPDATE SET
                checked_at = excluded.checked_at, retrieved_at = excluded.retrieved_at,
                outcome = excluded.outcome, problem = excluded.problem
            WHERE checked.retrieved_at <= excluded.retrieved_at
            RETURNING new.hgnc_id, old.outcome IS DISTINCT FROM new.outcome AS changed
        """),
        {
            "source": source,
            "genes": genes,
            "outcomes": outcomes,
            "problem": orjson.dumps(problem).decode() if problem else None,
            "retrieved_at": retrieved_at,
        },
    )
    return [row.hgnc_id for row in rows if row.changed]
