"""The cache's composition root."""

from services.cache import rebuilder, reclaimer, statistics
from services.cache.handlers import Handlers, subscriptions
from services.cache.namespaces import RECLAIMER
from services.cache.rebuilder import Rebuilder
from services.cache.reclaimer import Reclaimer
from services.cache.settings import CacheSettings
from services.cache.statistics import STATISTICS, Statistics
from services.cache.store import REBUILDER
from services.chassis import database, http, outbox, process
from services.chassis.bus import Bus
from services.chassis.process import Process

REVISION = "cache_0001"


async def main(settings: CacheSettings) -> None:
    async with Process("cache", settings) as life:
        engine = await life.enter(database.open_engine(settings, "cache"))
        bus = Bus(settings.shared, "cache")
        checks = {"schema": life.schema_check(engine, REVISION), "kafka": bus.problems}
        await life.enter(
            http.serve(http.create_app("annobus cache", checks), settings.host, settings.port)
        )

        await life.wait_for_schema(engine, REVISION)
        instance = await life.take_slot()
        bus.subscribe(subscriptions(Handlers(engine)), instance)
        life.at_stop(bus.stop)
        await life.unless_stopped(bus.start())
        life.keep("bus", bus.watch())
        life.keep("relay", outbox.relay(settings, "cache", bus.publish))
        life.keep(
            "rebuilder",
            database.alone(
                settings,
                REBUILDER,
                Rebuilder(engine).rebuild,
                period_seconds=rebuilder.PERIOD_SECONDS,
                coalesce_seconds=rebuilder.COALESCE_SECONDS,
            ),
        )
        life.keep(
            "reclaimer",
            database.alone(
                settings,
                RECLAIMER,
                Reclaimer(engine).reclaim,
                period_seconds=reclaimer.PERIOD_SECONDS,
            ),
        )
        life.keep(
            "statistics",
            database.alone(
                settings,
                STATISTICS,
                Statistics(engine).refresh,
                period_seconds=statistics.PERIOD_SECONDS,
            ),
        )
        await life.until_stopped()


if __name__ == "__main__":
    process.run(main(CacheSettings()))
