"""Dead letters as they arrive."""

from dataclasses import replace
from typing import Any

from contracts.messages import StartRun
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
