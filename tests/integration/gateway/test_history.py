"""What was known at a time, what changed since and where it is from, told by the routes about
versions that the annotator's own statements have stored."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncConnection

from services.gateway.store import history
from services.gateway.store.history import Wanted
from tests.integration.gateway.desk import PKD1, PKD2, Desk, open_desk
from tests.integration.gateway.storing import Storing, Value, open_storing
from tests.system import Database, SharedCluster, database_to_read

BRAF = "HGNC:1097"
GENES = (PKD1, PKD2, BRAF)
SOURCES = ("ensembl", "gnomad")
Values = Mapping[tuple[str, str], int | None]


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

LATER = "HGNC:12547"  # Listed by the second release of the catalogue.


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


async def test_the_same_holds_while_two_runs_store_at_once(desk: Desk, storing: Storing) -> None:
    """Who stored what when is in the versions: from them each answer is worked out by hand."""
    moments: list[datetime] = []

    async def run(number: int) -> None:
        random = Random(number)  # noqa: S311
        for version in range(15):
            source = random.choice(SOURCES)
            origin = await storing.release(source, f"{number}.{version}")
            chosen = random.sample(GENES, random.randint(1, len(GENES)))
            values = {gene: random.choice((None, 0, 1, 2)) for gene in chosen}
            moments.append(await storing.store(source, origin, values))

    await asyncio.gather(run(1), run(2))
    rows = await desk.rows(
        """SELECT hgnc_id, source, valid_from, coalesce(valid_to, 'infinity') AS valid_to,
                  value::text AS value
           FROM annotator.annotation_v1 ORDER BY xid, id"""
    )
    assert len(rows) > 2 * len(GENES)

    def state(at: datetime) -> Values:
        return {
            (row["hgnc_id"], row["source"]): number_of(row["value"])
            for row in rows
            if row["valid_from"] <= at < row["valid_to"].replace(tzinfo=UTC)
        }

    async with desk.engine.connect() as connection:
        for moment in moments:
            assert await values_at(connection, moment) == state(moment)
        for before, after in pairwise(sorted(moments)):
            found = await difference(connection, before, after)
            assert apply(state(before), found) == valued(state(after))
        changes = await history.list_changes(connection, Wanted(), (0, 0), 1_000)
    held: dict[tuple[str, str], int | None] = {}
    told = {(one["hgnc_id"], one["source"], one["changed_at"]): one for one in changes}
    for row in rows:  # In order, each change leads from what was held to what is held next.
        pair = (row["hgnc_id"], row["source"])
        change = told.pop((*pair, row["valid_from"]), None)
        if pair in held:
            assert change is not None
            assert (number_of(change["before"]), number_of(change["after"])) == (
                held[pair],
                number_of(row["value"]),
            )
        held[pair] = number_of(row["value"])
    assert told == {}


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


# ------------------------------------------------------------------------------ the routes


async def tell(storing: Storing) -> dict[str, datetime]:
    """Two releases of Ensembl over two genes, and when each held."""
    first = await storing.release("ensembl", "115")
    held = {"none": await storing.store("ensembl", first, {})}
    held["first"] = await storing.store("ensembl", first, {PKD1: 1, PKD2: 1})
    second = await storing.release("ensembl", "116")
    held["second"] = await storing.store("ensembl", second, {PKD1: 2, PKD2: None})
    return held


@pytest.fixture(scope="module")
def told_database(
    cluster: SharedCluster, template: str
) -> Iterator[tuple[Database, dict[str, datetime]]]:
    told: dict[str, datetime] = {}

    async def store(database: Database) -> None:
        async with open_storing(database) as storing:
            told.update(await tell(storing))

    for database in database_to_read(cluster, template, store):
        yield database, told


@pytest.fixture
def told(told_database: tuple[Database, dict[str, datetime]]) -> dict[str, datetime]:
    return told_database[1]


@pytest_asyncio.fixture
async def read_desk(
    told_database: tuple[Database, dict[str, datetime]], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Desk]:
    """Of what was `told`, which may be asked for."""
    monkeypatch.setattr(history, "SETTLED_SECONDS", 0)
    async with open_desk(told_database[0]) as desk:
        yield desk


def spelt(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


async def attributes(desk: Desk, path: str, **parameters: str) -> Any:
    answer = await desk.client.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    return [one["attributes"] for one in data] if isinstance(data, list) else data["attributes"]


async def test_what_a_source_said_at_a_time(read_desk: Desk, told: dict[str, datetime]) -> None:
    path = "/api/genes/PKD1/annotations/ensembl"
    for moment, status, start, release in (
        ("none", "pending", None, None),
        ("first", "ok", 1, "115"),
        ("second", "ok", 2, "116"),
    ):
        found = await attributes(read_desk, path, as_of=spelt(told[moment]))
        assert (found["status"], found["release"]) == (status, release)
        assert (found["value"] or {}).get("start") == start
    now = await attributes(read_desk, path)
    assert (now["status"], now["value"]["start"], now["valid_to"]) == ("ok", 2, None)
    gone = await attributes(
        read_desk, f"/api/genes/{PKD2}/annotations/ensembl", as_of=spelt(told["second"])
    )
    assert (gone["status"], gone["value"]) == ("empty", None)
    all_of_it = await attributes(
        read_desk, "/api/genes/PKD1/annotations", as_of=spelt(told["first"])
    )
    assert {one["source"]: one["status"] for one in all_of_it}["ensembl"] == "ok"


async def test_where_a_value_is_from(read_desk: Desk, told: dict[str, datetime]) -> None:
    path = "/api/genes/PKD1/annotations/ensembl"
    for parameters, release in (({}, "116"), ({"as_of": spelt(told["first"])}, "115")):
        found = await attributes(read_desk, path, provenance="true", **parameters)
        origin = found["provenance"]
        assert origin["release"]["version"] == release == found["release"]
        assert origin["raw"]["sha256"] == release.encode().hex()
        assert (origin["raw"]["position"], origin["parser_version"]) == (0, 1)
        assert origin["matched_by"] == "ensembl_gene_id"
    answer = await read_desk.client.get(
        path, params={"provenance": "true", "as_of": spelt(told["none"])}
    )
    assert answer.status_code == 404
    assert answer.json()["type"] == "urn:annobus:problem:annotation-unknown"


async def test_changes_of_all_and_of_one_gene(read_desk: Desk, told: dict[str, datetime]) -> None:
    assert told
    answer = await read_desk.client.get("/api/changes")
    found = [one["attributes"] for one in answer.json()["data"]]
    assert [(one["symbol"], one["before"]["start"], one["severity"]) for one in found] == [
        ("PKD1", 1, "minor"),
        ("PKD2", 1, "minor"),
    ]
    assert [one["after"] and one["after"]["start"] for one in found] == [2, None]
    assert {(one["release_before"], one["release"]) for one in found} == {("115", "116")}
    cursor = answer.json()["meta"]["cursor"]
    assert await attributes(read_desk, "/api/changes", since=cursor) == []
    assert await attributes(read_desk, "/api/changes", **{"filter[severity]": "clinical"}) == []
    chosen = {"filter[gene]": "PKD2", "filter[source]": "ensembl", "filter[cause]": "upstream"}
    assert [one["hgnc_id"] for one in await attributes(read_desk, "/api/changes", **chosen)] == [
        PKD2
    ]

    own = await attributes(read_desk, "/api/genes/PKD1/changes")
    assert [(one["cause"], one["after"]["start"]) for one in own] == [("upstream", 2), (None, 1)]
    page = await read_desk.client.get("/api/genes/PKD1/changes", params={"page[size]": "1"})
    rest = await read_desk.client.get(page.json()["links"]["next"])
    assert [one["attributes"]["after"]["start"] for one in rest.json()["data"]] == [1]
    assert rest.json()["links"]["next"] is None


async def test_a_difference_in_pages(read_desk: Desk, told: dict[str, datetime]) -> None:
    ends = {"from": spelt(told["none"]), "to": spelt(told["second"])}
    page = await read_desk.client.get("/api/diff", params={**ends, "page[size]": "1"})
    assert page.status_code == 200, page.text
    (first,) = page.json()["data"]
    assert (first["attributes"]["symbol"], first["attributes"]["after"]["start"]) == ("PKD1", 2)
    assert page.json()["links"]["next"] is None  # PKD2 came and went in between.
    ends["from"] = spelt(told["first"])
    page = await read_desk.client.get("/api/diff", params={**ends, "page[size]": "1"})
    rest = await read_desk.client.get(page.json()["links"]["next"])
    assert [one["attributes"]["symbol"] for one in rest.json()["data"]] == ["PKD2"]


def cursor_of(place: object) -> str:
    """As a client makes one by hand."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("path", "parameters", "says"),
    [
        ("/api/genes/PKD1", {"as_of": "yesterday"}, "a time with its zone"),
        ("/api/genes/PKD1", {"as_of": "2026-06-01T08:00:00"}, "a time with its zone"),
        ("/api/genes/PKD1", {"as_of": "2999-01-01"}, "a time at least"),
        ("/api/genes/PKD1", {"as_of": "2026W23T08"}, "a time with its zone"),
        ("/api/genes/PKD1", {"as_of": "2026-W23-1"}, "a time with its zone"),
        ("/api/genes/PKD1", {"as_of": "2016-12-31T23:59:60Z"}, "a time with its zone"),
        ("/api/genes/PKD1", {"as_of": "0001-01-01T00:00:00+23:59"}, "a time with its zone"),
        ("/api/genes/PKD1", {"as_of": "9999-12-31T23:59:59-23:59"}, "a time with its zone"),
        ("/api/diff", {"from": "0001-01-01T00:00:00+23:59"}, "the id of a run"),
        ("/api/genes", {"as_of": "2026-06-01", "filter[symbol]": "PKD1"}, "filter[symbol]"),
        ("/api/genes/PKD1/annotations/ensembl", {"provenance": "yes"}, "one of false, true"),
        ("/api/changes", {"since": "x"}, "the cursor of an answer before"),
        ("/api/changes", {"since": cursor_of([1, True])}, "the cursor of an answer before"),
        ("/api/changes", {"since": cursor_of([2**63, 1])}, "the cursor of an answer before"),
        ("/api/changes", {"since": cursor_of({"a": 1, "b": 2})}, "the cursor of an answer before"),
        ("/api/changes", {"since": "W" * 10_000}, "the cursor of an answer before"),
        ("/api/diff", {"page[after]": cursor_of([2**31, "hpo"])}, "the cursor of a links.next"),
        ("/api/diff", {"page[after]": cursor_of([1, "a\x00"])}, "the cursor of a links.next"),
        ("/api/changes", {"filter[cause]": "magic"}, "upstream, parser, mapping, correction"),
        ("/api/changes", {"filter[release]": "one"}, "the id of one release"),
        ("/api/diff", {"from": "2026-06-01"}, "the id of a run"),
        ("/api/diff", {"from": "2026-06-02", "to": "2026-06-01"}, "not before from="),
    ],
)
async def test_what_does_not_fit_is_named(
    read_desk: Desk, path: str, parameters: Mapping[str, str], says: str
) -> None:
    answer = await read_desk.client.get(path, params=parameters)
    assert answer.status_code == 400, answer.text
    assert says in answer.json()["detail"]


@pytest.mark.parametrize(
    "as_of", ["0001-01-01", "0001-01-01T00:00:00Z", "1900-02-28T23:59:59-12:00"]
)
async def test_before_the_first_value_nothing_was_known(
    read_desk: Desk, told: dict[str, datetime], as_of: str
) -> None:
    assert told
    found = await attributes(read_desk, "/api/genes/PKD1/annotations/ensembl", as_of=as_of)
    assert (found["status"], found["value"], found["release"]) == ("pending", None, None)
    assert await attributes(read_desk, "/api/genes", as_of=as_of) == []


async def test_a_gene_s_changes_of_one_release_are_of_that_release(
    desk: Desk, storing: Storing
) -> None:
    releases = [await storing.release("ensembl", version) for version in ("115", "116", "117")]
    for start, origin in enumerate(releases):
        await storing.store("ensembl", origin, {PKD1: start, PKD2: start})
    await desk.execute("UPDATE annotator.release SET accepted_xid = '1'")
    chosen = {"filter[gene]": PKD1, "filter[release]": str(releases[1].release_id)}
    found = await attributes(desk, "/api/changes", **chosen)
    assert [(one["symbol"], one["release"], one["after"]["start"]) for one in found] == [
        ("PKD1", "116", 1)
    ]


async def test_a_value_and_where_it_is_from_are_of_one_moment(
    desk: Desk, storing: Storing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though another value is stored between the two questions."""
    await storing.store("ensembl", await storing.release("ensembl", "115"), {PKD1: 1})
    newer = await storing.release("ensembl", "116")
    provenance = history.provenance

    async def late(connection: AsyncConnection, *arguments: Any) -> Any:
        await storing.store("ensembl", newer, {PKD1: 2})
        return await provenance(connection, *arguments)

    monkeypatch.setattr(history, "provenance", late)
    found = await attributes(desk, "/api/genes/PKD1/annotations/ensembl", provenance="true")
    assert found["provenance"]["release"]["version"] == found["release"] == "115"


async def test_a_source_that_cannot_be_named_is_unknown(read_desk: Desk) -> None:
    for path in (
        "/api/genes/PKD1/annotations/%00",
        "/api/sources/%00/releases",
        "/api/sources/%00",
    ):
        answer = await read_desk.client.get(path)
        assert answer.status_code == 404, path
        assert answer.json()["type"] == "urn:annobus:problem:source-unknown"


async def test_a_run_stands_for_its_end(
    desk: Desk, storing: Storing, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = await tell(storing)
    run_id = await desk.start()
    answer = await desk.client.get(
        "/api/diff", params={"from": spelt(told["none"]), "to": str(run_id)}
    )
    assert answer.status_code == 404  # The annotator has not heard of it.
    await desk.execute(
        """INSERT INTO annotator.run (id, state, all_genes, awaits_catalogue, open_sources)
           VALUES ($1, 'planning', true, false, 0)""",
        run_id,
    )
    parameters = {"from": spelt(told["none"]), "to": str(run_id)}
    answer = await desk.client.get("/api/diff", params=parameters)
    assert answer.json()["type"] == "urn:annobus:problem:run-unfinished"
    await desk.execute(
        """UPDATE annotator.run SET state = 'completed', planned_all = true,
               finished_at = clock_timestamp() WHERE id = $1""",
        run_id,
    )
    assert len(await attributes(desk, "/api/diff", **parameters)) == 1
    # What another run stores may still begin to hold before that end.
    monkeypatch.setattr(history, "SETTLED_SECONDS", 60)
    parameters["from"] = "2026-01-01"
    answer = await desk.client.get("/api/diff", params=parameters)
    assert (answer.status_code, answer.json()["type"]) == (
        409,
        "urn:annobus:problem:run-unfinished",
    )
    assert "60 s" in answer.json()["detail"]


async def test_the_genes_of_a_time(desk: Desk, storing: Storing) -> None:
    """Their names are those of the catalogue's release that held then."""
    first = replace(await storing.release("hgnc", "2026-01"), matched_by="hgnc_id")
    before = await storing.name(first, {PKD1: "PKD1", PKD2: "PKD2"})
    second = replace(await storing.release("hgnc", "2026-02"), matched_by="hgnc_id")
    after = await storing.name(second, {PKD1: "PKD1A", PKD2: None})
    found = await attributes(desk, "/api/genes/PKD1", as_of=spelt(before))
    assert (found["symbol"], found["annotations"]["ensembl"]["status"]) == ("PKD1", "pending")
    assert (await attributes(desk, f"/api/genes/{PKD1}", as_of=spelt(after)))["symbol"] == "PKD1A"
    page = await desk.client.get("/api/genes", params={"as_of": spelt(before), "page[size]": "1"})
    assert [one["id"] for one in page.json()["data"]] == [PKD1]
    rest = await desk.client.get(page.json()["links"]["next"])
    assert [one["id"] for one in rest.json()["data"]] == [PKD2]
    assert [one["hgnc_id"] for one in await attributes(desk, "/api/genes", as_of=spelt(after))] == [
        PKD1
    ]
    answer = await desk.client.get(f"/api/genes/{PKD1}", params={"as_of": "2020-01-01"})
    assert answer.status_code == 404


async def test_when_a_source_had_been_checked_is_told_where_it_is_known(
    desk: Desk, storing: Storing
) -> None:
    """The last check of a release and of a gene is kept: of a time before it nobody knows."""
    for version, retrieved, readable, checked in (
        ("v4.1", "2026-01-01", "2026-01-02", "2026-02-01"),
        ("v4.1.1", "2026-03-01", "2026-03-03", "2026-06-01"),
    ):
        release = await storing.release("gnomad", version)
        await desk.execute(
            """UPDATE annotator.release SET retrieved_at = $2::text::timestamptz,
               readable_since = $3::text::timestamptz, checked_at = $4::text::timestamptz
               WHERE id = $1""",
            *(release.release_id, retrieved, readable, checked),
        )
    await desk.execute(
        """INSERT INTO annotator.checked (hgnc_id, source, checked_at, retrieved_at, outcome)
           VALUES ($1, 'ensembl', '2026-05-01Z', '2026-05-01Z', 'empty')""",
        PKD1,
    )

    async def as_of(source: str, gene: str = PKD1, **at: str) -> str | None:
        found = await attributes(desk, f"/api/genes/{gene}/annotations/{source}", **at)
        when: str | None = found["as_of"]
        return when and when[:10]

    for at, gnomad, ensembl in (
        ("2025-12-31", None, None),  # No release yet.
        ("2026-01-15", None, None),  # It was checked once more.
        ("2026-02-15", "2026-02-01", None),
        ("2026-03-02", "2026-02-01", None),  # The next one was there, and not readable.
        ("2026-04-01", None, None),
        ("2026-05-02", None, "2026-05-01"),
        ("2026-07-01", "2026-06-01", "2026-05-01"),
    ):
        found = (await as_of("gnomad", as_of=at), await as_of("ensembl", as_of=at))
        assert found == (gnomad, ensembl), at
    assert (await as_of("gnomad"), await as_of("ensembl")) == ("2026-06-01", "2026-05-01")
    assert await as_of("ensembl", PKD2, as_of="2026-07-01") is None


async def test_a_document_of_a_time_says_as_of_when_it_holds(desk: Desk, storing: Storing) -> None:
    """And so do those of a list; each as the document that holds now."""
    hgnc = replace(await storing.release("hgnc", "2026-01"), matched_by="hgnc_id")
    await storing.name(hgnc, {PKD1: "PKD1"})
    gnomad = await storing.release("gnomad", "v4.1.1")
    then = await storing.store("gnomad", gnomad, {PKD1: 1})
    await desk.put_document(PKD1, "PKD1")
    now = (await attributes(desk, f"/api/genes/{PKD1}"))["annotations"]
    (listed,) = await attributes(desk, "/api/genes", as_of=spelt(then))
    alone = await attributes(desk, f"/api/genes/{PKD1}", as_of=spelt(then))
    assert listed["annotations"] == alone["annotations"]
    told = {name: said["as_of"] for name, said in alone["annotations"].items()}
    assert told == {name: said["as_of"] for name, said in now.items()}
    assert told["gnomad"] is not None
    assert told["ensembl"] is None


async def test_the_genes_of_a_panel_at_a_time(desk: Desk, storing: Storing) -> None:
    """Those that it has today, as they were then; who was not approved then is not there."""
    first = replace(await storing.release("hgnc", "2026-01"), matched_by="hgnc_id")
    before = await storing.name(first, {BRAF: "BRAF", PKD1: "PKD1", PKD2: "PKD2"})
    second = replace(await storing.release("hgnc", "2026-02"), matched_by="hgnc_id")
    await storing.name(second, {PKD2: "PKD2B", LATER: "UGT1A", PKD1: "PKD1"})
    made = await desk.client.post(
        "/api/panels", json={"name": "kidney", "genes": [LATER, PKD2, PKD1]}
    )
    panel = made.json()["data"]["id"]
    parameters = {"as_of": spelt(before), "filter[panel]": panel, "page[size]": "1"}
    page = (await desk.client.get("/api/genes", params=parameters)).json()
    assert [one["attributes"]["symbol"] for one in page["data"]] == ["PKD1"]
    assert page["meta"]["panel"]["id"] == f"{panel}@1"
    rest = (await desk.client.get(page["links"]["next"])).json()
    assert [one["attributes"]["symbol"] for one in rest["data"]] == ["PKD2"]
    assert rest["links"]["next"] is None
