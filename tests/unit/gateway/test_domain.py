"""How genes are written, and how far a run is said to be."""

from datetime import UTC, datetime
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.messages import (
    RunCancelled,
    RunPaused,
    RunProgress,
    RunResumed,
    RunState,
    SourceProgress,
)
from services.gateway import domain, frames
from services.gateway.frames import Fact

RUN_ID = UUID(int=1)


def build_progress(
    state: RunState = "running",
    total: int | None = 44_331,
    done: int = 0,
    no_data: int = 0,
    failed: int = 0,
) -> RunProgress:
    source = SourceProgress(
        state="running" if state == "running" else "completed",
        total_count=total,
        done_count=done,
        no_data_count=no_data,
        failed_count=failed,
    )
    return RunProgress.of(RUN_ID, 5, state, {"hpo": source})


@pytest.mark.parametrize("text", ["HGNC:9008", "hgnc:9008", "hgnc:HGNC:9008", " HGNC:9008 "])
def test_an_hgnc_id_is_read_however_it_is_written(text: str) -> None:
    assert domain.hgnc_id(text) == "HGNC:9008"


@pytest.mark.parametrize("text", ["9008", "HGNC9008", "HGNC:", "HGNC:९", "PKD1", "HGNC:1234567890"])
def test_nothing_else_is_an_hgnc_id(text: str) -> None:
    assert domain.hgnc_id(text) is None


def test_the_percentage_is_unknown_until_the_total_is() -> None:
    assert domain.percent(build_progress(total=None, done=10)) is None


def test_only_the_end_is_a_hundred_percent() -> None:
    assert domain.percent(build_progress(done=44_331)) == 99.9
    assert domain.percent(build_progress("completed", done=44_331)) == 100
    assert domain.percent(build_progress("completed", total=0)) == 100


def test_a_dry_run_has_no_percentage_while_it_looks_and_counts_no_gene() -> None:
    looking = build_progress(total=0)
    assert domain.percent(looking) is None
    assert domain.sentence(looking) == "hpo: no gene is to be fetched"
    assert domain.sentence(build_progress("completed", total=0)) == "completed: nothing was fetched"


def test_whom_a_run_waits_for_is_told_while_it_is_planned_too() -> None:
    source = SourceProgress(
        state="waiting",
        total_count=None,
        done_count=0,
        no_data_count=0,
        failed_count=0,
        waits_for="hgnc",
        waits_until=datetime(2026, 11, 28, 14, 3, 10, tzinfo=UTC),
        waits_because="429, Retry-After 30 s",
    )
    planning = RunProgress.of(RUN_ID, 5, "planning", {"hgnc": source})
    assert domain.sentence(planning) == (
        "planning; hgnc: 0 genes, waits for hgnc until 14:03:10 UTC: 429, Retry-After 30 s"
    )


@given(done=st.integers(0, 1000), no_data=st.integers(0, 1000), failed=st.integers(0, 1000))
def test_failures_never_raise_the_percentage(done: int, no_data: int, failed: int) -> None:
    without = domain.percent(build_progress(total=3000, done=done, no_data=no_data))
    having = domain.percent(build_progress(total=3000, done=done, no_data=no_data, failed=failed))
    assert having == without
    ended = build_progress("completed_with_errors", 3000, done, no_data, failed)
    assert domain.percent(ended) == without


def test_a_run_is_told_in_a_sentence() -> None:
    running = build_progress(done=10_000, no_data=2_000, failed=3)
    assert domain.sentence(running) == "hpo: 12,000 of 44,331 genes, 3 failed"
    ended = build_progress("completed", done=5_000, no_data=39_331)
    assert domain.sentence(ended) == "completed: 5,000 annotations, 39,331 without data, 0 failed"


def test_what_is_paused_or_cancelled_is_said() -> None:
    sources = {
        "hpo": SourceProgress(
            state="paused", total_count=100, done_count=40, no_data_count=0, failed_count=0
        )
    }
    running = RunProgress.of(RUN_ID, 5, "running", sources)
    assert domain.sentence(running) == "hpo: 40 of 100 genes, paused"
    paused = RunProgress.of(RUN_ID, 5, "paused", sources)
    assert domain.sentence(paused) == "paused; hpo: 40 of 100 genes, paused"
    cut = sources["hpo"].model_copy(update={"state": "cancelled", "cancelled_count": 60})
    for state in ("cancelled", "completed"):
        ended = RunProgress.of(RUN_ID, 6, state, {"hpo": cut})
        said = f"{state}: 40 annotations, 0 without data, 0 failed, 60 cancelled"
        assert domain.sentence(ended) == said
        assert domain.percent(ended) == 40


@pytest.mark.parametrize(("source", "place"), [(None, ""), ("hpo", "hpo: ")])
def test_a_control_is_told_of_the_run_or_of_its_source(source: str | None, place: str) -> None:
    told = [
        Fact(number, fact.type, {"source": source})
        for number, fact in enumerate((RunPaused, RunResumed, RunCancelled))
    ]
    said = [orjson.loads(frame)["message"] for frame in frames.facts(build_progress(), told)]
    assert said == [f"{place}paused", f"{place}resumed", f"{place}cancelled"]


def test_a_snapshot_frame_has_what_the_contract_names() -> None:
    frame = orjson.loads(frames.snapshot(build_progress(done=10)))
    assert set(frame) == {"type", "run_id", "seq", "status", "progress", "message", "sources"}
    assert frame["sources"]["hpo"]["done_count"] == 10
    stale = orjson.loads(frames.snapshot(build_progress(), stale=True))
    assert stale["message"].startswith("the database does not answer; last known state")


def test_a_fact_that_this_gateway_does_not_know_is_passed_on() -> None:
    (text,) = frames.facts(build_progress(), [Fact(4, "annobus.run.renamed.v1", {"name": "x"})])
    frame = orjson.loads(text)
    assert (frame["type"], frame["seq"]) == ("fact", 4)
    assert (frame["event"], frame["data"]) == ("annobus.run.renamed.v1", {"name": "x"})
    assert frame["message"] == "hpo: 0 of 44,331 genes"
