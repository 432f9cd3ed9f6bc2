"""Commands that fit their form, and of which no row can be made: nobody would ever handle them."""

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from contracts.messages import ControlRun, DecideRelease, Message, StartRun
from services.chassis.bus import is_hopeless
from tests.builders import ASKABLE, IDS
from tests.integration.annotator.catalogue import write_catalogue
from tests.integration.annotator.desk import Desk


def start(**other: Any) -> StartRun:
    return StartRun(run_id=uuid4(), sources=("ensembl",), **other)


COMMANDS: dict[str, Callable[[UUID], Message]] = {
    "a source with NUL": lambda run_id: ControlRun(
        run_id=run_id, action="cancel", source="ensembl\0", epoch=1
    ),
    "a gene with NUL": lambda _: start(genes=(f"{IDS[0]}\0",)),
    "a retry with a strategy": lambda run_id: start(retries=run_id, strategy="stale"),
    "a note with NUL": lambda _: DecideRelease(
        source="hpo", release_id=uuid4(), decision="reject", decided_by="me", note="\0"
    ),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
async def test_a_command_that_the_database_refuses_is_hopeless(
    desk: Desk, command: Callable[[UUID], Message]
) -> None:
    await write_catalogue(desk)
    poison = command(await desk.order(["ensembl"], ASKABLE))
    handle: dict[type[Message], Callable[[Any], Any]] = {
        StartRun: desk.handlers.on_start_run,
        ControlRun: desk.handlers.on_control_run,
        DecideRelease: desk.handlers.on_decide_release,
    }
    with pytest.raises(Exception) as raised:  # noqa: PT011  # Whatever it is, it is judged.
        await handle[type(poison)](poison)
    assert is_hopeless(raised.value)
