"""All genes with all columns as a file: how long it takes, and what memory."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx2

from benchmarks.resources import MIB, Resources

FORMATS = ("csv", "tsv", "jsonl", "parquet", "xlsx")
EXPORT_SECONDS_MAX = 120.0
LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class ExportFigures:
    """`extra_mib`: the most that gateway and child took, above the gateway alone before."""

    seconds: float
    mib: float
    extra_mib: float


async def measure(url: str, gateway: int, form: str) -> ExportFigures:
    """`gateway` is its process id. Raises httpx2.HTTPError when the file is not whole."""
    before = Resources({"gateway": gateway}, {})
    before.look()
    during = Resources({"gateway": gateway}, {})
    size = 0
    async with (
        _looking(during),
        httpx2.AsyncClient(base_url=url, timeout=EXPORT_SECONDS_MAX, trust_env=False) as http,
    ):
        began = time.perf_counter()
        async with http.stream("GET", "/api/export", params={"format": form}) as answer:
            answer.raise_for_status()
            async for part in answer.aiter_raw():
                size += len(part)
        seconds = time.perf_counter() - began
    extra = during.usage()["gateway"].peak_mib - before.usage()["gateway"].peak_mib
    return ExportFigures(seconds, size / MIB, extra)


@asynccontextmanager
async def _looking(resources: Resources) -> AsyncIterator[None]:
    async def look() -> None:
        while True:
            resources.look()
            await asyncio.sleep(LOOK_SECONDS)

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
