"""An annotator on a desk: its handlers and planner on a real database, the tests as its bus."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.messages import TYPES, AnnotateBatch, Message, StartRun, Strategy
from services.annotator.domain import Source
from services.annotator.handlers import Handlers
from services.annotator.planner import Planner
from services.annotator.raw_store import raw_store_of
from services.annotator.releases import Releases
from services.annotator.settings import AnnotatorSettings
from services.annotator.sources import SOURCES, UPSTREAMS
from services.annotator.upstream import Upstream, open_upstreams
from services.chassis.settings import SharedSettings
from tests.integration.chassis.desk import WAIT_SECONDS
from tests.system import Database, Mirror

PASSES_MAX = 2_000

# A test that is marked so runs with each place that raw files may be kept in.
in_both_places = pytest.mark.parametrize("raw_settings", ["folder", "bucket"], indirect=True)


@dataclass
class Desk:
    engine: AsyncEngine
    releases: Releases
    handlers: Handlers
    planner: Planner
    published: list[Message] = field(default_factory=list)
    reported: list[UUID] = field(default_factory=list)

    def use(
        self,
        sources: Mapping[str, Source] | None = None,
        upstreams: Mapping[str, Upstream] | None = None,
    ) -> None:
        """From now on ask these in place of those that bear their names."""
        sources = {**self.handlers.sources, **(sources or {})}
        upstreams = {**self.handlers.upstreams, **(upstreams or {})}
        self.releases = replace(self.releases, sources=sources, upstreams=upstreams)
        self.handlers = replace(
            self.handlers,
            sources=sources,
            upstreams=upstreams,
            prepare_release=self.releases.prepare_release,
        )
        self.planner.sources = sources

    async def order(
        self,
        sources: Iterable[str],
        genes: Iterable[str] | None = None,
        *,
        strategy: Strategy = "full",
        retries: UUID | None = None,
        dry_run: bool = False,
    ) -> UUID:
        run_id = uuid4()
        command = StartRun(
            run_id=run_id,
            sources=tuple(sources),
            genes=None if genes is None else tuple(genes),
            strategy=strategy,
            retries=retries,
            dry_run=dry_run,
        )
        await self.handlers.on_start_run(command)
        return run_id

    async def relay(self) -> list[Message]:
        """Take what stands in the outbox, in order."""
        async with self.engine.begin() as tx:
            rows = await tx.execute(
                text("""
                    WITH taken AS (DELETE FROM outbox RETURNING id, headers, payload)
                    SELECT headers->>'ce_type' AS type, payload FROM taken ORDER BY id
                """)
            )
            messages = [TYPES[row.type].model_validate_json(row.payload) for row in rows]
        self.published += messages
        return messages

    async def work(self) -> None:
        """Let planner and worker go on until nothing is due any more."""
        for _ in range(PASSES_MAX):
            await self.planner.plan_and_feed()
            hints = [m for m in await self.relay() if isinstance(m, AnnotateBatch)]
            if not hints:
                return
            for hint in hints:
                await self.handlers.on_annotate_batch(hint)
        raise AssertionError(f"still work to do after {PASSES_MAX} passes")

    async def rows(self, statement: str, **parameters: Any) -> list[Any]:
        async with self.engine.connect() as connection:
            return list((await connection.execute(text(statement), parameters)).all())

    async def row(self, statement: str, **parameters: Any) -> Any:
        (found,) = await self.rows(statement, **parameters)
        return found

    async def until_waiting(self, count: int, task: "asyncio.Task[None]") -> None:
        """Return when so many sessions wait for a row that another has written; fail when the task
        ends without waiting."""
        waiting = """
            SELECT count(*) AS sessions FROM pg_locks l JOIN pg_stat_activity a USING (pid)
            WHERE NOT l.granted AND l.locktype = 'transactionid'
              AND a.datname = current_database()
        """
        async with asyncio.timeout(WAIT_SECONDS):
            while (await self.row(waiting)).sessions < count:
                assert not task.done(), "it never waited"
                await asyncio.sleep(0.01)

    async def source_states(self, run_id: UUID) -> dict[str, str]:
        rows = await self.rows(
            "SELECT source, state FROM run_source WHERE run_id = :run_id", run_id=run_id
        )
        return {row.source: row.state for row in rows}

    async def changes_after(self, xid: str, number: int) -> list[Any]:
        """What a reader of the published view may see by now behind its cursor."""
        return await self.rows(
            """SELECT xid::text AS xid, id FROM annotation_v1
               WHERE (xid, id) > (CAST(CAST(:xid AS text) AS xid8), CAST(:number AS bigint))
                 AND xid < pg_snapshot_xmin(pg_current_snapshot())
               ORDER BY xid, id""",
            xid=xid,
            number=number,
        )

    async def make_due(self) -> None:
        """Let the time pass that a failed batch waits for its next attempt."""
        async with self.engine.begin() as tx:
            await tx.execute(text("UPDATE batch SET next_attempt_at = now()"))

    async def skip(self, seconds_max: float) -> float:
        """Let so much time pass for waiting batches, or less, if one is due before. Returns it."""
        async with self.engine.begin() as tx:
            wait = await tx.scalar(
                text("""
                    SELECT extract(epoch FROM min(next_attempt_at) - clock_timestamp())
                    FROM batch WHERE state = 'pending' AND next_attempt_at > clock_timestamp()
                """)
            )
            seconds = seconds_max if wait is None else min(float(wait), seconds_max)
            await tx.execute(
                text("""
                    UPDATE batch SET next_attempt_at = next_attempt_at - CAST(:passed AS interval)
                    WHERE state = 'pending'
                """),
                {"passed": timedelta(seconds=seconds)},
            )
        return seconds


@asynccontextmanager
async def open_desk(
    database: Database,
    mirror: Mirror,
    raw_folder: Path,
    instance: str = "annotator-0",
    raw_settings: Mapping[str, str] | None = None,
) -> AsyncIterator[Desk]:
    settings = AnnotatorSettings.model_validate(
        {
            "database_url": database.environment["ANNOTATOR_DATABASE_URL"],
            "raw_folder": raw_folder,
            "upstreams": mirror.upstreams(),
            "shared": SharedSettings(environment="test"),
            **(raw_settings or {}),
        }
    )
    reported: list[UUID] = []
    async with (
        database.engine("annotator") as engine,
        open_upstreams(UPSTREAMS, settings, engine) as upstreams,
    ):
        raw_store = raw_store_of(settings)
        releases = Releases(settings, engine, SOURCES, upstreams, raw_store)
        handlers = Handlers(
            engine=engine,
            sources=SOURCES,
            upstreams=upstreams,
            raw_store=raw_store,
            instance=instance,
            report=reported.extend,
            prepare_release=releases.prepare_release,
        )
        planner = Planner(engine, SOURCES, instance, reported.extend)
        yield Desk(engine, releases, handlers, planner, reported=reported)
