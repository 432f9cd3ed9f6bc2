"""A part of the bench in a process and a loop of its own: told to finish, it says what it saw."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

PROJECT = Path(__file__).resolve().parent.parent


class Child:
    """It ends by itself, or when its standard input does, and says one JSON object."""

    def __init__(self, process: asyncio.subprocess.Process, module: str) -> None:
        self._process = process
        self._module = module

    async def first_line(self, seconds_max: float) -> bytes:
        """What it says before it begins; nothing where it ended instead."""
        assert self._process.stdout is not None
        async with asyncio.timeout(seconds_max):
            return await self._process.stdout.readline()

    async def finish(self, seconds_max: float) -> Any:  # noqa: ANN401 - any JSON
        """Stop it now; raises RuntimeError when it failed."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return await self.result(seconds_max)

    async def result(self, seconds_max: float) -> Any:  # noqa: ANN401 - any JSON
        """Wait for its own end; raises RuntimeError when it failed."""
        assert self._process.stdout is not None
        async with asyncio.timeout(seconds_max):
            said = await self._process.stdout.read()
            code = await self._process.wait()
        if code != 0:
            raise RuntimeError(f"{self._module} ended with {code}; it has said why")
        return orjson.loads(said)


@asynccontextmanager
async def run_module(module: str, *arguments: str) -> AsyncIterator[Child]:
    """Starts it at once; whatever happens, it does not run any more afterwards."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        cwd=PROJECT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Child(process, module)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
