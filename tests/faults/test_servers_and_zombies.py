"""Kafka and PostgreSQL are killed and frozen, sessions are ended in the middle of transactions, and
services are frozen and come back to a world that went on without them."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import get_args

import pytest
import pytest_asyncio

from services.annotator.failpoints import Failpoint as Annotator
from services.cache.failpoints import Failpoint as Cache
from services.gateway.failpoints import Failpoint as Gateway
from tests.faults import schedule, sessions
from tests.faults.faults import FaultSpec, Hit
from tests.faults.matrix import System
from tests.faults.proxy import NetworkKind
from tests.faults.servers import open_servers
from tests.system import Mirror

NETWORK: Sequence[NetworkKind] = get_args(NetworkKind)
UPSTREAM_SECONDS = 15.0  # At most, until each was asked.
# Longer than a lease, the grace, and the time in which the other one is given the partitions.
ZOMBIE_SECONDS = 10.0

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]


def in_the_middle(random: Random) -> float:
    return random.uniform(0.2, 2.5)


def kill_kafka(random: Random) -> list[FaultSpec]:
    return [FaultSpec("kill", "kafka", in_the_middle(random))]


def freeze_kafka(random: Random) -> list[FaultSpec]:
    return [FaultSpec("freeze", "kafka", in_the_middle(random), schedule.FROZEN_SECONDS)]


def kill_postgres(random: Random) -> list[FaultSpec]:
    return [FaultSpec("kill", "postgres", in_the_middle(random))]


def freeze_postgres(random: Random) -> list[FaultSpec]:
    return [FaultSpec("freeze", "postgres", in_the_middle(random), schedule.FROZEN_SECONDS)]


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
        FaultSpec("terminate_backends", "postgres", in_the_middle(random), schedule.FROZEN_SECONDS)
    ]


def freeze_services(random: Random) -> list[FaultSpec]:
    return [
        FaultSpec("freeze", name, in_the_middle(random), schedule.FROZEN_SECONDS)
        for name in (f"annotator-{random.randint(0, 1)}", "cache", "gateway")
    ]


def break_network(target: str, random: Random) -> list[FaultSpec]:
    """One kind after another."""
    return [
        FaultSpec(kind, target, 0.2 + 1.3 * number, 1.0)
        for number, kind in enumerate(random.sample(NETWORK, len(NETWORK)))
    ]


def break_network_to_postgres(random: Random) -> list[FaultSpec]:
    return break_network("postgres", random)


def break_network_to_kafka(random: Random) -> list[FaultSpec]:
    return break_network("kafka", random)


def run_out_of_connections(_: Random) -> list[FaultSpec]:
    """While somebody starts, who has none yet."""
    return [
        FaultSpec("exhaust_connections", "postgres", 0.3, 3.0),
        FaultSpec("kill", "cache", 1.5),
    ]


def lock_tables(_: Random) -> list[FaultSpec]:
    return [
        FaultSpec("lock_table", table, 0.2 + 1.5 * number, 1.2)
        for number, table in enumerate(sessions.LOCKED)
    ]


def give_up_transactions(_: Random) -> list[FaultSpec]:
    return [FaultSpec("give_up_transactions", "annotator.batch", 0.0, 2.0)]


def poison(_: Random) -> list[FaultSpec]:
    return [FaultSpec("poison", "kafka", 0.2)]


def copy(random: Random) -> list[FaultSpec]:
    return [FaultSpec("copy", "kafka", random.uniform(0.5, 1.0))]


def rewind_cache(random: Random) -> list[FaultSpec]:
    return [FaultSpec("rewind", "cache", in_the_middle(random))]


def rewind_annotator(random: Random) -> list[FaultSpec]:
    return [FaultSpec("rewind", "annotator", in_the_middle(random))]


def take_a_name_twice(_: Random) -> list[FaultSpec]:
    return [FaultSpec("same_name", "annotator-0", 0.0, schedule.SAME_NAME_SECONDS)]


def stop_in_every_way(_: Random) -> list[FaultSpec]:
    return [
        FaultSpec("stop", "annotator-0", 0.3),
        FaultSpec("stop_twice", "annotator-1", 0.3),
        FaultSpec("stop_in_start", "cache", 0.3, 0.2),
        FaultSpec("stop_in_start", "gateway", 0.6, 0.8),
    ]


def quit_postgres(random: Random) -> list[FaultSpec]:
    return [FaultSpec("quit", "postgres", in_the_middle(random))]


ROUNDS: Sequence[Callable[[Random], list[FaultSpec]]] = (
    kill_kafka,
    freeze_kafka,
    kill_postgres,
    freeze_postgres,
    end_sessions,
    storm,
    freeze_services,
    break_network_to_postgres,
    break_network_to_kafka,
    quit_postgres,
    run_out_of_connections,
    lock_tables,
    give_up_transactions,
    poison,
    copy,
    rewind_cache,
    rewind_annotator,
    take_a_name_twice,
    stop_in_every_way,
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(mirror: Mirror, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    async with open_servers(tmp_path_factory.mktemp("servers"), mirror) as system:
        yield system


@pytest.mark.parametrize("faults", ROUNDS)
async def test_a_run_ends_well_though(
    system: System, faults: Callable[[Random], list[FaultSpec]]
) -> None:
    random = Random(f"{schedule.SEEDS[0]} {faults.__name__}")
    await system.run(*faults(random), random=random)


@pytest.mark.parametrize(
    "how", schedule.UPSTREAM_FAULTS, ids=[str(how["kind"]) for how in schedule.UPSTREAM_FAULTS]
)
async def test_a_run_ends_well_though_its_upstreams_fail(
    system: System, how: Mapping[str, str | float]
) -> None:
    faults = [
        FaultSpec("upstream", target, 0.0, UPSTREAM_SECONDS, how={**how, "path": path, "count": 1})
        for target, path in (("ensembl", "/lookup"), ("hpo", "/"))
    ]
    await system.run(*faults, random=Random(1))


@pytest.mark.parametrize("kind", NETWORK)
async def test_a_run_ends_well_though_the_way_to_its_upstreams_is_bad(
    system: System, kind: NetworkKind
) -> None:
    fault = FaultSpec(kind, "upstream", 0.0, 4.0)
    await system.run(fault, random=Random(1))


@pytest.mark.parametrize("seed", schedule.SEEDS)
async def test_a_worker_that_was_frozen_for_longer_than_its_lease_writes_nothing(
    system: System, seed: int
) -> None:
    """It wakes in the middle of a batch that another has worked meanwhile."""
    point = Random(seed).choice([Annotator.BATCH_CLAIMED, Annotator.PAGE_FETCHED])
    before = {log.name: lost_leases(log) for log in system.running.folder.glob("annotator-*.log")}
    zombie = FaultSpec("freeze", "annotator", Hit(point), ZOMBIE_SECONDS)
    await system.run(zombie, random=Random(seed))
    fired = system.running.fired("annotator", point)
    assert fired is not None
    log = system.running.folder / f"{system.names[fired.pid]}.log"
    assert lost_leases(log) > before[log.name]  # One at least: it may have had several in hand.


def lost_leases(log: Path) -> int:
    return log.read_text(encoding="utf-8").count('"event": "lease_lost"')
