"""Fixtures: one cluster and one mirror per session, a fresh database and topic prefix per test."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from infra.cluster import Cluster
from services.cli.migrate import declare_sources, migrate_schemas
from tests.system import ROOT, Database, Mirror, fresh_database, keep_cluster, keep_mirror

TEMPLATE = "annobus_template"
UPSTREAM_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    state = tmp_path_factory.mktemp("cluster") / "state"
    with keep_cluster(state):
        yield Cluster(state)
    Cluster(state).remove()


@pytest.fixture(scope="session")
def template(cluster: Cluster) -> str:
    """A migrated database to copy: a copy takes a tenth of a second, a migration ten times that."""
    asyncio.run(cluster.create_database(TEMPLATE))
    owner = cluster.environment(TEMPLATE)["ANNOBUS_DATABASE_URL"]
    migrate_schemas(owner)
    asyncio.run(declare_sources(owner))
    return TEMPLATE


@pytest.fixture
def database(cluster: Cluster, template: str) -> Iterator[Database]:
    yield from fresh_database(cluster, template)


@pytest.fixture
def topic_prefix() -> str:
    """Keeps this test's topics and groups apart from all others on the session's broker."""
    return f"test-{uuid4().hex[:8]}."


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    """The upstreams, with no limit on requests; who changes how it answers changes it back."""
    with keep_mirror(tmp_path_factory.mktemp("mirror"), "--no-limits") as mirror:
        yield mirror


@pytest.fixture(scope="session")
def upstream_data() -> Path:
    """Real files of the upstreams, which are not part of the project."""
    if not UPSTREAM_DATA.is_dir():
        pytest.skip("real upstream files are not here (../shared/data)")
    return UPSTREAM_DATA
