"""The row of an upstream that all workers share, against a model of it: limiter and breaker, by a
clock that stands still until it is set."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.annotator.store import limits
from services.annotator.store.limits import Lease
from tests.models import run_model
from tests.system import Database

NAME = "ensembl"
PER_SECOND = 10.0
START = datetime(2026, 1, 1, tzinfo=UTC)
NEVER = datetime.min.replace(tzinfo=UTC)
EXAMPLES = 60
STEPS = 40

SKIPS = st.sampled_from([0.001, 0.04, 0.1, 0.45, 1, 5, 10, 30, 61])
SUCCESSES = st.integers(0, 3)


class Clock:
    """The database's: `clock_timestamp()` of a schema that is looked into before PostgreSQL's."""

    def __init__(self, runner: asyncio.Runner, connection: AsyncConnection) -> None:
        self.runner = runner
        self.connection = connection
        self.now = START

    def run(self, statement: str, **parameters: Any) -> Any:
        return self.runner.run(self.connection.execute(text(statement), parameters))

    def set(self, now: datetime) -> None:
        self.now = now
        self.run("UPDATE frozen.time SET now = :now", now=now)


async def freeze(database: Database) -> None:
    async with database.connect() as owner:
        await owner.execute("""
            CREATE SCHEMA frozen;
            CREATE TABLE frozen.time AS SELECT now();
            CREATE FUNCTION frozen.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
                AS 'SELECT now FROM frozen.time';
            GRANT USAGE ON SCHEMA frozen TO annotator;
            GRANT SELECT, UPDATE ON frozen.time TO annotator;
        """)


def moment(seconds: float) -> datetime:
    """What the database said as seconds, to the microsecond."""
    return START + timedelta(microseconds=round((seconds - START.timestamp()) * 1e6))


@dataclass
class Model:
    """What an upstream's row should say, one plain rule after the other."""

    next_at: datetime = NEVER
    share: float = 1.0
    slowed_at: datetime = NEVER
    raised_at: datetime = NEVER
    blocked_until: datetime = NEVER
    failures: int = 0
    window: list[bool] = field(default_factory=list)  # Whether each call of it failed.
    window_at: datetime = NEVER
    open_until: datetime | None = None
    probe_until: datetime | None = None

    def shut_until(self, now: datetime) -> datetime | None:
        if self.blocked_until > now:
            return self.blocked_until
        if self.open_until is None:
            return None
        if self.open_until > now:
            return self.open_until
        if self.probe_until is not None and self.probe_until > now:
            return min(self.probe_until, now + timedelta(seconds=2))
        return None

    def count(self, now: datetime, successes: int, failed: int) -> None:
        if self.window_at == NEVER or now - self.window_at >= timedelta(seconds=60):
            self.window_at, self.window = now, []
        self.window += [False] * successes + [True] * failed
        if successes:
            self.failures = 0
        self.failures += failed

    def close(self, now: datetime) -> None:
        self.open_until = self.probe_until = None
        self.failures, self.window, self.window_at = 0, [], now


class Limits(RuleBasedStateMachine):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.model = Model()
        self.turns: list[datetime] = []
        self.probes: list[datetime] = []
        clock.set(START)
        clock.run("DELETE FROM upstream")
        self.on_row(limits.add_upstream)

    def on_row(self, work: Any, *arguments: Any, **named: Any) -> Any:
        return self.clock.runner.run(work(self.clock.connection, NAME, *arguments, **named))

    @rule(seconds=SKIPS)
    def time_passes(self, seconds: float) -> None:
        self.clock.set(self.clock.now + timedelta(seconds=seconds))

    @rule(count=st.integers(1, 8), successes=SUCCESSES)
    def a_worker_asks_for_turns(self, count: int, successes: int) -> None:
        now, model = self.clock.now, self.model
        lease: Lease = self.on_row(limits.lease_turns, PER_SECOND, count, successes)
        assert moment(lease.now) == now
        model.count(now, successes, 0)
        if model.share < 1 and now - model.raised_at >= timedelta(seconds=10):
            model.share, model.raised_at = min(model.share + 0.05, 1.0), now
        shut_until, first_at = model.shut_until(now), max(model.next_at, now)
        rate = PER_SECOND * model.share
        assert abs(lease.spacing - 1 / rate) < 1e-5
        if shut_until is not None:
            assert (lease.count, moment(lease.now + lease.wait)) == (0, shut_until)
            assert lease.shut
            return
        assert lease.shut is None
        if first_at - now > timedelta(seconds=0.5):
            assert lease.count == 0
            assert moment(lease.now + lease.wait) == first_at - timedelta(seconds=0.5)
            return
        assert moment(lease.first_at) == first_at
        half_open = model.open_until is not None
        assert lease.count == (1 if half_open else max(min(count, int(rate / 2)), 1))
        assert (lease.probe is not None) == half_open
        spacing = timedelta(microseconds=round(lease.spacing * 1e6))
        self.turns += [first_at + number * spacing for number in range(lease.count)]
        model.next_at = first_at + lease.count * spacing
        if lease.probe is not None:
            assert lease.probe == now + timedelta(seconds=60)
            model.probe_until = lease.probe
            self.probes.append(lease.probe)

    @rule(began=st.sampled_from([0.0, 0.5, 20.0]), wait=st.sampled_from([0.0, 1.0, 30.0]))
    def a_call_is_answered_with_429(self, began: float, wait: float) -> None:
        self.limited(began, wait, None)

    @precondition(lambda self: self.probes)
    @rule(data=st.data())
    def a_probe_is_answered_with_429(self, data: st.DataObject) -> None:
        self.limited(0.1, 1.0, data.draw(st.sampled_from(self.probes)))

    def limited(self, began: float, wait: float, probe: datetime | None) -> None:
        now, model = self.clock.now, self.model
        self.on_row(
            limits.note_rate_limited,
            began=timedelta(seconds=began),
            wait=timedelta(seconds=wait),
            reason="429",
            probe=probe,
        )
        leased = max(model.slowed_at + timedelta(seconds=1), model.blocked_until)
        if now - timedelta(seconds=began) > leased:
            model.share, model.slowed_at = max(model.share / 2, 1 / 64), now
        model.blocked_until = max(model.blocked_until, now + timedelta(seconds=wait))
        model.raised_at = model.blocked_until
        model.failures = 0
        if probe is not None and probe == model.probe_until:
            model.open_until = model.probe_until = None

    @rule(successes=SUCCESSES)
    def a_call_fails(self, successes: int) -> None:
        self.failed(successes, None)

    @rule(seconds=st.sampled_from([1, 59.9, 60, 61]))
    def an_outage(self, seconds: float) -> None:
        """By single steps, the breaker is half open in few histories."""
        while self.model.open_until is None:
            self.failed(0, None)
        self.time_passes(seconds)

    @precondition(lambda self: self.probes)
    @rule(data=st.data())
    def a_probe_fails(self, data: st.DataObject) -> None:
        self.failed(0, data.draw(st.sampled_from(self.probes)))

    def failed(self, successes: int, probe: datetime | None) -> None:
        now, model = self.clock.now, self.model
        opened = self.on_row(limits.note_failure, successes=successes, reason="503", probe=probe)
        model.count(now, successes, 1)
        is_probe = probe is not None and probe == model.probe_until
        often = len(model.window) >= 20 and sum(model.window) >= len(model.window) / 2
        opens = is_probe if model.open_until is not None else model.failures >= 5 or often
        if opens:
            model.open_until = now + timedelta(seconds=60)
        if is_probe:
            model.probe_until = None
        assert opened == opens

    @precondition(lambda self: self.probes)
    @rule(data=st.data())
    def a_probe_is_answered(self, data: st.DataObject) -> None:
        probe = data.draw(st.sampled_from(self.probes))
        self.on_row(limits.note_probe_answered, probe)
        if probe == self.model.probe_until:
            self.model.close(self.clock.now)

    @precondition(lambda self: self.probes)
    @rule(data=st.data())
    def a_probe_is_given_up(self, data: st.DataObject) -> None:
        probe = data.draw(st.sampled_from(self.probes))
        self.on_row(limits.return_probe, probe)
        if probe == self.model.probe_until:
            self.model.probe_until = None

    @invariant()
    def the_row_is_as_the_model_says(self) -> None:
        row = self.clock.run(
            """SELECT share, failures, window_calls, window_failures, open_until, probe_until,
                      nullif(blocked_until, '-infinity') AS blocked_until FROM upstream"""
        ).one()
        model = self.model
        assert (row.share, row.failures) == (model.share, model.failures)
        assert (row.window_calls, row.window_failures) == (len(model.window), sum(model.window))
        assert (row.open_until, row.probe_until) == (model.open_until, model.probe_until)
        assert (row.blocked_until or NEVER) == model.blocked_until

    @invariant()
    def no_second_has_more_turns_than_the_limit(self) -> None:
        for first, eleventh in zip(self.turns, self.turns[11:], strict=False):
            assert eleventh - first > timedelta(seconds=1)


def test_every_history_of_an_upstream_is_as_the_model_says(database: Database) -> None:
    with asyncio.Runner() as runner:
        runner.run(freeze(database))
        opened = database.engine("annotator")
        engine = runner.run(opened.__aenter__())
        autocommit = engine.execution_options(isolation_level="AUTOCOMMIT").connect()
        connection = runner.run(autocommit.__aenter__())
        clock = Clock(runner, connection)
        clock.run("SET search_path = frozen, annotator, pg_catalog")
        try:
            run_model(lambda: Limits(clock), histories=EXAMPLES, steps=STEPS)
        finally:
            runner.run(autocommit.__aexit__(None, None, None))
            runner.run(opened.__aexit__(None, None, None))
