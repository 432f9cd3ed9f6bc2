"""The gateway's composition root."""

import asyncio

from services.chassis import database, http, outbox, process
from services.chassis.bus import Bus
from services.chassis.process import Process
from services.gateway.active import ActiveRuns
from services.gateway.changes import Changes
from services.gateway.documents import Documents
from services.gateway.entries import Entries
from services.gateway.handlers import (
    Handlers,
    Letters,
    count_letters,
    count_reads,
    keep_trust,
    letter_subscriptions,
    subscriptions,
)
from services.gateway.http import include_routes
from services.gateway.live import Live
from services.gateway.reads import Reads
from services.gateway.refresher import keep_fresh
from services.gateway.settings import GatewaySettings
from services.gateway.tally import Tally

REVISION = "gateway_0001"


async def main(settings: GatewaySettings) -> None:
    async with Process("gateway", settings) as life:
        engine = await life.enter(database.open_engine(settings, "gateway"))
        bus = Bus(settings.shared, "gateway")
        tally = Tally()
        documents, entries = Documents(tally), Entries(engine, tally)
        reads = Reads(engine)
        live = Live(reads.progress, reads.facts)
        active = ActiveRuns(reads.active)
        changes = Changes()
        bus.subscribe(subscriptions(Handlers(live, active, documents, entries, changes)))
        letter_bus = Bus(settings.shared, "gateway")
        letter_bus.subscribe(letter_subscriptions(Letters(engine)))

        checks = {"schema": life.schema_check(engine, REVISION), "kafka": bus.problems}
        app = http.create_app("annobus gateway", checks)
        include_routes(app, engine, documents, entries, live, active, changes)
        await life.enter(http.serve(app, settings.host, settings.port))
        life.at_stop(changes.end)

        life.keep("letter-count", count_letters(engine))
        life.keep("refresher", keep_fresh(engine, documents))
        life.keep("read-count", count_reads(engine, documents, entries))
        life.at_stop(letter_bus.stop)
        life.keep("letters", read_letters(letter_bus))
        life.at_stop(bus.stop)
        life.keep("bus", converse(settings, bus, documents, entries))
        await life.until_stopped()


async def converse(
    settings: GatewaySettings, bus: Bus, documents: Documents, entries: Entries
) -> None:
    """What needs Kafka, once it is there; commands and reads do not wait for it."""
    await bus.start()
    async with asyncio.TaskGroup() as loops:
        loops.create_task(bus.watch())
        loops.create_task(outbox.relay(settings, "gateway", bus.publish, bus.publish_again))
        loops.create_task(keep_trust(bus, documents, entries))


async def read_letters(bus: Bus) -> None:
    """On a bus of its own: a group waits until it misses a member that was killed, and neither
    orders nor what sockets hear may wait with it."""
    await bus.start()
    await bus.watch()


if __name__ == "__main__":
    process.run(main(GatewaySettings()))
