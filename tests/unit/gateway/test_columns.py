"""The cells of an export."""

from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from services.annotator.sources import SOURCES
from services.gateway.columns import Column, Schema, cells, columns_of


def test_a_number_that_is_whole_is_the_same_in_every_format() -> None:
    """The hash is over its text, and Parquet has floating-point numbers alone."""
    column = Column("gnomad.loeuf", "number", ("loeuf",))
    assert orjson.dumps(cells({"loeuf": 1}, [column])) == b"[1.0]"
    assert orjson.dumps(cells({"loeuf": None}, [column])) == b"[null]"


def test_an_integer_a_truth_and_a_list_stay_what_they_are() -> None:
    document = {"count": 1, "is_known": False, "terms": [{"id": 1}]}
    columns = [
        Column("hpo.count", "integer", ("count",)),
        Column("hpo.is_known", "boolean", ("is_known",)),
        Column("hpo.terms", "json", ("terms",)),
    ]
    assert cells(document, columns) == [1, False, '[{"id":1}]']


@pytest.mark.parametrize("name", SOURCES)
def test_a_cell_of_json_is_a_list_or_an_object(name: str) -> None:
    """In JSON Lines it stands as what it is, and who makes the hash again has to see that it is a
    text in the row."""
    schema = SOURCES[name].declaration.value.model_json_schema(mode="serialization")
    columns = {column.path[-1]: column for column in columns_of([Schema(name, schema)])}
    for field, said in schema["properties"].items():
        if columns[field].kind == "json":
            assert kinds_of(said, schema) <= {"array", "object", "null"}, field


def kinds_of(said: Mapping[str, Any], whole: Mapping[str, Any]) -> set[str]:
    kinds = set()
    for part in said.get("anyOf", [said]):
        named = part.get("$ref", "").rpartition("/")[2]
        kinds.add(whole["$defs"][named]["type"] if named else part["type"])
    return kinds
