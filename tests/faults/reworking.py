"""How soon the batches of a worker that was killed are claimed again."""

from collections.abc import Iterator, Sequence

from tests.faults.faults import Strike
from tests.faults.history import BatchWrite


def reworked_seconds(writes: Sequence[BatchWrite], strikes: Sequence[Strike]) -> list[float]:
    """For each batch that a process had claimed when it was killed: until its next claim, where no
    other fault was in the way. That none is left behind is the checker's."""
    return [
        seconds
        for strike in strikes
        for seconds in _of_strike(writes, strike)
        if not any(
            other is not strike
            and other.struck < strike.struck + seconds
            and (other.ready or other.over) > strike.struck
            for other in strikes
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
