"""The gateway's composition root."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.messages import RunProgress
from services.chassis import database, http, outbox, process
from services.chassis.bus import Bus
from services.chassis.process import Process
from services.gateway.active import ActiveRuns
from services.gateway.documents import Documents
from services.gateway.frames import Fact
from services.gateway.handlers import Handlers, hear, subscriptions
from services.gateway.http.catalogue import CatalogueRoutes
from services.gateway.http.genes import GeneRoutes
from services.gateway.http.runs import RunRoutes, find_run
from services.gateway.live import Live
from services.gateway.settings import GatewaySettings
from services.gateway.sockets import Sockets
from services.gateway.store import runs

REVISION = "gateway_0001"


@dataclass(frozen=True)
class Reads:
    """What the sockets ask the database, each in a connection of its own."""

    engine: AsyncEngine

    async def progress(self, run_id: UUID) -> RunProgress:
        async with self.engine.connect() as connection:
            return (await find_run(connection, str(run_id))).progress

    async def facts(self, run_id: UUID, after: int, up_to: int) -> Sequence[Fact]:
        async with self.engine.connect() as connection:
            return await runs.list_facts(connection, run_id, after=after, up_to=up_to)

    async def active(self) -> Sequence[UUID]:
        async with self.engine.connect() as connection:
            return await runs.list_active_ids(connection)


async def main(settings: GatewaySettings) -> None:
    async with Process("gateway", settings) as life:
        engine = await life.enter(database.open_engine(settings, "gateway"))
        bus = Bus(settings.shared, "gateway")
        documents = Documents()
        reads = Reads(engine)
        live = Live(reads.progress, reads.facts)
        active = ActiveRuns(reads.active)
        bus.subscribe(subscriptions(Handlers(live, active, documents)))

        checks = {"schema": life.schema_check(engine, REVISION), "kafka": bus.problems}
        app = http.create_app("annobus gateway", checks)
        include_routes(app, engine, documents, live, active)
        await life.enter(http.serve(app, settings.host, settings.port))

        life.at_stop(bus.stop)
        life.keep("bus", converse(settings, bus, documents))
        await life.until_stopped()


def include_routes(
    app: FastAPI, engine: AsyncEngine, documents: Documents, live: Live, active: ActiveRuns
) -> None:
    for routes in (
        RunRoutes(engine),
        GeneRoutes(engine, documents),
        CatalogueRoutes(engine),
        Sockets(live, active),
    ):
        app.include_router(routes.router())


async def converse(settings: GatewaySettings, bus: Bus, documents: Documents) -> None:
    """What needs Kafka, once it is there; commands and reads do not wait for it."""
    await bus.start()
    async with asyncio.TaskGroup() as loops:
        loops.create_task(bus.watch())
        loops.create_task(outbox.relay(settings, "gateway", bus.publish))
        loops.create_task(hear(bus, documents))


if __name__ == "__main__":
    process.run(main(GatewaySettings()))
