"""What each process of a system takes while something runs: memory, processor time, loop lag."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from benchmarks.figures import percentile

PERIOD_SECONDS = 0.5
SCRAPE_SECONDS_MAX = 5.0
LAG = "annobus_event_loop_lag_seconds"
PROC = Path("/proc")
MIB = 1024 * 1024


@dataclass(frozen=True)
class Usage:
    """`peak_mib` is resident memory of the process and of its children, what they share counted
    once; `lag` is of the probes that were seen, None for what has no such probe."""

    peak_mib: float
    cpu_seconds: float
    lag_p99_ms: float | None
    lag_max_ms: float | None


@dataclass
class Resources:
    """Looks at trees of processes: name → the process id on top."""

    roots: Mapping[str, int]
    metrics: Mapping[str, str]  # Name → where its metrics are, for those that have some.
    _peaks: dict[str, int] = field(default_factory=dict)
    _cpu: dict[str, tuple[float, float]] = field(default_factory=dict)
    _lags: dict[str, list[float]] = field(default_factory=dict)

    def look(self) -> None:
        parents = dict(_processes())
        for name, root in self.roots.items():
            tree = list(_descend(root, parents))
            self._peaks[name] = max(self._peaks.get(name, 0), _resident_bytes(tree))
            seconds = sum(_cpu_seconds(pid) for pid in tree)
            first, last = self._cpu.get(name, (seconds, seconds))
            self._cpu[name] = (first, max(last, seconds))

    async def keep_looking(self) -> None:
        async with httpx2.AsyncClient(timeout=SCRAPE_SECONDS_MAX, trust_env=False) as http:
            while True:
                self.look()
                for name, url in self.metrics.items():
                    text = (await http.get(f"{url}/metrics")).text
                    self._lags.setdefault(name, []).append(find_value(text, LAG) * 1_000)
                await asyncio.sleep(PERIOD_SECONDS)

    def usage(self) -> dict[str, Usage]:
        return {
            name: Usage(
                peak_mib=self._peaks[name] / MIB,
                cpu_seconds=self._cpu[name][1] - self._cpu[name][0],
                lag_p99_ms=percentile(lags, 0.99) if (lags := self._lags.get(name)) else None,
                lag_max_ms=max(lags) if lags else None,
            )
            for name in self.roots
        }


@asynccontextmanager
async def looking_at(
    roots: Mapping[str, int], metrics: Mapping[str, str]
) -> AsyncIterator[Resources]:
    resources = Resources(roots, metrics)
    looking = asyncio.create_task(resources.keep_looking(), name="resources")
    try:
        yield resources
        if looking.done():
            await looking  # It never ends well by itself.
        resources.look()
    finally:
        looking.cancel()
        await asyncio.wait({looking})


def find_value(text: str, name: str) -> float:
    """A metric without labels, of a page in Prometheus's text format. Raises ValueError."""
    for line in text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[1])
    raise ValueError(f"the metric {name} is not among what was read")


def _processes() -> Iterator[tuple[int, int]]:
    """(process, its parent) of all that run."""
    for folder in PROC.iterdir():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))):
            yield int(folder.name), int(fields[1])


def _descend(root: int, parents: Mapping[int, int]) -> Iterator[int]:
    yield root
    for child, parent in parents.items():
        if parent == root:
            yield from _descend(child, parents)


def _cpu_seconds(pid: int) -> float:
    """User and system time, with that of children that have ended."""
    fields = _stat(pid)
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _stat(pid: int) -> list[str]:
    """The fields from the third on, the state; nothing for a process that is gone."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()


def _resident_bytes(pids: list[int]) -> int:
    own, files, shared = 0, 0, 0
    for pid in pids:
        try:
            text = (PROC / str(pid) / "status").read_text(encoding="utf-8")
        except (FileNotFoundError, ProcessLookupError):
            continue
        sizes = {
            name: int(rest.split()[0]) * 1024
            for name, _, rest in (line.partition(":") for line in text.splitlines())
            if name.startswith("Rss")
        }
        own += sizes.get("RssAnon", 0)
        files = max(files, sizes.get("RssFile", 0))
        shared = max(shared, sizes.get("RssShmem", 0))
    return own + files + shared
