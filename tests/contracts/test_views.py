"""Every published view has the columns of its model, and readers may read it."""

import pytest

from contracts.views import VIEWS, View
from tests.contracts.view_columns import column_differences
from tests.system import Database


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.view)
async def test_a_view_has_the_columns_of_its_model(
    view: type[View], empty_database: Database
) -> None:
    schema, _, name = view.view.partition(".")
    async with empty_database.connect() as owner:
        rows = await owner.fetch(
            """SELECT column_name, data_type FROM information_schema.columns
               WHERE table_schema = $1 AND table_name = $2""",
            schema,
            name,
        )
    columns = {row["column_name"]: row["data_type"] for row in rows}
    assert columns, f"{view.view} does not exist"
    assert column_differences(view, columns) == []


async def test_every_view_of_the_database_is_published_in_contracts(
    empty_database: Database,
) -> None:
    async with empty_database.connect() as owner:
        rows = await owner.fetch(
            """SELECT table_schema || '.' || table_name AS name FROM information_schema.views
               WHERE table_schema IN ('annotator', 'cache', 'gateway')"""
        )
    assert {row["name"] for row in rows} == {view.view for view in VIEWS}


async def test_the_gateway_may_read_every_view(empty_database: Database) -> None:
    async with empty_database.connect("gateway") as gateway:
        for view in VIEWS:
            await gateway.fetch(f"SELECT * FROM {view.view} LIMIT 1")  # noqa: S608
