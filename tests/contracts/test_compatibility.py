"""A change of a schema that breaks a reader is reported, and one that breaks nobody is not."""

import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field

from contracts import generate
from contracts.compatibility import message_breaks, view_breaks
from contracts.messages import Message
from contracts.views import View


class Part(BaseModel):
    state: Literal["waiting", "running"]
    count: int


class Told(Message):
    """Something
    was told."""

    topic: ClassVar[str] = "talk.events.v1"
    type: ClassVar[str] = "annobus.talk.told.v1"
    about: UUID
    names: tuple[str, ...] = Field(min_length=1, max_length=10)
    note: str | None = None
    parts: Mapping[str, Part] = {}


class TalkV1(View):
    view: ClassVar[str] = "annotator.talk_v1"
    about: UUID
    state: Literal["waiting", "running"]
    value: Any | None


TOLD = "Told.v1.json"
TALK = "views/annotator.talk_v1.json"
Change = Callable[[dict[str, Any]], object]
NULL = {"type": "null"}


def schema_of(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(generate.generated([Told], [TalkV1])[name])
    return schema


def part_of(schema: dict[str, Any]) -> dict[str, Any]:
    part: dict[str, Any] = schema["$defs"]["Part"]
    return part


def changed(name: str, change: Change) -> dict[str, Any]:
    schema = schema_of(name)
    change(schema)
    return schema


MESSAGE_BREAKS: dict[str, tuple[Change, str]] = {
    "a required field is new": (
        lambda s: (s["properties"].update(mood={"type": "string"}), s["required"].append("mood")),
        "an old message does not load: mood is required and may be missing",
    ),
    "an optional field is required": (
        lambda s: s["required"].append("note"),
        "an old message does not load: note is required and may be missing",
    ),
    "a required field is optional": (
        lambda s: s["required"].remove("about"),
        "an old reader refuses a new one: about is required and may be missing",
    ),
    "an optional field is lost": (lambda s: s["properties"].pop("note"), "note is lost"),
    "a nested field is lost": (
        lambda s: (part_of(s)["properties"].pop("count"), part_of(s)["required"].remove("count")),
        "parts.*.count is lost",
    ),
    "a type is another one": (
        lambda s: s["properties"].update(note={"type": "integer"}),
        "an old message does not load: note may be string; accepted is integer",
    ),
    "a type is narrower": (
        lambda s: s["properties"].update(note={"type": "string"}),
        "an old message does not load: note may be null; accepted is string",
    ),
    "a type is wider": (
        lambda s: s["properties"].update(about={"anyOf": [s["properties"]["about"], NULL]}),
        "an old reader refuses a new one: about may be null; accepted is string",
    ),
    "anything goes": (
        lambda s: s["properties"].update(about={}),
        "an old reader refuses a new one: about may be anything; accepted is string",
    ),
    "a state is gone": (
        lambda s: part_of(s)["properties"]["state"]["enum"].remove("waiting"),
        (
            "an old message does not load: parts.*.state may be one of ['waiting']; "
            "accepted are ['running']"
        ),
    ),
    "a state is new": (
        lambda s: part_of(s)["properties"]["state"]["enum"].append("paused"),
        (
            "an old reader refuses a new one: parts.*.state may be one of ['paused']; "
            "accepted are ['waiting', 'running']"
        ),
    ),
    "a closed set is new": (
        lambda s: s["properties"]["names"]["items"].update(enum=["a"]),
        "an old message does not load: names[] may be any string; accepted are ['a']",
    ),
    "a list holds something else": (
        lambda s: s["properties"]["names"].update(items={"type": "integer"}),
        "an old message does not load: names[] may be string; accepted is integer",
    ),
    "a list is bounded more tightly": (
        lambda s: s["properties"]["names"].update(maxItems=5),
        "an old message does not load: names has maxItems 10; accepted is 5",
    ),
    "a list is bounded less tightly": (
        lambda s: s["properties"]["names"].pop("maxItems"),
        "an old reader refuses a new one: names has maxItems None; accepted is 10",
    ),
    "a list may be empty": (
        lambda s: s["properties"]["names"].update(minItems=0),
        "an old reader refuses a new one: names has minItems 0; accepted is 1",
    ),
    "a format is gone": (
        lambda s: s["properties"]["about"].pop("format"),
        "an old reader refuses a new one: about has format None; accepted is 'uuid'",
    ),
    "a keyword is new that nobody compares": (
        lambda s: s["properties"]["names"]["items"].update(pattern="^HGNC:"),
        "an old message does not load: names[] has pattern None; accepted is '^HGNC:'",
    ),
    "unknown fields are refused": (
        lambda s: s.update(additionalProperties=False),
        (
            "an old message does not load: the message may have fields that are unknown; "
            "none is accepted"
        ),
    ),
    "the topic is another one": (
        lambda s: s.update({"x-topic": "talk.events.v2"}),
        "x-topic was 'talk.events.v1' and is 'talk.events.v2'",
    ),
    "the type is another one": (
        lambda s: s.update({"x-type": "annobus.talk.told.v2"}),
        "x-type was 'annobus.talk.told.v1' and is 'annobus.talk.told.v2'",
    ),
}


@pytest.mark.parametrize("what", MESSAGE_BREAKS)
def test_a_change_of_a_message_that_breaks_somebody_is_reported(what: str) -> None:
    change, reason = MESSAGE_BREAKS[what]
    assert reason in message_breaks(schema_of(TOLD), changed(TOLD, change))


def test_one_change_is_not_reported_as_many() -> None:
    change, reason = MESSAGE_BREAKS["a type is narrower"]
    assert message_breaks(schema_of(TOLD), changed(TOLD, change)) == [reason]


HARMLESS: dict[str, Change] = {
    "nothing is changed": lambda _: None,
    "an optional field is new": lambda s: s["properties"].update(mood={"type": "string"}),
    "a nested optional field is new": lambda s: part_of(s)["properties"].update(mood={}),
    "it is told in other words": lambda s: s.update(description="Other words."),
    "alternatives are in another order": lambda s: s["properties"]["note"]["anyOf"].reverse(),
    "a definition has another name": lambda s: (
        s.update({"$defs": {"Piece": part_of(s)}}),
        s["properties"]["parts"].update(additionalProperties={"$ref": "#/$defs/Piece"}),
    ),
}


@pytest.mark.parametrize("what", HARMLESS)
def test_a_change_of_a_message_that_breaks_nobody_is_allowed(what: str) -> None:
    assert message_breaks(schema_of(TOLD), changed(TOLD, HARMLESS[what])) == []


def test_a_model_that_starts_to_refuse_unknown_fields_is_reported() -> None:
    class Strict(Told):
        model_config = ConfigDict(extra="forbid")

    strict = json.loads(generate.generated([Strict], [])["Strict.v1.json"])
    assert message_breaks(schema_of(TOLD), strict) != []


def test_a_view_may_gain_a_column_that_is_always_there() -> None:
    more = MESSAGE_BREAKS["a required field is new"][0]
    assert view_breaks(schema_of(TALK), changed(TALK, more)) == []


VIEW_BREAKS: dict[str, tuple[Change, str]] = {
    "a column is lost": (
        lambda s: (s["properties"].pop("value"), s["required"].remove("value")),
        "value is lost",
    ),
    "a column may be null": (
        lambda s: s["properties"].update(about={"anyOf": [s["properties"]["about"], NULL]}),
        "an old reader refuses a new row: about may be null; accepted is string",
    ),
    "a column has another type": (
        lambda s: s["properties"].update(about={"type": "integer"}),
        "an old reader refuses a new row: about may be integer; accepted is string",
    ),
    "a state is new": (
        lambda s: s["properties"]["state"]["enum"].append("paused"),
        (
            "an old reader refuses a new row: state may be one of ['paused']; "
            "accepted are ['waiting', 'running']"
        ),
    ),
    "the view has another name": (
        lambda s: s.update({"x-view": "cache.talk_v1"}),
        "x-view was 'annotator.talk_v1' and is 'cache.talk_v1'",
    ),
}


@pytest.mark.parametrize("what", VIEW_BREAKS)
def test_a_change_of_a_view_that_breaks_a_reader_is_reported(what: str) -> None:
    change, reason = VIEW_BREAKS[what]
    assert reason in view_breaks(schema_of(TALK), changed(TALK, change))
