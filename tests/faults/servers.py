"""A PostgreSQL and a Kafka that nobody else needs, and a system on them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

from infra.cluster import Cluster
from infra.supervisor import Supervisor
from services.cli.migrate import declare_sources, migrate_schemas
from tests.faults.matrix import GENES, System, die_often, open_system
from tests.system import Mirror, open_database

TEMPLATE = "faults_template"


@asynccontextmanager
async def open_servers(
    folder: Path, mirror: Mirror, *, calls_per_second: float = 0.0, genes_max: int = GENES
) -> AsyncIterator[System]:
    cluster = Cluster(folder / "cluster", {})
    await cluster.prepare()
    prefix = f"servers-{uuid4().hex[:8]}."
    try:
        with die_often():
            async with Supervisor() as supervisor:
                await supervisor.add(*cluster.processes)
                await cluster.create_database(TEMPLATE)
                owner = cluster.environment(TEMPLATE)["ANNOBUS_DATABASE_URL"]
                await asyncio.to_thread(migrate_schemas, owner)
                await declare_sources(owner)
                async with (
                    open_database(cluster, "servers", TEMPLATE) as database,
                    open_system(
                        database,
                        prefix,
                        mirror,
                        folder / "services",
                        servers=(cluster, supervisor),
                        calls_per_second=calls_per_second,
                        genes_max=genes_max,
                    ) as system,
                ):
                    yield system
    finally:
        cluster.close()
        cluster.remove()
