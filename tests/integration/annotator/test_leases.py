"""Who may work a batch: the claim rule, the lease, the token."""

import asyncio
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from contracts.messages import AnnotateBatch
from contracts.topics import DEAD_LETTERS
from services.annotator import domain, handlers
from services.annotator.domain import Batch
from services.annotator.errors import LeaseLost, UpstreamUnavailable
from services.annotator.store import batches, catalogue
from services.chassis.bus import Bus, Subscription
from tests.builders import IDS
from tests.integration.annotator.catalogue import write_catalogue
from tests.integration.annotator.desk import Desk
from tests.integration.chassis.desk import WAIT_SECONDS, open_broker, soon, started, typed
from tests.system import SharedCluster


async def hinted_batch(desk: Desk) -> UUID:
    """A batch of Ensembl genes whose hint has been sent and not been taken up."""
    await write_catalogue(desk)
    await desk.order(["ensembl"], IDS)
    await desk.planner.plan_and_feed()
    for hint in await desk.relay():  # The release first: the genes wait for its version.
        if isinstance(hint, AnnotateBatch):
            await desk.handlers.on_annotate_batch(hint)
    await desk.planner.plan_and_feed()
    row = await desk.row("SELECT id FROM batch WHERE kind = 'fetch' AND state = 'queued'")
    return UUID(str(row.id))


async def claim(desk: Desk, batch_id: UUID, owner: str) -> Batch | None:
    async with desk.engine.begin() as tx:
        return await batches.claim_batch(tx, batch_id, owner)


async def end_lease(desk: Desk, batch_id: UUID) -> None:
    async with desk.engine.begin() as tx:
        await tx.execute(
            text("UPDATE batch SET lease_until = now() - interval '2 s' WHERE id = :id"),
            {"id": batch_id},
        )


async def test_a_second_worker_finds_nothing_while_the_lease_lives(desk: Desk) -> None:
    batch_id = await hinted_batch(desk)
    assert await claim(desk, batch_id, "annotator-1") is not None
    before = await desk.row("SELECT * FROM batch WHERE id = :id", id=batch_id)

    assert await claim(desk, batch_id, "annotator-2") is None
    assert await desk.row("SELECT * FROM batch WHERE id = :id", id=batch_id) == before


async def test_a_duplicate_hint_during_a_live_lease_changes_nothing(desk: Desk) -> None:
    batch_id = await hinted_batch(desk)
    await claim(desk, batch_id, "annotator-9")
    before = await desk.row("SELECT * FROM batch WHERE id = :id", id=batch_id)

    await desk.handlers.on_annotate_batch(AnnotateBatch(batch_id=batch_id, source="ensembl"))

    assert await desk.row("SELECT * FROM batch WHERE id = :id", id=batch_id) == before
    assert await desk.rows("SELECT * FROM annotation") == []


async def test_a_duplicate_of_a_batch_in_flight_here_is_not_claimed_under_my_own_name(
    desk: Desk,
) -> None:
    batch_id = await hinted_batch(desk)
    await claim(desk, batch_id, desk.handlers.instance)
    desk.handlers.in_flight.add(batch_id)
    before = await desk.row("SELECT * FROM batch WHERE id = :id", id=batch_id)

    await desk.handlers.on_annotate_batch(AnnotateBatch(batch_id=batch_id, source="ensembl"))

    assert await desk.row("SELECT * FROM batch WHERE id = :id", id=batch_id) == before


async def test_a_restarted_worker_takes_its_own_batch_back_at_once(desk: Desk) -> None:
    batch_id = await hinted_batch(desk)
    first = await claim(desk, batch_id, "annotator-1")
    second = await claim(desk, batch_id, "annotator-1")
    assert first is not None
    assert second is not None
    assert (second.lease_token, second.attempt) == (first.lease_token + 1, first.attempt + 1)


async def test_an_ended_lease_is_anybodys(desk: Desk) -> None:
    batch_id = await hinted_batch(desk)
    await claim(desk, batch_id, "annotator-1")
    await end_lease(desk, batch_id)
    assert await claim(desk, batch_id, "annotator-2") is not None


async def test_a_fenced_worker_stores_nothing(desk: Desk) -> None:
    batch_id = await hinted_batch(desk)
    zombie = await claim(desk, batch_id, "annotator-1")
    assert zombie is not None
    await end_lease(desk, batch_id)
    await claim(desk, batch_id, "annotator-2")

    async with desk.engine.begin() as tx:
        genes = await catalogue.get_genes(tx, zombie.genes)
    with pytest.raises(LeaseLost):
        await desk.handlers.fetch_pages(zombie, genes)

    assert await desk.rows("SELECT * FROM annotation") == []
    assert await desk.rows("SELECT * FROM checked WHERE outcome = 'ok'") == []
    assert (await desk.row("SELECT done_count FROM run_source")).done_count == 0


async def test_a_worker_that_lost_lease_and_partition_in_a_rebalance_changes_nothing(
    desk: Desk, cluster: SharedCluster, topic_prefix: str
) -> None:
    """It learns of it when it stores, not from Kafka: its handler runs through the rebalance."""
    batch_id = await hinted_batch(desk)
    hint = AnnotateBatch(batch_id=batch_id, source="ensembl")
    topic, group = hint.destination(), "annotate-ensembl"
    claimed, go_on, fenced, worked = (asyncio.Event() for _ in range(4))

    async def work_slowly(_: AnnotateBatch) -> None:
        zombie = await claim(desk, batch_id, "annotator-1")
        assert zombie is not None
        claimed.set()
        await go_on.wait()
        async with desk.engine.begin() as tx:
            genes = await catalogue.get_genes(tx, zombie.genes)
        with pytest.raises(LeaseLost):
            await desk.handlers.fetch_pages(zombie, genes)
        fenced.set()

    async def work(command: AnnotateBatch) -> None:
        await desk.handlers.on_annotate_batch(command)
        worked.set()

    bootstrap = cluster.environment()["ANNOBUS_KAFKA_BOOTSTRAP"]
    async with open_broker(bootstrap, topic_prefix, topic, DEAD_LETTERS) as broker:
        # Partitions are dealt out in the order of these names: the first goes to "another".
        slow, other = Bus(broker.settings, "slow"), Bus(broker.settings, "another")
        slow.subscribe([Subscription(topic, {AnnotateBatch: work_slowly}, group)])
        other.subscribe([Subscription(topic, {AnnotateBatch: work}, group)])
        async with started(slow):
            body = hint.model_dump_json().encode()
            await broker.send(body, typed(hint.type), topic=topic, partition=0)
            await soon(claimed)
            await end_lease(desk, batch_id)
            async with started(other):
                await soon(worked)
                stored = await desk.rows("SELECT * FROM annotation ORDER BY id")
                go_on.set()
                await soon(fenced)
        assert await broker.committed(group, topic) == {0: 1}
        assert await broker.parked(0) == []
    assert stored
    assert await desk.rows("SELECT * FROM annotation ORDER BY id") == stored
    done = await desk.row("SELECT done_count + no_data_count AS genes FROM run_source")
    assert done.genes == len(IDS)


async def test_a_failed_batch_is_not_claimed_before_it_is_due(desk: Desk) -> None:
    batch_id = await hinted_batch(desk)
    batch = await claim(desk, batch_id, "annotator-1")
    assert batch is not None
    await desk.handlers.give_back(batch, UpstreamUnavailable("no answer"))

    assert await claim(desk, batch_id, "annotator-1") is None
    await desk.make_due()
    again = await claim(desk, batch_id, "annotator-1")
    assert again is not None
    assert again.attempt == 2


async def test_a_batch_whose_worker_dies_each_time_ends_as_a_dead_letter(desk: Desk) -> None:
    batch_id = await hinted_batch(desk)
    for attempt in range(domain.ATTEMPTS_MAX):
        assert await claim(desk, batch_id, f"annotator-{attempt}") is not None
        await end_lease(desk, batch_id)
    assert await claim(desk, batch_id, "annotator-0") is None

    await desk.planner.sweep_once()

    row = await desk.row("SELECT state, problem::text FROM batch WHERE id = :id", id=batch_id)
    assert row.state == "dead"
    assert "attempts" in row.problem
    run = await desk.row("SELECT state FROM run")
    assert run.state == "failed"  # Not one value was stored.


async def test_a_lost_hint_is_sent_again(desk: Desk) -> None:
    batch_id = await hinted_batch(desk)
    await desk.relay()  # Sent, and lost on the way.
    async with desk.engine.begin() as tx:
        await tx.execute(text("UPDATE batch SET queued_at = now() - interval '2 minutes'"))

    await desk.planner.sweep_once()
    await desk.work()

    row = await desk.row("SELECT state, attempt FROM batch WHERE id = :id", id=batch_id)
    assert (row.state, row.attempt) == ("done", 1)


async def test_a_lease_is_renewed_while_its_worker_works(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "RENEW_SECONDS", 0.05)
    batch_id = await hinted_batch(desk)
    upstream = desk.handlers.upstreams["ensembl"]
    ask = upstream._call  # noqa: SLF001  # Every call passes through it, whoever makes it.
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def answer_late(method: str, path: str, **arguments: Any) -> domain.Response:
        asked.set()
        await go_on.wait()
        return await ask(method, path, **arguments)

    monkeypatch.setattr(upstream, "_call", answer_late)
    hint = AnnotateBatch(batch_id=batch_id, source="ensembl")
    working = asyncio.create_task(desk.handlers.on_annotate_batch(hint))
    await soon(asked)
    await end_lease(desk, batch_id)
    async with asyncio.timeout(WAIT_SECONDS):
        while not await desk.rows("SELECT 1 FROM batch WHERE lease_until > now() + interval '5 s'"):
            await asyncio.sleep(0.01)
    assert await claim(desk, batch_id, "annotator-9") is None

    go_on.set()
    await working
    row = await desk.row("SELECT state, attempt FROM batch WHERE id = :id", id=batch_id)
    assert (row.state, row.attempt) == ("done", 1)
