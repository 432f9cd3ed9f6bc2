"""The session's broker, with the topics that the tests of the bus speak on."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from contracts.topics import DEAD_LETTERS
from services.chassis import bus
from tests.integration.chassis.desk import COMMANDS, Broker, open_broker
from tests.system import SharedCluster

FETCH_WAIT_SECONDS = 0.2


@pytest_asyncio.fixture
async def broker(cluster: SharedCluster, topic_prefix: str) -> AsyncIterator[Broker]:
    bootstrap = cluster.environment()["ANNOBUS_KAFKA_BOOTSTRAP"]
    async with open_broker(bootstrap, topic_prefix, COMMANDS, DEAD_LETTERS) as broker:
        yield broker


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads a message again waits for the fetch under way: 5 s where nothing comes."""
    monkeypatch.setattr(bus, "FETCH_WAIT_SECONDS", FETCH_WAIT_SECONDS)
