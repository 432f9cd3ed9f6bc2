"""The comparison of a view's model with the database's columns notices what differs."""

from datetime import datetime
from typing import Any, ClassVar, Literal
from uuid import UUID

import pytest

from contracts.views import VIEWS, View
from tests.contracts.view_columns import DATABASE_TYPES, column_differences, plain_type


class TalkV1(View):
    view: ClassVar[str] = "annotator.talk_v1"
    talk_id: UUID
    seq: int
    state: Literal["waiting", "running"] | None
    names: list[str]
    value: Any | None
    ended_at: datetime | None


COLUMNS = {
    "talk_id": "uuid",
    "seq": "bigint",
    "state": "text",
    "names": "ARRAY",
    "value": "jsonb",
    "ended_at": "timestamp with time zone",
}


def test_a_view_with_the_columns_of_its_model_has_no_difference() -> None:
    assert column_differences(TalkV1, COLUMNS) == []
    assert column_differences(TalkV1, {**COLUMNS, "added": "text"}) == []


@pytest.mark.parametrize("name", COLUMNS)
def test_a_missing_column_and_one_of_another_type_are_named(name: str) -> None:
    rest = {key: value for key, value in COLUMNS.items() if key != name}
    assert column_differences(TalkV1, rest) == [f"annotator.talk_v1 has no column {name}"]
    other = column_differences(TalkV1, {**COLUMNS, name: "money"})
    assert [line.startswith(f"annotator.talk_v1.{name} is money") for line in other] == [True]


def test_a_time_without_a_zone_is_no_time() -> None:
    columns = {**COLUMNS, "ended_at": "timestamp without time zone"}
    assert len(column_differences(TalkV1, columns)) == 1


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.view)
def test_every_published_column_has_a_type_the_database_knows(view: type[View]) -> None:
    for field in view.model_fields.values():
        assert plain_type(field.annotation) in DATABASE_TYPES
