"""The committed schemas are what the models say; generate writes, compares and refuses."""

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from contracts import generate
from contracts.messages import Message
from contracts.views import View


class Told(Message):
    """Something
    was told."""

    topic: ClassVar[str] = "talk.events.v1"
    type: ClassVar[str] = "annobus.talk.told.v1"


class TalkV1(View):
    view: ClassVar[str] = "annotator.talk_v1"


TOLD = "Told.v1.json"
TALK = "views/annotator.talk_v1.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with all schemas as they should be."""
    generate.write(tmp_path, {}, generate.generated())
    return tmp_path


def schema_of(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(generate.generated([Told], [TalkV1])[name])
    return schema


def test_the_committed_schemas_are_what_the_models_say() -> None:
    old, new = generate.committed(), generate.generated()
    assert generate.drift(old, new) == []
    assert generate.breaks(old, new) == []


def test_a_schema_says_what_it_is_the_schema_of() -> None:
    schema = schema_of(TOLD)
    assert list(schema)[:6] == ["$schema", "$id", "title", "description", "x-type", "x-topic"]
    assert schema["$id"] == TOLD
    assert schema["title"] == "Told"
    assert schema["description"] == "Something was told."
    assert schema["x-type"] == "annobus.talk.told.v1"
    assert schema["x-topic"] == "talk.events.v1"
    assert schema_of(TALK)["x-view"] == "annotator.talk_v1"
    assert "description" not in schema_of(TALK)  # It has none of its own, and inherits none.


def test_what_is_written_is_stable_and_ends_with_a_line() -> None:
    for text in generate.generated().values():
        assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"


def test_generate_writes_every_schema_and_then_has_nothing_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate.main([], tmp_path) == 0
    assert generate.committed(tmp_path) == generate.generated()
    assert "StartRun.v1.json written" in capsys.readouterr().out
    assert generate.main([], tmp_path) == 0
    assert capsys.readouterr().out == ""
    assert generate.main(["--check"], tmp_path) == 0


def test_check_names_a_schema_that_drifted_or_is_missing_and_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "StartRun.v1.json").unlink()
    drifted = folder / "RunPlanned.v1.json"
    drifted.write_text(drifted.read_text().replace('"RunPlanned"', '"Planned"'))
    before = generate.committed(folder)

    assert generate.main(["--check"], folder) == 1
    said = capsys.readouterr().err
    assert "StartRun.v1.json: is missing" in said
    assert "RunPlanned.v1.json: differs from its model" in said
    assert generate.committed(folder) == before


@pytest.mark.parametrize("arguments", [[], ["--check"]])
def test_generate_refuses_to_lose_the_schema_of_a_type_that_is_gone(
    folder: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / TOLD).write_text(generate.generated([Told], [])[TOLD])
    assert generate.main(arguments, folder) == 1
    assert f"{TOLD}: its message or view is gone" in capsys.readouterr().err
    assert (folder / TOLD).is_file()


def test_generate_refuses_to_write_over_a_schema_that_readers_hold_to(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "RunCompleted.v1.json"
    schema = json.loads(path.read_text())
    schema["properties"]["seconds"] = {"type": "number"}
    path.write_text(json.dumps(schema))
    (folder / "StartRun.v1.json").unlink()

    assert generate.main([], folder) == 1
    assert "RunCompleted.v1.json: seconds is lost" in capsys.readouterr().err
    assert json.loads(path.read_text()) == schema
    assert not (folder / "StartRun.v1.json").exists()  # All or nothing.
