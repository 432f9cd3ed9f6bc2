"""Which of a run's genes are worked for a source: those that its strategy, or what it retries,
picks from its scope."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.messages import Strategy
from services.annotator.domain import Identifier, Kind
from services.annotator.store import scope

# What is worked of a source, by what `current_annotation_v1` says of it; of the others, everything.
STATUSES: Mapping[Strategy, Sequence[str]] = {
    "stale": ("stale", "error", "pending"),
    "missing": ("error", "pending"),
}

# Conditions on a gene `g`, with the source as :source.
_OF_STATUS = """g.hgnc_id IN (
    SELECT c.hgnc_id FROM current_annotation_v1 c
    WHERE c.source = :source AND c.status = ANY (CAST(:statuses AS text[])))"""
# What dead batches had not done; all of it, if the run failed before it had any.
_FAILED = """(g.hgnc_id IN (
    SELECT unnest(b.genes[b.checkpoint + 1 : cardinality(b.genes)]) FROM batch b
    WHERE b.run_id = :retries AND b.source = :source AND b.state = 'dead'
) OR NOT EXISTS (SELECT FROM batch b WHERE b.run_id = :retries AND b.source = :source))"""


@dataclass(frozen=True)
class Selection:
    """Of a run; `retries` is the run whose failures it works again."""

    strategy: Strategy
    retries: UUID | None
    is_dry: bool

    @property
    def condition(self) -> str:
        if self.retries is not None:
            return _FAILED
        return _OF_STATUS if self.strategy in STATUSES else "true"

    @property
    def arguments(self) -> Mapping[str, object]:
        if self.retries is not None:
            return {"retries": self.retries}
        statuses = STATUSES.get(self.strategy)
        return {"statuses": list(statuses)} if statuses else {}


@dataclass(frozen=True)
class Planned:
    """Of one API source: genes in all, and those that it cannot be asked for."""

    total: int
    unaskable: Sequence[str]


async def get_selection(tx: AsyncConnection, run_id: UUID) -> Selection:
    row = (
        await tx.execute(
            text("SELECT strategy, retries, dry_run FROM run WHERE id = :run_id"),
            {"run_id": run_id},
        )
    ).one()
    return Selection(row.strategy, row.retries, row.dry_run)


async def has_work(
    tx: AsyncConnection, run_id: UUID, source: str, kind: Kind, selection: Selection
) -> bool:
    """Whether anything is picked. A bulk source is worked as a whole or not at all: also when it
    has no release yet."""
    if selection.condition == "true" or (kind == "bulk" and selection.retries is not None):
        return True  # A failed source is ordered again only where it failed.
    found = await tx.scalar(
        text(f"""
            SELECT EXISTS (
                SELECT FROM run CROSS JOIN LATERAL ({scope.GENES}) g
                WHERE run.id = :run_id AND {selection.condition}
            ) OR EXISTS (
                SELECT FROM source_v1 WHERE name = :source AND kind = 'bulk' AND release_id IS NULL)
        """),
        {"run_id": run_id, "source": source, **selection.arguments},
    )
    return bool(found)


async def count_fetches(
    tx: AsyncConnection, run_id: UUID, identifier: Identifier, source: str, selection: Selection
) -> int:
    """Of how many genes an API source would be asked."""
    assert identifier in get_args(Identifier)  # It becomes a column's name.
    count = await tx.scalar(
        text(f"""
            SELECT (SELECT count(*) FROM ({scope.GENES}) s JOIN gene g USING (hgnc_id)
                    WHERE g.{identifier} IS NOT NULL AND {selection.condition})
            FROM run WHERE id = :run_id
        """),
        {"run_id": run_id, "source": source, **selection.arguments},
    )
    return int(count or 0)


async def plan_fetches(
    tx: AsyncConnection,
    run_id: UUID,
    source: str,
    identifier: Identifier,
    batch_size: int,
    selection: Selection,
) -> Planned:
    """Cut what is picked of a run's genes into batches for an API source."""
    assert identifier in get_args(Identifier)  # It becomes a column's name.
    row = (
        await tx.execute(
            text(f"""
                WITH picked AS MATERIALIZED (
                    SELECT g.hgnc_id, g.hgnc_number, g.{identifier} IS NOT NULL AS is_askable
                    FROM run CROSS JOIN LATERAL ({scope.GENES}) s JOIN gene g USING (hgnc_id)
                    WHERE run.id = :run_id AND {selection.condition}
                ), askable AS (
                    SELECT hgnc_id, row_number() OVER (ORDER BY hgnc_number) - 1 AS place
                    FROM picked WHERE is_askable
                ), planned AS (
                    INSERT INTO batch (kind, source, run_id, genes)
                    SELECT 'fetch', :source, :run_id, array_agg(hgnc_id ORDER BY place)
                    FROM askable GROUP BY place / :batch_size ORDER BY place / :batch_size
                )
                SELECT (SELECT count(*) FROM picked) AS total,
                       ARRAY(SELECT hgnc_id FROM picked WHERE NOT is_askable) AS unaskable
            """),
            {"run_id": run_id, "source": source, "batch_size": batch_size, **selection.arguments},
        )
    ).one()
    return Planned(int(row.total), row.unaskable)
