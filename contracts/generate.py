"""Writes the JSON Schemas of all messages and published views, and refuses those that break.

`python -m contracts.generate` writes, `python -m contracts.generate --check` only compares.
Either exits with 1, and says why on the error output, when something is not as it should be.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from contracts.compatibility import message_breaks, view_breaks
from contracts.messages import TYPES, Message
from contracts.views import VIEWS, View

SCHEMAS = Path(__file__).parent / "schemas"
VIEW_FOLDER = "views"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
REGENERATE = "run `make schemas` and commit the result"
REFUSED = "Others rely on these: publish a new version beside the old one (contracts/README.md)."

Files = Mapping[str, str]  # Path below the folder of schemas → text.


class PlainSchema(GenerateJsonSchema):
    """Fields are called what they are called: a title `Run Id` for `run_id` says nothing."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ANN401, ARG002
        return False


def message_file(message: type[Message]) -> str:
    """`RunCompleted.v1.json`: also what the header `ce_dataschema` names."""
    return f"{message.__name__}.{message.type.rsplit('.', 1)[-1]}.json"


def view_file(view: type[View]) -> str:
    return f"{VIEW_FOLDER}/{view.view}.json"


def message_schema(message: type[Message]) -> dict[str, Any]:
    marks = {"x-type": message.type, "x-topic": message.topic}
    return model_schema(message, {"$id": message_file(message)}, marks)


def view_schema(view: type[View]) -> dict[str, Any]:
    return model_schema(view, {}, {"x-view": view.view})


def model_schema(
    model: type[BaseModel], identity: dict[str, str], marks: dict[str, str]
) -> dict[str, Any]:
    schema = model.model_json_schema(schema_generator=PlainSchema)
    for described in (schema, *schema.get("$defs", {}).values()):
        if "description" in described:
            described["description"] = " ".join(described["description"].split())
    head = [(name, schema.pop(name)) for name in ("title", "description") if name in schema]
    return {"$schema": DIALECT} | identity | dict(head) | marks | schema


def generated(
    messages: Iterable[type[Message]] = TYPES.values(), views: Iterable[type[View]] = VIEWS
) -> dict[str, str]:
    """Every schema there should be."""
    schemas = {message_file(message): message_schema(message) for message in messages}
    schemas |= {view_file(view): view_schema(view) for view in views}
    return {
        name: json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        for name, schema in schemas.items()
    }


def committed(folder: Path = SCHEMAS) -> dict[str, str]:
    """Every schema there is."""
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(folder.rglob("*.json"))
    }


def drift(old: Files, new: Files) -> list[str]:
    """Which schemas are not what their models say."""
    return [
        *(f"{name}: is missing; {REGENERATE}" for name in new if name not in old),
        *(
            f"{name}: differs from its model; {REGENERATE}"
            for name in new
            if name in old and new[name] != old[name]
        ),
    ]


def breaks(old: Files, new: Files) -> list[str]:
    """What old readers, or readers of old messages, would stumble over."""
    found = [f"{name}: its message or view is gone" for name in sorted(old.keys() - new)]
    for name in sorted(old.keys() & new):
        compare = view_breaks if name.startswith(f"{VIEW_FOLDER}/") else message_breaks
        found += [f"{name}: {why}" for why in compare(json.loads(old[name]), json.loads(new[name]))]
    return found


def write(folder: Path, old: Files, new: Files) -> list[str]:
    """Write what differs, and name it."""
    changed = [name for name, text in new.items() if old.get(name) != text]
    for name in changed:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(new[name], encoding="utf-8", newline="\n")
    return changed


def main(arguments: list[str] | None = None, folder: Path = SCHEMAS) -> int:
    parser = argparse.ArgumentParser(prog="python -m contracts.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    check: bool = parser.parse_args(arguments).check

    old, new = committed(folder), generated()
    refused = breaks(old, new)
    problems = [*refused, *(drift(old, new) if check else ())]
    if problems:
        print(*problems, *([REFUSED] if refused else ()), sep="\n", file=sys.stderr)
        return 1
    for name in () if check else write(folder, old, new):
        print(f"{name} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
