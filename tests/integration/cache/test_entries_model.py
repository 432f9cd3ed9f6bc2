"""Entries against what must hold of them whatever is put, invalidated, aged and reclaimed at once:
none is found that is older than an acknowledged invalidation of anything it depends on."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.parts import Part
from services.cache import namespaces, reclaimer
from services.cache.reclaimer import Reclaimer
from services.chassis.database import open_session
from tests.models import run_model
from tests.system import Database

NAMESPACES = ("facets", "lists")
KEYS = ("a", "b", "c")
GENES = (None, "HGNC:1", "HGNC:2")
SOURCES = (None, "hpo", "gnomad")
EXAMPLES = 40
STEPS = 40

some_parts = st.builds(Part, gene=st.sampled_from(GENES), source=st.sampled_from(SOURCES))
forgotten_parts = st.one_of(
    st.builds(Part, key=st.sampled_from(KEYS)), some_parts.filter(lambda part: str(part) != "")
)


def overlaps(one: Part, other: Part) -> bool:
    """By genes and sources; told another way than the code tells it."""
    same_gene = one.gene is None or other.gene is None or one.gene == other.gene
    same_source = one.source is None or other.source is None or one.source == other.source
    return same_gene and same_source


@dataclass(frozen=True)
class Making:
    """A value on its way: what its maker knew before it began."""

    namespace: str
    key: str
    parts: tuple[Part, ...]
    epoch: int
    began: Any
    number: int  # Its value; of the invalidations that were acknowledged before it began.

    def is_concerned(self, forgotten: Part) -> bool:
        if forgotten.key is not None:
            return forgotten.key == self.key
        return any(overlaps(forgotten, part) for part in self.parts)


@dataclass
class Model:
    makings: list[Making] = field(default_factory=list)
    # By value, when it was acknowledged that it is not to be found any more.
    forgotten: set[int] = field(default_factory=set)
    made: dict[int, Making] = field(default_factory=dict)


class EntryStates(RuleBasedStateMachine):
    def __init__(
        self,
        do: Callable[[Any], Any],
        engine: AsyncEngine,
        other: AsyncConnection,
        session: AsyncConnection,
        gateway: "asyncpg.Connection[asyncpg.Record]",
        owner: "asyncpg.Connection[asyncpg.Record]",
    ) -> None:
        super().__init__()
        self.do, self.engine, self.other, self.session = do, engine, other, session
        self.gateway, self.owner = gateway, owner
        self.model = Model()
        self.open: tuple[str, tuple[Part, ...], list[int]] | None = None
        self.number = 0
        self.walker = Reclaimer(engine)
        self.do(
            owner.execute(
                """TRUNCATE cache.entry, cache.invalidation;
                   UPDATE cache.namespace SET epoch = 0, floor = 0, entry_count = 0"""
            )
        )

    # What gateways do

    @rule(
        namespace=st.sampled_from(NAMESPACES),
        key=st.sampled_from(KEYS),
        parts=st.lists(some_parts, max_size=3),
    )
    def a_maker_begins(self, namespace: str, key: str, parts: Sequence[Part]) -> None:
        row = self.do(
            self.gateway.fetchrow(
                "SELECT epoch, clock_timestamp() AS now FROM cache.namespace_v1"
                " WHERE namespace = $1",
                namespace,
            )
        )
        self.number += 1
        making = Making(namespace, key, tuple(parts), row["epoch"], row["now"], self.number)
        self.model.makings.append(making)
        self.model.made[self.number] = making

    @precondition(lambda self: self.model.makings)
    @rule(place=st.integers(0, 100), is_nothing=st.booleans())
    def a_maker_puts(self, place: int, is_nothing: bool) -> None:
        making = self.model.makings.pop(place % len(self.model.makings))
        depends_on = [one for part in making.parts for one in part.depends_on()]
        depends_on.append(f"value={making.number}")  # So that a nothing is known again, too.
        kept = self.do(
            self.gateway.fetchval(
                "SELECT cache.put_entry_v1($1, $2, $3, $4, $5, $6)",
                *(making.namespace, making.key, making.epoch, making.began, depends_on),
                None if is_nothing else b"x",
            )
        )
        if making.number in self.model.forgotten:
            assert not kept

    # What the cache does

    @rule(
        namespace=st.sampled_from(NAMESPACES),
        parts=st.lists(forgotten_parts, max_size=2),
        commits=st.sampled_from([True, True, True, False]),
    )
    def it_invalidates(self, namespace: str, parts: Sequence[Part], commits: bool) -> None:
        if self.open is not None and self.open[0] == namespace:
            return  # It would wait for that one.
        concerned = self.concerned(namespace, parts)
        self.do(self.invalidate(namespace, parts, commits=commits))
        if commits:
            self.model.forgotten.update(concerned)

    async def invalidate(self, namespace: str, parts: Sequence[Part], *, commits: bool) -> None:
        async with self.engine.connect() as tx:
            await namespaces.invalidate(tx, namespace, list(map(str, parts)))
            await (tx.commit() if commits else tx.rollback())

    @precondition(lambda self: self.open is None)
    @rule(namespace=st.sampled_from(NAMESPACES), parts=st.lists(forgotten_parts, max_size=2))
    def a_slow_invalidation_begins(self, namespace: str, parts: Sequence[Part]) -> None:
        self.do(self.other.execute(text("SELECT 1")))
        self.do(namespaces.invalidate(self.other, namespace, list(map(str, parts))))
        self.open = namespace, tuple(parts), self.concerned(namespace, parts)

    @precondition(lambda self: self.open is not None)
    @rule(commits=st.booleans())
    def the_slow_invalidation_ends(self, commits: bool) -> None:
        assert self.open is not None
        namespace, parts, _ = self.open
        # What was begun meanwhile knows nothing of it either.
        concerned = self.concerned(namespace, parts)
        self.do(self.other.commit() if commits else self.other.rollback())
        if commits:
            self.model.forgotten.update(concerned)
        self.open = None

    def concerned(self, namespace: str, parts: Sequence[Part]) -> list[int]:
        """The values so far that an invalidation is about."""
        return [
            number
            for number, making in self.model.made.items()
            if making.namespace == namespace
            and (not parts or any(making.is_concerned(part) for part in parts))
        ]

    @precondition(lambda self: self.open is None)
    @rule()
    def it_reclaims(self) -> None:
        self.do(self.walk())

    async def walk(self) -> None:
        await self.walker.reclaim(self.session)

    @precondition(lambda self: self.open is None)
    @rule()
    def time_passes(self) -> None:
        """An hour, for entries and invalidations alike; makers may have begun before it."""
        self.do(
            self.owner.execute(
                """UPDATE cache.invalidation SET at = at - interval '1 hour';
                   UPDATE cache.entry SET expires_at = expires_at - interval '1 hour'"""
            )
        )

    # What always holds

    @invariant()
    def nothing_is_found_that_was_acknowledged_to_be_forgotten(self) -> None:
        rows = self.do(
            self.owner.fetch(
                """SELECT e.parts FROM cache.entry_v1 v JOIN cache.entry e USING (namespace, key)"""
            )
        )
        found = {
            int(part.removeprefix("value="))
            for row in rows
            for part in row["parts"]
            if part.startswith("value=")
        }
        assert not found & self.model.forgotten

    def teardown(self) -> None:
        if self.open is not None:
            self.the_slow_invalidation_ends(commits=True)
        self.walk_leaves_what_is_valid()

    def walk_leaves_what_is_valid(self) -> None:
        """A walk deletes nothing else, and all of the rest."""
        query = "SELECT namespace, key FROM cache.entry{} ORDER BY 1, 2"
        valid = self.do(self.owner.fetch(query.format("_v1")))
        self.do(self.walk())
        assert self.do(self.owner.fetch(query.format(""))) == valid


@pytest.mark.timeout(600)  # Failing histories are made short, which takes most of it.
def test_no_history_lets_an_entry_be_found_that_was_forgotten(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(namespaces, "FORGOTTEN_MAX", 12)
    monkeypatch.setattr(reclaimer, "ROWS_MAX", 2)
    monkeypatch.setattr(reclaimer, "ROWS_MIN", 1)
    monkeypatch.setattr(reclaimer, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(reclaimer, "PAUSE_SHARE", 0)
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        def enter(resource: Any) -> Any:
            return runner.run(stack.enter_async_context(resource))

        engine = enter(database.engine("cache"))
        other = enter(engine.connect())
        session = enter(open_session(database.settings("cache"), "test-reclaimer"))
        gateway, owner = enter(database.connect("gateway")), enter(database.connect())
        try:
            run_model(
                lambda: EntryStates(runner.run, engine, other, session, gateway, owner),
                histories=EXAMPLES,
                steps=STEPS,
            )
        finally:
            runner.run(stack.aclose())
