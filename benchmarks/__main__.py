"""`make bench`: measures a system of its own, prints a table, and leaves nothing else behind."""

import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks import entries, machine, owner, reader, reads, runs, statements, table, zipf
from benchmarks.child import PROJECT
from benchmarks.owner import Owner
from benchmarks.reader import Reading
from benchmarks.report import Measured, Paced, Report, Start
from benchmarks.resources import Resources, looking_at
from infra.addresses import KAFKA_BOOTSTRAP, OWNER_URL
from infra.cluster import Cluster
from infra.errors import InfraError
from services.annotator.sources import SOURCES
from services.cli import signals, state
from services.cli.errors import CommandFailed
from services.cli.processes import Options
from services.cli.system import System

BENCH_SECONDS_MAX = 900.0
IDLE_SECONDS = 5.0
# Readings of the gene list a second: who reads without a pause takes what the run would need.
PACES = (None, 1_000.0, 200.0)
RESULTS = PROJECT / ".annobus"
FOLDER = "bench-"
ALL = tuple(SOURCES)


def main() -> int:
    if named := [name for name in (OWNER_URL, KAFKA_BOOTSTRAP) if os.environ.get(name)]:
        print(f"{' and '.join(named)} must not be set: a bench has a cluster of its own")
        return CommandFailed.exit_code
    RESULTS.mkdir(exist_ok=True)
    try:
        for left in RESULTS.glob(f"{FOLDER}*"):
            _remove(left)  # A bench was killed here; one that still runs holds its lock.
        # On the disk that `make demo` uses: a folder in memory would flatter every commit.
        folder = Path(tempfile.mkdtemp(prefix=FOLDER, dir=RESULTS))
        try:
            return signals.run(lambda: _bench(folder))
        finally:
            _remove(folder)
    except (InfraError, CommandFailed) as error:
        say(str(error))
        return CommandFailed.exit_code


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


async def _bench(folder: Path) -> int:
    try:
        async with asyncio.timeout(BENCH_SECONDS_MAX):
            report = await _measure(folder)
    except TimeoutError:
        say(f"the bench did not end within {BENCH_SECONDS_MAX:g} s")
        return CommandFailed.exit_code
    table.show(report)
    say(f"written to {report.write(RESULTS)}")
    for problem in report.problems():
        say(f"not as it should be: {problem}")
    return CommandFailed.exit_code if report.problems() else 0


async def _measure(folder: Path) -> Report:
    found = machine.look()
    say(found.line())
    options = Options(state=folder / "state", limits=False)
    async with _running(options) as (system, start), _connected(options) as (_, database):
        say("first run: everything, into an empty database")
        async with _resources(options, system) as first_resources:
            first = await runs.measure(system.url, database, ALL)
    async with (
        _running(options) as (system, second_start),
        _connected(options) as (
            cluster,
            database,
        ),
    ):
        say("what is answered while nothing else happens")
        quiet = await reads.measure(options, system.url, database)
        paced = [await _read_in_a_run(options, system, database, pace) for pace in PACES]
        say("all again, genes read meanwhile as people do")
        await _forget(options, database, ALL)
        async with (
            _resources(options, system) as zipf_resources,
            zipf.reading(system.url, cluster.environment()[KAFKA_BOOTSTRAP]) as gene_reader,
        ):
            zipf_run = await runs.measure(system.url, database, ALL)
            genes_read = await gene_reader.finish()
        some: list[Measured] = []
        for sources in (("hpo", "gnomad"), ("hpo",), ("ensembl",)):
            say(f"{' and '.join(sources)} alone")
            await _forget(options, database, sources)
            async with _resources(options, system) as resources:
                figures = await runs.measure(system.url, database, sources)
            some.append(Measured(figures, resources.usage()))
        bulk, hpo, ensembl = some
        say(f"{entries.COUNT:,} entries, forgotten and deleted")
        forgotten = await entries.measure(options, system)
        say("the store statements alone")
        values = await database.stored_values(statements.SOURCE)
        stored = await statements.measure(cluster, values)
    return Report(
        machine=found,
        start=start,
        second_start=second_start,
        first=Measured(first, first_resources.usage()),
        paced=paced,
        zipf_run=Measured(zipf_run, zipf_resources.usage()),
        zipf=genes_read,
        bulk=bulk,
        hpo=hpo,
        ensembl=ensembl,
        reads=quiet,
        entries=forgotten,
        statements=stored,
    )


async def _read_in_a_run(
    options: Options, system: System, database: Owner, pace: float | None
) -> Paced:
    """The gene list at a pace, first while nothing else happens."""
    how = "without a pause" if pace is None else f"{pace:,.0f} times a second"
    say(f"the gene list, {how}; then all again, read so meanwhile")
    idle = await reader.read(system.url, Reading(seconds=IDLE_SECONDS, per_second=pace))
    await _forget(options, database, ALL)
    async with (
        _resources(options, system) as resources,
        reader.reading(system.url, Reading(per_second=pace)) as reading,
    ):
        run = await runs.measure(system.url, database, ALL)
        during = await reading.finish()
    return Paced(pace, idle, Measured(run, resources.usage()), during)


@asynccontextmanager
async def _running(options: Options) -> AsyncIterator[tuple[System, Start]]:
    began = time.perf_counter()
    steps: list[tuple[float, str]] = []

    def note(line: str) -> None:
        steps.append((round(time.perf_counter() - began, 3), line))
        say(f"  {line}")

    async with System(options, "bench", note) as system:
        yield system, Start(time.perf_counter() - began, list(steps))


@asynccontextmanager
async def _connected(options: Options) -> AsyncIterator[tuple[Cluster, Owner]]:
    cluster = Cluster(options.state)
    async with owner.connect(cluster.environment()[OWNER_URL]) as database:
        yield cluster, database


@asynccontextmanager
async def _resources(options: Options, system: System) -> AsyncIterator[Resources]:
    running = state.read(options.state)
    assert running is not None
    roots = {name: child.pid for name, child in running.processes.items() if child.pid is not None}
    services: Mapping[str, str] = {
        name: system.addresses[name] for name in (*options.annotator_names, "cache", "gateway")
    }
    async with looking_at(roots, services) as resources:
        yield resources


async def _forget(options: Options, database: Owner, sources: tuple[str, ...]) -> None:
    """Have it to do again, down to the bytes that were fetched."""
    await database.forget(sources)
    shutil.rmtree(options.state / "raw")


def _remove(folder: Path) -> None:
    if (folder / "state").exists():
        Cluster(folder / "state").remove()
    shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
