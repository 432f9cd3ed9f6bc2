"""An annotator on a desk, with the mirror as its upstreams."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.annotator.desk import Desk, open_desk
from tests.s3 import S3Server, keep_s3
from tests.system import Database, Mirror, SharedCluster, fresh_database

LOADED, STORED = "annobus_loaded", "annobus_stored"


def use(patch: pytest.MonkeyPatch, database: Database, mirror: Mirror, raw_folder: Path) -> None:
    """The child process that stages a release reads its settings from the environment."""
    patch.setenv("ANNOTATOR_DATABASE_URL", database.environment["ANNOTATOR_DATABASE_URL"])
    patch.setenv("ANNOTATOR_RAW_FOLDER", str(raw_folder))
    patch.setenv("ANNOTATOR_UPSTREAMS", json.dumps(mirror.upstreams()))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with keep_s3() as server:
        yield server


@pytest.fixture
def raw_settings(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """Where raw files are kept: in a folder, or where a test asks for both, in a bucket, too."""
    if getattr(request, "param", "folder") == "folder":
        return {}
    server: S3Server = request.getfixturevalue("s3_server")
    return server.make_bucket()


@pytest_asyncio.fixture
async def desk(
    database: Database,
    mirror: Mirror,
    tmp_path: Path,
    raw_settings: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Desk]:
    use(monkeypatch, database, mirror, tmp_path)
    async with open_desk(database, mirror, tmp_path, raw_settings=raw_settings) as desk:
        yield desk


@pytest.fixture(scope="session")
def loaded_raw_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("raw")


@pytest.fixture(scope="session")
def loaded_template(
    cluster: SharedCluster, template: str, mirror: Mirror, loaded_raw_folder: Path
) -> str:
    """A database to copy in which the whole catalogue has been read, once for all tests."""
    database = _make_template(cluster, LOADED, template)
    with pytest.MonkeyPatch.context() as patch:
        use(patch, database, mirror, loaded_raw_folder)
        asyncio.run(_load(database, mirror, loaded_raw_folder, ["hgnc"]))
    return LOADED


@pytest.fixture(scope="session")
def stored_template(
    cluster: SharedCluster, loaded_template: str, mirror: Mirror, loaded_raw_folder: Path
) -> str:
    """The same, and HPO is stored as the mirror has it."""
    database = _make_template(cluster, STORED, loaded_template)
    with pytest.MonkeyPatch.context() as patch:
        use(patch, database, mirror, loaded_raw_folder)
        asyncio.run(_load(database, mirror, loaded_raw_folder, ["hpo"], ["HGNC:9008"]))
    return STORED


def _make_template(cluster: SharedCluster, name: str, template: str) -> Database:
    asyncio.run(cluster.create_database(name, template))
    return Database(name, cluster.environment(name))


async def _load(
    database: Database,
    mirror: Mirror,
    raw_folder: Path,
    sources: Sequence[str],
    genes: Sequence[str] | None = None,
) -> None:
    async with open_desk(database, mirror, raw_folder) as desk:
        run_id = await desk.order(sources, genes)
        await desk.work()
        row = await desk.row("SELECT state FROM run WHERE id = :run_id", run_id=run_id)
        assert row.state == "completed"


@pytest.fixture
def loaded_database(cluster: SharedCluster, loaded_template: str) -> Iterator[Database]:
    yield from fresh_database(cluster, loaded_template)


@pytest.fixture
def stored_database(cluster: SharedCluster, stored_template: str) -> Iterator[Database]:
    yield from fresh_database(cluster, stored_template)


@pytest_asyncio.fixture
async def loaded_desk(
    loaded_database: Database,
    mirror: Mirror,
    loaded_raw_folder: Path,
    raw_settings: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Desk]:
    """A desk whose catalogue holds all genes."""
    use(monkeypatch, loaded_database, mirror, loaded_raw_folder)
    async with open_desk(
        loaded_database, mirror, loaded_raw_folder, raw_settings=raw_settings
    ) as desk:
        yield desk


@pytest_asyncio.fixture
async def stored_desk(
    stored_database: Database,
    mirror: Mirror,
    loaded_raw_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Desk]:
    """A desk that has stored HPO, too; its raw files are in a folder."""
    use(monkeypatch, stored_database, mirror, loaded_raw_folder)
    async with open_desk(stored_database, mirror, loaded_raw_folder) as desk:
        yield desk
