"""When an upstream is called, over all workers together; each has a pool of connections."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from contracts.messages import AnnotateBatch
from services.annotator import admission, domain
from services.annotator.admission import Admission
from services.annotator.errors import RateLimited, UpstreamShut, UpstreamUnavailable
from services.annotator.sources import UPSTREAMS
from services.annotator.sources.gnomad_api import GnomadApi
from services.annotator.store import limits
from services.annotator.upstream import Upstream
from services.chassis import database as connections
from tests.builders import IDS
from tests.integration.annotator.catalogue import write_catalogue
from tests.integration.annotator.counting_server import (
    ANSWER,
    BROKEN,
    CountingServer,
    busy,
    call_for,
    counting_server,
    worker,
)
from tests.integration.annotator.desk import Desk
from tests.integration.chassis.desk import WAIT_SECONDS, soon
from tests.system import Database, Mirror, free_ports
from tests.waiting import until

PER_SECOND = 10.0
FAST = 1_000.0  # So that nothing but what a test is about is waited for.
SECONDS = 12.0
HEARD_SECONDS = (limits.CHUNK + limits.AHEAD_MAX).total_seconds()
WORKERS = 4
PROBE_SECONDS = 0.01
STALL_SECONDS = 0.5 / PER_SECOND  # So late a turn is void.


async def asked_by_all(
    database: Database, name: str, answer_seconds: float, callers: int
) -> CountingServer:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(counting_server(answer_seconds))
        workers = [
            await stack.enter_async_context(worker(database, server, PER_SECOND, name))
            for _ in range(WORKERS)
        ]
        await call_for(workers, SECONDS, callers)
        return server


async def note_stalls(stalls: list[tuple[float, float]]) -> None:
    """When the machine held this thread up for how long: turns that came meanwhile are lost. What
    the thread itself was busy with is no excuse."""
    while True:
        due, busy = time.monotonic() + PROBE_SECONDS, time.thread_time()
        await asyncio.sleep(PROBE_SECONDS)
        late = time.monotonic() - due - (time.thread_time() - busy)
        if late > STALL_SECONDS:
            stalls.append((due, late))


async def test_all_workers_together_keep_the_limit_and_use_it(database: Database) -> None:
    """Of an upstream that is fast, and of one so slow that no worker alone could use the limit."""
    stalls: list[tuple[float, float]] = []
    noting = asyncio.create_task(note_stalls(stalls))
    servers = await asyncio.gather(
        asked_by_all(database, "fast", answer_seconds=0.0, callers=1),
        asked_by_all(database, "slow", answer_seconds=0.6, callers=3),
    )
    noting.cancel()
    for server in servers:
        assert server.most_within(1.0) <= 11
        last = server.arrivals[-1]
        for at, count in zip(server.arrivals, server.counts(10.0), strict=True):
            if at + 10.0 > last:
                continue
            lost = sum(1 + PER_SECOND * late for due, late in stalls if at - late < due < at + 10.0)
            assert 90 - lost <= count <= 105, (count, stalls)


@pytest.fixture
async def server() -> AsyncIterator[CountingServer]:
    async with counting_server() as server:
        yield server


async def row(database: Database) -> Any:
    async with database.begin("annotator") as tx:
        return (await tx.execute(text("SELECT *, clock_timestamp() AS now FROM upstream"))).one()


async def pass_time(database: Database, seconds: float) -> None:
    async with database.begin("annotator") as tx:
        await tx.execute(
            text("""
                UPDATE upstream SET
                    next_at = next_at - CAST(:passed AS interval),
                    blocked_until = blocked_until - CAST(:passed AS interval),
                    slowed_at = slowed_at - CAST(:passed AS interval),
                    raised_at = raised_at - CAST(:passed AS interval),
                    open_until = open_until - CAST(:passed AS interval),
                    probe_until = probe_until - CAST(:passed AS interval)
            """),
            {"passed": timedelta(seconds=seconds)},
        )


SAYS_SO = b'{"errors": [{"message": "Query rate limit exceeded. Try again."}], "data": null}'
GRAPHQL = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(SAYS_SO),
    SAYS_SO,
)
FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nRetry-After: %d\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "seconds", "reason"),
    [
        (GRAPHQL, 60, "200: Query rate limit exceeded. Try again."),
        (FORBIDDEN % 30, 30, "403, Retry-After 30 s"),
        (FORBIDDEN % 3600, 900, "403, Retry-After 3600 s, looked at again after 900 s"),
    ],
)
async def test_what_says_429_with_another_status_is_told_to_all_workers(
    database: Database, server: CountingServer, answer: bytes, seconds: float, reason: str
) -> None:
    server.answer = answer
    async with (
        worker(database, server, FAST, "gnomad_api") as first,
        worker(database, server, FAST, "gnomad_api") as second,
    ):
        with pytest.raises(RateLimited):
            await GnomadApi().version(first)
        with pytest.raises(UpstreamShut, match=re.escape(reason)):
            await GnomadApi().version(second)
    assert len(server.arrivals) == 1
    found = await row(database)
    assert seconds - 5 < (found.blocked_until - found.now).total_seconds() <= seconds
    assert (found.blocked_reason, found.share) == (reason, 0.5)


@pytest.mark.parametrize("form", ["whole", "fraction", "date"])
async def test_after_a_429_nobody_calls_before_it_said(
    database: Database, server: CountingServer, form: str
) -> None:
    said = {
        "whole": "30",
        "fraction": "29.5",
        "date": format_datetime(datetime.now(UTC) + timedelta(seconds=31), usegmt=True),
    }[form]
    async with worker(database, server, FAST) as first, worker(database, server, FAST) as second:
        server.answer = busy(said)
        with pytest.raises(RateLimited):
            await first.get("info")
        for one in (first, second, first, second):
            with pytest.raises(
                UpstreamShut, match=r"ensembl until .* UTC: 429, Retry-After"
            ) as shut:
                await one.get("info")
            assert 25 < shut.value.seconds <= 31
    assert len(server.arrivals) == 1
    found = await row(database)
    assert 25 < (found.blocked_until - found.now).total_seconds() <= 31


async def test_after_a_short_429_all_wait_in_place_and_call_half_as_often(
    database: Database, server: CountingServer
) -> None:
    async with (
        worker(database, server, PER_SECOND) as first,
        worker(database, server, PER_SECOND) as second,
    ):
        server.answer = busy("1.5")
        with pytest.raises(RateLimited):
            await first.get("info")
        server.answer = ANSWER
        await call_for([first, second], 4.0, callers=2)
    times = server.arrivals
    assert times[1] - times[0] > 1.4
    assert (await row(database)).share == 0.5
    last = len(times) - 1
    assert last >= 9  # In 2.5 s, at five a second.
    assert (times[last] - times[1]) / (last - 1) > 0.18


async def test_a_429_that_all_workers_run_into_halves_the_rate_once(
    database: Database, server: CountingServer
) -> None:
    """Turns that were leased before are still taken, and are answered with 429 as well."""

    async def call(upstream: Upstream) -> None:
        while True:
            with suppress(RateLimited, UpstreamShut):
                await upstream.get("info")

    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(worker(database, server, PER_SECOND))
            for _ in range(WORKERS)
        ]
        calls = [asyncio.create_task(call(one)) for one in workers for _ in range(2)]
        await until(lambda: len(server.arrivals) > 2 * PER_SECOND, "the usual pace")
        server.answer = busy("1.5")
        before = len(server.arrivals)
        await until(lambda: len(server.arrivals) > before, "the first 429")
        await asyncio.sleep(HEARD_SECONDS)
        server.answer = ANSWER
        for one in calls:
            one.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    assert (await row(database)).share == 0.5


async def test_the_breaker_opens_for_all_and_one_probe_closes_it(
    database: Database, server: CountingServer
) -> None:
    server.answer = BROKEN
    async with worker(database, server, FAST) as first, worker(database, server, FAST) as second:
        for one in (first, second, first, second, first):
            with pytest.raises(UpstreamUnavailable):
                await one.get("info")
        await asyncio.sleep(HEARD_SECONDS)  # Turns that were leased before are still taken.
        for one in (first, second):
            with pytest.raises(
                UpstreamShut, match=r"5 failures in a row, the last: .* 503"
            ) as shut:
                await one.get("info")
            assert 50 < shut.value.seconds <= 60
    assert len(server.arrivals) == limits.FAILURES_MAX

    await pass_time(database, 60)
    server.answer, server.seconds = ANSWER, 0.5
    async with worker(database, server, FAST) as first, worker(database, server, FAST) as second:
        calls = [asyncio.create_task(one.get("info")) for one in (first, second, first, second)]
        await until(lambda: len(server.arrivals) > limits.FAILURES_MAX, "the probe")
        await asyncio.sleep(0.4)
        assert len(server.arrivals) == limits.FAILURES_MAX + 1
        await asyncio.gather(*calls)
    assert (await row(database)).open_until is None


async def test_a_probe_is_made_however_late_its_turn_is_heard_of(
    database: Database, server: CountingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer = BROKEN
    async with worker(database, server, FAST) as one:
        for _ in range(limits.FAILURES_MAX):
            with pytest.raises(UpstreamUnavailable):
                await one.get("info")
    await pass_time(database, 60)
    server.answer = ANSWER
    monkeypatch.setattr(admission, "ROUND_TRIP_SECONDS_MAX", 0.0)
    monkeypatch.setattr(admission, "LATE_SECONDS_MIN", 0.0)
    async with worker(database, server, FAST) as one, asyncio.timeout(WAIT_SECONDS):
        await one.get("info")
    assert (await row(database)).open_until is None


async def test_a_probe_that_is_given_up_leaves_its_permit_to_the_next(
    database: Database, server: CountingServer
) -> None:
    """As when its run is cancelled, because the upstream is slow."""
    async with worker(database, server, FAST) as one:
        server.answer = BROKEN
        for _ in range(limits.FAILURES_MAX):
            with pytest.raises(UpstreamUnavailable):
                await one.get("info")
    await pass_time(database, 60)
    server.answer, server.seconds = ANSWER, 1.0
    async with worker(database, server, FAST) as first, worker(database, server, FAST) as second:
        probe = asyncio.create_task(first.get("info"))
        await until(lambda: len(server.arrivals) > limits.FAILURES_MAX, "the probe")
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        async with asyncio.timeout(WAIT_SECONDS):
            await second.get("info")
    assert (await row(database)).open_until is None


async def test_the_breaker_opens_whatever_bytes_a_failure_comes_with(
    database: Database, server: CountingServer
) -> None:
    server.answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\n\0\xff\0"
    async with worker(database, server, FAST) as one:
        for _ in range(limits.FAILURES_MAX):
            with pytest.raises(UpstreamUnavailable):
                await one.get("info")
    found = await row(database)
    assert found.open_until is not None
    assert found.open_reason.endswith("answers 503: " + 3 * "\N{REPLACEMENT CHARACTER}")


async def test_what_succeeded_is_told_once_also_when_a_call_fails_during_a_lease(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told twice it would be owed: less than no calls, which no row can say, and no lease."""
    began, ends, leasing, leased = (asyncio.Event() for _ in range(4))
    lease_turns = limits.lease_turns

    async def lease_slowly(*arguments: Any) -> limits.Lease | None:
        lease = await lease_turns(*arguments)
        leasing.set()
        await leased.wait()
        return lease

    async with database.engine("annotator") as engine:
        admitted = Admission(engine, "ensembl", FAST)

        async def succeed(together: asyncio.Barrier) -> None:
            async with admitted.call():
                await together.wait()

        async def fail() -> None:
            async with admitted.call():
                began.set()
                await ends.wait()
                raise UpstreamUnavailable("it is away")

        failing = asyncio.create_task(fail())
        await soon(began)
        three = asyncio.Barrier(3)
        await asyncio.gather(*(succeed(three) for _ in range(3)))
        admitted._turns.clear()  # noqa: SLF001  # So that the next call takes a lease.
        monkeypatch.setattr(limits, "lease_turns", lease_slowly)
        last = asyncio.create_task(succeed(asyncio.Barrier(1)))
        await soon(leasing)
        ends.set()
        with pytest.raises(UpstreamUnavailable):
            await failing
        leased.set()
        await last

        found = await row(database)
        assert (found.window_calls, found.window_failures) == (4, 1)
        async with database.begin("annotator") as tx:
            await tx.execute(text("UPDATE upstream SET window_at = window_at - interval '1 hour'"))
        admitted._turns.clear()  # noqa: SLF001
        await succeed(asyncio.Barrier(1))
        assert (await row(database)).window_calls == 1


async def test_who_hears_late_from_the_database_calls_all_the_same(
    database: Database, server: CountingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A distant database, or a loop that is always busy."""
    lease_turns = limits.lease_turns

    async def lease_from_afar(*arguments: Any) -> limits.Lease | None:
        lease = await lease_turns(*arguments)
        await asyncio.sleep(3 * admission.ROUND_TRIP_SECONDS_MAX)
        return lease

    monkeypatch.setattr(limits, "lease_turns", lease_from_afar)
    async with worker(database, server, PER_SECOND) as one, asyncio.timeout(WAIT_SECONDS):
        await one.get("info")
    assert len(server.arrivals) == 1


async def test_a_probe_that_fails_opens_the_breaker_again(
    database: Database, server: CountingServer
) -> None:
    server.answer = BROKEN
    for passed in (0, 60):
        await pass_time(database, passed)
        async with worker(database, server, FAST) as upstream:
            while True:
                try:
                    await upstream.get("info")
                except UpstreamUnavailable:
                    continue
                except UpstreamShut:
                    break
    assert len(server.arrivals) == limits.FAILURES_MAX + 1


async def test_without_the_database_nobody_is_called(
    database: Database, server: CountingServer
) -> None:
    (port,) = free_ports(1)
    settings = database.settings("annotator").model_copy(
        update={"database_url": SecretStr(f"postgresql://a:b@127.0.0.1:{port}/c")}
    )
    async with connections.open_engine(settings, "test") as engine:
        upstream = Upstream(
            UPSTREAMS["ensembl"], server.address, Admission(engine, "ensembl", FAST)
        )
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await upstream.get("info")
        await upstream.close()
    assert server.arrivals == []


async def test_a_batch_that_finds_its_upstream_shut_waits_and_loses_no_attempt(
    desk: Desk, mirror: Mirror
) -> None:
    def guarded() -> Upstream:
        return Upstream(
            UPSTREAMS["ensembl"],
            f"{mirror.url}/ensembl",
            Admission(desk.engine, "ensembl", FAST),
        )

    await write_catalogue(desk)
    run_id = await desk.order(["ensembl"], IDS)
    await desk.planner.plan_and_feed()  # Its hint is on its way.
    (hint,) = [one for one in await desk.relay() if isinstance(one, AnnotateBatch)]
    async with desk.engine.begin() as tx:
        await limits.add_upstream(tx, "ensembl")
        await limits.note_rate_limited(
            tx,
            "ensembl",
            began=timedelta(0),
            wait=timedelta(seconds=30),
            reason="429, Retry-After 30 s",
            probe=None,
        )
    first = guarded()
    desk.use(upstreams={"ensembl": first})
    before = mirror.counters("ensembl")
    await desk.handlers.on_annotate_batch(hint)
    batch = await desk.row(
        "SELECT *, next_attempt_at - now() AS wait FROM batch WHERE kind = 'release'"
    )
    assert (batch.attempt, batch.problem["type"]) == (0, "urn:annobus:problem:upstream-shut")
    assert timedelta(seconds=25) < batch.wait < timedelta(seconds=32)
    assert mirror.counters("ensembl") == before
    await first.close()

    async with desk.engine.begin() as tx:
        await tx.execute(text("UPDATE upstream SET blocked_until = '-infinity'"))
    second = guarded()
    desk.use(upstreams={"ensembl": second})
    await desk.make_due()
    await desk.work()
    assert await desk.source_states(run_id) == {"ensembl": "completed"}
    await second.close()


async def test_a_429_costs_a_batch_no_attempt_and_ends_it_after_a_while(
    desk: Desk, mirror: Mirror
) -> None:
    await write_catalogue(desk)
    run_id = await desk.order(["ensembl"], IDS)
    with mirror.fault("ensembl", kind="status", status=429):
        for refusals in range(1, domain.ATTEMPTS_MAX + 2):
            await desk.make_due()
            await desk.work()
            batch = await desk.row("SELECT * FROM batch WHERE kind = 'release'")
            assert (batch.state, batch.attempt, batch.refusals) == ("pending", 0, refusals)
        async with desk.engine.begin() as tx:
            await tx.execute(
                text("UPDATE batch SET refusals = :almost WHERE kind = 'release'"),
                {"almost": domain.REFUSALS_MAX - 1},
            )
        await desk.make_due()
        await desk.work()
    row = await desk.row("SELECT * FROM run_source WHERE run_id = :run_id", run_id=run_id)
    assert (row.state, row.problem["type"]) == ("failed", "urn:annobus:problem:rate-limited")
