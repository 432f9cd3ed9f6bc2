"""A small run that comes while a large one keeps a slow upstream busy."""

import statistics
import time
from pathlib import Path

import pytest

from tests.builders import Gene, build_catalogue
from tests.e2e.running import WAIT_SECONDS_MAX, run_services
from tests.e2e.slow_upstream import SlowUpstream, slow_upstream
from tests.system import Database
from tests.waiting import until

GENES = 44_000
PER_SECOND = 10.0
MEASURED_CALLS = 40
SMALL_RUNS = 3
SMALL_SECONDS_MAX = 5.0  # Of the middle one.
# Of the calls a second that there were before the small runs came, in the best of these times: the
# machine's other work only ever costs calls.
SHARE_MIN = 0.9


async def rate(upstream: SlowUpstream, first: int) -> float:
    """Calls a second, of so many after that one."""
    last = first + MEASURED_CALLS
    await until(lambda: len(upstream.calls) > last, "the upstream is asked", WAIT_SECONDS_MAX)
    return MEASURED_CALLS / (upstream.calls[last].began - upstream.calls[first].began)


@pytest.mark.timeout(300)
async def test_ten_genes_wait_seconds_for_a_slow_upstream_that_a_large_run_keeps_busy(
    database: Database, topic_prefix: str, tmp_path: Path
) -> None:
    genes: list[Gene] = [
        (f"HGNC:{n}", f"GENE{n}", str(n), f"ENSG{n:011}") for n in range(1, GENES + 1)
    ]
    with slow_upstream(PER_SECOND) as upstream:
        async with run_services(
            database, topic_prefix, upstream, tmp_path, annotators=2
        ) as running:
            async with database.begin("annotator") as tx:
                await build_catalogue(tx, genes)
            await running.order(all=True, sources=["ensembl"])
            before = await rate(upstream, 0)
            seconds, after = [], []
            for number in range(SMALL_RUNS):
                began, asked = time.monotonic(), len(upstream.calls)
                named = [gene[0] for gene in genes[10 * number : 10 * (number + 1)]]
                small = await running.order(genes=named, sources=["ensembl"])
                assert await running.until_ended(small) == "completed"
                seconds.append(time.monotonic() - began)
                after.append(await rate(upstream, asked))
    assert statistics.median(seconds) < SMALL_SECONDS_MAX, seconds
    assert max(after) > SHARE_MIN * before, (before, after)
