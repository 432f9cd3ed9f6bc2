"""Starts the child process that reads a release, and sees to its end."""

import asyncio
import multiprocessing
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import NamedTuple

from services.annotator import staging
from services.annotator.domain import Batch
from services.annotator.errors import StagingCrowded, StagingFailed
from services.annotator.failpoints import Failpoint
from services.annotator.settings import AnnotatorSettings
from services.annotator.store.releases import Release
from services.chassis import failpoints

STAGINGS_MAX = 2  # At once in one annotator: three took 543 MB together.
ROOM_SECONDS_MAX = 600  # With all else a message may take, less than its handling may.
STAGING_SECONDS_MAX = 900  # ClinVar's nine million rows take a busy machine three minutes.

# One process beside each annotator has imported what reading takes, and does nothing else. A child
# is a fork of it and begins in milliseconds; an interpreter of its own takes 0.4 s of a core.
_template = multiprocessing.get_context("forkserver")
_template.set_forkserver_preload([staging.__name__])


class _Child(NamedTuple):
    process: ForkServerProcess
    line: Connection


class Stager:
    """At most one child for a batch, and one of `room` from its start to its end. It leaves its
    outcome in the database."""

    def __init__(self, settings: AnnotatorSettings, batch: Batch, room: asyncio.Semaphore) -> None:
        self._settings = settings
        self._batch = batch
        self._room = room
        self._starting: asyncio.Task[_Child] | None = None

    async def start(self) -> None:
        """Let it get ready, if there is room: the catalogue takes as long to read as a file to
        be kept. Not before the last one is here: nobody waits behind somebody else's upstream."""
        if not self._room.locked():
            await self._started()

    async def _started(self) -> _Child:
        if self._starting is None:
            try:
                async with asyncio.timeout(ROOM_SECONDS_MAX):
                    await self._room.acquire()  # In the order in which they ask.
            except TimeoutError as error:
                raise StagingCrowded(
                    f"{self._batch.source}: others were read for {ROOM_SECONDS_MAX} s,"
                    f" {STAGINGS_MAX} at once"
                ) from error
            # In a thread: the first child of all waits for the template's imports.
            self._starting = asyncio.create_task(asyncio.to_thread(self._fork))
        return await asyncio.shield(self._starting)

    def _fork(self) -> _Child:
        ours, theirs = _template.Pipe()
        with theirs:
            process = _template.Process(
                target=staging.main,
                args=(self._settings, self._batch.id, self._batch.lease_token, theirs),
                name=f"staging-{self._batch.source}",
                daemon=True,  # Whoever exits waits for no child.
            )
            process.start()
        return _Child(process, ours)

    async def stage(self, release: Release) -> None:
        """Have the release read. Raises StagingCrowded, StagingFailed."""
        child = await self._started()
        try:
            async with asyncio.timeout(STAGING_SECONDS_MAX):
                child.line.send(release.id)
                failpoints.hit(Failpoint.STAGING_BEGUN)
                await _ended(child)
        except TimeoutError as error:
            raise StagingFailed(f"{release.source}: more than {STAGING_SECONDS_MAX} s") from error
        if child.process.exitcode != 0:
            raise StagingFailed(
                f"{release.source}: the child process ended with {child.process.exitcode}:"
                f" {_last_words(child)}"
            )

    async def stop(self) -> None:
        if self._starting is None:
            return
        try:
            await self._end(self._starting)
        finally:
            self._room.release()

    async def _end(self, starting: asyncio.Task[_Child]) -> None:
        await asyncio.wait([starting])
        if starting.exception() is not None:
            return
        child = starting.result()
        if child.process.is_alive():
            child.process.kill()
            await _ended(child)
        child.process.close()
        child.line.close()


async def _ended(child: _Child) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(child.process.sentinel, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(child.process.sentinel)
    child.process.join()


def _last_words(child: _Child) -> str:
    try:
        return str(child.line.recv())
    except (EOFError, ConnectionError):
        return "without a word"


@asynccontextmanager
async def open_stager(
    settings: AnnotatorSettings, batch: Batch, room: asyncio.Semaphore
) -> AsyncIterator[Stager]:
    """Nothing of it is left afterwards, whatever happens."""
    stager = Stager(settings, batch, room)
    try:
        yield stager
    finally:
        await stager.stop()
