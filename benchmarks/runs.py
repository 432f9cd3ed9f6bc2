"""One run, from its order until the last document of it can be read, with the times between."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx2

from benchmarks.owner import Owner, SourceTimes
from benchmarks.watching import Watched, watch
from services.cli.errors import CommandFailed

RUN_SECONDS_MAX = 120.0
POLL_SECONDS = 0.05
# Nothing waits anywhere for this long: changes that were on their way have arrived.
REST_SECONDS = 1.0
ORDER_SECONDS_MAX = 10.0


@dataclass(frozen=True)
class SourceFigures:
    """Times are seconds, from the order unless the name says otherwise; `readable` is when the
    documents of a sample were."""

    release: str
    synthetic: bool
    values: int
    no_data: int
    failed: int
    found: float
    staged_after_claim: float | None
    stored_after_claim: float
    readable_after_claim: float
    counted: float
    readable: float
    values_per_second_from_order: float
    values_per_second_storing: float  # Between the first stored batch and the last.


@dataclass(frozen=True)
class RunFigures:
    genes: int
    values: int
    counted_seconds: float
    readable_seconds: float
    values_per_second: float  # Stored and readable.
    sources: dict[str, SourceFigures]
    socket: Watched
    problems: list[str]


async def measure(url: str, owner: Owner, sources: Sequence[str]) -> RunFigures:
    """Annotate all genes from these sources.

    Raises CommandFailed when it takes too long, or when a source fails.
    """
    try:
        async with asyncio.timeout(RUN_SECONDS_MAX):
            ordered_at = time.time()
            run_id = await _order(url, sources)
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(watch(url, run_id))
                following = group.create_task(_until_readable(owner, run_id, len(sources)))
            readable_at = following.result()
            rest_at = await _until_at_rest(owner)
    except TimeoutError as error:
        raise CommandFailed(
            f"{', '.join(sources)}: not everything could be read {RUN_SECONDS_MAX:g} s after "
            "the order"
        ) from error
    if failures := await owner.failures(run_id):
        raise CommandFailed(f"there is nothing to measure: {'; '.join(failures)}")
    finished_at = await owner.finished_at(run_id)
    assert finished_at is not None
    times = await owner.times(run_id)
    genes = await owner.count_genes()
    values = await owner.count_values(sources)
    socket = watching.result()
    return RunFigures(
        genes=genes,
        values=values,
        counted_seconds=finished_at.timestamp() - ordered_at,
        readable_seconds=rest_at - ordered_at,
        values_per_second=values / (rest_at - ordered_at),
        sources={
            source.source: _figures(source, readable_at[source.source], ordered_at)
            for source in times
        },
        socket=socket,
        problems=[
            *_problems(times, genes, values),
            *await _unreadable(owner),
            *_untold(socket, await owner.count_facts(run_id)),
        ],
    )


async def _order(url: str, sources: Sequence[str]) -> str:
    async with httpx2.AsyncClient(base_url=url, timeout=ORDER_SECONDS_MAX, trust_env=False) as http:
        answer = await http.post("/api/runs", json={"all": True, "sources": list(sources)})
        answer.raise_for_status()
        return str(answer.json()["data"]["id"])


async def _until_readable(owner: Owner, run_id: str, count: int) -> dict[str, float]:
    """Source → when the documents of its sample showed its values."""
    readable_at: dict[str, float] = {}
    samples = {}
    while len(readable_at) < count:
        for source in await owner.counted_sources(run_id):
            if source not in samples:
                samples[source] = await owner.sample(source)
            if source not in readable_at and await owner.is_readable(samples[source]):
                readable_at[source] = time.time()
        await asyncio.sleep(POLL_SECONDS)
    return readable_at


async def _until_at_rest(owner: Owner) -> float:
    """When the last document was rebuilt: nothing has waited since."""
    since: float | None = None
    while since is None or time.time() - since < REST_SECONDS:
        if not await owner.is_at_rest():
            since = None
        elif since is None:
            since = time.time()
        await asyncio.sleep(POLL_SECONDS)
    return since


def _figures(times: SourceTimes, readable_at: float, ordered_at: float) -> SourceFigures:
    claimed_at = times.claimed_at.timestamp()
    last_stored_at = times.last_stored_at.timestamp()
    counted = times.counted_at.timestamp() - ordered_at
    return SourceFigures(
        release=times.release,
        synthetic=times.synthetic,
        values=times.done,
        no_data=times.no_data,
        failed=times.failed,
        found=times.found_at.timestamp() - ordered_at,
        staged_after_claim=times.staged_at.timestamp() - claimed_at if times.staged_at else None,
        stored_after_claim=last_stored_at - claimed_at,
        readable_after_claim=readable_at - claimed_at,
        counted=counted,
        readable=readable_at - ordered_at,
        values_per_second_from_order=times.done / counted,
        values_per_second_storing=times.done / (last_stored_at - times.first_stored_at.timestamp()),
    )


def _problems(times: Sequence[SourceTimes], genes: int, values: int) -> list[str]:
    found = [
        f"{source.source}: {source.done} done + {source.no_data} no data + {source.failed} "
        f"failed are not the {genes} genes ({source.state})"
        for source in times
        if source.done + source.no_data != genes or source.failed or source.state != "completed"
    ]
    if not genes:
        found.append("there were no genes")
    counted = sum(source.done for source in times)
    if counted != values:
        found.append(f"{counted} values were counted and {values} are stored")
    return found


async def _unreadable(owner: Owner) -> list[str]:
    count = await owner.count_unreadable()
    return [f"{count} pairs of gene and source cannot be read as they are stored"] if count else []


def _untold(socket: Watched, facts: int) -> list[str]:
    found = []
    if socket.out_of_order:
        found.append(f"{socket.out_of_order} frames of the socket were out of order")
    if socket.facts != facts:
        found.append(f"the socket told {socket.facts} of {facts} facts")
    return found
