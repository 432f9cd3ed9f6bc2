"""Runs as users ordered them, joined with what the annotator publishes of their execution."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.messages import (
    ControlAction,
    ControlRun,
    RunProgress,
    SourceProgress,
    StartRun,
)
from contracts.topics import FIXED
from services.gateway.domain import DESIRED, DesiredState, NewRun, PanelVersion, Run
from services.gateway.errors import RunUnknown
from services.gateway.frames import FACTS_MAX, Fact

ACTIVE_RUNS_MAX = 100  # Runs that the socket of all runs follows at once, the newest.
# As long as Kafka keeps a command: an older one that no annotator has heard, none will hear.
UNHEARD_MAX = next(topic.retention for topic in FIXED if topic.name == StartRun.topic)

# A run that the annotator has not seen yet is in state planning, its sources wait.
_RUNS = """
    SELECT r.id, r.name, r.sources AS ordered_sources, r.gene_count, r.requested_at,
           r.priority, r.desired_state, r.strategy, r.retries, r.dry_run,
           r.panel_id, r.panel_version,
           a.state, a.seq, a.started_at, a.finished_at, s.sources::text AS sources
    FROM run r
    LEFT JOIN annotator.run_v1 a ON a.run_id = r.id
    LEFT JOIN LATERAL (
        SELECT jsonb_object_agg(source, to_jsonb(rs)) AS sources
        FROM annotator.run_source_v1 rs
        WHERE rs.run_id = r.id
    ) s ON true
"""

# Runs that are not at their end: those that the annotator works, and those it has not heard of yet.
_ACTIVE = """
    SELECT a.run_id FROM annotator.run_v1 a WHERE a.state IN ('planning', 'running', 'paused')
    UNION ALL
    SELECT r.id FROM run r
    WHERE r.requested_at > now() - CAST(:unheard_max AS interval)
      AND NOT EXISTS (SELECT FROM annotator.run_v1 a WHERE a.run_id = r.id)
"""


async def insert_run(tx: AsyncConnection, new: NewRun) -> UUID:
    run_id = await tx.scalar(
        text("""
            INSERT INTO run (name, sources, gene_count, priority, scope, strategy, retries, dry_run,
                panel_id, panel_version)
            VALUES (:name, CAST(:sources AS text[]), :gene_count, :priority, :scope, :strategy,
                    :retries, :dry_run, :panel_id, :panel_version)
            RETURNING id
        """),
        {
            "name": new.name,
            "sources": list(new.sources),
            "gene_count": new.gene_count,
            "priority": new.priority,
            "scope": new.scope,
            "strategy": new.strategy,
            "retries": new.retries,
            "dry_run": new.dry_run,
            "panel_id": None if new.panel is None else new.panel.panel_id,
            "panel_version": None if new.panel is None else new.panel.version,
        },
    )
    return UUID(str(run_id))


async def lock_scope(tx: AsyncConnection, scope: bytes) -> None:
    """Let two orders over the same genes pass one after the other, until the commit."""
    await tx.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended('scope:' || :scope, 0))"),
        {"scope": scope.hex()},
    )


@dataclass(frozen=True)
class Fetching:
    """A run that asks APIs, these sources, for the same genes."""

    run_id: UUID
    sources: Sequence[str]


async def find_fetching(
    tx: AsyncConnection, scope: bytes, sources: Sequence[str]
) -> Fetching | None:
    """The oldest active run with an API in common that has not ended there, and is not to end: one
    that is cancelled, or whose source is, is no reason to wait."""
    row = (
        await tx.execute(
            text(f"""
                SELECT r.id, array_agg(s.name ORDER BY s.name) AS sources
                FROM ({_ACTIVE}) active JOIN run r ON r.id = active.run_id
                JOIN annotator.source_v1 s ON s.kind = 'api' AND s.name = ANY (r.sources)
                    AND s.name = ANY (CAST(:sources AS text[]))
                LEFT JOIN annotator.run_source_v1 rs ON rs.run_id = r.id AND rs.source = s.name
                LEFT JOIN run_source wanted ON wanted.run_id = r.id AND wanted.source = s.name
                WHERE r.scope = :scope AND NOT r.dry_run AND r.desired_state <> 'cancelled'
                  AND coalesce(wanted.desired_state, 'running') <> 'cancelled'
                  AND coalesce(rs.state, 'waiting') IN ('waiting', 'running', 'paused')
                GROUP BY r.id ORDER BY r.requested_at, r.id LIMIT 1
            """),
            {"scope": scope, "sources": list(sources), "unheard_max": UNHEARD_MAX},
        )
    ).one_or_none()
    return None if row is None else Fetching(UUID(str(row.id)), row.sources)


async def lock_run(tx: AsyncConnection, run_id: UUID) -> None:
    """Let controls of a run pass one after the other, until the commit."""
    await tx.execute(text("SELECT FROM run WHERE id = :run_id FOR UPDATE"), {"run_id": run_id})


async def desired_source_state(
    connection: AsyncConnection, run_id: UUID, source: str
) -> DesiredState:
    found: DesiredState | None = await connection.scalar(
        text("""
            SELECT desired_state FROM run_source WHERE run_id = :run_id AND source = :source
        """),
        {"run_id": run_id, "source": source},
    )
    return found or "running"


async def save_control(
    tx: AsyncConnection, run_id: UUID, source: str | None, action: ControlAction
) -> ControlRun:
    """Note what is wanted, and give the command that says so the run's next epoch."""
    desired = DESIRED[action]
    epoch = await tx.scalar(
        text("""
            UPDATE run SET control_epoch = control_epoch + 1,
                desired_state = coalesce(CAST(:desired AS text), desired_state)
            WHERE id = :run_id RETURNING control_epoch
        """),
        {"run_id": run_id, "desired": desired if source is None else None},
    )
    if source is not None:
        await tx.execute(
            text("""
                INSERT INTO run_source (run_id, source, desired_state)
                VALUES (:run_id, :source, :desired)
                ON CONFLICT (run_id, source) DO UPDATE SET desired_state = excluded.desired_state
            """),
            {"run_id": run_id, "source": source, "desired": desired},
        )
    return ControlRun(run_id=run_id, action=action, source=source, epoch=int(epoch or 0))


async def get_run(connection: AsyncConnection, run_id: UUID) -> Run:
    """One statement, so that its counters fit together. Raises RunUnknown."""
    found = await connection.execute(text(f"{_RUNS} WHERE r.id = :run_id"), {"run_id": run_id})
    row = found.mappings().one_or_none()
    if row is None:
        raise RunUnknown(run_id)
    return _run(row)


async def list_runs(connection: AsyncConnection, *, limit: int, offset: int) -> list[Run]:
    """The newest first. What is skipped is not joined with anything."""
    rows = await connection.execute(
        text(f"""
            {_RUNS} WHERE r.id IN (
                SELECT id FROM run ORDER BY requested_at DESC, id DESC
                LIMIT :limit OFFSET :offset)
            ORDER BY r.requested_at DESC, r.id DESC
        """),
        {"limit": limit, "offset": offset},
    )
    return [_run(row) for row in rows.mappings()]


async def list_active_ids(connection: AsyncConnection) -> list[UUID]:
    """Runs that are not at their end, the newest first; those that ended are not read."""
    rows = await connection.scalars(
        text(f"""
            SELECT r.id FROM ({_ACTIVE}) active JOIN run r ON r.id = active.run_id
            ORDER BY r.requested_at DESC, r.id DESC LIMIT :limit
        """),
        {"unheard_max": UNHEARD_MAX, "limit": ACTIVE_RUNS_MAX},
    )
    return [UUID(bytes=run_id.bytes) for run_id in rows]


async def list_active_runs(connection: AsyncConnection) -> list[Run]:
    """Runs that are not at their end, the newest first."""
    rows = await connection.execute(
        text(f"""
            {_RUNS} WHERE r.id = ANY (CAST(:ids AS uuid[]))
            ORDER BY r.requested_at DESC, r.id DESC
        """),
        {"ids": await list_active_ids(connection)},
    )
    return [_run(row) for row in rows.mappings()]


async def list_facts(
    connection: AsyncConnection, run_id: UUID, *, after: int, up_to: int
) -> list[Fact]:
    """The facts with after < seq <= up_to, at most FACTS_MAX, in order. `seq` is raised under
    the run's lock, so whoever sees a fact sees all before it."""
    rows = await connection.execute(
        text("""
            SELECT seq, type, body::text AS body FROM annotator.run_fact_v1
            WHERE run_id = :run_id AND seq > :after AND seq <= :up_to ORDER BY seq LIMIT :limit
        """),
        {"run_id": run_id, "after": after, "up_to": up_to, "limit": FACTS_MAX},
    )
    return [Fact(row.seq, row.type, orjson.loads(row.body)) for row in rows]


def _run(row: RowMapping) -> Run:
    run_id = UUID(bytes=row["id"].bytes)  # The driver's own class is none that JSON knows.
    published = orjson.loads(row["sources"]) if row["sources"] else {}
    sources = {
        name: SourceProgress.model_validate(published[name]) if name in published else _waiting()
        for name in row["ordered_sources"]
    }
    return Run(
        id=run_id,
        name=row["name"],
        gene_count=row["gene_count"],
        requested_at=row["requested_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        progress=RunProgress.of(run_id, row["seq"] or 0, row["state"] or "planning", sources),
        desired_state=row["desired_state"],
        priority=row["priority"],
        strategy=row["strategy"],
        dry_run=row["dry_run"],
        retries=None if row["retries"] is None else UUID(bytes=row["retries"].bytes),
        panel=None
        if row["panel_id"] is None
        else PanelVersion(UUID(bytes=row["panel_id"].bytes), row["panel_version"]),
        source_times={name: _times(published.get(name, {})) for name in sources},
    )


def _waiting() -> SourceProgress:
    return SourceProgress(
        state="waiting", total_count=None, done_count=0, no_data_count=0, failed_count=0
    )


def _times(published: dict[str, Any]) -> dict[str, Any]:
    return {
        "started_at": published.get("started_at"),
        "finished_at": published.get("finished_at"),
        "changed_count": published.get("changed_count", 0),
        "preview": published.get("preview"),
    }
