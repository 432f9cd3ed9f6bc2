"""Dead letters as they arrive."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy import text

from contracts.messages import BatchDead, StartRun
from services.chassis.dead_letters import Letter
from tests.integration.gateway.desk import Desk

PROBLEM = {"type": "urn:annobus:problem:malformed-message", "title": "It is broken", "detail": "x"}
COMMANDS = StartRun.topic


def letter(offset: int = 0, **changes: Any) -> Letter:
    made = Letter(
        topic=COMMANDS,
        partition=0,
        offset=offset,
        recorded_at_ms=1_740_000_000_000,
        parked_at_ms=1_750_000_000_000 + offset,
        service="annotator",
        group="planner",
        attempts=1,
        problem=dict(PROBLEM),
        key=b"key",
        headers=(("ce_type", StartRun.type.encode()), ("ce_id", b"an id")),
        value=b'{"run_id": 7}',
        is_left_at_origin=False,
    )
    return replace(made, **changes)


async def keep(desk: Desk, *letters: Letter) -> list[str]:
    for one in letters:
        await desk.letters.on_letter(one)
    rows = await desk.rows("SELECT id::text FROM gateway.dead_letter ORDER BY id")
    return [row["id"] for row in rows][-len(letters) :]


async def dead_batch(
    desk: Desk,
    genes: Sequence[str],
    *,
    source: str = "ensembl",
    kind: str = "fetch",
    checkpoint: int = 0,
    seq: int = 7,
    run_id: UUID | None = None,
) -> BatchDead:
    """A batch that was given up, as the annotator leaves it, and the fact that says so."""
    run_id = run_id or await desk.start(all=True, sources=["hpo"])
    async with desk.database.begin("annotator") as tx:
        await tx.execute(
            text("""
                INSERT INTO run (id, all_genes, awaits_catalogue, open_sources)
                VALUES (:run_id, true, false, 1) ON CONFLICT DO NOTHING
            """),
            {"run_id": run_id},
        )
        batch_id = await tx.scalar(
            text("""
                INSERT INTO batch (kind, source, run_id, genes, checkpoint, state, attempt,
                                   finished_at, problem)
                VALUES (:kind, :source, :run_id, CAST(:genes AS text[]), :checkpoint, 'dead', 5,
                        now(), '{}') RETURNING id
            """),
            {
                "kind": kind,
                "source": source,
                "run_id": run_id if kind == "fetch" else None,
                "genes": list(genes),
                "checkpoint": checkpoint,
            },
        )
        fact = BatchDead(
            run_id=run_id,
            seq=seq,
            batch_id=batch_id,
            source=source,
            failed_count=len(genes) - checkpoint,
            problem=PROBLEM,
        )
        await tx.execute(
            text("INSERT INTO run_fact (run_id, seq, type, body) VALUES (:run, :seq, 'x', '{}')"),
            {"run": run_id, "seq": seq},
        )
    await desk.letters.on_batch_dead(fact)
    return fact
