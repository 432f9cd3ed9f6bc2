"""The checker finds what it is there for: a good history is passed, each bad one is not."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from contracts.messages import AnnotationsChanged, BatchAnnotated, RunCompleted, RunFact, RunPlanned
from tests.faults.checker import violations
from tests.faults.history import (
    Announced,
    Arrived,
    BatchRow,
    BatchWrite,
    Control,
    FactRow,
    Frame,
    History,
    Order,
    Recovery,
    SourceCounts,
    Usage,
    Value,
)

RUN = "run-1"
WORKER, OTHER = "annotator 11", "annotator 12"
COUNTS = {"hpo": (1, 1, 0)}


def write(**overrides: Any) -> BatchWrite:
    usual = BatchWrite("7", WORKER, "b", "hpo", "leased", "done", 1, 1, 2, lease_over=False)
    return replace(usual, **overrides)


CLAIM = write(xid="6", old_state="queued", new_state="leased", old_token=0, step=0)
FACTS = (
    FactRow(1, RunPlanned.type, None),
    FactRow(2, BatchAnnotated.type, "b"),
    FactRow(4, RunCompleted.type, None),
)
GOOD = History(
    order=Order("key", attempts=2, answers=(RUN, RUN), runs_with_key=1),
    state="completed",
    genes=("HGNC:1", "HGNC:2"),
    sources=(SourceCounts("hpo", "completed", 2, 1, 1, 0),),
    batches=(BatchRow("b", "hpo", "store", "done", 2, 2),),
    values=(Value("HGNC:1", "hpo", "aa"),),
    facts=FACTS,
    announced=tuple(Announced(RunFact.topic, RUN, f"e{fact.seq}") for fact in FACTS),
    arrived=tuple(Arrived(RunFact.topic, RUN, f"e{f.seq}", f.type, f.seq) for f in FACTS),
    writes=(CLAIM, write()),
    stored=(("7", "hpo"),),
    frames=(
        Frame("snapshot", 0, "planning", None, {}),
        Frame("fact", 1, "running", 0, {}),
        Frame("snapshot", 1, "running", 0, {}),
        Frame("fact", 2, "completed", 100, COUNTS),
        Frame("fact", 4, "completed", 100, COUNTS),
        Frame("snapshot", 4, "completed", 100, COUNTS),
    ),
    expected=(Value("HGNC:1", "hpo", "aa"),),
    recoveries=(Recovery("kill", 1, 2, 3, 4),),
)


def test_a_good_history_is_passed() -> None:
    assert violations(GOOD) == {}


def test_a_fact_that_arrives_twice_is_no_violation() -> None:
    again = (*GOOD.arrived[:2], *GOOD.arrived)
    assert violations(replace(GOOD, arrived=again)) == {}


def test_a_lease_that_was_over_may_be_swept_by_anybody() -> None:
    swept = write(writer=OTHER, new_state="pending", step=0, lease_over=True)
    claimed = replace(CLAIM, old_state="pending", old_token=1, new_token=2)
    ended = write(old_token=2, new_token=2)
    assert violations(replace(GOOD, writes=(CLAIM, swept, claimed, ended))) == {}


PAUSE, RESUME = (
    Control("pause", 9.0, 10.0, accepted=True),
    Control("resume", 20.0, 21.0, accepted=True),
)
CANCEL = Control("cancel", 9.0, 10.0, accepted=True)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"calls": (10.5, 20.1)}, id="a second is granted, and it goes on at once"),
        pytest.param({"calls": (16.5,), "disturbed": ((12.0, 16.0),)}, id="a fault is in the way"),
    ],
)
def test_calls_of_a_paused_run_that_may_be_are_no_violation(changes: dict[str, Any]) -> None:
    assert violations(replace(GOOD, controls=(PAUSE, RESUME), **changes)) == {}


def test_as_many_calls_as_the_upstream_allows_are_no_violation() -> None:
    calls = [number / 10 for number in range(300)]
    assert violations(replace(GOOD, calls=calls, calls_per_second=10)) == {}


CANCELLED = replace(
    GOOD,
    state="cancelled",
    controls=(CANCEL,),
    genes=(*GOOD.genes, "HGNC:3"),
    sources=(SourceCounts("hpo", "cancelled", 3, 1, 1, 0, cancelled=1),),
    batches=(*GOOD.batches, BatchRow("c", "ensembl", "fetch", "cancelled", 1, 0)),
    frames=(*GOOD.frames[:-1], replace(GOOD.frames[-1], status="cancelled")),
    expected=(*GOOD.values, Value("HGNC:3", "hpo", "cc")),
)


def test_a_run_that_was_cancelled_may_end_so() -> None:
    assert violations(CANCELLED) == {}


def test_a_batch_of_a_cancelled_run_may_be_taken_from_its_worker() -> None:
    claim = replace(CLAIM, batch_id="c")
    taken = write(batch_id="c", writer=OTHER, new_state="cancelled", step=0)
    assert violations(replace(CANCELLED, writes=(*GOOD.writes, claim, taken))) == {}


def test_poison_that_was_parked_is_no_violation() -> None:
    assert violations(replace(GOOD, poison=("t/0/1",), dead_letters=("t/0/1",))) == {}


ORDER = GOOD.order
COUNTED = GOOD.sources[0]
BATCH = GOOD.batches[0]
PLANNED, ANNOTATED, COMPLETED = FACTS


CHANGES = [Announced(AnnotationsChanged.topic, "hpo:1", f"c{number}") for number in (1, 2)]
CHANGED = [Arrived(one.topic, one.key, one.event_id, AnnotationsChanged.type) for one in CHANGES]


def frames(*changed: Frame) -> Sequence[Frame]:
    return (*changed, *GOOD.frames)


@pytest.mark.parametrize(
    ("invariant", "changes"),
    [
        pytest.param("I1", {"order": replace(ORDER, answers=("other", RUN))}, id="two runs"),
        pytest.param("I1", {"order": replace(ORDER, runs_with_key=2)}, id="ordered twice"),
        pytest.param("I1", {"state": "running"}, id="no end"),
        pytest.param("I2", {"values": (*GOOD.values, *GOOD.values)}, id="two current versions"),
        pytest.param("I2", {"sources": (replace(COUNTED, no_data=0),)}, id="a gene is missing"),
        pytest.param("I2", {"sources": (replace(COUNTED, total=1),)}, id="total"),
        pytest.param("I2", {"sources": (replace(COUNTED, done=2, no_data=0),)}, id="not stored"),
        pytest.param("I2", {"sources": (replace(COUNTED, no_data=0, failed=1),)}, id="failed"),
        pytest.param("I2", {"batches": (replace(BATCH, state="dead"),)}, id="dead batch"),
        pytest.param("I2", {"batches": (replace(BATCH, checkpoint=1),)}, id="checkpoint"),
        pytest.param("I2", {"writes": (CLAIM, write(), write(old_state="leased"))}, id="ended 2×"),
        pytest.param("I2", {"writes": (CLAIM, write(step=3))}, id="worked twice"),
        pytest.param("I2", {"facts": (PLANNED, COMPLETED)}, id="batch not announced"),
        pytest.param("I3", {"facts": (PLANNED, ANNOTATED)}, id="no completion"),
        pytest.param("I3", {"facts": (*FACTS, replace(COMPLETED, seq=5))}, id="completed twice"),
        pytest.param(
            "I3",
            {"arrived": (*GOOD.arrived, replace(GOOD.arrived[-1], event_id="again"))},
            id="completed under two ids",
        ),
        pytest.param(
            "I3",
            {"arrived": (GOOD.arrived[0], GOOD.arrived[2], GOOD.arrived[1])},
            id="completed too early",
        ),
        pytest.param("I4", {"arrived": GOOD.arrived[:-1]}, id="a message is lost"),
        pytest.param("I4", {"arrived": GOOD.arrived[::-1]}, id="messages in another order"),
        pytest.param(
            "I4",
            {
                "announced": (*GOOD.announced, *CHANGES),
                "arrived": (*GOOD.arrived, *reversed(CHANGED)),
            },
            id="changes in another order",
        ),
        pytest.param("I4", {"facts": (ANNOTATED, PLANNED, COMPLETED)}, id="facts in another order"),
        pytest.param(
            "I4",
            {"announced": (*GOOD.announced, Announced("commands", RUN, "e9"))},
            id="a command is lost",
        ),
        pytest.param("I5", {"frames": GOOD.frames[:-1]}, id="no last frame"),
        pytest.param("I5", {"frames": (*GOOD.frames[:3], *GOOD.frames[4:])}, id="untold"),
        pytest.param("I5", {"frames": (*GOOD.frames[:2], *GOOD.frames[1:])}, id="told twice"),
        pytest.param(
            "I5",
            {"frames": frames(Frame("snapshot", 3, "running", 0, {}))},
            id="older snapshot",
        ),
        pytest.param(
            "I5",
            {"frames": frames(Frame("snapshot", 0, "running", 50, {}))},
            id="progress falls",
        ),
        pytest.param(
            "I5",
            {"frames": (*GOOD.frames[:-1], replace(GOOD.frames[-1], counts={"hpo": (2, 0, 0)}))},
            id="last frame is wrong",
        ),
        pytest.param("I5", {"frames": ()}, id="no frames"),
        pytest.param("I6", {"writes": (CLAIM, write(writer=OTHER))}, id="another's batch"),
        pytest.param("I6", {"writes": (write(),)}, id="never claimed"),
        pytest.param(
            "I6",
            {"writes": (CLAIM, write(writer=OTHER, new_state="pending", step=0), write())},
            id="given back by another",
        ),
        pytest.param("I6", {"stored": (("8", "hpo"),)}, id="stored outside of a batch"),
        pytest.param("I6", {"stored": (("7", "gnomad"),)}, id="stored in another's batch"),
        pytest.param("I11", {"recoveries": (Recovery("kill", 3, 2, 3, 4),)}, id="not ready"),
        pytest.param("I11", {"recoveries": (Recovery("kill", 1, 2, 5, 4),)}, id="not settled"),
        pytest.param("values", {"values": (Value("HGNC:1", "hpo", "bb"),)}, id="wrong value"),
        pytest.param("values", {"values": ()}, id="missing value"),
        pytest.param("values", {"misspelt": ("HGNC:1",)}, id="wrong digest"),
        pytest.param("I1", {"state": "cancelled"}, id="nobody cancelled it"),
        pytest.param(
            "I1",
            {"state": "cancelled", "controls": (replace(CANCEL, accepted=False),)},
            id="cancelled though refused",
        ),
        pytest.param("I2", {"sources": (replace(COUNTED, cancelled=1),)}, id="sum with cancelled"),
        pytest.param(
            "I7", {"controls": (PAUSE, RESUME), "calls": (11.1,)}, id="asked while it is paused"
        ),
        pytest.param("I7", {"controls": (CANCEL,), "calls": (99.0,)}, id="asked when cancelled"),
        pytest.param(
            "I7",
            {"controls": (CANCEL,), "calls": (17.1,), "disturbed": ((12.0, 16.0),)},
            id="asked later than a fault",
        ),
        pytest.param(
            "I8",
            {"calls": [number / 20 for number in range(20)], "calls_per_second": 10},
            id="a hurried second",
        ),
        pytest.param(
            "I8",
            {"calls": [number / 10.9 for number in range(200)], "calls_per_second": 10},
            id="ten hurried seconds",
        ),
        pytest.param("I9", {"unread": ("HGNC:1",)}, id="an old document is shown"),
        pytest.param("I10", {"usage": (Usage("cache", "open files", 91, 50, 90),)}, id="leak"),
        pytest.param("leftovers", {"dead_letters": ("hint",)}, id="dead letter"),
        pytest.param("leftovers", {"poison": ("t/0/1",)}, id="poison is lost"),
        pytest.param(
            "leftovers",
            {"poison": ("t/0/1",), "dead_letters": ("t/0/1", "t/0/1")},
            id="poison is parked twice",
        ),
    ],
)
def test_a_violation_is_found(invariant: str, changes: dict[str, Any]) -> None:
    assert invariant in violations(replace(GOOD, **changes))


@pytest.mark.parametrize(
    ("invariant", "changes"),
    [
        pytest.param(
            "I2", {"batches": (*GOOD.batches, replace(BATCH, state="cancelled"))}, id="a slice"
        ),
        pytest.param(
            "I2",
            {"batches": (replace(BATCH, batch_id="c", kind="fetch", state="cancelled"),)},
            id="checkpoint of a cancelled batch",
        ),
        pytest.param("values", {"values": (Value("HGNC:1", "hpo", "bb"),)}, id="wrong value"),
        pytest.param(
            "I2",
            {"sources": (SourceCounts("hpo", "cancelled", 3, 2, 0, 0, cancelled=1),)},
            id="counted and not stored",
        ),
    ],
)
def test_a_violation_in_a_cancelled_run_is_found(invariant: str, changes: dict[str, Any]) -> None:
    assert invariant in violations(replace(CANCELLED, **changes))
