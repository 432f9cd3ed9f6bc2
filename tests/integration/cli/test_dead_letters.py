"""`annobus dead-letters`: what it asks for, and what a person sees."""

import json
from typing import Any

import pytest

from tests.integration.cli.conftest import Annobus
from tests.integration.cli.stub_gateway import RUN_ID, Stub

ADDRESS = "/api/dead-letters"
MESSAGE = "0199f000-0000-7000-8000-00000000000a"
BATCH = "0199f000-0000-7000-8000-00000000000b"


def message(**changes: Any) -> dict[str, Any]:
    attributes = {
        "kind": "message",
        "state": "open",
        "parked_at": "2026-11-28T07:00:00+00:00",
        "service": "annotator",
        "consumer_group": "planner",
        "attempts": 1,
        "problem": {"title": "A message that cannot be read", "detail": "Invalid JSON"},
        "run_ids": [],
        "source": None,
        "batch_id": None,
        "type": "annobus.run.start.v1",
        "topic": "pipeline.commands.v1",
        "partition": 3,
        "offset": 41,
        "bytes": 9,
        "is_left_at_origin": False,
        "decided_at": None,
        "decided_by": None,
        "note": None,
        "retry_run_id": None,
        "retry_of": None,
    }
    return {
        "type": "dead-letters",
        "id": MESSAGE,
        "attributes": attributes | changes,
        "links": {"self": f"{ADDRESS}/{MESSAGE}", "retry_run": None, "retry_of": None},
    }


def batch() -> dict[str, Any]:
    changes = {"kind": "batch", "source": "ensembl", "batch_id": BATCH, "attempts": 5}
    made = message(**changes, problem={"title": "x", "detail": "answered 503 five times"})
    return made | {"id": BATCH}


def test_letters_are_listed_with_what_they_are_of_and_why(stub: Stub, annobus: Annobus) -> None:
    stub.answer(ADDRESS, {"data": [message(), batch()], "links": {"next": "more"}})
    ended = annobus("dead-letters", "list", "--letter-state", "open", "--url", stub.url)
    assert ended.returncode == 0
    header, first, second = ended.stdout.splitlines()
    assert header.split() == ["id", "state", "kind", "what", "parked", "attempts", "problem"]
    assert "annobus.run.start.v1 pipeline.commands.v1/3/41" in first
    assert first.endswith("Invalid JSON")
    assert f"ensembl {BATCH}" in second
    assert second.endswith("answered 503 five times")
    assert "more: the same command with --page 2" in ended.stderr  # Filters and all.
    ((_, path, _),) = stub.asked
    assert path.startswith(f"{ADDRESS}?")
    assert "filter%5Bstate%5D=open" in path


def test_a_letter_is_shown_whole_and_what_a_terminal_would_obey_is_not_done(
    stub: Stub, annobus: Annobus
) -> None:
    parts = {
        "key": {"value": "/w==", "encoding": "base64"},
        "headers": [{"name": "evil\x1b[2J", "value": None, "encoding": None}],
        "payload": {"value": "\x1b]0;mine\x07" + "x" * 5_000, "encoding": "utf-8"},
        "batch": None,
        "refusal": "it is too large",
    }
    stub.answer(f"{ADDRESS}/{MESSAGE}", {"data": message(**parts)})
    shown = annobus("dead-letters", "show", MESSAGE, "--url", stub.url)
    assert shown.returncode == 0
    assert "\x1b" not in shown.stdout
    assert r"\x1b]0;mine\x07xxx" in shown.stdout
    assert "3,009 more; --json shows them" in shown.stdout
    assert "no retry:   it is too large" in shown.stdout
    whole = annobus("dead-letters", "show", MESSAGE, "--json", "--url", stub.url)
    assert json.loads(whole.stdout)["data"]["attributes"]["payload"] == parts["payload"]


def test_a_batch_is_shown_with_what_is_left_of_it(stub: Stub, annobus: Annobus) -> None:
    letter = batch()
    letter["attributes"] |= {
        "batch": {"kind": "fetch", "state": "dead", "gene_count": 100, "genes_left": ["HGNC:1"]},
        "refusal": None,
    }
    stub.answer(f"{ADDRESS}/{BATCH}", {"data": letter})
    shown = annobus("dead-letters", "show", BATCH, "--url", stub.url).stdout
    assert "fetch, dead, 1 of 100 genes left" in shown
    assert "payload" not in shown


def test_one_is_retried_and_the_run_is_named(stub: Stub, annobus: Annobus) -> None:
    letter = message(state="retried")
    letter["links"]["retry_run"] = f"/api/runs/{RUN_ID}"
    stub.answer(f"{ADDRESS}/{MESSAGE}/retry", {"data": letter}, 202)
    ended = annobus("dead-letters", "retry", MESSAGE, "--by", "me", "--url", stub.url)
    assert ended.returncode == 0
    assert f"letter {MESSAGE} is retried" in ended.stderr
    assert f"annobus runs watch {RUN_ID}" in ended.stderr
    ((method, _, body),) = stub.asked
    assert (method, json.loads(body)) == ("POST", {"by": "me"})


def test_many_are_discarded_by_filter(stub: Stub, annobus: Annobus) -> None:
    meta = {"discarded_count": 1_000, "left_count": 2_345, "runs": []}
    stub.answer(f"{ADDRESS}/discard", {"data": [], "meta": meta}, 202)
    options = ("--kind", "message", "--type", "annobus.coffee.make.v1", "--max", "1000")
    reasons = ("--by", "me", "--note", "nobody drinks it")
    ended = annobus("dead-letters", "discard", *options, *reasons, "--url", stub.url)
    assert ended.returncode == 0
    assert "1,000 letters are discarded; 2,345 more are open" in ended.stderr
    ((_, _, body),) = stub.asked
    assert json.loads(body) == {
        "by": "me",
        "note": "nobody drinks it",
        "max": 1_000,
        "kind": "message",
        "type": "annobus.coffee.make.v1",
    }


@pytest.mark.parametrize(
    "which", [(), (MESSAGE, "--all"), ("--all", "--kind", "batch"), (MESSAGE, "--source", "hpo")]
)
def test_which_letters_is_said_in_one_way(
    stub: Stub, annobus: Annobus, which: tuple[str, ...]
) -> None:
    ended = annobus("dead-letters", "retry", *which, "--by", "me", "--url", stub.url)
    assert ended.returncode == 2
    assert "say which letters in one way" in ended.stderr
    assert stub.asked == []


def test_all_is_said_as_such(stub: Stub, annobus: Annobus) -> None:
    meta = {"retried_count": 1, "left_count": 0, "runs": [f"/api/runs/{RUN_ID}"]}
    stub.answer(f"{ADDRESS}/retry", {"data": [], "meta": meta}, 202)
    ended = annobus("dead-letters", "retry", "--all", "--by", "me", "--url", stub.url)
    assert ended.returncode == 0, ended.stderr
    ((_, _, body),) = stub.asked
    assert json.loads(body) == {"by": "me", "max": 1_000, "all": True}
    assert f"annobus runs watch {RUN_ID}" in ended.stderr


def test_a_look_for_a_release_is_shown_without_a_count_of_genes(
    stub: Stub, annobus: Annobus
) -> None:
    letter = batch()
    letter["attributes"] |= {
        "batch": {"kind": "release", "state": "dead", "gene_count": 0, "genes_left": None},
        "refusal": None,
        "note": "two\nlines",
    }
    stub.answer(f"{ADDRESS}/{BATCH}", {"data": letter})
    shown = annobus("dead-letters", "show", BATCH, "--url", stub.url).stdout
    assert "work:       release, dead\n" in shown
    assert "genes left" not in shown
    assert r"two\nlines" in shown


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("dead-letter-unknown", "annobus dead-letters list"),
        ("dead-letter-decided", "annobus dead-letters show"),
        ("dead-letter-unsendable", "annobus dead-letters discard"),
        ("run-ended", "annobus runs show"),
    ],
)
def test_what_is_refused_has_a_way_out(stub: Stub, annobus: Annobus, kind: str, says: str) -> None:
    problem = {"type": f"urn:annobus:problem:{kind}", "title": "No", "detail": "x"}
    stub.answer(f"{ADDRESS}/{MESSAGE}/retry", problem, 409)
    ended = annobus("dead-letters", "retry", MESSAGE, "--by", "me", "--url", stub.url)
    assert ended.returncode == 2
    assert says in ended.stderr.splitlines()[-1]
