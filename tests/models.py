"""How a model is run: a state machine of Hypothesis over something that is kept open by a loop."""

from collections.abc import Callable
from typing import cast

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test


def run_model(make: Callable[[], RuleBasedStateMachine], *, histories: int, steps: int) -> None:
    """Try so many histories of so many steps; fails with a short one in which something is wrong.

    A step waits for a database, so no step is too slow.
    """
    run_state_machine_as_test(
        cast(type[RuleBasedStateMachine], make),  # It is only called; a factory will do.
        settings=settings(
            max_examples=histories,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
