"""How soon the batches of a worker that was killed are claimed again."""

from collections.abc import Iterator, Sequence

from tests.faults.faults import FaultSpec, Strike
from tests.faults.history import BatchWrite

ELSEWHERE = ("cache", "gateway")  # Who is hit there is in no annotator's way.


def reworked_seconds(
    writes: Sequence[BatchWrite], strikes: Sequence[tuple[FaultSpec, Strike]]
) -> list[float]:
    """For each batch that a process had claimed when it was killed: until its next claim, where no
    other fault was in the way. That none is left behind is the checker's."""
    return [
        seconds
        for fault, strike in strikes
        if fault.kind == "kill"
        for seconds in _of_strike(writes, strike)
        if not any(
            other is not strike
            and of_other.target not in ELSEWHERE
            and other.struck < strike.struck + seconds
            and (other.ready or other.over) > strike.struck
            for of_other, other in strikes
        )
    ]


def _of_strike(writes: Sequence[BatchWrite], strike: Strike) -> Iterator[float]:
    writer = f"annotator {strike.pid}"
    held: dict[str, int] = {}
    for write in writes:
        claims = write.new_token > write.old_token
        if write.at <= strike.struck:
            if claims and write.writer == writer:
                held[write.batch_id] = write.new_token
            elif claims or write.new_state != "leased":
                held.pop(write.batch_id, None)
        elif claims and held.get(write.batch_id) == write.old_token:
            yield write.at - strike.struck
