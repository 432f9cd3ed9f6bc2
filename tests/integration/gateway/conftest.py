"""A gateway on a desk, and one whose catalogue has genes."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.gateway.store import history
from tests.builders import build_catalogue
from tests.integration.gateway.desk import Desk, open_desk
from tests.integration.gateway.storing import Storing
from tests.system import Database


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
    async with desk.database.engine("annotator") as engine:
        async with engine.begin() as tx:
            await build_catalogue(tx)
        yield Storing(engine)
