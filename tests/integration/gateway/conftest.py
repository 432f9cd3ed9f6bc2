"""A gateway on a desk, and one whose catalogue has genes."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.integration.gateway.desk import Desk, open_desk
from tests.system import Database


@pytest_asyncio.fixture
async def desk(database: Database) -> AsyncIterator[Desk]:
    async with open_desk(database) as desk:
        yield desk


@pytest_asyncio.fixture
async def stocked(desk: Desk) -> Desk:
    await desk.add_genes()
    return desk
