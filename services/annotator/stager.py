"""Starts the child process that reads a release, and sees to its end."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.annotator.domain import Batch
from services.annotator.failpoints import Failpoint
from services.annotator.store.releases import Release
from services.chassis import failpoints
from services.chassis.errors import TransientError

STAGING_SECONDS_MAX = 300


class StagingFailed(TransientError):
    """The child process that reads a release ended without a result."""

    kind = "staging-failed"


class Stager:
    """At most one child for a batch. It leaves its outcome in the database."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._child: asyncio.subprocess.Process | None = None

    async def start(self) -> asyncio.subprocess.Process:
        """Let it get ready: its imports and the catalogue take as long as a download."""
        if self._child is None:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "services.annotator.staging", str(self._batch.id)),
                *(str(self._batch.lease_token), str(os.getpid())),
                stdin=asyncio.subprocess.PIPE,
            )
        return self._child

    async def stage(self, release: Release) -> None:
        """Have the release read. Raises StagingFailed."""
        child = await self.start()
        try:
            async with asyncio.timeout(STAGING_SECONDS_MAX):
                assert child.stdin is not None
                child.stdin.write(f"{release.id}\n".encode())
                failpoints.hit(Failpoint.STAGING_BEGUN)
                await child.communicate()
        except TimeoutError as error:
            raise StagingFailed(f"{release.source}: more than {STAGING_SECONDS_MAX} s") from error
        if child.returncode != 0:
            raise StagingFailed(
                f"{release.source}: the child process ended with {child.returncode}"
            )

    async def stop(self) -> None:
        if self._child is not None and self._child.returncode is None:
            self._child.kill()
            await self._child.wait()


@asynccontextmanager
async def open_stager(batch: Batch) -> AsyncIterator[Stager]:
    """Nothing of it is left afterwards, whatever happens."""
    stager = Stager(batch)
    try:
        yield stager
    finally:
        await stager.stop()
