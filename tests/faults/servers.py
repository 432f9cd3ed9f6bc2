"""A PostgreSQL and a Kafka that nobody else needs, and a system on them."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from infra.cluster import Cluster
from infra.supervisor import Supervisor
from services.cli.migrate import declare_sources, migrate_schemas
from tests.faults.matrix import GENES, System, die_often, open_system
from tests.faults.proxy import Proxy, open_proxy
from tests.system import Mirror, free_ports, open_database

TEMPLATE = "faults_template"
# Who comes by the proxied listener is told to stay with it; the later of two lines holds.
PROXIED_KAFKA = """
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},PROXIED://127.0.0.1:{own}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{proxy}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
"""


@dataclass(frozen=True)
class Servers:
    """`network` has the proxies that services are to talk through."""

    cluster: Cluster
    supervisor: Supervisor
    network: Mapping[str, Proxy]


@asynccontextmanager
async def open_cluster(folder: Path) -> AsyncIterator[Servers]:
    """A cluster with a template to copy; who watches it does not talk through its proxies."""
    state = folder / "cluster"
    cluster = Cluster(state, {})
    await cluster.prepare()
    ports = json.loads((state / "ports.json").read_text())
    (own,) = free_ports(1)
    try:
        async with (
            open_proxy(ports["postgres"]) as postgres,
            open_proxy(own) as kafka,
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
            yield Servers(cluster, supervisor, {"postgres": postgres, "kafka": kafka})
    finally:
        cluster.close()
        cluster.remove()


@asynccontextmanager
async def open_servers(
    folder: Path, mirror: Mirror, *, calls_per_second: float = 0.0, genes_max: int = GENES
) -> AsyncIterator[System]:
    """Services talk through proxies, to these and to the mirror."""
    prefix = f"servers-{uuid4().hex[:8]}."
    with die_often():
        async with (
            open_proxy(int(mirror.url.rpartition(":")[2])) as upstream,
            open_cluster(folder) as servers,
            open_database(servers.cluster, "servers", TEMPLATE) as database,
            open_system(
                database,
                prefix,
                mirror,
                folder / "services",
                servers=(servers.cluster, servers.supervisor),
                network={**servers.network, "upstream": upstream},
                calls_per_second=calls_per_second,
                genes_max=genes_max,
            ) as system,
        ):
            yield system
