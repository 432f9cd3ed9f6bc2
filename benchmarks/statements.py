"""The statements that store values, alone on a database of their own, beside COPY."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from infra.addresses import OWNER_URL
from infra.cluster import Cluster
from services.annotator.domain import Offered
from services.annotator.store import annotations, releases
from services.annotator.store.annotations import Origin
from services.annotator.store.releases import FetchedFile
from services.chassis import database
from services.chassis.settings import ServiceSettings
from services.cli.migrate import declare_sources, migrate_schemas

DATABASE = "annobus_statements"
SOURCE = "ensembl"
SMALL_BATCH = 100  # What an API source stores at once.
LARGE_BATCH = 4_000  # What a bulk source stores at once.
STATEMENTS_SECONDS_MAX = 60.0

Value = tuple[str, str, bytes]  # Gene, value in JSON, digest.


@dataclass(frozen=True)
class StatementFigures:
    """Values stored per second, each time into the empty table with its indexes."""

    values: int
    small_batches: float
    large_batches: float
    copy: float


async def measure(cluster: Cluster, values: Sequence[Value]) -> StatementFigures:
    """`values` are a source's own, as a run has stored them."""
    await cluster.create_database(DATABASE)
    addresses = cluster.environment(DATABASE)
    try:
        async with asyncio.timeout(STATEMENTS_SECONDS_MAX):
            await asyncio.to_thread(migrate_schemas, addresses[OWNER_URL])
            await declare_sources(addresses[OWNER_URL])
            settings = ServiceSettings(
                database_url=addresses["ANNOTATOR_DATABASE_URL"]  # type: ignore[arg-type]
            )
            async with database.open_engine(settings, "benchmark") as engine:
                return await _measure(engine, addresses[OWNER_URL], values)
    finally:
        await cluster.drop_database(DATABASE)


async def _measure(
    engine: AsyncEngine, owner_url: str, values: Sequence[Value]
) -> StatementFigures:
    async with engine.begin() as tx:
        origin = await _origin(tx)

    async def rate(store: Callable[[], Awaitable[None]]) -> float:
        await _empty(owner_url)
        began = time.perf_counter()
        await store()
        return len(values) / (time.perf_counter() - began)

    return StatementFigures(
        values=len(values),
        small_batches=await rate(lambda: _store(engine, origin, values, SMALL_BATCH)),
        large_batches=await rate(lambda: _store(engine, origin, values, LARGE_BATCH)),
        copy=await rate(lambda: _copy(engine, origin, values)),
    )


async def _origin(tx: AsyncConnection) -> Origin:
    file = FetchedFile("page", "benchmark", None, None, b"", 0)
    release_id = await releases.insert_fetched_release(tx, SOURCE, 1, "1", b"", True, [file])
    release = await releases.get_release(tx, release_id)
    return replace(release.origin(), matched_by="ensembl_gene_id")


async def _store(engine: AsyncEngine, origin: Origin, values: Sequence[Value], batch: int) -> None:
    for start in range(0, len(values), batch):
        offered = Offered()
        for position, (hgnc_id, value, digest) in enumerate(values[start : start + batch]):
            offered.hgnc_ids.append(hgnc_id)
            offered.values.append(value)
            offered.digests.append(digest)
            offered.positions.append(position)
        async with engine.begin() as tx:
            now = await annotations.lock_store(tx, SOURCE)
            await annotations.store_offered(tx, SOURCE, offered, origin, now)


async def _copy(engine: AsyncEngine, origin: Origin, values: Sequence[Value]) -> None:
    now = datetime.now(UTC)
    columns = ["hgnc_id", "source", "valid_from", "value", "digest", "release_id", "file_id"]
    shared = (origin.release_id, origin.file_id)
    later = (0, origin.retrieved_at, origin.parser_version, origin.matched_by)
    async with engine.begin() as tx:
        driver = (await tx.get_raw_connection()).driver_connection
        assert driver is not None
        await driver.copy_records_to_table(
            "annotation",
            records=(
                (gene, SOURCE, now, value, digest, *shared, *later)
                for gene, value, digest in values
            ),
            columns=[*columns, "position", "retrieved_at", "parser_version", "matched_by"],
        )


async def _empty(owner_url: str) -> None:
    connection = await asyncpg.connect(owner_url)
    try:
        await connection.execute("TRUNCATE annotator.annotation")
    finally:
        await connection.close()
