"""An annotator on a desk, with the mirror as its upstreams."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.annotator.desk import Desk, open_desk
from tests.system import Database, Mirror


@pytest_asyncio.fixture
async def desk(
    database: Database, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Desk]:
    # The child process that stages a release reads its settings from the environment.
    monkeypatch.setenv("ANNOTATOR_DATABASE_URL", database.environment["ANNOTATOR_DATABASE_URL"])
    monkeypatch.setenv("ANNOTATOR_RAW_FOLDER", str(tmp_path))
    monkeypatch.setenv("ANNOTATOR_UPSTREAMS", json.dumps(mirror.upstreams()))
    async with open_desk(database, mirror, tmp_path) as desk:
        yield desk
