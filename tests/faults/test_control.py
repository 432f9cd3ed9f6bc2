"""Runs that are paused, resumed and cancelled while what works on them is killed; and runs while
services are started anew in order, or come and go."""

from collections.abc import AsyncIterator, Sequence
from random import Random
from uuid import uuid4

import pytest
import pytest_asyncio

from services.annotator.failpoints import Failpoint as Annotator
from tests.faults.faults import STOP_SECONDS_MAX, FaultSpec, Hit
from tests.faults.matrix import ControlAt, Outcome, System, die_often, open_system
from tests.system import Mirror, SharedCluster, open_database

CALLS_PER_SECOND = 10.0
STORM_SECONDS = 10.0
PACE_KEPT = 0.3
GENES = 2_000  # Twenty calls: two seconds.
PAUSED: Sequence[ControlAt] = ((0.8, "pause"), (3.0, "resume"))
CANCELLED: Sequence[ControlAt] = ((0.8, "cancel"),)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(
    cluster: SharedCluster,
    template: str,
    mirror: Mirror,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[System]:
    name, prefix = "controls", f"controls-{uuid4().hex[:8]}."
    folder = tmp_path_factory.mktemp(name)
    with die_often():
        async with (
            open_database(cluster, name, template) as database,
            open_system(
                database,
                prefix,
                mirror,
                folder,
                calls_per_second=CALLS_PER_SECOND,
                genes_max=GENES,
            ) as system,
        ):
            yield system


pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]


@pytest.mark.parametrize("controls", [PAUSED, CANCELLED], ids=["paused", "cancelled"])
@pytest.mark.parametrize(
    "faults",
    [
        pytest.param([], id="nothing fails"),
        pytest.param(
            [
                FaultSpec("kill", "annotator", Hit(Annotator.PAGE_FETCHED, 3)),
                FaultSpec("kill", "gateway", 0.7),
                FaultSpec("kill", "annotator-1", 0.9),
            ],
            id="killed",
        ),
    ],
)
async def test_a_run_ends_as_was_asked(
    system: System, faults: Sequence[FaultSpec], controls: Sequence[ControlAt]
) -> None:
    outcome = await system.run(*faults, random=Random(1), controls=controls)
    assert [one.action for one in outcome.history.controls if one.accepted] == [
        action for _, action in controls
    ]


async def test_a_rolling_restart_of_all_services_costs_a_run_nothing_but_time(
    system: System,
) -> None:
    """Each stops in order, within the time that a supervisor grants."""
    stops = [
        FaultSpec("stop", name, 0.2 + 0.5 * number)
        for number, name in enumerate(system.running.ports)
    ]
    outcome = await system.run(*stops, random=Random(1))
    for _, strike in outcome.strikes:
        assert strike is not None
        assert strike.over - strike.struck < STOP_SECONDS_MAX


async def test_a_run_keeps_most_of_its_pace_while_an_annotator_comes_and_goes(
    system: System,
) -> None:
    quiet = await system.run(random=Random(1))
    storm = FaultSpec("rebalance", "annotator", 0.0, STORM_SECONDS)
    stormy = await system.run(storm, random=Random(1))
    ((_, strike),) = stormy.strikes
    assert strike is not None
    calls = [call for call in stormy.history.calls if call < strike.over]
    assert len(calls) == len(quiet.history.calls)  # All of it was done in the storm.
    assert _seconds(quiet) / _seconds(stormy) > PACE_KEPT


def _seconds(outcome: Outcome) -> float:
    """From the first call to the last."""
    return max(outcome.history.calls) - min(outcome.history.calls)
