"""A gateway on a desk, and one whose catalogue has genes; each for one test, or for all that write
nothing."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from services.gateway.store import history
from tests.integration.gateway.desk import Desk, open_desk
from tests.integration.gateway.storing import Storing, open_storing
from tests.system import Database, SharedCluster, database_to_read


@pytest_asyncio.fixture
async def desk(database: Database) -> AsyncIterator[Desk]:
    async with open_desk(database) as desk:
        yield desk


@pytest_asyncio.fixture
async def stocked(desk: Desk) -> Desk:
    await desk.add_genes()
    return desk


@pytest_asyncio.fixture
async def storing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Storing]:
    """Of a catalogue with genes; what was stored a moment ago may be asked for."""
    monkeypatch.setattr(history, "SETTLED_SECONDS", 0)
    async with open_storing(desk.database) as storing:
        yield storing


@pytest_asyncio.fixture
async def read_desk(empty_database: Database) -> AsyncIterator[Desk]:
    """On a database that all such tests share."""
    async with open_desk(empty_database) as desk:
        yield desk


@pytest.fixture(scope="session")
def stocked_database(cluster: SharedCluster, template: str) -> Iterator[Database]:
    async def stock(database: Database) -> None:
        async with open_desk(database) as desk:
            await desk.add_genes()

    yield from database_to_read(cluster, template, stock)


@pytest_asyncio.fixture
async def read_stocked(stocked_database: Database) -> AsyncIterator[Desk]:
    async with open_desk(stocked_database) as desk:
        yield desk
