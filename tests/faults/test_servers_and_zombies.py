"""Kafka and PostgreSQL are killed and frozen, sessions are ended in the middle of transactions, and
services are frozen and come back to a world that went on without them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from random import Random
from uuid import uuid4

import pytest
import pytest_asyncio

from infra.cluster import Cluster
from infra.supervisor import Supervisor
from services.annotator.failpoints import Failpoint as Annotator
from services.cache.failpoints import Failpoint as Cache
from services.cli.migrate import declare_sources, migrate_schemas
from services.gateway.failpoints import Failpoint as Gateway
from tests.faults import schedule
from tests.faults.faults import FaultSpec, Hit
from tests.faults.matrix import System, die_often, open_system
from tests.system import Mirror, open_database

TEMPLATE = "faults_template"
# Longer than a lease, the grace, and the time in which the other one is given the partitions.
ZOMBIE_SECONDS = 10.0

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]


def in_the_middle(random: Random) -> float:
    return random.uniform(0.2, 2.5)


def kill_kafka(random: Random) -> list[FaultSpec]:
    return [FaultSpec("kill", "kafka", in_the_middle(random))]


def freeze_kafka(random: Random) -> list[FaultSpec]:
    return [FaultSpec("freeze", "kafka", in_the_middle(random), schedule.frozen_seconds())]


def kill_postgres(random: Random) -> list[FaultSpec]:
    return [FaultSpec("kill", "postgres", in_the_middle(random))]


def freeze_postgres(random: Random) -> list[FaultSpec]:
    return [FaultSpec("freeze", "postgres", in_the_middle(random), schedule.frozen_seconds())]


def end_sessions(random: Random) -> list[FaultSpec]:
    points = [
        ("annotator", random.choice([Annotator.RUN_WRITTEN, Annotator.PLAN_WRITTEN])),
        ("annotator", random.choice([Annotator.PAGE_WRITTEN, Annotator.SLICE_WRITTEN])),
        ("annotator", random.choice([Annotator.ACCEPTANCE_WRITTEN, Annotator.ROWS_COPIED])),
        ("annotator", random.choice([Annotator.COMPLETION_WRITTEN, Annotator.HINTS_WRITTEN])),
        ("cache", random.choice([Cache.MARKS_WRITTEN, Cache.DOCUMENTS_WRITTEN])),
        ("gateway", Gateway.ORDER_WRITTEN),
    ]
    return [FaultSpec("terminate_backends", service, Hit(point)) for service, point in points]


def storm(random: Random) -> list[FaultSpec]:
    return [
        FaultSpec(
            "terminate_backends", "postgres", in_the_middle(random), schedule.frozen_seconds()
        )
    ]


def freeze_services(random: Random) -> list[FaultSpec]:
    return [
        FaultSpec("freeze", name, in_the_middle(random), schedule.frozen_seconds())
        for name in (f"annotator-{random.randint(0, 1)}", "cache", "gateway")
    ]


ROUNDS: Sequence[Callable[[Random], list[FaultSpec]]] = (
    kill_kafka,
    freeze_kafka,
    kill_postgres,
    freeze_postgres,
    end_sessions,
    storm,
    freeze_services,
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[Cluster, Supervisor]]:
    """A PostgreSQL and a Kafka that nobody else needs."""
    cluster = Cluster(tmp_path_factory.mktemp("servers") / "state", {})
    await cluster.prepare()
    with die_often():
        async with Supervisor() as supervisor:
            await supervisor.add(*cluster.processes)
            await cluster.create_database(TEMPLATE)
            owner = cluster.environment(TEMPLATE)["ANNOBUS_DATABASE_URL"]
            await asyncio.to_thread(migrate_schemas, owner)
            await declare_sources(owner)
            yield cluster, supervisor
    cluster.close()
    cluster.remove()


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=schedule.seeds())
async def seeded(
    request: pytest.FixtureRequest,
    servers: tuple[Cluster, Supervisor],
    mirror: Mirror,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[int, System]]:
    cluster, _ = servers
    name, prefix = f"servers_{request.param}", f"servers-{uuid4().hex[:8]}."
    async with (
        open_database(cluster, name, TEMPLATE) as database,
        open_system(
            database, prefix, mirror, tmp_path_factory.mktemp(name), servers=servers
        ) as system,
    ):
        yield request.param, system


@pytest.mark.parametrize("faults", ROUNDS)
async def test_a_run_ends_well_though(
    seeded: tuple[int, System], faults: Callable[[Random], list[FaultSpec]]
) -> None:
    seed, system = seeded
    random = Random(f"{seed} {faults.__name__}")
    await system.run(*faults(random), random=random)


async def test_a_worker_that_was_frozen_for_longer_than_its_lease_writes_nothing(
    seeded: tuple[int, System],
) -> None:
    """It wakes in the middle of a batch that another has worked meanwhile."""
    seed, system = seeded
    await system.take_duties_from("annotator-1")
    log = system.running.folder / "annotator-1.log"
    before = log.read_text().count('"event": "lease_lost"')
    point = Random(seed).choice([Annotator.BATCH_CLAIMED, Annotator.PAGE_FETCHED])
    zombie = FaultSpec("freeze", "annotator-1", Hit(point), ZOMBIE_SECONDS)
    await system.run(zombie, random=Random(seed))
    assert log.read_text().count('"event": "lease_lost"') > before  # It had several in hand.
