"""The relay against what must hold of it whatever the broker does, over the real outbox."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.messages import InvalidateNamespace, Message, NamespaceInvalidated
from services.chassis import outbox
from services.chassis.database import open_session
from services.chassis.errors import TopicShut
from tests.models import run_model
from tests.system import Database

ROWS_MAX = 4  # In one pass, so that few rows are several passes.
KEYS = ("a", "b", "c")
SLOW_KEY = "slow"  # Of a transaction that is open while others commit: its ids are lower.
EXAMPLES = 40
STEPS = 40
PASSES_MAX = 40

# What becomes of a record: unsure is one that arrived without an answer, lost one that did not.
Outcome = Literal["arrives", "refused", "unsure", "lost", "shut"]
Where = Literal["command", "event"]
Row = tuple[str, str]  # Topic and key.


@dataclass
class Broker:
    """Stands for Kafka at the producer's door; `arrived` is what readers would see, in order."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)  # By key; others arrive.
    is_brief: bool = False  # Each of these meets one record, and what is behind it arrives.
    arrived: list[tuple[Row, str]] = field(default_factory=list)

    async def publish(
        self, topic: str, key: str, headers: dict[str, str], _: bytes
    ) -> "asyncio.Future[Any]":
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        outcome = self.outcomes.get(key, "arrives")
        if self.is_brief:
            self.outcomes.pop(key, None)
        if outcome in ("arrives", "unsure"):
            self.arrived.append(((topic, key), headers["ce_id"]))
        if outcome == "arrives":
            answer.set_result(None)
        elif outcome == "refused":
            answer.set_exception(OSError("refused"))
        elif outcome == "shut":
            answer.set_exception(TopicShut("shut"))
        return answer


class Outbox(RuleBasedStateMachine):
    def __init__(self, do: Callable[[Any], Any], session: AsyncConnection, slow: AsyncConnection):
        super().__init__()
        self.do = do
        self.session = session  # The relay's.
        self.slow = slow
        self.is_slow_open = False
        self.broker = Broker()
        self.resting: outbox.Resting = {}
        self.committed: dict[Row, list[str]] = {}
        self.withdrawn: set[str] = set()
        self.number = 0
        self.run("DELETE FROM outbox")

    def run(self, statement: str) -> Any:
        return self.do(self.session.execute(text(statement)))

    def message(self, where: Where, key: str) -> Message:
        self.number += 1
        if where == "command":
            return InvalidateNamespace(namespace=key)
        return NamespaceInvalidated(namespace=key, epoch=self.number)

    # What services do

    @rule(
        where=st.sampled_from(["command", "event"]),
        keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=6),
        commits=st.sampled_from([True, True, True, False]),
    )
    def a_service_writes(self, where: Where, keys: Sequence[str], commits: bool) -> None:
        self.run("BEGIN")
        self.do(outbox.add(self.session, *(self.message(where, key) for key in keys)))
        written = self.newest(self.session, len(keys))
        self.run("COMMIT" if commits else "ROLLBACK")
        self.note(written, commits=commits)

    def newest(self, connection: AsyncConnection, count: int) -> list[tuple[Row, str]]:
        found = self.do(
            connection.execute(
                text("SELECT topic, key, event_id FROM outbox ORDER BY id DESC LIMIT :count"),
                {"count": count},
            )
        )
        return [((row.topic, row.key), str(row.event_id)) for row in reversed(found.all())]

    def note(self, written: Sequence[tuple[Row, str]], *, commits: bool) -> None:
        for row, event_id in written:
            if commits:
                self.committed.setdefault(row, []).append(event_id)
            else:
                self.withdrawn.add(event_id)

    @precondition(lambda self: not self.is_slow_open)
    @rule(where=st.sampled_from(["command", "event"]))
    def a_slow_transaction_writes(self, where: Where) -> None:
        self.do(self.slow.execute(text("BEGIN")))
        self.do(outbox.add(self.slow, self.message(where, SLOW_KEY)))
        self.slow_row = self.newest(self.slow, 1)
        self.is_slow_open = True

    @precondition(lambda self: self.is_slow_open)
    @rule(commits=st.booleans())
    def the_slow_transaction_ends(self, commits: bool) -> None:
        self.do(self.slow.execute(text("COMMIT" if commits else "ROLLBACK")))
        self.note(self.slow_row, commits=commits)
        self.is_slow_open = False

    # What becomes of it

    @rule(
        outcomes=st.dictionaries(
            st.sampled_from([*KEYS, SLOW_KEY]),
            st.sampled_from(["refused", "unsure", "lost", "shut"]),
            max_size=2,
        ),
        is_brief=st.booleans(),
        dies=st.sampled_from([False, False, False, True]),
    )
    def the_relay_works(self, outcomes: dict[str, Outcome], is_brief: bool, dies: bool) -> None:
        """One that dies does so between the broker's answers and its delete; its successor knows
        nothing of what rests."""
        self.broker.outcomes, self.broker.is_brief = outcomes, is_brief
        if dies:
            self.run("BEGIN")
        self.do(outbox.relay_once(self.session, self.broker.publish, self.resting))
        if dies:
            self.run("ROLLBACK")
            self.resting = {}

    @rule()
    def what_rests_has_rested(self) -> None:
        self.resting = dict.fromkeys(self.resting, 0.0)

    @rule(key=st.sampled_from(KEYS), outcome=st.sampled_from(["refused", "shut"]))
    def what_is_refused_holds_back_nobody_else(self, key: str, outcome: Outcome) -> None:
        """But a topic that is shut holds back all of it."""
        self.broker.outcomes, self.broker.is_brief = {key: outcome}, False
        self.resting = {}
        self.drain()
        topics = {topic for topic, one in self.left() if one == key}
        for topic, one in self.left():
            assert one == key or (outcome == "shut" and topic in topics)

    def drain(self) -> None:
        """A pass that gets rid of nothing may have found what rests from then on."""
        for _ in range(PASSES_MAX):
            before = self.left(), len(self.resting)
            self.do(outbox.relay_once(self.session, self.broker.publish, self.resting))
            if (self.left(), len(self.resting)) == before:
                return
        raise AssertionError(f"{PASSES_MAX} passes have not emptied the outbox")

    # What always holds

    def left(self) -> dict[Row, list[str]]:
        found: dict[Row, list[str]] = {}
        for row in self.run("SELECT topic, key, event_id FROM outbox ORDER BY id").all():
            found.setdefault((row.topic, row.key), []).append(str(row.event_id))
        return found

    @invariant()
    def nothing_is_lost_and_nothing_is_told_that_was_not_committed(self) -> None:
        arrived = {event_id for _, event_id in self.broker.arrived}
        assert not arrived & self.withdrawn
        left = self.left()
        for row, ids in self.committed.items():
            here = left.get(row, [])
            assert ids[len(ids) - len(here) :] == here  # What is forgotten is the oldest of a key.
            assert set(ids[: len(ids) - len(here)]) <= arrived

    @invariant()
    def what_a_reader_saw_last_of_each_message_is_in_order(self) -> None:
        left = self.left()
        for row, ids in self.committed.items():
            gone = ids[: len(ids) - len(left.get(row, []))]
            seen = [event_id for one, event_id in self.broker.arrived if one == row]
            last = [len(seen) - seen[::-1].index(event_id) for event_id in gone]
            assert last == sorted(last)

    def teardown(self) -> None:
        """When the broker takes everything, everything arrives."""
        if self.is_slow_open:
            self.the_slow_transaction_ends(commits=True)
        self.broker.outcomes, self.resting = {}, {}
        self.drain()
        assert self.left() == {}
        self.nothing_is_lost_and_nothing_is_told_that_was_not_committed()
        self.what_a_reader_saw_last_of_each_message_is_in_order()


@pytest.mark.timeout(600)  # Failing histories are made short, which takes most of it.
def test_every_history_of_an_outbox_is_told_whole_and_in_order(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "ROWS_MAX", ROWS_MAX)
    monkeypatch.setattr(outbox, "PUBLISH_TIMEOUT_SECONDS", 0.02)
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        of = database.settings("gateway")
        session = runner.run(stack.enter_async_context(open_session(of, "test-relay")))
        slow = runner.run(stack.enter_async_context(open_session(of, "test-slow")))
        try:
            run_model(lambda: Outbox(runner.run, session, slow), histories=EXAMPLES, steps=STEPS)
        finally:
            runner.run(stack.aclose())
