"""Says what a changed JSON Schema would break for those who hold to the committed one."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

JsonSchema = Mapping[str, Any]

IDENTITY = ("x-type", "x-topic", "x-view")  # A message's header and place; a view's name.
AT_LEAST = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
AT_MOST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
UNDERSTOOD = {
    *("type", "enum", "const", "anyOf", "oneOf", "$ref", "$defs", "items"),
    *("properties", "required", "additionalProperties"),
    *("title", "description", "default", "examples", "$schema", "$id"),
    *IDENTITY,
    *AT_LEAST,
    *AT_MOST,
}


class SchemaPlace(NamedTuple):
    """A node of a schema: where it is, and the definitions it may refer to."""

    node: JsonSchema
    definitions: Mapping[str, JsonSchema]

    def at(self, node: JsonSchema | bool) -> "SchemaPlace":
        """Another node of the same schema; `True` says what `{}` says."""
        return SchemaPlace({} if isinstance(node, bool) else node, self.definitions)

    def alternatives(self) -> "list[SchemaPlace]":
        """What a value may be, one by one, references followed."""
        if "$ref" in self.node:
            name = self.node["$ref"].removeprefix("#/$defs/")
            return self.at(self.definitions[name]).alternatives()
        choices = self.node.get("anyOf") or self.node.get("oneOf")
        if choices is None:
            return [self]
        return [one for choice in choices for one in self.at(choice).alternatives()]

    def name(self) -> str:
        return str(self.node.get("type", "anything"))


def message_breaks(old: JsonSchema, new: JsonSchema) -> list[str]:
    """A topic keeps old messages, and old readers hear new ones: both ways must work."""
    return [
        *moved_or_lost(old, new),
        *(f"an old message does not load: {why}" for why in obstacles(reader=new, writer=old)),
        *(f"an old reader refuses a new one: {why}" for why in obstacles(reader=old, writer=new)),
    ]


def view_breaks(old: JsonSchema, new: JsonSchema) -> list[str]:
    """A view shows only new rows, so old readers alone matter."""
    return [
        *moved_or_lost(old, new),
        *(f"an old reader refuses a new row: {why}" for why in obstacles(reader=old, writer=new)),
    ]


def moved_or_lost(old: JsonSchema, new: JsonSchema) -> list[str]:
    moved = [
        f"{keyword} was {old.get(keyword)!r} and is {new.get(keyword)!r}"
        for keyword in IDENTITY
        if old.get(keyword) != new.get(keyword)
    ]
    lost = sorted(set(field_paths(whole(old))) - set(field_paths(whole(new))))
    return [*moved, *(f"{path} is lost" for path in lost)]


def whole(schema: JsonSchema) -> SchemaPlace:
    return SchemaPlace(schema, schema.get("$defs", {}))


def field_paths(place: SchemaPlace, path: str = "") -> Iterator[str]:
    """Every field by its path: `sources.*.state`, `files[].name`."""
    for one in place.alternatives():
        for name, field in one.node.get("properties", {}).items():
            yield f"{path}{name}"
            yield from field_paths(one.at(field), f"{path}{name}.")
        yield from field_paths_within(one, path.removesuffix("."))


def field_paths_within(place: SchemaPlace, path: str) -> Iterator[str]:
    """The fields of what a list or a mapping holds."""
    if "items" in place.node:
        yield from field_paths(place.at(place.node["items"]), f"{path}[].")
    if isinstance(place.node.get("additionalProperties"), Mapping):
        yield from field_paths(place.at(place.node["additionalProperties"]), f"{path}.*.")


def obstacles(reader: JsonSchema, writer: JsonSchema) -> list[str]:
    """Why a reader of one schema may refuse what the writer of another one may send."""
    return between(whole(reader), whole(writer), "")


def between(reader: SchemaPlace, writer: SchemaPlace, path: str) -> list[str]:
    """Everything that may be written must suit one of the alternatives that are read."""
    found: list[str] = []
    for sent in writer.alternatives():
        tried = [(one, between_simple(one, sent, path)) for one in reader.alternatives()]
        if all(reasons for _, reasons in tried):
            # The alternative of its own type tells best what is wrong.
            _, reasons = next((pair for pair in tried if pair[0].name() == sent.name()), tried[0])
            found += reasons
    return found


def between_simple(reader: SchemaPlace, writer: SchemaPlace, path: str) -> list[str]:
    here = path or "the message"
    accepted, sent = reader.node.get("type"), writer.node.get("type")
    if accepted not in (None, sent) and (accepted, sent) != ("number", "integer"):
        return [f"{here} may be {writer.name()}; accepted is {reader.name()}"]
    return [
        *between_values(reader.node, writer.node, here),
        *between_limits(reader.node, writer.node, here),
        *between_fields(reader, writer, path),
        *between_contents(reader, writer, path),
    ]


def between_values(reader: JsonSchema, writer: JsonSchema, here: str) -> Iterator[str]:
    accepted, sent = values(reader), values(writer)
    if accepted is None:
        return
    if sent is None:
        yield f"{here} may be any {writer.get('type', 'value')}; accepted are {accepted}"
    elif surplus := [value for value in sent if value not in accepted]:
        yield f"{here} may be one of {surplus}; accepted are {accepted}"


def values(node: JsonSchema) -> list[Any] | None:
    return [node["const"]] if "const" in node else node.get("enum")


def between_limits(reader: JsonSchema, writer: JsonSchema, here: str) -> Iterator[str]:
    for keyword in (*AT_LEAST, *AT_MOST):
        accepted, sent = reader.get(keyword), writer.get(keyword)
        if accepted is None:
            continue
        beyond = sent is None or (sent < accepted if keyword in AT_LEAST else sent > accepted)
        if beyond:
            yield f"{here} has {keyword} {sent}; accepted is {accepted}"
    # What this file does not understand, `format` and `pattern` among it, has to stay the same.
    for keyword in sorted(set(reader) - UNDERSTOOD):
        if reader[keyword] != writer.get(keyword):
            yield f"{here} has {keyword} {writer.get(keyword)!r}; accepted is {reader[keyword]!r}"


def between_fields(reader: SchemaPlace, writer: SchemaPlace, path: str) -> Iterator[str]:
    prefix = f"{path}." if path else ""
    known, sent = reader.node.get("properties", {}), writer.node.get("properties", {})
    for name in reader.node.get("required", ()):
        if name not in writer.node.get("required", ()):
            yield f"{prefix}{name} is required and may be missing"
    for name in known:
        if name in sent:
            yield from between(reader.at(known[name]), writer.at(sent[name]), prefix + name)


def between_contents(reader: SchemaPlace, writer: SchemaPlace, path: str) -> Iterator[str]:
    """What lists and mappings hold. A model that takes no unknown fields cannot be added to."""
    if reader.node.get("additionalProperties") is False:
        yield f"{path or 'the message'} may have fields that are unknown; none is accepted"
    for keyword, suffix in (("items", "[]"), ("additionalProperties", ".*")):
        accepted = reader.node.get(keyword, True)
        if isinstance(accepted, Mapping):
            sent = writer.node.get(keyword, True)
            yield from between(reader.at(accepted), writer.at(sent), path + suffix)
