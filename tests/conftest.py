"""Fixtures: one cluster and one mirror per session, a fresh database and topic prefix per test."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from infra.cluster import Cluster
from services.cli.migrate import declare_sources, migrate_schemas
from tests import thin_hpo
from tests.memory import choose_state_folder
from tests.system import (
    ROOT,
    Database,
    Mirror,
    SharedCluster,
    database_to_read,
    fresh_database,
    keep_cluster,
    keep_mirror,
)

TEMPLATE = "annobus_template"
UPSTREAM_DATA = ROOT.parent / "shared" / "data"
BACKEND = os.environ.get("ANNOBUS_TEST_BACKEND", "embedded")
BACKENDS = ("embedded", "docker")
LONG = ("e2e", "faults")


def pytest_configure() -> None:
    if BACKEND not in BACKENDS:
        raise pytest.UsageError(
            f"ANNOBUS_TEST_BACKEND={BACKEND} is not accepted: {' and '.join(BACKENDS)} are"
        )


def pytest_report_header() -> str:
    return f"PostgreSQL and Kafka: {BACKEND}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # What takes longest begins first: at the end nobody waits for one long file.
    items.sort(key=lambda item: item.path.relative_to(ROOT / "tests").parts[0] not in LONG)
    if BACKEND != "embedded":
        skip = pytest.mark.skip(reason=f"about the embedded cluster, and this session is {BACKEND}")
        for item in items:
            if "embedded" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedCluster]:
    if BACKEND == "docker":
        from tests.containers import EngineMissing, keep_containers  # noqa: PLC0415  # Half a second.

        try:
            with keep_containers() as containers:
                yield containers
        except EngineMissing as missing:
            pytest.skip(str(missing))
        return
    state = choose_state_folder(tmp_path_factory.mktemp("cluster") / "state")
    with keep_cluster(state):
        yield Cluster(state, {})
    if state.exists():
        Cluster(state, {}).remove()


@pytest.fixture(scope="session")
def template(cluster: SharedCluster) -> str:
    """A migrated database to copy: a copy takes a tenth of a second, a migration ten times that."""
    asyncio.run(cluster.create_database(TEMPLATE))
    owner = cluster.environment(TEMPLATE)["ANNOBUS_DATABASE_URL"]
    migrate_schemas(owner)
    asyncio.run(declare_sources(owner))
    return TEMPLATE


@pytest.fixture
def database(cluster: SharedCluster, template: str) -> Iterator[Database]:
    yield from fresh_database(cluster, template)


@pytest.fixture(scope="session")
def empty_database(cluster: SharedCluster, template: str) -> Iterator[Database]:
    """For all tests that write nothing."""
    yield from database_to_read(cluster, template)


@pytest.fixture
def topic_prefix() -> str:
    """Keeps this test's topics and groups apart from all others on the session's broker."""
    return f"test-{uuid4().hex[:8]}."


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    """The upstreams, with no limit on requests; who changes how it answers changes it back."""
    data = tmp_path_factory.mktemp("mirror")
    thin_hpo.write_data(data)
    with keep_mirror(data / "cache", "--no-limits", "--data", str(data)) as mirror:
        yield mirror


@pytest.fixture(scope="session")
def upstream_data() -> Path:
    """Real files of the upstreams, which are not part of the project."""
    if not UPSTREAM_DATA.is_dir():
        pytest.skip("real upstream files are not here (../shared/data)")
    return UPSTREAM_DATA
