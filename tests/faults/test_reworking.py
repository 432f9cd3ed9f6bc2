"""What is measured of a worker that was killed."""

from dataclasses import replace

import pytest

from tests.faults.faults import FaultSpec, Strike
from tests.faults.history import BatchWrite
from tests.faults.reworking import reworked_seconds

KILL = FaultSpec("kill", "annotator-0", 1.0)
CLAIM = BatchWrite(
    *("1", "annotator 11", "b", "hpo", "queued", "leased"), 0, 1, 0, lease_over=False, at=10.0
)
AGAIN = replace(CLAIM, writer="annotator 12", old_state="leased", old_token=1, new_token=2, at=13.5)
DONE = replace(CLAIM, old_state="leased", new_state="done", old_token=1, at=11.0)


def test_a_batch_in_hand_is_measured_until_it_is_claimed_again() -> None:
    assert reworked_seconds([CLAIM, AGAIN], [(KILL, Strike(12.0, 12.1, 14.0, 11))]) == [1.5]


def test_what_another_had_in_hand_or_was_done_before_is_not_measured() -> None:
    assert reworked_seconds([CLAIM, AGAIN], [(KILL, Strike(12.0, 12.1, 14.0, 99))]) == []
    assert reworked_seconds([CLAIM, DONE, AGAIN], [(KILL, Strike(12.0, 12.1, 14.0, 11))]) == []


@pytest.mark.parametrize(("target", "measured"), [("postgres", []), ("gateway", [1.5])])
def test_what_another_fault_delayed_is_not_measured(target: str, measured: list[float]) -> None:
    strikes = [
        (KILL, Strike(12.0, 12.1, 14.0, 11)),
        (FaultSpec("kill", target, 1.0), Strike(12.5, 13.0, 13.2)),
    ]
    assert reworked_seconds([CLAIM, AGAIN], strikes) == measured
