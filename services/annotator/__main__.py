"""The annotator's composition root."""

import asyncio
from datetime import timedelta

import structlog

from services.annotator.errors import RawStoreRefused, RawStoreUnavailable
from services.annotator.handlers import Handlers, subscriptions
from services.annotator.planner import COALESCE_SECONDS, PERIOD_SECONDS, Planner, paces
from services.annotator.progress import Progress
from services.annotator.raw_store import RawStore, raw_store_of
from services.annotator.releases import Releases
from services.annotator.retention import PERIOD_SECONDS as RETENTION_SECONDS
from services.annotator.retention import Retention
from services.annotator.settings import AnnotatorSettings
from services.annotator.sources import SOURCES, UPSTREAMS
from services.annotator.upstream import open_upstreams, requests_per_second
from services.chassis import database, http, outbox, process
from services.chassis.bus import Bus
from services.chassis.process import Process

log = structlog.get_logger()

REVISION = "annotator_0001"
RAW_STORE_SECONDS = 2.0  # Between two looks at one that is away.


async def main(settings: AnnotatorSettings) -> None:
    async with Process("annotator", settings) as life:
        engine = await life.enter(database.open_engine(settings, "annotator"))
        upstreams = await life.enter(open_upstreams(UPSTREAMS, settings, engine))
        bus = Bus(settings.shared, "annotator")
        checks = {"schema": life.schema_check(engine, REVISION), "kafka": bus.problems}
        await life.enter(
            http.serve(http.create_app("annobus annotator", checks), settings.host, settings.port)
        )

        try:
            raw_store = await life.unless_stopped(open_raw_store(settings))
        except RawStoreRefused as error:
            raise SystemExit(f"annobus annotator: {error}") from None
        await life.wait_for_schema(engine, REVISION)
        instance = await life.take_slot()
        progress = Progress(engine, bus)
        releases = Releases(settings, engine, SOURCES, upstreams, raw_store)
        handlers = Handlers(
            engine=engine,
            sources=SOURCES,
            upstreams=upstreams,
            raw_store=raw_store,
            instance=instance,
            report=progress.report,
            prepare_release=releases.prepare_release,
        )
        pace = paces(SOURCES, lambda declared: requests_per_second(declared, settings))
        planner = Planner(engine, SOURCES, instance, progress.report, pace)
        age = timedelta(days=settings.raw_days)
        retention = Retention(engine, raw_store, age, settings.raw_bytes_max)

        bus.subscribe(subscriptions(handlers), instance)
        life.at_stop(bus.stop)
        await life.unless_stopped(bus.start())
        life.keep("bus", bus.watch())
        life.keep("progress", progress.tell())
        life.keep("relay", outbox.relay(settings, "annotator", bus.publish))
        life.keep(
            "planner",
            database.alone(
                settings,
                "planner",
                planner.work,
                period_seconds=PERIOD_SECONDS,
                coalesce_seconds=COALESCE_SECONDS,
            ),
        )
        life.keep(
            "retention",
            database.alone(settings, "retention", retention.work, period_seconds=RETENTION_SECONDS),
        )
        await life.until_stopped()


async def open_raw_store(settings: AnnotatorSettings) -> RawStore:
    """A place that is away is waited for. Raises RawStoreRefused for one that cannot be."""
    raw_store = raw_store_of(settings)
    while True:
        try:
            await raw_store.make_ready()
        except RawStoreUnavailable as error:
            log.warning("raw_store_waits", problem=str(error))
            await asyncio.sleep(RAW_STORE_SECONDS)
        else:
            return raw_store


if __name__ == "__main__":
    process.run(main(AnnotatorSettings()))
