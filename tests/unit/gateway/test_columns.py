"""The cells of an export."""

import orjson

from services.gateway.columns import Column, cells


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
