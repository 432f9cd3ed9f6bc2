"""What strikes must not leave behind more than it says."""

import subprocess
from collections.abc import Iterator

import pytest

from tests.faults.faults import descendants, frozen, state

TIMES = 100


@pytest.fixture
def parent() -> Iterator[int]:
    """A process whose children come and go, as the sessions of a server do."""
    command = ["sh", "-c", "while :; do sleep 0.001 & sleep 0.001; done"]
    with subprocess.Popen(command) as process:
        yield process.pid
        process.kill()


def test_a_process_is_frozen_while_its_children_end_and_all_of_it_goes_on(parent: int) -> None:
    stopped = 0
    for _ in range(TIMES):
        with frozen(parent):
            stopped += sum(state(one) == "T" for one in descendants(parent))
        assert state(parent) != "T"
        assert not [one for one in descendants(parent) if state(one) == "T"]
    assert stopped  # Some children were there to be stopped.
