"""Every service is killed at every step of a run's life, several of them in each run."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from enum import StrEnum
from random import Random
from uuid import uuid4

import pytest
import pytest_asyncio

from services.annotator.failpoints import Failpoint as Annotator
from services.cache.failpoints import Failpoint as Cache
from services.chassis.failpoints import Failpoint as Every
from services.gateway.failpoints import Failpoint as Gateway
from tests.faults import schedule
from tests.faults.faults import FaultSpec, Hit
from tests.faults.matrix import System, die_often, open_system
from tests.system import Mirror, SharedCluster, open_database

ROUNDS = 6
RELAY = (Every.RELAY_READ, Every.RELAY_SENT)

# What follows an order, and what is heard of its run: each gateway dies once before and once after.
BEFORE: Sequence[StrEnum] = (Gateway.ORDER_WRITTEN, Gateway.ORDER_COMMITTED, *RELAY)
AFTER: Sequence[StrEnum] = (
    Gateway.PROGRESS_HEARD,
    Gateway.FACT_HEARD,
    Gateway.FRAMES_MADE,
    Gateway.DOCUMENTS_HEARD,
)
# The hit at which a point fires is at most this, so that each run comes so far; else the first.
HITS_MAX: Mapping[StrEnum, int] = {
    Annotator.BATCH_CLAIMED: 6,
    Annotator.ANSWER_BEGUN: 6,
    Annotator.PAGE_FETCHED: 5,
    Annotator.PAGE_WRITTEN: 5,
    Annotator.PAGE_COMMITTED: 5,
    Annotator.SLICE_WRITTEN: 2,
    Annotator.BATCH_LEFT: 6,
    Annotator.HINTS_WRITTEN: 2,
    Annotator.HINTS_COMMITTED: 2,
    Cache.MARKS_WRITTEN: 3,
    Cache.MARKS_COMMITTED: 3,
    Gateway.FACT_HEARD: 3,
    Gateway.FRAMES_MADE: 2,
}


def deal(seed: int) -> list[list[FaultSpec]]:
    """The faults of each run: every point of every service once, and a stop of each."""
    random = Random(seed)

    def kills(service: str, points: Sequence[StrEnum]) -> list[FaultSpec]:
        return [
            FaultSpec("kill", service, Hit(point, random.randint(1, HITS_MAX.get(point, 1))))
            for point in random.sample(points, len(points))
        ]

    def stop(process: str) -> FaultSpec:
        return FaultSpec("kill_in_stop", process, random.uniform(0.2, 1.5))

    decks = [
        [*kills("annotator", [*Annotator, *RELAY]), stop("annotator-0")],
        [*kills("cache", [*Cache, *RELAY]), stop("cache")],
        kills("gateway", BEFORE),
        [*kills("gateway", AFTER), stop("gateway")],
    ]
    return [[fault for deck in decks for fault in deck[number::ROUNDS]] for number in range(ROUNDS)]


@pytest.mark.parametrize("seed", schedule.SEEDS)
def test_every_point_of_every_service_is_dealt(seed: int) -> None:
    dealt = {
        f"{fault.target}.{fault.at.point}"
        for faults in deal(seed)
        for fault in faults
        if isinstance(fault.at, Hit)
    }
    own: Mapping[str, Iterable[StrEnum]] = {
        "annotator": Annotator,
        "cache": Cache,
        "gateway": Gateway,
    }
    named = {f"{service}.{point}" for service, points in own.items() for point in (*points, *RELAY)}
    stopped = {
        fault.target.partition("-")[0]
        for faults in deal(seed)
        for fault in faults
        if fault.kind == "kill_in_stop"
    }
    assert dealt == named
    assert stopped == {"annotator", "cache", "gateway"}
    assert deal(seed) == deal(seed)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=schedule.SEEDS)
async def seeded(
    request: pytest.FixtureRequest,
    cluster: SharedCluster,
    template: str,
    mirror: Mirror,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[int, System]]:
    name, prefix = f"kills_{request.param}", f"kills-{uuid4().hex[:8]}."
    folder = tmp_path_factory.mktemp(name)
    annotators = 1 + request.param % 2  # Whose batches are another's, or only its own again.
    with die_often():
        async with (
            open_database(cluster, name, template) as database,
            open_system(database, prefix, mirror, folder, annotators=annotators) as system,
        ):
            yield request.param, system


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.timeout(180)
async def test_a_run_ends_well_though_services_are_killed(
    seeded: tuple[int, System], number: int
) -> None:
    seed, system = seeded
    faults = deal(seed)[number]
    await system.run(*faults, random=Random(seed), invalidates=True)
