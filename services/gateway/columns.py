"""The columns of an export: those of the catalogue, and for each source its status, its release and
every field of its values, named as everywhere: `gnomad.loeuf`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

Kind = Literal["text", "number", "integer", "boolean", "json"]

CATALOGUE = (
    *("hgnc_id", "symbol", "name", "status", "locus_group", "locus_type", "location"),
    *("entrez_id", "ensembl_gene_id"),
)
OF_SOURCE = ("status", "release", "synthetic", "valid_from")  # Beside the fields of its value.
_KINDS: Mapping[str, Kind] = {
    "number": "number",
    "integer": "integer",
    "boolean": "boolean",
    "string": "text",
}


@dataclass(frozen=True)
class Column:
    """`kind` is what its cells are, where they are known; json is a list or an object, as JSON."""

    name: str
    kind: Kind
    path: Sequence[str]  # In a gene's document.


@dataclass(frozen=True)
class Schema:
    """What a source says its values are."""

    source: str
    value: Mapping[str, Any]  # A JSON Schema.


def columns_of(schemas: Sequence[Schema]) -> list[Column]:
    return [*(Column(name, "text", (name,)) for name in CATALOGUE), *_of_sources(schemas)]


def _of_sources(schemas: Sequence[Schema]) -> Iterator[Column]:
    for schema in schemas:
        place = ("annotations", schema.source)
        for name in OF_SOURCE:
            kind: Kind = "boolean" if name == "synthetic" else "text"
            yield Column(f"{schema.source}.{name}", kind, (*place, name))
        for name, said in sorted(schema.value["properties"].items()):
            path = (*place, "value", name)
            yield Column(_free_name(schema.source, name), _kind(said, schema.value), path)


def _free_name(source: str, field: str) -> str:
    """A field that is called as a column beside it is told apart."""
    return f"{source}.value.{field}" if field in OF_SOURCE else f"{source}.{field}"


def _kind(said: Mapping[str, Any], whole: Mapping[str, Any]) -> Kind:
    kinds = set()
    for part in said.get("anyOf", [said]):
        named = part.get("$ref", "").rpartition("/")[2]
        kind = whole["$defs"][named].get("type") if named else part.get("type")
        if kind != "null":
            kinds.add(_KINDS.get(str(kind), "json"))
    return kinds.pop() if len(kinds) == 1 else "json"


def cells(document: Mapping[str, Any], columns: Sequence[Column]) -> list[Any]:
    """A row: None is unknown, whatever of its path there is."""
    return [_cell(document, column) for column in columns]


def _cell(document: Mapping[str, Any], column: Column) -> Any:  # noqa: ANN401
    found: Any = document
    for name in column.path:
        if not isinstance(found, dict):
            return None
        found = found.get(name)
    if found is None:
        return None
    match column.kind:
        case "json":
            return orjson.dumps(found).decode()
        case "number":  # Not 1 in one format and 1.0 in another, which has another hash.
            return float(found)
    return found


def chosen(sources: Sequence[Mapping[str, Any]], names: Sequence[str] | None) -> list[Column]:
    """Raises KeyError for a name that there is none of."""
    schemas = [Schema(row["name"], orjson.loads(row["value_schema"])) for row in sources]
    known = {column.name: column for column in columns_of(schemas)}
    return list(known.values()) if names is None else [known[name] for name in names]
