"""A PostgreSQL and a Kafka that nobody else needs, and a system on them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

from infra.cluster import Cluster
from infra.supervisor import Supervisor
from services.cli.migrate import declare_sources, migrate_schemas
from tests.faults.matrix import GENES, System, die_often, open_system
from tests.faults.proxy import open_proxy
from tests.system import Mirror, free_ports, open_database

TEMPLATE = "faults_template"
# Who comes by the proxied listener is told to stay with it; the later of two lines holds.
PROXIED_KAFKA = """
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},PROXIED://127.0.0.1:{own}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{proxy}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
"""


@asynccontextmanager
async def open_servers(
    folder: Path, mirror: Mirror, *, calls_per_second: float = 0.0, genes_max: int = GENES
) -> AsyncIterator[System]:
    """Services talk through proxies, to these and to the mirror; who watches them does not."""
    state = folder / "cluster"
    cluster = Cluster(state, {})
    await cluster.prepare()
    prefix = f"servers-{uuid4().hex[:8]}."
    ports = json.loads((state / "ports.json").read_text())
    (own,) = free_ports(1)
    try:
        with die_often():
            async with (
                open_proxy(ports["postgres"]) as postgres,
                open_proxy(own) as kafka,
                open_proxy(int(mirror.url.rpartition(":")[2])) as upstream,
                Supervisor() as supervisor,
            ):
                with (state / "kafka" / "server.properties").open("a") as settings:
                    listeners = {"port": ports["kafka"], "controller": ports["kafka-controller"]}
                    settings.write(PROXIED_KAFKA.format(**listeners, own=own, proxy=kafka.port))
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
                        network={"postgres": postgres, "kafka": kafka, "upstream": upstream},
                        calls_per_second=calls_per_second,
                        genes_max=genes_max,
                    ) as system,
                ):
                    yield system
    finally:
        cluster.close()
        cluster.remove()
