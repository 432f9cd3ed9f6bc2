"""Progress sockets: snapshot first, numbered frames, resumption, silence, slow and lost clients."""

import asyncio
import socket as sockets
import time
from uuid import UUID, uuid4

import pytest
from websockets.exceptions import ConnectionClosed

from contracts.messages import BatchAnnotated, RunProgress
from services.gateway import live
from services.gateway import sockets as gateway_sockets
from tests.integration.gateway.desk import DEADLINE_SECONDS, SOURCES, Desk, frame, frames_until

ANNOTATED = "annobus.batch.annotated.v1"
COMPLETED = "annobus.run.completed.v1"


async def closing(path: str, desk: Desk) -> ConnectionClosed:
    """How the gateway ends a socket."""
    async with desk.socket(path) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            await frames_until(socket, type="never")
    return closed.value


async def test_a_run_that_nobody_has_planned_yet_is_planning(desk: Desk) -> None:
    run_id = await desk.start()
    async with desk.socket(f"/ws/jobs/{run_id}") as socket:
        first = await frame(socket)
    assert first["type"] == "snapshot"
    assert first["run_id"] == str(run_id)
    assert (first["seq"], first["status"], first["progress"]) == (0, "planning", None)
    assert first["sources"]["hpo"]["state"] == "waiting"


async def test_a_run_is_told_from_its_plan_to_its_end(desk: Desk) -> None:
    run_id = await desk.start()
    async with desk.socket(f"/ws/jobs/{run_id}") as socket:
        await frame(socket)
        await desk.plan(run_id)
        planned = await frames_until(socket, event="annobus.run.planned.v1")
        assert planned[-1]["message"] == f"planned: 200 genes from {', '.join(SOURCES)}"
        await desk.work(run_id, done=100)
        told = await frames_until(socket, event=ANNOTATED)
        assert told[-1]["data"]["done_count"] == 100
        assert told[-1]["progress"] == 8.3
        await desk.finish(run_id)
        ended = await frames_until(socket, type="snapshot", status="completed")

    assert ended[-1]["progress"] == 100
    seqs = [found["seq"] for found in (*planned, *told, *ended)]
    assert seqs == sorted(seqs)
    facts = [found["seq"] for found in (*planned, *told, *ended) if found["type"] == "fact"]
    assert facts == [1, 2, 3]
    assert ended[-2]["event"] == COMPLETED


async def test_whom_a_run_waits_for_is_told_though_nothing_of_it_has_moved(desk: Desk) -> None:
    run_id = await desk.start()
    await desk.plan(run_id)
    async with desk.socket(f"/ws/jobs/{run_id}") as socket:
        before = await frame(socket)
        assert before["sources"]["ensembl"]["waits_until"] is None
        await desk.execute("""
            INSERT INTO annotator.upstream (name, blocked_until, blocked_reason)
            VALUES ('ensembl', now() + interval '30 s', '429, Retry-After 30 s')
        """)
        async with asyncio.timeout(DEADLINE_SECONDS):
            while (told := await frame(socket))["sources"]["ensembl"]["waits_until"] is None:
                pass
    assert told["seq"] == before["seq"]
    source = told["sources"]["ensembl"]
    assert (source["waits_for"], source["waits_because"]) == ("ensembl", "429, Retry-After 30 s")
    assert "ensembl: 0 of 200 genes, waits for ensembl until " in told["message"]


async def test_facts_are_replayed_after_the_last_one_a_client_has(desk: Desk) -> None:
    run_id = await desk.start()
    await desk.plan(run_id)
    await desk.add_facts(run_id, up_to=451)  # More than one answer of the database holds.
    async with desk.socket(f"/ws/jobs/{run_id}?after=3") as socket:
        first = await frame(socket)
        assert (first["type"], first["seq"]) == ("snapshot", 451)
        replayed = await frames_until(socket, type="fact", seq=451)
        await desk.work(run_id, done=1)
        live = await frames_until(socket, type="fact", seq=452)
    facts = [found["seq"] for found in (*replayed, *live) if found["type"] == "fact"]
    assert facts == list(range(4, 453))


async def test_a_message_of_the_bus_is_passed_on_at_once_and_in_order(desk: Desk) -> None:
    run_id = await desk.start()
    await desk.plan(run_id)
    async with desk.socket(f"/ws/jobs/{run_id}") as socket:
        await frame(socket)
        seq = await desk.work(run_id, done=50)
        started = time.monotonic()
        # The fact comes before its snapshot, and twice; the snapshot is lost.
        fact = BatchAnnotated(
            run_id=run_id,
            seq=seq,
            batch_id=uuid4(),
            source="ensembl",
            done_count=50,
            no_data_count=0,
        )
        await desk.handlers.on_run_fact(fact)
        await desk.handlers.on_run_fact(fact)
        told = await frames_until(socket, type="fact")
        seconds = time.monotonic() - started
        following = await frame(socket)
    assert told[-1]["sources"]["ensembl"]["done_count"] == 50
    assert seconds < 0.4  # Silence would have been noticed after 0.5 s.
    assert (following["type"], following["seq"]) == ("snapshot", seq)


async def test_an_older_snapshot_is_not_passed_on(desk: Desk) -> None:
    run_id = await desk.start()
    await desk.plan(run_id, seq=7)
    async with desk.socket(f"/ws/jobs/{run_id}") as socket:
        await frame(socket)
        older = RunProgress(
            run_id=run_id,
            seq=6,
            state="planning",
            total_count=None,
            done_count=0,
            no_data_count=0,
            failed_count=0,
            sources={},
        )
        await desk.handlers.on_run_progress(older)
        again = await frame(socket)
    assert (again["seq"], again["status"]) == (7, "running")


async def test_an_active_run_is_never_silent_for_long_and_asks_once_for_all(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await desk.start()
    await desk.plan(run_id)
    asked: list[UUID] = []
    read = desk.live._read  # noqa: SLF001

    async def count(asked_for: UUID) -> RunProgress:
        asked.append(asked_for)
        return await read(asked_for)

    monkeypatch.setattr(desk.live, "_read", count)
    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:

        async def longest_silence() -> float:
            async with desk.socket(f"/ws/jobs/{run_id}") as socket:
                await frame(socket)
                longest = 0.0
                for _ in range(4):
                    started = time.monotonic()
                    await frame(socket)
                    longest = max(longest, time.monotonic() - started)
                return longest

        waits = [tasks.create_task(longest_silence()) for _ in range(50)]
    seconds = time.monotonic() - began
    assert 2 <= len(asked) <= 2 + seconds / live.SILENCE_SECONDS_MAX
    assert max(wait.result() for wait in waits) < 1.0
    async with asyncio.timeout(DEADLINE_SECONDS):
        while desk.live._runs:  # noqa: SLF001
            await asyncio.sleep(0.01)


async def test_an_unknown_run_is_closed_with_4404(desk: Desk) -> None:
    for run_id in (uuid4(), "seven"):
        closed = await closing(f"/ws/jobs/{run_id}", desk)
        assert closed.rcvd is not None
        assert closed.rcvd.code == 4404
        assert f"'{run_id}'; GET /api/runs" in closed.rcvd.reason


async def test_a_seq_that_is_no_number_is_refused(desk: Desk) -> None:
    run_id = await desk.start()
    for value in ("seven", str(2**63), "9" * 200):
        closed = await closing(f"/ws/jobs/{run_id}?after={value}", desk)
        assert closed.rcvd is not None
        assert closed.rcvd.code == 4400
        assert f"to {2**63 - 1}, not '{value[:20]}" in closed.rcvd.reason


async def test_a_parameter_that_there_is_not_is_refused(desk: Desk) -> None:
    run_id = await desk.start()
    for address in (
        f"/ws/jobs/{run_id}?afer=3",
        "/api/progress/ws?run=3",
        f"/ws/jobs/{run_id}?%00=1",
    ):
        closed = await closing(address, desk)
        assert closed.rcvd is not None
        assert closed.rcvd.code == 4400
        assert "is not known; accepted: " in closed.rcvd.reason


async def test_a_finished_run_is_told_once_and_closed_after_a_while(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_sockets, "LINGER_SECONDS", 1.0)
    run_id = await desk.start()
    await desk.plan(run_id)
    await desk.finish(run_id)
    async with desk.socket(f"/ws/jobs/{run_id}?after=0") as socket:
        frames = [await frame(socket) for _ in range(3)]
        with pytest.raises(ConnectionClosed) as closed:
            await frame(socket)
    assert [found["type"] for found in frames] == ["snapshot", "fact", "fact"]
    assert frames[0]["progress"] == 100
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1000


async def test_sockets_above_the_limit_are_asked_to_come_back(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_sockets, "SOCKETS_MAX", 1)
    run_id = await desk.start()
    async with desk.socket(f"/ws/jobs/{run_id}") as socket:
        await frame(socket)
        closed = await closing(f"/ws/jobs/{run_id}", desk)
    assert closed.rcvd is not None
    assert closed.rcvd.code == 1013


async def test_all_active_runs_share_a_socket(desk: Desk) -> None:
    async with desk.socket("/api/progress/ws") as socket:
        assert (await frame(socket))["status"] == "idle"
        first = await desk.start()
        await desk.plan(first)
        await frames_until(socket, type="snapshot", run_id=str(first), status="running")
        second = await desk.start(all=True, sources=["hpo"])
        # Both go on while one is told of often.
        await frames_until(socket, run_id=str(second), status="planning")
        await desk.work(first, done=5)
        await frames_until(socket, type="fact", run_id=str(first), event=ANNOTATED)
        await frames_until(socket, run_id=str(second), status="planning")
        await desk.finish(first)
        await frames_until(socket, type="fact", run_id=str(first), event=COMPLETED)
        await frames_until(socket, type="snapshot", run_id=str(first), status="completed")
        await desk.plan(second)
        await desk.finish(second)
        await frames_until(socket, type="snapshot", run_id=str(second), status="completed")
        await frames_until(socket, status="idle")


async def test_a_database_that_does_not_answer_is_told_and_the_socket_stays(desk: Desk) -> None:
    run_id = await desk.start()
    await desk.plan(run_id)
    async with desk.socket(f"/ws/jobs/{run_id}") as socket:
        await frame(socket)
        # Each read fails from here on, as with a database that is gone.
        await desk.execute("REVOKE SELECT ON annotator.run_v1 FROM gateway")
        while "does not answer" not in (told := await frame(socket))["message"]:
            pass
        assert told["status"] == "running"
        await desk.execute("GRANT SELECT ON annotator.run_v1 TO gateway")
        while "does not answer" in (await frame(socket))["message"]:
            pass


async def test_a_client_that_does_not_read_delays_nobody_and_is_closed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_sockets, "SEND_SECONDS_MAX", 0.5)
    monkeypatch.setattr(gateway_sockets, "CLOSE_SECONDS_MAX", 0.5)
    run_id = await desk.start()
    await desk.plan(run_id)
    await desk.add_facts(run_id, up_to=4000, size=5000)  # Enough for all buffers in between.
    deaf = sockets.socket()
    deaf.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    deaf.connect(("127.0.0.1", desk.port))
    request = (
        f"GET /ws/jobs/{run_id}?after=0 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n"
    )
    deaf.sendall(request.encode())
    async with desk.socket(f"/ws/jobs/{run_id}") as socket:
        await frame(socket)
        await desk.work(run_id, done=1)
        started = time.monotonic()
        await frames_until(socket, type="fact", seq=4001)
        assert time.monotonic() - started < 2
    async with asyncio.timeout(DEADLINE_SECONDS):
        while desk.live._runs:  # noqa: SLF001  # Nobody is seated any more.
            await asyncio.sleep(0.02)
    deaf.close()
