"""Controls of runs over HTTP: what becomes a command, what is said once, and what is refused."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.integration.gateway.desk import Desk, frame, frames_until

ACTIONS = ("pause", "resume", "cancel")


async def post(desk: Desk, run_id: object, action: str, source: str | None = None) -> Any:
    place = f"/api/runs/{run_id}" + (f"/sources/{source}" if source else "")
    return await desk.client.post(f"{place}/{action}")


async def commands(desk: Desk) -> list[tuple[str, str | None, int]]:
    """Controls in the outbox: action, source, epoch."""
    rows = await desk.outbox()
    return [(row["action"], row["source"], row["epoch"]) for row in rows if "action" in row]


async def started(desk: Desk) -> UUID:
    run_id = await desk.start(all=True)
    await desk.plan(run_id)
    return run_id


async def test_a_control_is_what_is_wanted_and_a_command_in_one_transaction(desk: Desk) -> None:
    run_id = await started(desk)
    answer = await post(desk, run_id, "pause")

    assert answer.status_code == 202
    assert answer.headers["location"] == f"/api/runs/{run_id}"
    run = answer.json()["data"]["attributes"]
    assert (run["state"], run["desired_state"]) == ("running", "paused")
    assert await commands(desk) == [("pause", None, 1)]
    (command,) = [row for row in await desk.outbox() if "action" in row]
    assert (command["topic"], command["key"]) == ("pipeline.commands.v1", str(run_id))


async def test_the_same_control_twice_is_accepted_twice_and_said_once(desk: Desk) -> None:
    run_id = await started(desk)
    for action in ("pause", "pause", "resume", "resume", "pause", "cancel", "cancel"):
        assert (await post(desk, run_id, action)).status_code == 202, action
    assert await commands(desk) == [
        ("pause", None, 1),
        ("resume", None, 2),
        ("pause", None, 3),
        ("cancel", None, 4),
    ]


async def test_a_resume_of_a_run_that_nobody_paused_is_accepted_and_says_nothing(
    desk: Desk,
) -> None:
    run_id = await started(desk)
    assert (await post(desk, run_id, "resume")).status_code == 202
    assert await commands(desk) == []


async def test_epochs_of_a_run_and_of_its_sources_are_one_sequence(desk: Desk) -> None:
    run_id = await started(desk)
    await post(desk, run_id, "pause", "ensembl")
    await post(desk, run_id, "pause")
    await post(desk, run_id, "pause", "ensembl")
    await post(desk, run_id, "resume", "ensembl")
    await post(desk, run_id, "cancel", "hpo")
    assert await commands(desk) == [
        ("pause", "ensembl", 1),
        ("pause", None, 2),
        ("resume", "ensembl", 3),
        ("cancel", "hpo", 4),
    ]


@pytest.mark.parametrize("action", ACTIONS)
async def test_a_run_that_has_ended_is_not_controlled(desk: Desk, action: str) -> None:
    run_id = await started(desk)
    await desk.finish(run_id)
    for source in (None, "hpo"):
        answer = await post(desk, run_id, action, source)
        assert answer.status_code == 409
        assert answer.headers["content-type"] == "application/problem+json"
        assert f"is completed: nobody can {action} it any more" in answer.json()["detail"]
    assert await commands(desk) == []


async def test_what_is_being_cancelled_is_neither_paused_nor_resumed(desk: Desk) -> None:
    run_id = await started(desk)
    await post(desk, run_id, "cancel", "hpo")
    assert (await post(desk, run_id, "resume", "hpo")).status_code == 409
    assert (await post(desk, run_id, "pause", "ensembl")).status_code == 202
    await post(desk, run_id, "cancel")
    for action, source in (("pause", None), ("resume", None), ("resume", "ensembl")):
        answer = await post(desk, run_id, action, source)
        assert answer.status_code == 409, (action, source)
        assert "is cancelled" in answer.json()["detail"]
    assert len(await commands(desk)) == 3


async def test_a_run_or_source_that_there_is_not_is_not_controlled(desk: Desk) -> None:
    run_id = await desk.start(all=True, sources=["hpo"])
    for answer in (
        await post(desk, uuid4(), "pause"),
        await post(desk, "the-first", "pause"),
        await post(desk, run_id, "pause", "ensembl"),
    ):
        assert answer.status_code == 404
    assert "it has hpo" in answer.json()["detail"]
    assert await commands(desk) == []


async def test_a_paused_run_is_active_and_its_sockets_are_told(desk: Desk) -> None:
    run_id = await started(desk)
    async with desk.socket(f"/ws/jobs/{run_id}") as socket:
        await frame(socket)
        await desk.execute(
            "UPDATE annotator.run SET state = 'paused', control_epoch = 1, seq = 2 WHERE id = $1",
            run_id,
        )
        await desk.add_fact(run_id, 2, "annobus.run.paused.v1", {"source": None})
        *_, told = await frames_until(socket, type="fact", seq=2)
        assert (told["status"], told["message"]) == ("paused", "paused")
        *_, shown = await frames_until(socket, type="snapshot", status="paused")
        assert shown["message"].startswith("paused")
    listed = (await desk.client.get("/api/progress/status")).json()["data"]
    assert [run["id"] for run in listed] == [str(run_id)]


async def test_a_cancelled_run_is_told_with_what_was_left_of_it(desk: Desk) -> None:
    run_id = await started(desk)
    async with desk.socket(f"/ws/jobs/{run_id}") as socket:
        await frame(socket)
        await desk.execute(
            """UPDATE annotator.run_source SET state = 'cancelled', finished_at = now(),
                   done_count = 50, cancelled_count = 150 WHERE run_id = $1""",
            run_id,
        )
        await desk.execute(
            """UPDATE annotator.run SET state = 'cancelled', open_sources = 0, seq = 2,
                   finished_at = now() WHERE id = $1""",
            run_id,
        )
        *_, shown = await frames_until(socket, type="snapshot", status="cancelled")
    assert shown["sources"]["hpo"]["cancelled_count"] == 150
    assert "cancelled" in shown["message"]
    assert shown["progress"] == 25.0
    assert (await post(desk, run_id, "cancel")).status_code == 202
    run = (await desk.client.get(f"/api/runs/{run_id}")).json()["data"]["attributes"]
    assert run["cancelled_count"] == 150 * len(run["sources"])


@pytest.mark.parametrize("action", ACTIONS)
async def test_a_body_that_would_be_ignored_is_refused(desk: Desk, action: str) -> None:
    """Who names a source there means that one, and would control the whole run."""
    run_id = await started(desk)
    for place in (f"/api/runs/{run_id}", f"/api/runs/{run_id}/sources/hpo"):
        for body in (b'{"source": "ensembl"}', b"source=ensembl", b"[]", b"\x00" * 5_000):
            answer = await desk.client.post(f"{place}/{action}", content=body)
            assert answer.status_code == 422, body
            assert answer.json()["type"] == "urn:annobus:problem:body-unexpected"
            assert "accepted: no body" in answer.json()["detail"]
            assert len(answer.content) < 2_000
    assert await commands(desk) == []
    for body in (b"", b" {} ", b"null"):
        answer = await desk.client.post(f"/api/runs/{run_id}/{action}", content=body)
        assert answer.status_code == 202, body
