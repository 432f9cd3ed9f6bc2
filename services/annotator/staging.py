"""A child process of the annotator: reads a release's files and copies their values into `staged`.

Parsing a hundred megabytes would hold an event loop for seconds; here nothing else waits. It is
started when the last file is here, and told afterwards which release to read.
"""

import asyncio
import gc
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from itertools import chain, islice
from multiprocessing.connection import Connection
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.messages import ReleaseDoubt, ReleaseQuarantined
from services.annotator import domain
from services.annotator.domain import (
    BulkSource,
    Catalogue,
    Columns,
    Count,
    Doubt,
    Record,
    StoredFile,
    Unmapped,
)
from services.annotator.failpoints import Failpoint
from services.annotator.judging import Reading, judge
from services.annotator.raw_store import RawStore, raw_store_of
from services.annotator.settings import AnnotatorSettings
from services.annotator.sources import SOURCES
from services.annotator.store import baselines, catalogue, releases, staged
from services.annotator.store.releases import Release
from services.chassis import database, failpoints, outbox
from services.chassis.child import end_with_parent
from services.chassis.errors import PermanentError
from services.chassis.telemetry import configure_logging

COPY_SECONDS_MAX = 120
COLUMNS = ["release_id", "hgnc_id", "value", "digest", "file_id", "position", "matched_by"]
Row = tuple[UUID, str, str, bytes, int, int, str]


class Reader:
    """One pass over a release: rows to copy, and what it is like, counted on the way."""

    def __init__(self, source: BulkSource, release: Release, raw_store: RawStore) -> None:
        self._source = source
        self._release = release
        self._files = {
            file.name: StoredFile(
                partial(raw_store.open, file.sha256), file.sha256, file.etag, file.last_modified
            )
            for file in release.files.values()
        }
        expected = source.declaration.expected
        assert expected is not None  # Every bulk source says what its releases are like.
        self.expected = expected
        self.found = Reading(absent=set(expected.sentinels))
        self.unmapped: dict[tuple[str, str], int] = {}

    def version(self) -> str:
        """Made-up data bear that in their name, which is all that some readers see of a release."""
        name = self._source.version(self._files)
        domain.require_texts(name)
        return f"{name}-synthetic" if self._release.synthetic else name

    def rows(self, genes: Catalogue) -> Iterator[Row]:
        """Raises SchemaChanged and ReleaseRefused."""
        for entry in self._source.read(self._files, genes):
            match entry:
                case Record():
                    self._count(entry)
                    content = domain.canonical(entry.value)
                    yield (
                        self._release.id,
                        entry.hgnc_id,
                        content.decode(),
                        domain.digest(content),
                        self._release.files[entry.file].id,
                        entry.position,
                        entry.matched_by,
                    )
                case Unmapped():
                    domain.require_texts(entry.key, entry.reason)
                    key = (entry.key, entry.reason)
                    self.unmapped[key] = self.unmapped.get(key, 0) + entry.row_count
                case Columns():
                    domain.require_texts(*entry.names)
                    self.found.columns[entry.file] = entry.names
                case Count():
                    self.found.counts[entry.name] = entry.count
                case Doubt():
                    self.found.doubts.append(entry)
        self.found.unmapped_count = len(self.unmapped)

    def _count(self, record: Record) -> None:
        self.found.record_count += 1
        self.found.absent.discard(record.hgnc_id)
        for name in self.expected.nulls_share_max:
            if getattr(record.value, name) in (None, [], ""):
                self.found.nulls[name] = self.found.nulls.get(name, 0) + 1


def main(settings: AnnotatorSettings, batch_id: UUID, lease_token: int, line: Connection) -> None:
    """All that a child does. On the line comes the id of the release, and goes why it failed."""
    end_with_parent()
    # What is read here stays until the process ends; looking for cycles in it takes longer than
    # reading it.
    gc.disable()
    try:
        asyncio.run(_stage(settings, batch_id, lease_token, line))
    except Exception as error:
        line.send(repr(error))
        raise


async def _stage(
    settings: AnnotatorSettings, batch_id: UUID, lease_token: int, line: Connection
) -> None:
    configure_logging(settings.shared, "annotator-staging")
    failpoints.switch_on(settings.shared, "annotator")
    async with database.open_engine(settings, "annotator-staging") as engine:
        catalogue_id, genes = await _read_catalogue(engine)
        try:
            release_id: UUID = await asyncio.to_thread(line.recv)
        except EOFError:
            return  # The download failed.
        async with engine.connect() as connection:
            release = await releases.get_release(connection, release_id)
            if await catalogue.current_catalogue_id(connection) != catalogue_id:
                catalogue_id, genes = await _read_catalogue(engine)
        source = SOURCES[release.source]
        assert not domain.is_api(source)  # Only files are staged.
        reader = Reader(source, release, raw_store_of(settings))
        rows = reader.rows(genes)
        try:
            # Before it says anything of a gene, a source may read for minutes: no transaction, and
            # no COPY with its own limit, waits for that.
            first = list(islice(rows, 1))
            async with engine.begin() as tx:
                await database.allow_long_transaction(tx)
                await staged.clear_staged(tx, release_id)
                await copy(tx, chain(first, rows))
                await tx.execute(text("ANALYZE staged (release_id, hgnc_id)"))
                await staged.require_lease(tx, batch_id, lease_token)
                await _finish(tx, release, reader, catalogue_id)
                failpoints.hit(Failpoint.ROWS_COPIED)
        except PermanentError as error:  # Whoever started us reads the release's row.
            async with engine.begin() as tx:
                await staged.require_lease(tx, batch_id, lease_token)
                await staged.reject_release(tx, release_id, error.problem())


async def _finish(
    tx: AsyncConnection, release: Release, reader: Reader, catalogue_id: UUID | None
) -> None:
    """Compare what was copied with what readers have, and mark it as complete, or as doubtful."""
    found, version = reader.found, reader.version()
    baseline = await baselines.find_baseline(tx, release.id)
    media_types = {file.name: file.media_type for file in release.files.values()}
    doubts = (
        []
        if release.is_decided
        else judge(reader.expected, found, media_types, baseline, is_synthetic=release.synthetic)
    )
    await staged.finish_staging(
        tx, release.id, catalogue_id, version, found, reader.unmapped, doubts
    )
    if doubts:
        told = ReleaseQuarantined(
            source=release.source,
            release_id=release.id,
            version=version,
            doubts=tuple(ReleaseDoubt(**asdict(doubt)) for doubt in doubts),
        )
        await outbox.add(tx, told)


async def _read_catalogue(engine: AsyncEngine) -> tuple[UUID | None, Catalogue]:
    async with engine.begin() as tx:
        # One moment: the genes, and the name of the catalogue that they are.
        await tx.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        return await catalogue.current_catalogue_id(tx), await catalogue.get_catalogue(tx)


async def copy(tx: AsyncConnection, rows: Iterator[Row]) -> None:
    """Raises ConnectionResetError when the session ends meanwhile."""
    raw = await tx.get_raw_connection()
    driver = raw.driver_connection
    assert driver is not None
    copying = asyncio.create_task(
        driver.copy_records_to_table(
            "staged", records=rows, columns=COLUMNS, timeout=COPY_SECONDS_MAX
        )
    )

    def give_up(_: object) -> None:
        # Left alone, the driver waits until its time is over for a closed session to take more.
        copying.cancel()

    driver.add_termination_listener(give_up)
    try:
        await copying
    except asyncio.CancelledError:
        if driver.is_closed():
            raise ConnectionResetError("the session ended in the middle of COPY") from None
        raise
    finally:
        driver.remove_termination_listener(give_up)
