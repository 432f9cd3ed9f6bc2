"""Dead letters over HTTP: kept once, found, looked into, retried and discarded."""

import asyncio
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest
import pytest_asyncio
from sqlalchemy import text

from contracts.messages import AnnotateBatch, StartRun
from services.chassis import outbox, telemetry
from services.chassis.database import open_session
from services.chassis.dead_letters import Letter
from services.gateway.handlers import count_letters
from services.gateway.http import dead_letters as routes
from services.gateway.store import dead_letters as store
from services.gateway.store.dead_letters import RETRY_BYTES_MAX
from tests.integration.gateway.desk import Desk, open_desk
from tests.integration.gateway.letters import COMMANDS, PROBLEM, dead_batch, keep, letter
from tests.system import Database, SharedCluster, database_to_read
from tests.waiting import until

ADDRESS = "/api/dead-letters"
BY = {"by": "r.franklin"}
REASONS = {"by": "r.franklin", "note": "the list was wrong"}


@pytest.fixture(scope="module")
def kept_database(cluster: SharedCluster, template: str) -> Iterator[Database]:
    """In which there are a run and an open letter."""

    async def keep_one(database: Database) -> None:
        async with open_desk(database) as desk:
            await desk.start(all=True)
            await keep(desk, letter())

    yield from database_to_read(cluster, template, keep_one)


@pytest_asyncio.fixture
async def kept(kept_database: Database) -> AsyncIterator[Desk]:
    async with open_desk(kept_database) as desk:
        yield desk


async def listed(desk: Desk, **parameters: str) -> list[dict[str, Any]]:
    answer = await desk.client.get(ADDRESS, params=parameters)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


async def get(desk: Desk, letter_id: str) -> dict[str, Any]:
    answer = await desk.client.get(f"{ADDRESS}/{letter_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["data"]
    return found


async def sent(desk: Desk) -> list[Any]:
    """What the relay is to send as it came."""
    return await desk.rows(
        """SELECT topic, key, headers, payload, raw_key, raw_headers FROM gateway.outbox
           WHERE raw_headers IS NOT NULL ORDER BY id"""
    )


# ------------------------------------------------------------------------------- what came


async def test_a_letter_that_arrives_twice_is_one_row_and_of_two_groups_two(desk: Desk) -> None:
    other = letter(group="cache-commands", service="cache")
    await keep(desk, letter(), letter(), other, letter(offset=1), other)
    unsigned = letter(offset=2, group=None, service=None)
    await keep(desk, unsigned, unsigned)
    assert len(await listed(desk)) == 4
    # Its topic was lost and made anew: another message lies where it lay.
    anew = letter(recorded_at_ms=1_745_000_000_000)
    await keep(desk, anew, anew, letter())
    assert len(await listed(desk)) == 5


async def test_all_that_came_is_shown(desk: Desk) -> None:
    run_id, batch_id = uuid4(), uuid4()
    body = orjson.dumps({"run_id": str(run_id), "source": "hpo", "batch_id": str(batch_id)})
    headers = (
        ("ce_type", b"annobus.batch.annotate.v1"),
        *(("twice", b"1"), ("twice", b"\xff\xfe"), ("none", None)),
    )
    (letter_id,) = await keep(desk, letter(5, key=b"\xff", headers=headers, value=body))
    (entry,) = await listed(desk)
    assert entry["id"] == letter_id
    shown = (await get(desk, letter_id))["attributes"]
    expected = {
        "kind": "message",
        "state": "open",
        "service": "annotator",
        "consumer_group": "planner",
        "attempts": 1,
        "problem": PROBLEM,
        "run_ids": [str(run_id)],
        "source": "hpo",
        "batch_id": str(batch_id),
        "topic": COMMANDS,
        "partition": 0,
        "offset": 5,
        "type": "annobus.batch.annotate.v1",
        "is_left_at_origin": False,
        "parked_at": "2025-06-15T15:06:40.005000+00:00",
        "retry_of": None,
        "retry_run_id": None,
        "decided_by": None,
    }
    assert expected.items() <= entry["attributes"].items()
    assert "payload" not in entry["attributes"]
    assert expected.items() <= shown.items()
    assert shown["key"] == {"value": b64encode(b"\xff").decode(), "encoding": "base64"}
    assert shown["payload"] == {"value": body.decode(), "encoding": "utf-8"}
    assert [(one["name"], one["encoding"]) for one in shown["headers"]] == [
        ("ce_type", "utf-8"),
        *(("twice", "utf-8"), ("twice", "base64"), ("none", None)),
    ]
    assert shown["refusal"] is None


NASTY = {
    "a NUL in a header": letter(1, headers=(("a\x00b", b"\x00"), ("ce_type", b"a\x00b"))),
    "a NUL in the body": letter(2, value=b'{"source": "a\\u0000b"}', key=b"\x00"),
    "a NUL in the problem": letter(3, problem={"title": "a\x00b", "detail": "\x00"}),
    "no body": letter(4, value=None),
    "neither key nor headers": letter(5, key=None, headers=(), value=b""),
    "no UTF-8": letter(6, value=b"\xff\xfe{", headers=(("ce_type", b"\xff"),)),
    "a deep body": letter(7, value=b"[" * 100_000),
    "a body of other types": letter(8, value=b'{"run_id": [], "source": 7, "batch_id": null}'),
    "no time": letter(9, parked_at_ms=-1, recorded_at_ms=-1),
    "a time to come": letter(10, parked_at_ms=2**62, recorded_at_ms=2**62),
    "a long type": letter(11, headers=(("ce_type", b"x" * 100_000),)),
    "as large as it can be": letter(12, value=b"\xff" * 2_000_000),
    "nothing but its place": letter(
        13, key=None, headers=(), value=None, is_left_at_origin=True, group=None, attempts=None
    ),
    "a retry of nothing": letter(14, headers=(("retry_of", str(uuid4()).encode()),)),
    "a retry of no id": letter(15, headers=(("retry_of", b"\xff"),)),
}


@pytest.mark.parametrize("name", NASTY)
async def test_whatever_it_is_made_of_it_is_kept_and_shown(desk: Desk, name: str) -> None:
    one = NASTY[name]
    (letter_id,) = await keep(desk, one)
    shown = (await get(desk, letter_id))["attributes"]
    kept = shown["payload"]
    assert (one.value is None) == (kept["value"] is None)
    if one.value is not None:
        decoded = b64decode(kept["value"]) if kept["encoding"] == "base64" else kept["value"]
        assert decoded in (one.value, one.value.decode(errors="replace"))
    assert len(shown["headers"]) == len(one.headers)
    assert shown["problem"] == one.problem
    await desk.letters.on_letter(one)
    assert len(await listed(desk)) == 1


async def test_a_problem_longer_than_any_of_ours_is_cut(desk: Desk) -> None:
    """Anybody may write to the topic, and a page of a list holds 200 of them."""
    forged = {"title": "a\x00b", "detail": "x" * 900_000, "more": "y" * 900_000}
    (letter_id,) = await keep(desk, letter(problem=dict(forged)))
    shown = (await get(desk, letter_id))["attributes"]["problem"]
    assert shown == {"type": "", "title": "a\x00b", "detail": "x" * 2_000}
    answer = await desk.client.get(ADDRESS)
    assert len(answer.content) < 10_000


async def test_a_dead_batch_is_one_letter_for_all_runs_that_hear_of_it(desk: Desk) -> None:
    fact = await dead_batch(desk, [], source="hpo", kind="release")
    other = fact.model_copy(update={"run_id": uuid4(), "seq": 3})
    for again in (fact, other, other, fact):
        await desk.letters.on_batch_dead(again)
    (entry,) = await listed(desk)
    shown = entry["attributes"]
    assert (shown["kind"], shown["source"], shown["attempts"]) == ("batch", "hpo", 5)
    assert shown["run_ids"] == [str(fact.run_id), str(other.run_id)]
    assert shown["batch_id"] == str(fact.batch_id)
    for run_id in (fact.run_id, other.run_id):
        assert len(await listed(desk, **{"filter[run]": str(run_id)})) == 1


async def test_a_decided_letter_stays_when_its_fact_comes_again_and_a_second_death_is_another(
    desk: Desk,
) -> None:
    """A dead slice is tried again for a later run, under its own id."""
    fact = await dead_batch(desk, ["HGNC:1"])
    (entry,) = await listed(desk)
    assert (await retry(desk, entry["id"])).status_code == 202
    await desk.letters.on_batch_dead(fact)
    assert len(await listed(desk)) == 1
    run_id = (await get(desk, entry["id"]))["attributes"]["retry_run_id"]
    await desk.letters.on_batch_dead(fact.model_copy(update={"run_id": UUID(run_id), "seq": 4}))
    newest = (await listed(desk))[0]
    assert (newest["attributes"]["state"], newest["attributes"]["retry_of"]) == (
        "open",
        entry["id"],
    )


# ------------------------------------------------------------------------------ what is read


async def test_letters_are_listed_newest_first_page_by_page(desk: Desk) -> None:
    await keep(desk, *(letter(number) for number in (3, 1, 2)))
    address, found = f"{ADDRESS}?page[size]=2", []
    while address:
        page = (await desk.client.get(address)).json()
        found += [item["attributes"]["offset"] for item in page["data"]]
        address = page["links"]["next"]
    assert found == [3, 2, 1]


async def test_letters_are_filtered(desk: Desk) -> None:
    batch = await dead_batch(desk, ["HGNC:1"])
    run_id = uuid4()
    work = AnnotateBatch(batch_id=uuid4(), source="hpo")
    await keep(
        desk,
        letter(1, value=orjson.dumps({"run_id": str(run_id)})),
        letter(2, topic=work.destination(), value=work.model_dump_json().encode()),
        letter(3, headers=(("ce_type", b"annobus.coffee.make.v1"),)),
    )
    discarded = (await listed(desk, **{"filter[type]": "annobus.coffee.make.v1"}))[0]["id"]
    await desk.client.post(f"{ADDRESS}/{discarded}/discard", json=REASONS)
    for parameters, count in (
        ({"filter[kind]": "batch"}, 1),
        ({"filter[kind]": "batch,message"}, 4),
        ({"filter[state]": "open"}, 3),
        ({"filter[state]": "discarded"}, 1),
        ({"filter[topic]": COMMANDS}, 2),
        ({"filter[source]": "hpo"}, 1),
        ({"filter[source]": "ensembl"}, 1),
        ({"filter[run]": str(run_id)}, 1),
        ({"filter[run]": f"{run_id},{batch.run_id}"}, 2),
        ({"filter[type]": StartRun.type, "filter[state]": "open"}, 2),
        ({"filter[type]": "nobody.knows"}, 0),
    ):
        assert len(await listed(desk, **parameters)) == count, parameters


@pytest.mark.parametrize(
    ("parameter", "accepted"),
    [
        ("filter[colour]=red", "filter[state]"),
        ("filter[state]=closed", "open, retried, discarded"),
        ("filter[kind]=parcel", "message, batch"),
        ("filter[topic]=nowhere", "pipeline.commands.v1"),
        ("filter[source]=nowhere", "ensembl"),
        ("filter[run]=seven", "ids of runs"),
        ("filter[type]=", "1 to 200 values"),
        ("sort=age", "page[number]"),
    ],
)
async def test_what_no_letter_can_have_is_refused_with_what_would_be_accepted(
    read_desk: Desk, parameter: str, accepted: str
) -> None:
    answer = await read_desk.client.get(f"{ADDRESS}?{parameter}")
    assert answer.status_code == 400
    assert accepted in answer.json()["detail"]


async def test_what_there_is_not_is_404(desk: Desk) -> None:
    for name in (str(uuid4()), "seven", "%00"):
        for answer in (
            await desk.client.get(f"{ADDRESS}/{name}"),
            await desk.client.post(f"{ADDRESS}/{name}/retry", json=BY),
            await desk.client.post(f"{ADDRESS}/{name}/discard", json=REASONS),
        ):
            assert answer.status_code == 404, name
            assert answer.json()["type"] == "urn:annobus:problem:dead-letter-unknown"


async def test_open_letters_are_counted_for_whoever_scrapes(desk: Desk) -> None:
    await keep(desk, letter(1), letter(2))
    await dead_batch(desk, ["HGNC:1"])
    counting = asyncio.create_task(count_letters(desk.engine))

    def counted(kind: str) -> float:
        assert not counting.done(), counting.exception()
        return float(telemetry.DEAD_LETTERS_OPEN.labels(kind)._value.get())  # noqa: SLF001

    await until(lambda: (counted("message"), counted("batch")) == (2, 1), "the gauge says so")
    counting.cancel()


# ------------------------------------------------------------------------- what is decided


async def retry(desk: Desk, letter_id: str, **changes: str) -> Any:
    return await desk.client.post(f"{ADDRESS}/{letter_id}/retry", json=BY | changes)


async def test_a_message_goes_out_as_it_came_in_the_transaction_that_marks_it(desk: Desk) -> None:
    headers = (("ce_id", b"the same"), ("twice", b"1"), ("twice", b"\xff"), ("none", None))
    (letter_id,) = await keep(desk, letter(headers=headers, key=b"\xfe", value=b"\xfd"))
    answer = await retry(desk, letter_id, note="the reader is mended")
    assert (answer.status_code, answer.headers["location"]) == (202, f"{ADDRESS}/{letter_id}")
    shown = answer.json()["data"]["attributes"]
    assert (shown["state"], shown["decided_by"]) == ("retried", "r.franklin")
    assert shown["note"] == "the reader is mended"
    assert shown["decided_at"]
    (row,) = await sent(desk)
    assert (row["topic"], row["raw_key"], row["payload"]) == (COMMANDS, b"\xfe", b"\xfd")
    assert outbox.read_headers(row["raw_headers"]) == list(headers)
    assert orjson.loads(row["headers"]) == {"retry_of": letter_id}


async def test_the_relay_sends_it_with_one_mark_however_often_it_was_retried(desk: Desk) -> None:
    """The mark of the retry before goes, the id of the message stays."""
    (first,) = await keep(desk, letter(1))
    headers = (("ce_id", b"the same"), ("retry_of", first.encode()))
    (again,) = await keep(desk, letter(2, headers=headers))
    assert (await get(desk, again))["links"]["retry_of"] == f"{ADDRESS}/{first}"
    await retry(desk, again)
    records: list[Any] = []

    async def publish(*_: object) -> "asyncio.Future[Any]":
        raise AssertionError("it is not made anew")

    async def publish_again(*record: object) -> "asyncio.Future[Any]":
        records.append(record)
        arrived = asyncio.get_running_loop().create_future()
        arrived.set_result(None)
        return arrived

    settings = desk.database.settings("gateway")
    async with open_session(settings, "test-relay") as session:
        assert await outbox.relay_once(session, publish, None, publish_again) == 1
    ((topic, key, sent_headers, payload),) = records
    assert (topic, key, payload) == (COMMANDS, b"key", b'{"run_id": 7}')
    assert sent_headers == [("ce_id", b"the same"), ("retry_of", again.encode())]
    assert await sent(desk) == []


async def test_a_second_decision_is_refused_unless_it_is_the_same(desk: Desk) -> None:
    retried, discarded = await keep(desk, letter(1), letter(2))
    assert (await retry(desk, retried)).status_code == 202
    assert (await retry(desk, retried)).status_code == 202
    assert len(await sent(desk)) == 1
    for body in (BY | {"note": "why"}, {"by": "somebody"}):
        answer = await desk.client.post(f"{ADDRESS}/{retried}/retry", json=body)
        assert answer.status_code == 409, body
        assert "was retried by r.franklin at 20" in answer.json()["detail"]
    assert (await desk.client.post(f"{ADDRESS}/{retried}/discard", json=REASONS)).status_code == 409
    for _ in range(2):
        answer = await desk.client.post(f"{ADDRESS}/{discarded}/discard", json=REASONS)
        assert (answer.status_code, answer.json()["data"]["attributes"]["state"]) == (
            202,
            "discarded",
        )
    assert REASONS["note"] in (await retry(desk, discarded)).json()["detail"]
    assert len(await sent(desk)) == 1


async def test_two_who_retry_at_once_send_one(desk: Desk) -> None:
    (letter_id,) = await keep(desk, letter())
    answers = await asyncio.gather(*(retry(desk, letter_id, note=f"{n}") for n in range(5)))
    assert sorted(answer.status_code for answer in answers) == [202, 409, 409, 409, 409]
    assert len(await sent(desk)) == 1


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"by": "r.franklin"}, "note"),
        ({**REASONS, "note": "  "}, "note"),
        ({**REASONS, "note": "x" * 2_001}, "note"),
        ({**REASONS, "by": "x" * 201}, "by"),
        ({"note": "why"}, "by"),
        ({**REASONS, "force": True}, "force"),
    ],
)
async def test_a_discard_says_who_and_why(kept: Desk, body: dict[str, Any], says: str) -> None:
    (entry,) = await listed(kept)
    answer = await kept.client.post(f"{ADDRESS}/{entry['id']}/discard", json=body)
    assert answer.status_code == 422
    assert says in answer.text
    assert (await get(kept, entry["id"]))["attributes"]["state"] == "open"


@pytest.mark.parametrize(
    ("one", "says"),
    [
        (letter(7, key=None, headers=(), value=None, is_left_at_origin=True), "it lies at"),
        (letter(topic="dlq.v1"), "no topic that a message is sent to"),
        (letter(topic="somebody.elses"), "no topic that a message is sent to"),
        (letter(value=b"x" * RETRY_BYTES_MAX), "can be sent again"),
    ],
)
async def test_what_cannot_be_sent_again_stays_open_and_says_why(
    desk: Desk, one: Letter, says: str
) -> None:
    (letter_id,) = await keep(desk, one)
    answer = await retry(desk, letter_id)
    assert (answer.status_code, answer.json()["type"]) == (
        409,
        "urn:annobus:problem:dead-letter-unsendable",
    )
    assert says in answer.json()["detail"]
    shown = (await get(desk, letter_id))["attributes"]
    assert shown["state"] == "open"
    assert says in shown["refusal"]
    assert await sent(desk) == []
    assert (
        await desk.client.post(f"{ADDRESS}/{letter_id}/discard", json=REASONS)
    ).status_code == 202


# --------------------------------------------------------------------------------- batches


async def commands(desk: Desk, but: Sequence[UUID]) -> list[Any]:
    """Orders of runs in the outbox, without those of these runs."""
    rows = [row for row in await desk.outbox() if row["topic"] == COMMANDS]
    return [row for row in rows if row["run_id"] not in {str(run_id) for run_id in but}]


async def test_a_batch_is_retried_by_a_new_run_from_its_checkpoint_on(desk: Desk) -> None:
    fact = await dead_batch(desk, ["HGNC:1", "HGNC:2", "HGNC:3"], checkpoint=1)
    (entry,) = await listed(desk)
    shown = (await get(desk, entry["id"]))["attributes"]
    assert shown["batch"] == {
        "kind": "fetch",
        "state": "dead",
        "gene_count": 3,
        "checkpoint": 1,
        "genes_left": ["HGNC:2", "HGNC:3"],
    }
    answer = await retry(desk, entry["id"])
    assert answer.status_code == 202
    address = answer.json()["data"]["links"]["retry_run"]
    run = (await desk.client.get(address)).json()["data"]
    assert (run["attributes"]["gene_count"], list(run["attributes"]["sources"])) == (2, ["ensembl"])
    (command,) = await commands(desk, [fact.run_id])
    assert command["run_id"] == run["id"] != str(fact.run_id)
    assert command["genes"] == ["HGNC:2", "HGNC:3"]
    assert command["sources"] == ["ensembl"]
    assert (await retry(desk, entry["id"])).json()["data"]["links"]["retry_run"] == address
    assert len(await commands(desk, [fact.run_id])) == 1


async def test_a_dead_look_for_a_release_is_retried_by_a_run_over_all_genes(desk: Desk) -> None:
    fact = await dead_batch(desk, [], source="hpo", kind="release")
    (entry,) = await listed(desk)
    assert (await retry(desk, entry["id"])).status_code == 202
    (command,) = await commands(desk, [fact.run_id])
    assert (command["genes"], command["sources"]) == (None, ["hpo"])


async def test_a_dead_look_at_an_api_is_retried_for_the_genes_that_waited_for_it(
    desk: Desk,
) -> None:
    """And not for all there are: each is a call."""
    look = await dead_batch(desk, [], kind="release")
    other_run = await desk.start(all=True, sources=["hpo"])
    for genes, run_id, source in (
        (["HGNC:1", "HGNC:2", "HGNC:3"], look.run_id, "ensembl"),
        (["HGNC:4"], look.run_id, "gnomad"),
        (["HGNC:5"], other_run, "ensembl"),
    ):
        await dead_batch(
            desk, genes, run_id=run_id, source=source, seq=10 + len(genes) + len(source)
        )
    entries = await listed(desk, **{"filter[run]": str(look.run_id)})
    (entry,) = [one for one in entries if one["attributes"]["batch_id"] == str(look.batch_id)]
    assert (await retry(desk, entry["id"])).status_code == 202
    (command,) = await commands(desk, [look.run_id, other_run])
    assert sorted(command["genes"]) == ["HGNC:1", "HGNC:2", "HGNC:3"]
    assert command["sources"] == ["ensembl"]


async def test_what_a_later_run_has_had_done_and_what_nobody_works_is_not_retried(
    desk: Desk,
) -> None:
    done = await dead_batch(desk, ["HGNC:1"])
    retired = await dead_batch(desk, ["HGNC:1"], source="hpo")
    await desk.execute("UPDATE annotator.batch SET state = 'done' WHERE id = $1", done.batch_id)
    await desk.execute("UPDATE annotator.source SET is_retired = true WHERE name = 'hpo'")
    says = {str(done.batch_id): "is dead no more", str(retired.batch_id): "hpo is retired"}
    for entry in await listed(desk):
        answer = await retry(desk, entry["id"])
        assert answer.status_code == 409
        assert says.pop(entry["attributes"]["batch_id"]) in answer.json()["detail"]
    assert await commands(desk, [done.run_id, retired.run_id]) == []


async def test_a_batch_is_not_retried_while_its_genes_are_asked_for(desk: Desk) -> None:
    """Two letters over the same genes, or a run that was ordered meanwhile, would ask twice."""
    first = await dead_batch(desk, ["HGNC:1", "HGNC:2"])
    second = await dead_batch(desk, ["HGNC:2", "HGNC:1"])
    ids = {
        entry["attributes"]["batch_id"]: entry["id"]
        for entry in await listed(desk, **{"filter[kind]": "batch"})
    }
    answer = await retry(desk, ids[str(first.batch_id)])
    run = answer.json()["data"]["links"]["retry_run"]
    answer = await retry(desk, ids[str(second.batch_id)])
    assert answer.status_code == 409
    problem = answer.json()
    assert problem["type"] == "urn:annobus:problem:run-identical"
    (error,) = problem["errors"]
    assert (error["pointer"], error["run"]) == ("path letter_id", run)
    assert (await get(desk, ids[str(second.batch_id)]))["attributes"]["state"] == "open"
    assert (await many(desk, "retry", **BY, kind="batch", max=10)).status_code == 409
    assert len(await commands(desk, [first.run_id, second.run_id])) == 1
    assert (await desk.client.post(f"{run}/cancel")).status_code == 202
    assert (await retry(desk, ids[str(second.batch_id)])).status_code == 202


# ----------------------------------------------------------------------------------- many


async def many(desk: Desk, what: str, **body: Any) -> Any:
    return await desk.client.post(f"{ADDRESS}/{what}", json=body)


async def test_many_are_discarded_by_filter_the_oldest_first_and_only_open_ones(
    desk: Desk,
) -> None:
    decided, *_ = await keep(desk, *(letter(number) for number in range(5)))
    await retry(desk, decided)
    await keep(desk, letter(9, topic="cache.events.v1"))
    answer = await many(desk, "discard", **REASONS, topic=COMMANDS, max=3)
    assert answer.status_code == 202
    assert answer.json()["meta"] == {"discarded_count": 3, "left_count": 1, "runs": []}
    gone = await listed(desk, **{"filter[state]": "discarded"})
    assert [item["attributes"]["offset"] for item in gone] == [3, 2, 1]
    assert {item["attributes"]["note"] for item in gone} == {REASONS["note"]}
    again = await many(desk, "discard", **REASONS, topic=COMMANDS, max=3)
    assert again.json()["meta"]["discarded_count"] == 1
    assert len(await listed(desk, **{"filter[state]": "open"})) == 1


async def test_many_are_retried_in_order_and_what_cannot_be_sent_stays(desk: Desk) -> None:
    left = letter(3, key=None, headers=(), value=None, is_left_at_origin=True)
    await keep(desk, left, *(letter(number, value=b"%d" % number) for number in (5, 4, 6)))
    answer = await many(desk, "retry", **BY, all=True, max=2)
    assert answer.json()["meta"] == {"retried_count": 2, "left_count": 2, "runs": []}
    answer = await many(desk, "retry", **BY, kind="message", max=1_000)
    assert answer.json()["meta"] == {"retried_count": 1, "left_count": 1, "runs": []}
    assert [row["payload"] for row in await sent(desk)] == [b"5", b"4", b"6"]


async def test_two_who_decide_about_many_at_once_decide_about_each_once(desk: Desk) -> None:
    await keep(desk, *(letter(number, value=b"%d" % number) for number in range(30)))
    await dead_batch(desk, ["HGNC:1"])
    answers = await asyncio.gather(
        *(many(desk, what, **REASONS, all=True, max=9) for what in ("retry", "discard") * 4)
    )
    assert {answer.status_code for answer in answers} == {202}, [one.text for one in answers]
    metas = [answer.json()["meta"] for answer in answers]
    counts = {
        state: sum(meta.get(f"{state}_count", 0) for meta in metas)
        for state in ("retried", "discarded")
    }
    assert sum(counts.values()) == 31
    for state, count in counts.items():
        parameters = {"filter[state]": state, "page[size]": "100"}
        assert len(await listed(desk, **parameters)) == count
    payloads = [row["payload"] for row in await sent(desk)]
    assert len(payloads) == len(set(payloads))


async def test_many_batches_of_a_source_are_one_run(desk: Desk) -> None:
    facts = [
        await dead_batch(desk, ["HGNC:1", "HGNC:2"]),
        await dead_batch(desk, ["HGNC:2", "HGNC:3"], checkpoint=1),
        await dead_batch(desk, [], source="hpo", kind="release"),
        await dead_batch(desk, ["HGNC:1"], source="gnomad"),
    ]
    answer = await many(desk, "retry", **BY, kind="batch", source="ensembl,hpo", max=10)
    meta = answer.json()["meta"]
    assert (meta["retried_count"], meta["left_count"], len(meta["runs"])) == (3, 0, 2)
    ordered = {
        command["sources"][0]: command["genes"]
        for command in await commands(desk, [fact.run_id for fact in facts])
    }
    assert ordered == {"ensembl": ["HGNC:1", "HGNC:2", "HGNC:3"], "hpo": None}
    runs = {
        item["links"]["retry_run"] for item in await listed(desk, **{"filter[state]": "retried"})
    }
    assert runs == set(meta["runs"])


async def test_more_genes_than_a_command_holds_are_more_runs(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "GENES_MAX", 3)
    facts = [await dead_batch(desk, [f"HGNC:{n}", f"HGNC:{n + 1}"]) for n in (1, 2, 3, 4, 5)]
    answer = await many(desk, "retry", **BY, all=True, max=10)
    assert answer.json()["meta"]["retried_count"] == 5
    orders = await commands(desk, [fact.run_id for fact in facts])
    assert [len(command["genes"]) for command in orders] == [3, 3, 2]


async def test_as_many_bytes_go_out_at_once_as_a_transaction_moves(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "BULK_BYTES_MAX", 250)
    await keep(desk, *(letter(number, value=b"x" * 100) for number in range(3)))
    counts = [
        (await many(desk, "retry", **BY, all=True, max=10)).json()["meta"]["retried_count"]
        for _ in range(3)
    ]
    assert counts == [1, 1, 1]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "max"),
        ({"max": 0}, "max"),
        ({"max": 1_001}, "1000"),
        ({"max": 5, "kind": "parcel"}, "message, batch"),
        ({"max": 5, "source": "nowhere"}, "ensembl"),
        ({"max": 5, "run": "seven"}, "ids of runs"),
        ({"max": 5, "state": "retried"}, "open"),
        ({"max": 5, "colour": "red"}, "colour"),
        ({"max": 5, "topic": ","}, "pipeline.commands.v1"),
        ({"max": 5, "run": ","}, "one value at least"),
        ({"max": 5, "type": " "}, "one value at least"),
        ({"max": 5}, "which letters? accepted: some of /kind"),
        ({"max": 5, "source": None, "state": "open"}, "or /all: true"),
        ({"max": 5, "all": False}, "or /all: true"),
        ({"max": 5, "all": True, "kind": "message"}, "or /all: true"),
        ({"max": 5, "type": "\x00"}, "type"),
    ],
)
async def test_many_are_named_by_known_filters_and_bounded(
    kept: Desk, body: dict[str, Any], says: str
) -> None:
    for what in ("retry", "discard"):
        answer = await many(kept, what, **REASONS, **body)
        assert answer.status_code == 422, what
        assert says in answer.text
    assert len(await listed(kept, **{"filter[state]": "open"})) == 1


# ------------------------------------------------------------------------------ its states

IMPOSSIBLE = {
    "a batch with a topic": "UPDATE dead_letter SET kind = 'batch'",
    "a message without a place": "UPDATE dead_letter SET topic = NULL",
    "half a place": 'UPDATE dead_letter SET "offset" = NULL',
    "decided by nobody": "UPDATE dead_letter SET state = 'retried', decided_at = now()",
    "open and decided": "UPDATE dead_letter SET decided_at = now(), decided_by = 'x'",
    "discarded without a word": """UPDATE dead_letter SET state = 'discarded', decided_at = now(),
        decided_by = 'x'""",
    "a note on what is open": "UPDATE dead_letter SET note = 'x'",
    "a run for a message": """UPDATE dead_letter SET state = 'retried', decided_at = now(),
        decided_by = 'x', retry_run_id = (SELECT id FROM run)""",
    "left behind and here": "UPDATE dead_letter SET is_left_at_origin = true",
    "its own retry": "UPDATE dead_letter SET retry_of = id",
    "another state": "UPDATE dead_letter SET state = 'lost'",
    "a batch of no run": """INSERT INTO dead_letter (kind, parked_at, problem, source, batch_id)
        VALUES ('batch', now(), '{}', 'hpo', uuidv7())""",
    "a batch that was retried by no run": """INSERT INTO dead_letter (kind, parked_at, problem,
        source, batch_id, run_ids, state, decided_at, decided_by)
        VALUES ('batch', now(), '{}', 'hpo', uuidv7(), '{00000000-0000-0000-0000-000000000000}',
                'retried', now(), 'x')""",
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
async def test_what_is_not_drawn_cannot_be_written(kept_database: Database, name: str) -> None:
    async with kept_database.connect("gateway") as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SET TRANSACTION READ WRITE")
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute(IMPOSSIBLE[name])
        await transaction.rollback()


async def test_of_thousands_of_headers_the_first_are_shown_and_all_are_counted(desk: Desk) -> None:
    headers = tuple((f"h{number}", b"\xff") for number in range(5_000))
    (letter_id,) = await keep(desk, letter(headers=headers))
    shown = (await get(desk, letter_id))["attributes"]
    assert shown["header_count"] == 5_000
    assert [one["name"] for one in shown["headers"]] == [
        f"h{number}" for number in range(routes.HEADERS_SHOWN_MAX)
    ]
    await retry(desk, letter_id)
    (row,) = await sent(desk)
    assert outbox.read_headers(row["raw_headers"]) == list(headers)


async def test_many_looks_are_one_search_for_what_waited_for_them(desk: Desk) -> None:
    """Batches are never thrown away: 30 searches among those of a year took longer than a
    transaction may."""
    waiting = await dead_batch(desk, ["HGNC:1", "HGNC:2"])
    looks = [
        await dead_batch(desk, [], kind="release", run_id=waiting.run_id, seq=100 + number)
        for number in range(20)
    ]
    await desk.execute(
        """INSERT INTO annotator.batch (kind, source, run_id, genes, state, finished_at)
           SELECT 'fetch', 'ensembl', $1, ARRAY['HGNC:3'], 'done', now()
           FROM generate_series(1, 2000)""",
        waiting.run_id,
    )
    await desk.execute("ANALYZE annotator.batch")
    rows = await desk.rows("SELECT id FROM gateway.dead_letter")
    async with desk.engine.connect() as connection:
        undone = await store.list_undone(connection, [row["id"] for row in rows])
        read = await connection.scalar(
            text("SELECT seq_tup_read FROM pg_stat_xact_all_tables WHERE relname = 'batch'")
        )
    assert len(undone) == len(looks) + 1
    assert {frozenset(one.genes or ()) for one in undone} == {frozenset({"HGNC:1", "HGNC:2"})}
    assert read <= 3 * 2_021
