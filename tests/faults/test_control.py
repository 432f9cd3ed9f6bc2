"""Runs that are paused, resumed and cancelled, while what works on them is killed."""

from collections.abc import AsyncIterator, Sequence
from random import Random
from uuid import uuid4

import pytest
import pytest_asyncio

from services.annotator.failpoints import Failpoint as Annotator
from tests.faults.faults import FaultSpec, Hit
from tests.faults.matrix import ControlAt, System, die_often, open_system
from tests.system import Mirror, SharedCluster, open_database

CALLS_PER_SECOND = 10.0
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
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.timeout(180)
async def test_a_run_ends_as_was_asked(
    system: System, faults: Sequence[FaultSpec], controls: Sequence[ControlAt]
) -> None:
    outcome = await system.run(*faults, random=Random(1), controls=controls)
    assert [one.action for one in outcome.history.controls if one.accepted] == [
        action for _, action in controls
    ]
