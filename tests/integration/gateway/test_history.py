"""What was known at a time, what changed since and where it is from, told by the routes about
versions that the annotator's own statements have stored."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from random import Random
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.views import Cause
from services.annotator.domain import Answer, Offered
from services.annotator.store import annotations, releases
from services.annotator.store.annotations import Origin
from services.gateway.store import history
from services.gateway.store.history import Wanted
from tests.builders import build_catalogue, build_file, build_release
from tests.integration.gateway.desk import PKD1, PKD2, Desk

GENES = (PKD1, PKD2, "HGNC:1097")
SOURCES = ("ensembl", "gnomad")
Values = Mapping[tuple[str, str], int | None]


class Value(BaseModel):
    start: int
    loeuf: float | None = None


@dataclass
class Storing:
    """Stores what sources say, as the annotator does."""

    engine: AsyncEngine
    told: list[tuple[str, str, int | None, int | None]] = field(default_factory=list)
    held: dict[tuple[str, str], int | None] = field(default_factory=dict)

    async def release(
        self,
        source: str,
        version: str,
        *,
        cause: Cause | None = "upstream",
        parser_version: int = 1,
    ) -> Origin:
        async with self.engine.begin() as tx:
            release_id = await build_release(
                tx, source, version, state="accepted", parser_version=parser_version
            )
            await build_file(tx, release_id, sha256=version.encode())
            release = await releases.get_release(tx, release_id)
        return replace(
            release.origin(), matched_by="ensembl_gene_id", cause=cause, tells_first=False
        )

    async def store(
        self, source: str, origin: Origin, values: Mapping[str, int | None]
    ) -> datetime:
        """Returns a time at which this holds, and nothing later."""
        async with self.engine.begin() as tx:
            offered = Offered()
            for place, (hgnc_id, number) in enumerate(values.items()):
                value = None if number is None else Value(start=number, loeuf=number / 10)
                offered.add(Answer(hgnc_id, value, place))
            now = await annotations.lock_store(tx, source)
            await annotations.store_offered(tx, source, offered, origin, now)
        for hgnc_id, number in values.items():
            pair = (hgnc_id, source)
            if pair in self.held and self.held[pair] != number:
                self.told.append((hgnc_id, source, self.held[pair], number))
            self.held[pair] = number
        async with self.engine.connect() as connection:
            moment: datetime = await connection.scalar(text("SELECT clock_timestamp()"))
        return moment


@pytest_asyncio.fixture
async def storing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Storing]:
    """Of a catalogue with genes; what was stored a moment ago may be asked for."""
    monkeypatch.setattr(history, "SETTLED_SECONDS", 0)
    async with desk.database.engine("annotator") as engine:
        async with engine.begin() as tx:
            await build_catalogue(tx)
        yield Storing(engine)


async def values_at(connection: AsyncConnection, at: datetime) -> dict[tuple[str, str], int | None]:
    rows = await history.annotations_at(connection, GENES, at)
    return {
        (row["hgnc_id"], row["source"]): number_of(row["value"])
        for row in rows
        if row["source"] in SOURCES and row["valid_from"] is not None
    }


def number_of(value: str | None) -> int | None:
    return None if value is None else Value.model_validate_json(value).start


STEPS = st.lists(
    st.tuples(
        st.sampled_from(SOURCES),
        st.dictionaries(
            st.sampled_from(GENES), st.one_of(st.none(), st.integers(0, 2)), min_size=1
        ),
    ),
    min_size=1,
    max_size=8,
)


@given(steps=STEPS, seed=st.integers(0, 2**16))
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
async def test_as_of_changes_and_differences_are_what_was_stored(
    desk: Desk, storing: Storing, steps: Any, seed: int
) -> None:
    await desk.execute("TRUNCATE annotator.annotation, annotator.checked")
    storing.told, storing.held = [], {}
    origins = {source: await storing.release(source, "1") for source in SOURCES}
    moments, states = [], []
    for source, values in steps:
        moments.append(await storing.store(source, origins[source], values))
        states.append(dict(storing.held))
    random = Random(seed)  # noqa: S311
    async with desk.engine.connect() as connection:
        # As of each time is what was held then.
        for moment, state in zip(moments, states, strict=True):
            assert await values_at(connection, moment) == state
        # The feed is exactly what was told, in order, however it is cut into pages.
        found, place = [], (0, 0)
        while page := await history.list_changes(connection, Wanted(), place, random.randint(1, 4)):
            place = (int(page[-1]["xid"]), page[-1]["id"])
            found += [
                (c["hgnc_id"], c["source"], number_of(c["before"]), number_of(c["after"]))
                for c in page
            ]
        assert sorted(found, key=repr) == sorted(storing.told, key=repr)
        # A difference leads from the one state to the other, and two compose to one.
        ends = sorted(random.choice(range(len(moments))) for _ in range(3))
        first, second, third = (moments[end] for end in ends)
        ab = await difference(connection, first, second)
        bc = await difference(connection, second, third)
        ac = await difference(connection, first, third)
        assert apply(states[ends[0]], ab) == valued(states[ends[1]])
        assert apply(states[ends[0]], ac) == valued(states[ends[2]])
        assert composed(ab, bc) == ac


Difference = dict[tuple[str, str], tuple[int | None, int | None]]


async def difference(connection: AsyncConnection, before: datetime, after: datetime) -> Difference:
    rows = await history.list_differences(connection, before, after, None, (0, ""), 1_000)
    return {
        (row["hgnc_id"], row["source"]): (number_of(row["before"]), number_of(row["after"]))
        for row in rows
    }


def valued(state: Values) -> Values:
    return {place: number for place, number in state.items() if number is not None}


def apply(state: Values, changes: Difference) -> Values:
    for place, (before, _) in changes.items():
        assert state.get(place) == before
    return valued({**state, **{place: after for place, (_, after) in changes.items()}})


def composed(first: Difference, second: Difference) -> Difference:
    both = {
        place: (
            first.get(place, second.get(place, (None, None)))[0],
            second.get(place, first.get(place, (None, None)))[1],
        )
        for place in first.keys() | second.keys()
    }
    return {place: ends for place, ends in both.items() if ends[0] != ends[1]}
