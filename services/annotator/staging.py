"""A child process of the annotator: reads a release's files and copies their values into `staged`.

Parsing a hundred megabytes would hold an event loop for seconds; here nothing else waits. It is
started while the files still arrive, and told afterwards which release to read.
"""

import asyncio
import gc
from collections.abc import Iterator
from multiprocessing.connection import Connection
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.annotator import domain
from services.annotator.domain import BulkSource, Catalogue, Record, StoredFile
from services.annotator.errors import ReleaseRefused
from services.annotator.failpoints import Failpoint
from services.annotator.raw_store import RawStore
from services.annotator.settings import AnnotatorSettings
from services.annotator.sources import SOURCES
from services.annotator.store import catalogue, releases, staged
from services.annotator.store.releases import Release
from services.chassis import database, failpoints
from services.chassis.child import end_with_parent
from services.chassis.errors import PermanentError
from services.chassis.telemetry import configure_logging

COPY_SECONDS_MAX = 120
COLUMNS = ["release_id", "hgnc_id", "value", "digest", "file_id", "position"]
Row = tuple[UUID, str, str, bytes, int, int]


class Reading:
    """One pass over a release: rows to copy, and what did not map, counted on the way."""

    def __init__(self, source: BulkSource, release: Release, raw_store: RawStore) -> None:
        self._source = source
        self._release = release
        self._files = {
            file.name: StoredFile(
                raw_store.path(file.sha256), file.sha256, file.etag, file.last_modified
            )
            for file in release.files.values()
        }
        self.row_count = 0
        self.unmapped: dict[tuple[str, str], int] = {}

    def version(self) -> str:
        """Made-up data bear that in their name, which is all that some readers see of a release."""
        name = self._source.version(self._files)
        return f"{name}-synthetic" if self._release.synthetic else name

    def rows(self, genes: Catalogue) -> Iterator[Row]:
        """Raises SchemaChanged, and ReleaseRefused after the last row when there were too few."""
        for entry in self._source.read(self._files, genes):
            if isinstance(entry, Record):
                self.row_count += 1
                content = domain.canonical(entry.value)
                yield (
                    self._release.id,
                    entry.hgnc_id,
                    content.decode(),
                    domain.digest(content),
                    self._release.files[entry.file].id,
                    entry.position,
                )
            else:
                staged.count_unmapped(self.unmapped, entry)
        if self.row_count < self._source.records_min:
            raise ReleaseRefused(
                f"{self.row_count} records; at least {self._source.records_min} are expected"
            )


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
        reading = Reading(source, release, RawStore(settings.raw_folder))
        try:
            async with engine.begin() as tx:
                await database.allow_long_transaction(tx)
                await staged.clear_staged(tx, release_id)
                await copy(tx, reading.rows(genes))
                await staged.finish_staging(
                    tx,
                    batch_id,
                    lease_token,
                    release_id,
                    catalogue_id,
                    reading.version(),
                    reading.row_count,
                    reading.unmapped,
                )
                await tx.execute(text("ANALYZE staged (release_id, hgnc_id)"))
                failpoints.hit(Failpoint.ROWS_COPIED)
        except PermanentError as error:  # Whoever started us reads the release's row.
            async with engine.begin() as tx:
                await staged.reject_release(tx, batch_id, lease_token, release_id, error.problem())


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
