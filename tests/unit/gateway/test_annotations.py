"""Annotations of a gene: what its document says, and what follows from the sources."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson

from services.gateway.annotations import SourceState, complete

NOW = 1_700_000_000.0
DAY = 86_400.0
BULK = SourceState(
    *("hpo", "bulk"), has_release=True, matched_until=NOW, checked_at=NOW, fresh_since=NOW - DAY
)
API = replace(BULK, name="ensembl", kind="api", matched_until=None, checked_at=None)
VALUE = {
    "status": "ok",
    "value": {"count": 3},
    "release": "1",
    "synthetic": False,
    "valid_from": "2023-11-14T22:13:20.000001+00:00",  # A microsecond after NOW.
}


def seen(
    source: SourceState,
    said: object = None,
    checked_at: float | None = None,
    listed_at: float = float("-inf"),
) -> Any:
    document = {"hgnc_id": "HGNC:1", "annotations": {} if said is None else {source.name: said}}
    checked = {} if checked_at is None else {source.name: checked_at}
    annotated_by = [] if said is None else [source.name]
    completed = orjson.loads(complete(spaced(document), annotated_by, listed_at, [source], checked))
    assert completed["hgnc_id"] == "HGNC:1"
    return completed["annotations"][source.name]


def at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def spaced(document: object) -> str:
    """As PostgreSQL writes an object that it has gathered."""
    return f"{json.dumps(document, separators=(', ', ' : '))[:-2]} }}}}"


def test_what_was_said_is_shown_as_it_was_said() -> None:
    assert seen(BULK, VALUE) == {**VALUE, "as_of": at(NOW)}
    assert seen(API, VALUE, NOW - 1) == {**VALUE, "as_of": at(NOW - 1)}


def test_a_bulk_source_that_names_no_value_has_none_once_it_has_a_release() -> None:
    nothing = {"value": None, "release": None, "synthetic": False, "valid_from": None}
    assert seen(BULK) == {"status": "empty", "as_of": at(NOW), **nothing}
    first = replace(BULK, has_release=False, matched_until=None, checked_at=None)
    assert seen(first) == {"status": "pending", "as_of": None, **nothing}


def test_a_gene_is_pending_until_a_release_was_matched_against_it() -> None:
    assert seen(BULK, listed_at=NOW)["status"] == "empty"
    assert seen(BULK, listed_at=NOW + 1)["status"] == "pending"
    assert seen(BULK, VALUE, listed_at=NOW + 1) == {**VALUE, "as_of": at(NOW)}


def test_an_api_that_was_not_asked_is_pending_whatever_it_said_of_others() -> None:
    assert seen(API)["status"] == "pending"


def test_what_was_checked_before_its_time_is_stale_and_keeps_its_value() -> None:
    for source, checked_at in (
        (replace(BULK, checked_at=NOW - DAY - 1), None),
        (API, NOW - 2 * DAY),
    ):
        as_of = at(checked_at or source.checked_at or 0)
        assert seen(source, VALUE, checked_at) == {**VALUE, "status": "stale", "as_of": as_of}
    assert seen(replace(BULK, checked_at=NOW - DAY - 1))["status"] == "stale"  # An old "none".
    assert (
        seen(API, {**VALUE, "status": "empty", "value": None}, NOW - 2 * DAY)["status"] == "stale"
    )


def test_an_error_and_a_pending_do_not_become_stale() -> None:
    assert seen(API, {**VALUE, "status": "error"}, NOW - 2 * DAY)["status"] == "error"
    assert seen(replace(API, checked_at=NOW - 2 * DAY))["status"] == "pending"


def test_what_stood_in_for_a_release_is_as_old_as_its_value() -> None:
    stand_in = replace(BULK, has_release=False, matched_until=None, checked_at=None)
    assert seen(stand_in, VALUE) == {**VALUE, "as_of": VALUE["valid_from"]}
    later = replace(stand_in, fresh_since=NOW + 1)
    assert seen(later, VALUE)["status"] == "stale"


def test_what_others_said_stands_beside_what_is_added() -> None:
    said = {"ensembl": VALUE, "hpo": {**VALUE, "value": {"braces": "}}"}}}
    document = spaced({"annotations": said})
    sources = [replace(BULK, name="gnomad"), API, BULK]
    completed = orjson.loads(complete(document, ["ensembl", "hpo"], NOW, sources, {"ensembl": NOW}))
    checked = {name: {**one, "as_of": at(NOW)} for name, one in said.items()}
    assert completed["annotations"] == {**checked, "gnomad": seen(sources[0])}
    aged = [sources[0], API, replace(BULK, checked_at=NOW - 2 * DAY)]
    completed = orjson.loads(complete(document, ["ensembl", "hpo"], NOW, aged, {"ensembl": NOW}))
    assert completed["annotations"]["hpo"] == {
        **said["hpo"],
        "status": "stale",
        "as_of": at(NOW - 2 * DAY),
    }
    assert completed["annotations"]["ensembl"] == checked["ensembl"]
    assert completed["annotations"].keys() == {"ensembl", "gnomad", "hpo"}


def test_a_value_that_looks_like_an_annotation_is_left_as_it_is() -> None:
    """Values are written without spaces, which is what tells them apart."""
    value = '{"hpo":{"a":1}}'
    document = (
        '{"annotations" : { "ensembl" : {"status" : "ok", "value" : ' + value + ', "valid_from" : '
        'null}, "hpo" : {"status" : "ok", "value" : null, "valid_from" : null} }}'
    )
    completed = orjson.loads(
        complete(document, ["ensembl", "hpo"], NOW, [API, BULK], {"ensembl": NOW - 1})
    )
    found = completed["annotations"]
    assert (found["ensembl"]["as_of"], found["hpo"]["as_of"]) == (at(NOW - 1), at(NOW))
    assert found["ensembl"]["value"] == {"hpo": {"a": 1}}
