"""The session's broker, with the topics that the tests of the bus speak on."""

from collections.abc import AsyncIterator

import pytest_asyncio

from contracts.topics import DEAD_LETTERS
from tests.integration.chassis.desk import COMMANDS, Broker, open_broker
from tests.system import SharedCluster


@pytest_asyncio.fixture
async def broker(cluster: SharedCluster, topic_prefix: str) -> AsyncIterator[Broker]:
    bootstrap = cluster.environment()["ANNOBUS_KAFKA_BOOTSTRAP"]
    async with open_broker(bootstrap, topic_prefix, COMMANDS, DEAD_LETTERS) as broker:
        yield broker
