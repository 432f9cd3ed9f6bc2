"""What a progress socket sends: one JSON object a frame, made once for all who watch the run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from contracts.messages import (
    BatchAnnotated,
    BatchDead,
    RunCancelled,
    RunPaused,
    RunPlanned,
    RunProgress,
    RunResumed,
    SourceCompleted,
)
from services.gateway import domain

FACTS_MAX = 200  # Read, and encoded in one step of the loop, at once.
STALE = "the database does not answer; last known state: "
CONTROLLED = {
    RunPaused.type: "paused",
    RunResumed.type: "resumed",
    RunCancelled.type: "cancelled",
}


@dataclass(frozen=True)
class Fact:
    """A row of `annotator.run_fact_v1`."""

    seq: int
    type: str
    body: Mapping[str, Any]


def snapshot(progress: RunProgress, *, stale: bool = False) -> str:
    """Replaces what earlier frames of this run said."""
    message = domain.sentence(progress)
    return _encode(
        _fields("snapshot", progress) | {"message": STALE + message if stale else message}
    )


def facts(progress: RunProgress, told: Sequence[Fact]) -> list[str]:
    """Append to what is known; status and counters are those of the newest snapshot."""
    known = _fields("fact", progress)
    return [
        _encode(
            known
            | {"seq": fact.seq, "message": _sentence(fact, progress)}
            | {"event": fact.type, "data": fact.body}
        )
        for fact in told
    ]


def idle() -> str:
    """For the socket of all runs, when none is active."""
    return _encode(
        {
            "type": "snapshot",
            "run_id": None,
            "seq": 0,
            "status": "idle",
            "progress": None,
            "message": "no run is active",
            "sources": {},
        }
    )


def _fields(kind: str, progress: RunProgress) -> dict[str, object]:
    return {
        "type": kind,
        "run_id": progress.run_id,
        "seq": progress.seq,
        "status": progress.state,
        "progress": domain.percent(progress),
        "message": "",
        "sources": {name: source.model_dump() for name, source in progress.sources.items()},
    }


def _encode(frame: Mapping[str, object]) -> str:
    return orjson.dumps(frame, default=dict).decode()


def _sentence(told: Fact, progress: RunProgress) -> str:
    """One sentence for a fact that is known; the state of the run for one that is newer than us."""
    body = told.body
    match told.type:
        case RunPlanned.type:
            return f"planned: {body['gene_count']:,} genes from {', '.join(body['sources'])}"
        case BatchAnnotated.type:
            stored = body["done_count"] + body["no_data_count"]
            return f"{body['source']}: {stored:,} genes more"
        case BatchDead.type:
            reason = body["problem"].get("detail", "no reason is known")
            return f"{body['source']}: {body['failed_count']:,} genes failed: {reason}"
        case SourceCompleted.type:
            cancelled = body.get("cancelled_count")
            return (
                f"{body['source']}: {body['state']}, {body['done_count']:,} annotations, "
                f"{body['no_data_count']:,} without data, {body['failed_count']:,} failed"
                + (f", {cancelled:,} cancelled" if cancelled else "")
            )
        case RunPaused.type | RunResumed.type | RunCancelled.type:
            place = f"{body['source']}: " if body.get("source") else ""  # None: all of the run.
            return place + CONTROLLED[told.type]
        case _:
            return domain.sentence(progress)
