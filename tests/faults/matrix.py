"""One system that goes through many runs, each with its faults, each proven to have ended well."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import httpx2
import pytest

from infra import supervisor
from infra.cluster import Cluster
from infra.mirror.hgnc import COMPLETE_SET
from infra.supervisor import Supervisor
from tests.builders import build_catalogue, build_release
from tests.e2e.running import Running, run_services
from tests.faults.checker import violations
from tests.faults.client import Client
from tests.faults.evidence import Tap, current_values, gather, install_audit, settle
from tests.faults.faults import FaultSpec, Striker
from tests.faults.history import Recovery, Value
from tests.system import Database, Mirror, http_client
from tests.waiting import until

SOURCES = ("ensembl", "hpo")  # One that is asked gene by gene, one that publishes files.
GENES = 600  # That a run names: six pages of Ensembl's, and some in each of HPO's two slices.
READY_SECONDS_MAX = 60.0
NAMES_SECONDS = 0.02
READ_SECONDS_MAX = 2.0
GENES_TO_PHENOTYPE = "/hp/hpoa/genes_to_phenotype.txt"
REPORT = "ANNOBUS_FAULT_REPORT"  # A file that gets a line for each fault.

Ready = Callable[[], Awaitable[bool]]


@dataclass
class System:
    """Everything that a run with faults needs."""

    running: Running
    supervisors: Sequence[Supervisor]
    database: Database
    tap: Tap
    ready: Mapping[str, Ready]
    genes: Sequence[str]
    expected: Sequence[Value] = ()
    names: dict[int, str] = field(default_factory=dict)

    async def run(self, *faults: FaultSpec, random: Random, invalidates: bool = False) -> None:
        """One run over all genes with these faults. Fails when an invariant does not hold.

        A fault may kill the process that was about to reach the point of another: that one is
        dealt once more, with a run of its own, and must strike then.
        """
        await self.forget()
        striker = Striker(
            self.running, self.supervisors, self.database, self.ready, random, self.names
        )
        client = Client(self.running.url)
        for fault in faults:
            striker.arm(fault)
        began = time.time()
        async with asyncio.TaskGroup() as group:
            striking = [
                group.create_task(striker.strike(fault, began, alone=len(faults) == 1))
                for fault in faults
            ]
            run_id = await self.order(client)
            watching = group.create_task(client.watch(run_id))
            if invalidates:
                await client.invalidate("genes")
        assert watching.done()
        settled = await self.settle()
        overs = [*zip(faults, (one.result() for one in striking), strict=True)]
        recoveries = [_recovery(fault, *over, settled) for fault, over in overs if over is not None]
        for one in recoveries:
            report(one.fault, [one.ready_seconds, one.settled_seconds])
        history = await gather(self.database, self.tap, client, self.expected, recoveries)
        found = violations(history)
        found |= await self.unread()
        assert not found, found
        for fault, over in overs:
            if over is None:
                await self.run(fault, random=random, invalidates=invalidates)

    async def order(self, client: Client) -> str:
        return await client.order(genes=self.genes, sources=list(SOURCES), name=client.key)

    async def settle(self) -> float:
        """Wait until nothing is left to do, and everybody is ready. Returns when it was done."""
        await settle(self.database)
        at = time.time()
        for name, ready in self.ready.items():
            await until(ready, f"{name} is ready", READY_SECONDS_MAX)
        return at

    async def forget(self) -> None:
        """Let everything be annotated anew: no values, and a newer catalogue of the same genes, so
        that each release is staged again."""
        async with self.database.connect() as owner, owner.transaction():
            await owner.execute("SET LOCAL lock_timeout = '10s'")
            await owner.execute("TRUNCATE annotator.annotation, annotator.checked")
            await owner.execute("DELETE FROM annotator.batch")
            await owner.execute("TRUNCATE audit.batch_write, audit.announced")
        async with self.database.begin("annotator") as tx:
            await build_release(tx, "hgnc", "few")

    async def unread(self) -> dict[str, list[str]]:
        """What the gateway answers although the document says otherwise."""
        async with self.database.connect() as owner:
            rows = await owner.fetch(
                "SELECT hgnc_id, document::text FROM cache.gene ORDER BY random() LIMIT 3"
            )
        wrong = []
        async with http_client(self.running.url) as client:
            for row in rows:
                address = f"/api/genes/{row['hgnc_id']}"

                async def same(address: str = address, document: str = row["document"]) -> bool:
                    answer = await client.get(address)
                    answer.raise_for_status()
                    return _values(answer.json()["data"]["attributes"]) == _values(
                        httpx2.Response(200, text=document).json()
                    )

                try:
                    await until(same, address, READ_SECONDS_MAX)
                except AssertionError:
                    wrong.append(address)
        return {"I9": wrong} if wrong else {}

    async def keep_names(self) -> None:
        """Who had which process id: who is dead is not in the supervisor's list any more."""
        while True:
            for keeper in self.supervisors:
                self.names |= {pid: name for name, pid in keeper.pids.items()}
            await asyncio.sleep(NAMES_SECONDS)


@contextmanager
def die_often() -> Iterator[None]:
    """Let supervisors bear that everything they keep dies every few seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervisor, "DEATHS_WINDOW_SECONDS", 5.0)
        yield


def _values(document: dict[str, object]) -> dict[str, object]:
    annotations = document["annotations"]
    assert isinstance(annotations, dict)
    return {source: one["value"] for source, one in annotations.items() if one["value"] is not None}


def _recovery(fault: FaultSpec, over: float, ready: float | None, settled: float) -> Recovery:
    return Recovery(
        fault=str(fault),
        ready_seconds=None if ready is None else ready - over,
        ready_seconds_max=fault.ready_seconds,
        settled_seconds=settled - over,
        settled_seconds_max=fault.settle_seconds,
    )


def report(what: str, seconds: Sequence[float | None]) -> None:
    """A line of the report, where one is wanted; None is a figure that there is not."""
    if (name := os.environ.get(REPORT)) is None:
        return
    figures = " ".join("     –" if one is None else f"{one:6.2f}" for one in seconds)
    with Path(name).open("a", encoding="utf-8") as file:
        file.write(f"{figures}  {what}\n")


@asynccontextmanager
async def open_system(
    database: Database,
    topic_prefix: str,
    mirror: Mirror,
    folder: Path,
    *,
    annotators: int = 2,
    servers: tuple[Cluster, Supervisor] | None = None,
) -> AsyncIterator[System]:
    """A system over a few thousand genes, with one run behind it in which nothing failed.

    `servers` are given when faults are to hit them: then they are nobody else's.
    """
    genes = await write_genes(database, mirror)
    async with database.connect() as owner:
        await install_audit(owner)
    async with run_services(
        database, topic_prefix, mirror, folder, annotators=annotators
    ) as running:
        tap = Tap(database.environment["ANNOBUS_KAFKA_BOOTSTRAP"], topic_prefix)
        ready, supervisors = running.readiness(), [running.supervisor]
        if servers is not None:
            cluster, keeper = servers
            ready |= {process.name: process.ready for process in cluster.processes}
            supervisors.append(keeper)
        system = System(running, supervisors, database, tap, ready, genes)
        naming = asyncio.create_task(system.keep_names())
        try:
            await _learn(system)
            yield system
        finally:
            naming.cancel()
            with suppress(asyncio.CancelledError):
                await naming


async def _learn(system: System) -> None:
    """The values that a run must end with."""
    client = Client(system.running.url)
    run_id = await system.order(client)
    await client.watch(run_id)
    await system.settle()
    async with system.database.connect() as owner:
        system.expected = await current_values(owner)
    history = await gather(system.database, system.tap, client, system.expected)
    assert not (found := violations(history)), found
    assert {value.source for value in system.expected} == set(SOURCES)


async def write_genes(database: Database, mirror: Mirror) -> Sequence[str]:
    """A catalogue of the genes that HPO names: with fewer its release would be refused. Returns
    those of them that a run is to name."""
    async with http_client(mirror.url, 30.0) as client:
        catalogue = (await client.get(f"/hgnc{COMPLETE_SET}")).json()
        table = (await client.get(f"/hpo{GENES_TO_PHENOTYPE}")).text.splitlines()
    named = {line.partition("\t")[0] for line in table}
    genes = [
        (gene["hgnc_id"], gene["symbol"], gene["entrez_id"], gene["ensembl_gene_id"])
        for gene in catalogue["response"]["docs"]
        if gene.get("entrez_id") in named and gene.get("ensembl_gene_id")
    ]
    async with database.begin("annotator") as tx:
        await build_catalogue(tx, genes)
    return [hgnc_id for hgnc_id, *_ in genes[:: len(genes) // GENES]][:GENES]
