"""JSON Schemas, put together from the types that the code has already."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, TypeAdapter

Schema = dict[str, Any]

ANY: Schema = {}
TEXT: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
TIME: Schema = {"type": "string", "format": "date-time"}
ID: Schema = {"type": "string", "format": "uuid"}
# A time with its zone, or a day.
MOMENT: Schema = {"type": "string", "anyOf": [{"format": "date-time"}, {"format": "date"}]}
HGNC_ID: Schema = {"type": "string", "pattern": "^HGNC:[0-9]+$"}
OBJECT: Schema = {"type": "object"}


def of(annotation: Any) -> Schema:  # noqa: ANN401 - a type, or what a Literal makes
    """Of a type of Python, as it is written in JSON."""
    return TypeAdapter[Any](annotation).json_schema(mode="serialization")


def columns(model: type[BaseModel], *names: str, but: Sequence[str] = ()) -> dict[str, Schema]:
    """Of fields of a model, of all but some where none is named."""
    chosen = names or tuple(name for name in model.model_fields if name not in but)
    return {name: of(model.model_fields[name].rebuild_annotation()) for name in chosen}


def closed(
    members: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None
) -> dict[str, Any]:
    """An object that has all of these members, may have the optional ones, and has no other."""
    optional = optional or {}
    return {
        "type": "object",
        "required": list(members),
        "properties": {**members, **optional},
        "additionalProperties": False,
    }


def keyed(values: Schema, keys: Schema | None = None) -> dict[str, Any]:
    """An object whose members are not known beforehand, or in part."""
    named = {} if keys is None else {"propertyNames": keys}
    return {"type": "object", "additionalProperties": values, **named}


def listed(items: Schema, **limits: int) -> dict[str, Any]:
    return {"type": "array", "items": items, **limits}


def nullable(schema: Schema) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def without_null(schema: Schema) -> Schema:
    """Of what is given, if it is, in a parameter."""
    kept = [part for part in schema.get("anyOf", ()) if part != {"type": "null"}]
    return kept[0] if len(kept) == 1 else schema


def whole(least: int, greatest: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": greatest}


def enum(values: Sequence[str]) -> dict[str, Any]:
    return {"type": "string", "enum": list(values)}


def ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
