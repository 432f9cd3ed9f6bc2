"""What is done to a system at random: a seed deals faults of all kinds, run after run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import get_args

from services.annotator.failpoints import Failpoint as Annotator
from services.cache.failpoints import Failpoint as Cache
from services.chassis.failpoints import Failpoint as Every
from services.gateway.failpoints import Failpoint as Gateway
from tests.faults import records, sessions
from tests.faults.faults import FaultSpec, Hit
from tests.faults.matrix import ControlAt
from tests.faults.proxy import NetworkKind

SEEDS = (1, 2)  # Of the tests that are always run: with two annotators, and with one.
FROZEN_SECONDS = 3.0  # In these tests; schedules have longer ones, too.

AT_SECONDS = (0.2, 5.0)  # After the order: in the middle of a run, or just behind its end.
WORKING_SECONDS = (0.3, 2.0)  # After the order, of a run that nothing is in the way of.
ANNOTATORS = ("annotator-0", "annotator-1")
PROCESSES = (*ANNOTATORS, "cache", "gateway")
KILLS = 2  # In each run,
OTHERS_MAX = 3  # beside so many other faults.
PAUSED_SECONDS = (1.5, 4.0)
PAUSES, CANCELS, INVALIDATES = 0.35, 0.1, 0.3  # Of the runs.

POINTS: Mapping[str, Sequence[StrEnum]] = {
    "annotator": [*Annotator, Every.RELAY_READ, Every.RELAY_SENT],
    "cache": [*Cache, Every.RELAY_READ, Every.RELAY_SENT],
    "gateway": [*Gateway, Every.RELAY_READ, Every.RELAY_SENT],
}
SAME_NAME_SECONDS = 2.0  # That it stays after it has found its name taken.
UPSTREAM_SECONDS = 8.0
# What a later attempt mends. Each ends by itself long before what would end a batch.
UPSTREAM_FAULTS: Sequence[Mapping[str, str | float]] = (
    {"kind": "status", "status": 500},
    {"kind": "rate_limited", "seconds": 1.0},
    {"kind": "hang", "seconds": 3.0},
    {"kind": "drip", "bytes_per_second": 2000.0, "seconds": 3.0},
    {"kind": "truncated"},
    {"kind": "cut_gzip"},
    {"kind": "reset"},
    {"kind": "html"},
    {"kind": "content_type"},
    {"kind": "latency", "seconds": 1.0},
)
INVALIDATION = (Cache.EPOCH_WRITTEN, Cache.EPOCH_COMMITTED, Gateway.DOCUMENTS_HEARD)


@dataclass(frozen=True)
class Round:
    """One run: what is done to the system, and what its client asks for meanwhile."""

    faults: Sequence[FaultSpec]
    controls: Sequence[ControlAt]
    invalidates: bool


def deal(random: Random) -> Round:
    """Kills, and others of different kinds: what strikes at once is not twice the same."""
    invalidates = random.random() < INVALIDATES
    faults = [_kill_worker(random)]
    faults += [_kill(random, invalidates=invalidates) for _ in range(KILLS - 1)]
    makers = random.sample(OTHERS, random.randint(1, OTHERS_MAX))
    faults += [make(random) for make in makers]
    return Round(_distinct(faults), _controls(random), invalidates)


def _distinct(faults: Sequence[FaultSpec]) -> list[FaultSpec]:
    """One fault for each point: who is armed for it twice is armed once."""
    armed: dict[object, FaultSpec] = {}
    for number, fault in enumerate(faults):
        service = fault.target.partition("-")[0]
        point: object = number
        if isinstance(fault.at, Hit):
            point = service, fault.at.point
        elif fault.kind == "kill_in_stop":
            point = service, Every.STOP_BEGUN
        armed.setdefault(point, fault)
    return list(armed.values())


def _controls(random: Random) -> list[ControlAt]:
    at, chance = random.uniform(*AT_SECONDS) / 2, random.random()
    if chance < CANCELS:
        return [(at, "cancel")]
    if chance < CANCELS + PAUSES:
        return [(at, "pause"), (at + random.uniform(*PAUSED_SECONDS), "resume")]
    return []


def _at(random: Random) -> float:
    return random.uniform(*AT_SECONDS)


def _kill_worker(random: Random) -> FaultSpec:
    """While it has work in hand."""
    return FaultSpec("kill", random.choice(ANNOTATORS), random.uniform(*WORKING_SECONDS))


def _kill(random: Random, *, invalidates: bool) -> FaultSpec:
    if random.random() < 0.5:
        return FaultSpec("kill", random.choice(PROCESSES), _at(random))
    service = random.choice(list(POINTS))
    points = [one for one in POINTS[service] if invalidates or one not in INVALIDATION]
    return FaultSpec("kill", service, Hit(random.choice(points), 1))


def _stop(random: Random) -> FaultSpec:
    return FaultSpec("stop", random.choice(PROCESSES), _at(random))


def _kill_in_stop(random: Random) -> FaultSpec:
    return FaultSpec("kill_in_stop", random.choice(PROCESSES), _at(random))


def _stop_twice(random: Random) -> FaultSpec:
    return FaultSpec("stop_twice", random.choice(PROCESSES), _at(random))


def _stop_in_start(random: Random) -> FaultSpec:
    return FaultSpec(
        "stop_in_start", random.choice(PROCESSES), _at(random), random.uniform(0.0, 1.0)
    )


def _freeze(random: Random) -> FaultSpec:
    seconds = random.choice([3.0, 3.0, 8.0, 20.0])
    return FaultSpec("freeze", random.choice(PROCESSES), _at(random), seconds)


def _kill_kafka(random: Random) -> FaultSpec:
    return FaultSpec("kill", "kafka", _at(random))


def _freeze_kafka(random: Random) -> FaultSpec:
    return FaultSpec("freeze", "kafka", _at(random), 14.0)


def _break_postgres(random: Random) -> FaultSpec:
    return FaultSpec(random.choice(["kill", "quit"]), "postgres", _at(random))


def _freeze_postgres(random: Random) -> FaultSpec:
    return FaultSpec("freeze", "postgres", _at(random), 10.0)


def _storm(random: Random) -> FaultSpec:
    return FaultSpec("terminate_backends", "postgres", _at(random), random.uniform(2.0, 6.0))


def _network(random: Random) -> FaultSpec:
    kind = random.choice(get_args(NetworkKind))
    target = random.choice(["postgres", "kafka", "upstream"])
    return FaultSpec(kind, target, _at(random), random.uniform(1.0, 8.0))


def _run_out(random: Random) -> FaultSpec:
    return FaultSpec("exhaust_connections", "postgres", _at(random), random.uniform(2.0, 5.0))


def _lock(random: Random) -> FaultSpec:
    return FaultSpec(
        "lock_table", random.choice(sessions.LOCKED), _at(random), random.uniform(1.0, 7.0)
    )


def _give_up(random: Random) -> FaultSpec:
    return FaultSpec("give_up_transactions", sessions.LOCKED[0], _at(random), 3.0)


def _poison(random: Random) -> FaultSpec:
    return FaultSpec("poison", "kafka", _at(random))


def _copy(random: Random) -> FaultSpec:
    return FaultSpec("copy", "kafka", _at(random))


def _rewind(random: Random) -> FaultSpec:
    return FaultSpec("rewind", random.choice(list(records.GROUPS)), _at(random))


def _rebalance(random: Random) -> FaultSpec:
    return FaultSpec("rebalance", "annotator", _at(random), random.uniform(4.0, 10.0))


def _same_name(random: Random) -> FaultSpec:
    return FaultSpec("same_name", random.choice(ANNOTATORS), _at(random), SAME_NAME_SECONDS)


def _upstream(random: Random) -> FaultSpec:
    target, path = random.choice([("ensembl", "/lookup"), ("hpo", "/")])
    how = {**random.choice(UPSTREAM_FAULTS), "path": path, "count": random.randint(1, 2)}
    return FaultSpec("upstream", target, 0.0, UPSTREAM_SECONDS, how=how)


OTHERS: Sequence[Callable[[Random], FaultSpec]] = (
    _stop,
    _kill_in_stop,
    _stop_twice,
    _stop_in_start,
    _freeze,
    _kill_kafka,
    _freeze_kafka,
    _break_postgres,
    _freeze_postgres,
    _storm,
    _network,
    _network,
    _run_out,
    _lock,
    _give_up,
    _poison,
    _copy,
    _rewind,
    _rebalance,
    _same_name,
    _upstream,
)
