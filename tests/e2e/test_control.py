"""Controls of a run, as its upstream sees them: when the last call comes, what is asked twice."""

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from contracts.messages import RunCompleted, RunPaused, RunResumed
from tests.builders import Gene, build_catalogue
from tests.e2e.running import WAIT_SECONDS_MAX, Running, run_services
from tests.e2e.slow_upstream import SlowUpstream, slow_upstream
from tests.system import Database, http_client
from tests.waiting import until

WATCHED_SECONDS = 1.5  # How long nobody may ask; what is promised is after the first of them.
PROMISED_SECONDS = 1.0
GENES_PER_CALL = 100


async def control(running: Running, run_id: str, action: str) -> float:
    """Returns when it was answered."""
    async with http_client(running.url) as client:
        answer = await client.post(f"/api/runs/{run_id}/{action}")
        assert answer.status_code == 202, answer.text
        return time.monotonic()


async def begin(
    database: Database, running: Running, upstream: SlowUpstream, calls: int
) -> tuple[str, list[Gene]]:
    """A run of so many calls, in the middle of them."""
    genes: list[Gene] = [
        (f"HGNC:{n}", f"GENE{n}", str(n), f"ENSG{n:011}")
        for n in range(1, calls * GENES_PER_CALL + 1)
    ]
    async with database.begin("annotator") as tx:
        await build_catalogue(tx, genes)
    run_id = await running.order(genes=[gene[0] for gene in genes], sources=["ensembl"])
    await until(lambda: len(upstream.calls) > 3, "the upstream is asked", WAIT_SECONDS_MAX)
    return run_id, genes


async def pause_and_resume(
    running: Running, upstream: SlowUpstream, run_id: str, *, calls_between: int
) -> float:
    """Returns how long after the answer to the pause the last call was sent."""
    answered = await control(running, run_id, "pause")
    await asyncio.sleep(WATCHED_SECONDS)
    state = (await shown(running, run_id))["state"]
    assert state == "paused"  # Not at its end: then there was nothing to hold.
    resumed = time.monotonic()
    after = upstream.began_between(answered, resumed)
    await control(running, run_id, "resume")
    asked = len(upstream.calls)
    await until(lambda: len(upstream.calls) >= asked + calls_between, "it goes on")
    return max((call.began - answered for call in after), default=0.0)


async def shown(running: Running, run_id: str) -> Any:
    return (await running.get(f"/api/runs/{run_id}"))["data"]["attributes"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("per_second", "annotators", "calls", "pauses", "calls_between"),
    [
        pytest.param(0, 2, 150, 10, 3, id="no limit"),
        pytest.param(10, 4, 100, 5, 3, id="10 a second"),
        pytest.param(1, 2, 10, 3, 1, id="1 a second"),  # Most calls wait for their turn.
    ],
)
async def test_a_paused_run_asks_nothing_after_a_second_and_no_gene_twice(
    database: Database,
    topic_prefix: str,
    tmp_path: Path,
    *,
    per_second: float,
    annotators: int,
    calls: int,
    pauses: int,
    calls_between: int,
) -> None:
    """Several annotators with three consumers each: the pause reaches every call there is."""
    with slow_upstream(per_second) as upstream:
        async with run_services(
            database, topic_prefix, upstream, tmp_path, annotators=annotators
        ) as running:
            run_id, genes = await begin(database, running, upstream, calls)
            late = [
                await pause_and_resume(running, upstream, run_id, calls_between=calls_between)
                for _ in range(pauses)
            ]
            assert max(late) < PROMISED_SECONDS, late
            assert await running.until_ended(run_id) == "completed"
            run = await shown(running, run_id)
    assert (run["done_count"], run["cancelled_count"]) == (len(genes), 0)
    asked_ids = Counter(id_ for call in upstream.calls for id_ in call.ids)
    assert asked_ids == Counter(gene[3] for gene in genes)
    async with database.connect() as owner:
        rows = await owner.fetch("SELECT type, count(*) FROM annotator.run_fact GROUP BY type")
        attempts = await owner.fetchval("SELECT max(attempt) FROM annotator.batch")
    told = {row["type"]: row["count"] for row in rows}
    assert [told[fact.type] for fact in (RunPaused, RunResumed, RunCompleted)] == [
        pauses,
        pauses,
        1,
    ]
    assert attempts == 1


@pytest.mark.parametrize("per_second", [0, 10])
async def test_a_cancelled_run_gives_up_the_calls_in_flight_and_asks_nothing_more(
    database: Database, topic_prefix: str, tmp_path: Path, per_second: float
) -> None:
    with slow_upstream(per_second) as upstream:
        async with run_services(
            database, topic_prefix, upstream, tmp_path, annotators=2
        ) as running:
            run_id, genes = await begin(database, running, upstream, 150)
            answered = await control(running, run_id, "cancel")
            assert await running.until_ended(run_id) == "cancelled"
            await asyncio.sleep(WATCHED_SECONDS)
            after = upstream.began_between(answered + PROMISED_SECONDS, time.monotonic())
            run = await shown(running, run_id)
    assert after == []
    assert [call for call in upstream.calls if not call.answered]  # Nobody waited for these.
    counted = run["done_count"] + run["no_data_count"] + run["failed_count"]
    assert counted + run["cancelled_count"] == run["total_count"] == len(genes)
    assert run["cancelled_count"] > 0
    async with database.connect() as owner:
        values = await owner.fetchval("SELECT count(*) FROM annotator.annotation")
        open_count = await owner.fetchval(
            "SELECT count(*) FROM annotator.batch WHERE state NOT IN ('done', 'cancelled')"
        )
    assert (values, open_count) == (run["done_count"], 0)
