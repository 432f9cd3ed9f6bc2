"""Every committed example is a message as it travels, and still loads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from contracts import generate
from contracts.compatibility import obstacles
from contracts.messages import TYPES, Message, RunProgress, SourceProgress
from contracts.topics import topics
from services.chassis import outbox

EXAMPLES = Path(generate.__file__).parent / "examples"
SET_BY_THE_RELAY = {"ce_id", "ce_source"}

Example = Mapping[str, Any]


def read(name: str) -> Example:
    example: Example = json.loads((EXAMPLES / name).read_text(encoding="utf-8"))
    return example


def load(example: Example, **changed: object) -> Message:
    """The message as its reader sees it; strict, so that "5" is no number and 5 no text."""
    message = TYPES[example["headers"]["ce_type"]]
    return message.model_validate_json(json.dumps({**example["body"], **changed}), strict=True)


def committed_schema(name: str) -> Mapping[str, Any]:
    schema: Mapping[str, Any] = json.loads((generate.SCHEMAS / name).read_text(encoding="utf-8"))
    return schema


def describe(value: object) -> dict[str, Any]:
    """The schema that this one value fits and nothing else."""
    match value:
        case None:
            return {"type": "null"}
        case bool():
            return {"type": "boolean", "const": value}
        case int():
            return {"type": "integer", "const": value, "minimum": value, "maximum": value}
        case str():
            described = {"type": "string", "const": value}
            return described | ({"format": "uuid"} if is_uuid(value) else {})
        case list():
            size = len(value)
            items = {"anyOf": [describe(one) for one in value]}
            return {"type": "array", "items": items, "minItems": size, "maxItems": size}
        case dict():
            fields = {name: describe(one) for name, one in value.items()}
            held = {"anyOf": list(fields.values())}
            return {
                "type": "object",
                "properties": fields,
                "required": list(fields),
                "additionalProperties": held,
            }
    raise TypeError(f"{value!r} is not JSON")


def is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def is_within(part: object, whole: object) -> bool:
    """Whether everything that `part` says stands in `whole`, which may say more."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(name in whole and is_within(one, whole[name]) for name, one in part.items())
    return part == whole


every_example = pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.iterdir()))


def test_every_message_type_has_one_example() -> None:
    expected = {generate.message_file(message) for message in TYPES.values()}
    assert {path.name for path in EXAMPLES.iterdir()} == expected
    types = [read(name)["headers"]["ce_type"] for name in expected]
    assert sorted(types) == sorted(TYPES)


@every_example
def test_an_example_loads_and_nothing_of_it_is_lost(name: str) -> None:
    example = read(name)
    message = load(example)
    assert generate.message_file(type(message)) == name
    assert is_within(example["body"], message.model_dump(mode="json"))


@every_example
def test_an_example_fits_the_committed_schema(name: str) -> None:
    assert obstacles(reader=committed_schema(name), writer=describe(read(name)["body"])) == []


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"seq": "5"}, "seq may be string; accepted is integer"),
        ({"run_id": "the first one"}, "run_id has format None; accepted is 'uuid'"),
        ({"state": "asleep"}, "state may be one of ['asleep']; accepted are ["),
        ({"sources": {"hpo": {"state": "running"}}}, "sources.*.total_count is required"),
    ],
)
def test_a_body_that_does_not_fit_the_committed_schema_is_noticed(
    changed: dict[str, object], reason: str
) -> None:
    body = {**read("RunProgress.v1.json")["body"], **changed}
    found = obstacles(reader=committed_schema("RunProgress.v1.json"), writer=describe(body))
    assert found[0].startswith(reason)


@every_example
def test_a_message_loads_without_a_field_exactly_when_the_schema_does_not_require_it(
    name: str,
) -> None:
    example, schema = read(name), committed_schema(name)
    for field in schema["properties"]:
        rest = {key: value for key, value in example["body"].items() if key != field}
        shortened = {**example, "body": rest}
        if field in schema["required"]:
            with pytest.raises(ValidationError, match=field):
                load(shortened)
        else:
            load(shortened)


@every_example
def test_an_old_reader_loads_a_message_with_a_field_it_does_not_know(name: str) -> None:
    example = read(name)
    assert load(example, a_field_of_tomorrow={"deep": [1, 2]}) == load(example)


def test_an_old_reader_loads_unknown_fields_deep_inside_a_message() -> None:
    example = read("RunProgress.v1.json")
    sources = {
        source: {**progress, "a_field_of_tomorrow": True}
        for source, progress in example["body"]["sources"].items()
    }
    assert load(example, sources=sources) == load(example)


@every_example
def test_the_headers_are_those_the_chassis_writes(name: str) -> None:
    example = read(name)
    headers, message = example["headers"], load(example)
    written = outbox.envelope(message)
    assert set(headers) == set(written) | SET_BY_THE_RELAY
    constant = set(written) - {"ce_time"}
    assert {key: headers[key] for key in constant} == {key: written[key] for key in constant}
    schema = headers["ce_dataschema"].removeprefix("urn:annobus:schema:")
    assert (generate.SCHEMAS / f"{schema}.json").is_file()
    assert headers["ce_source"].removeprefix("/annobus/") in {"gateway", "annotator", "cache"}


@every_example
def test_a_message_goes_to_a_topic_that_migrate_creates(name: str) -> None:
    created = {topic.name for topic in topics(["hgnc", "hpo", "ensembl"])}
    assert load(read(name)).destination() in created


@every_example
def test_ids_are_of_version_7(name: str) -> None:
    example = read(name)
    ids = [value for value in load(example).model_dump().values() if isinstance(value, UUID)]
    ids.append(UUID(example["headers"]["ce_id"].partition(":")[0]))  # A snapshot's has a seq.
    assert {one.version for one in ids} == {7}


def test_the_examples_tell_one_run_whose_counters_agree() -> None:
    run_ids, counts = set(), {}
    for message in (load(read(path.name)) for path in EXAMPLES.iterdir()):
        body = message.model_dump()
        run_ids |= {body["run_id"]} if "run_id" in body else set()
        counts[type(message).__name__] = [body.get(f"{word}_count") for word in COUNTED]
    assert len(run_ids) == 1
    assert counts["SourceCompleted"] == [4, 1, 0]
    assert counts["RunCompleted"] == [9, 1, 5]
    told = load(read("RunProgress.v1.json"))
    assert isinstance(told, RunProgress)
    assert RunProgress.of(told.run_id, told.seq, told.state, told.sources) == told


def test_a_runs_total_is_unknown_while_that_of_one_source_is() -> None:
    told = load(read("RunProgress.v1.json"))
    assert isinstance(told, RunProgress)
    open_source = SourceProgress(
        state="waiting", total_count=None, done_count=0, no_data_count=0, failed_count=0
    )
    later = RunProgress.of(told.run_id, 9, "running", {**told.sources, "later": open_source})
    assert (later.total_count, later.done_count) == (None, told.done_count)


COUNTED = ("done", "no_data", "failed")
