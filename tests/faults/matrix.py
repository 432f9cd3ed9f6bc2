"""One system that goes through many runs, each with its faults, each proven to have ended well."""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random
from types import MappingProxyType

import httpx2
import pytest

from contracts.messages import ControlAction
from infra import supervisor
from infra.addresses import KAFKA_BOOTSTRAP
from infra.cluster import Cluster
from infra.mirror.hgnc import COMPLETE_SET
from infra.supervisor import Supervisor
from tests.builders import build_catalogue, build_release
from tests.e2e.running import Running, run_services
from tests.faults.checker import violations
from tests.faults.client import Client
from tests.faults.evidence import Tap, current_values, gather, install_audit, settle
from tests.faults.faults import UPSTREAM, FaultSpec, Strike, Striker
from tests.faults.history import History, Recovery, Usage, Value
from tests.faults.journal import Journal
from tests.faults.proxy import Proxy
from tests.faults.usage import USED_MORE_MAX, Used, measure
from tests.system import Database, Mirror, http_client
from tests.waiting import until

ASKED_BY_GENE, LOOK_UP = "ensembl", "/lookup/"
SOURCES = (ASKED_BY_GENE, "hpo")  # One that is asked gene by gene, one that publishes files.
GENES = 600  # That a run names: six pages of Ensembl's, and some in each of HPO's two slices.
READY_SECONDS_MAX = 60.0
NAMES_SECONDS = 0.02
READ_SECONDS_MAX = 2.0
READ_GENES = 20
USAGE_SECONDS_MAX = 60.0
USAGE_POLL_SECONDS = 0.5
GENES_TO_PHENOTYPE = "/hp/hpoa/genes_to_phenotype.txt"
REPORT = "ANNOBUS_FAULT_REPORT"  # A file that gets a line for each fault.

Ready = Callable[[], Awaitable[bool]]
ControlAt = tuple[float, ControlAction]  # Seconds after the order.


@dataclass(frozen=True)
class Outcome:
    """What a run left behind, what is wrong with it, and how each fault struck: None for one whose
    point was not reached, because another fault or a control was in the way."""

    history: History
    violations: Mapping[str, Sequence[str]]
    strikes: Sequence[tuple[FaultSpec, Strike | None]]
    killed_others: int = 0  # Processes that came and went.


@dataclass
class System:
    """Everything that a run with faults needs."""

    running: Running
    supervisors: Sequence[Supervisor]
    database: Database
    mirror: Mirror
    tap: Tap
    ready: Mapping[str, Ready]
    genes: Sequence[str]
    network: Mapping[str, Proxy] = field(default_factory=dict)
    calls_per_second: float = 0.0
    journal: Journal = field(default_factory=Journal)
    expected: Sequence[Value] = ()
    used_at_first: Mapping[tuple[str, str], float] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)

    async def run(
        self,
        *faults: FaultSpec,
        random: Random,
        invalidates: bool = False,
        controls: Sequence[ControlAt] = (),
    ) -> Outcome:
        """One run over all genes with these faults. Fails when an invariant does not hold.

        A fault may kill the process that was about to reach the point of another: that one is
        dealt once more, with a run of its own, and must strike then.
        """
        outcome = await self.attempt(
            *faults, random=random, invalidates=invalidates, controls=controls
        )
        assert not outcome.violations, outcome.violations
        for fault, strike in outcome.strikes:
            if strike is None:
                await self.run(fault, random=random, invalidates=invalidates)
        return outcome

    async def attempt(
        self,
        *faults: FaultSpec,
        random: Random,
        invalidates: bool = False,
        controls: Sequence[ControlAt] = (),
    ) -> Outcome:
        await self.forget(everywhere=any(action == "cancel" for _, action in controls))
        striker = Striker(
            self.running,
            self.supervisors,
            self.database,
            self.mirror,
            self.tap.prefix,
            self.ready,
            random,
            self.names,
            self.network,
        )
        client = Client(self.running.url, journal=self.journal)
        for fault in faults:
            striker.arm(fault)
            self.journal.note("fault", type="dealt", fault=fault.as_json())
        began = striker.began = time.time()
        async with asyncio.TaskGroup() as group:
            striking = [
                group.create_task(striker.strike(fault, alone=len(faults) == 1 and not controls))
                for fault in faults
            ]
            run_id = await self.order(client)
            watching = group.create_task(client.watch(run_id))
            if invalidates:
                await client.invalidate("genes")
            for at, action in controls:
                await asyncio.sleep(began + at - time.time())
                await client.control(run_id, action)
            await watching
            await settle(self.database)
            striker.nothing_left.set()
        settled = await self.settle()
        strikes = [*zip(faults, (one.result() for one in striking), strict=True)]
        for fault, strike in strikes:
            kind = "missed" if strike is None else "struck"
            when = None if strike is None else asdict(strike)
            self.journal.note("fault", type=kind, fault=fault.as_json(), when=when)
        earlier = set(self.tap.poison)  # Who begins anew parks it anew.
        self.tap.poison |= striker.poisoned
        history = await self._history(client, strikes, began, settled)
        letters = [one for one in history.dead_letters if one not in earlier]
        history = replace(history, poison=sorted(striker.poisoned), dead_letters=letters)
        for one in history.recoveries:
            report(one.fault, [one.ready_seconds, one.settled_seconds])
        return Outcome(history, violations(history), strikes, striker.killed_others)

    async def _history(
        self,
        client: Client,
        strikes: Sequence[tuple[FaultSpec, Strike | None]],
        began: float,
        settled: float,
    ) -> History:
        struck = [(fault, strike) for fault, strike in strikes if strike is not None]
        calls = await self.calls(since=began)
        return replace(
            await gather(self.database, self.tap, client, self.expected),
            recoveries=_recoveries(struck, settled),
            disturbed=[(strike.struck, strike.ready or settled) for _, strike in struck],
            calls=calls,
            # Who is behind a network that holds things up does not see when they were sent.
            calls_per_second=0.0
            if any(UPSTREAM in (fault.target, fault.kind) for fault, _ in struck)
            else self.calls_per_second,
            unread=await self.unread(),
            usage=await self.usage(),
        )

    async def calls(self, since: float) -> list[float]:
        async with http_client(self.mirror.url) as client:
            arrivals = (await client.get(f"/_arrivals/{ASKED_BY_GENE}")).json()
        return [at for at, path in arrivals if at > since and path.startswith(LOOK_UP)]

    async def usage(self) -> Sequence[Usage]:
        """When it has come back to what it was, or has not in good time."""
        deadline = time.time() + USAGE_SECONDS_MAX
        while True:
            used = [
                Usage(process, what, amount, first, first + USED_MORE_MAX[what])
                for (process, what), amount in (await self.measure()).items()
                for first in (self.used_at_first.get((process, what), amount),)
            ]
            if time.time() > deadline or all(one.used <= one.used_max for one in used):
                return used
            await asyncio.sleep(USAGE_POLL_SECONDS)

    async def measure(self) -> Used:
        async with self.database.connect() as owner:
            return await measure(owner, self.running.supervisor.pids)

    async def order(self, client: Client) -> str:
        return await client.order(genes=self.genes, sources=list(SOURCES), name=client.key)

    async def settle(self) -> float:
        """Wait until nothing is left to do, and everybody is ready. Returns when it was done."""
        await settle(self.database)
        at = time.time()
        for name, ready in self.ready.items():
            await until(ready, f"{name} is ready", READY_SECONDS_MAX)
        return at

    async def forget(self, *, everywhere: bool) -> None:
        """Let everything be annotated anew: no values, and a newer catalogue of the same genes, so
        that each release is staged again. A run that is cancelled will not write all values again:
        documents must not have them, either."""
        async with self.database.connect() as owner, owner.transaction():
            await owner.execute("SET LOCAL lock_timeout = '10s'")
            await owner.execute("TRUNCATE annotator.annotation, annotator.checked")
            await owner.execute("DELETE FROM annotator.batch")
            await owner.execute("TRUNCATE audit.batch_write, audit.announced")
            if everywhere:
                await owner.execute(
                    """INSERT INTO cache.dirty_gene SELECT hgnc_id FROM cache.gene
                       ON CONFLICT DO NOTHING"""
                )
        async with self.database.begin("annotator") as tx:
            await build_release(tx, "hgnc", "few")

    async def unread(self) -> Sequence[str]:
        """Genes that the gateway answers although the document says otherwise."""
        async with self.database.connect() as owner:
            rows = await owner.fetch(
                "SELECT hgnc_id, document::text FROM cache.gene ORDER BY random() LIMIT $1",
                READ_GENES,
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
                    wrong.append(row["hgnc_id"])
        return wrong

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


def _recoveries(struck: Sequence[tuple[FaultSpec, Strike]], settled: float) -> list[Recovery]:
    """Each fault's time begins when it was over, and those that struck meanwhile."""
    last = max((strike.over for _, strike in struck), default=settled)
    settle_seconds = max((fault.settle_seconds for fault, _ in struck), default=0.0)
    recoveries = []
    for fault, strike in struck:
        begins = max(
            other.over
            for _, other in struck
            if other.struck <= (strike.ready or strike.over) or other is strike
        )
        recoveries.append(
            Recovery(
                fault=str(fault),
                ready_seconds=None if strike.ready is None else max(0.0, strike.ready - begins),
                ready_seconds_max=fault.ready_seconds,
                settled_seconds=settled - last,
                settled_seconds_max=settle_seconds,
            )
        )
    return recoveries


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
    network: Mapping[str, Proxy] = MappingProxyType({}),
    calls_per_second: float = 0.0,
    genes_max: int = GENES,
) -> AsyncIterator[System]:
    """A system over a few thousand genes, with one run behind it in which nothing failed.

    `servers` are given when faults are to hit them: then they are nobody else's. `network` has the
    proxies that services are to talk through.
    """
    genes = await write_genes(database, mirror, genes_max)
    async with database.connect() as owner:
        await install_audit(owner)
    addressed, upstreams = _through(network, database, mirror)
    async with run_services(
        addressed,
        topic_prefix,
        _Limited(upstreams, calls_per_second),
        folder,
        annotators=annotators,
    ) as running:
        tap = Tap(database.environment["ANNOBUS_KAFKA_BOOTSTRAP"], topic_prefix)
        ready, supervisors = running.readiness(), [running.supervisor]
        if servers is not None:
            cluster, keeper = servers
            ready |= {process.name: process.ready for process in cluster.processes}
            supervisors.append(keeper)
        system = System(
            running,
            supervisors,
            database,
            mirror,
            tap,
            ready,
            genes,
            network=network,
            calls_per_second=calls_per_second,
        )
        naming = asyncio.create_task(system.keep_names())
        try:
            await _learn(system)
            yield system
        finally:
            naming.cancel()
            with suppress(asyncio.CancelledError):
                await naming


def _through(
    network: Mapping[str, Proxy], database: Database, mirror: Mirror
) -> tuple[Database, Mirror]:
    """The same, by the addresses of their proxies."""
    if not network:
        return database, mirror
    environment = {}
    for name, address in database.environment.items():
        proxy = network["kafka" if name == KAFKA_BOOTSTRAP else "postgres"]
        environment[name] = re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{proxy.port}", address)
    return (
        Database(database.name, environment),
        Mirror(f"http://127.0.0.1:{network['upstream'].port}"),
    )


@dataclass(frozen=True)
class _Limited:
    """The mirror, of which one upstream is to be asked no more often than it allows."""

    mirror: Mirror
    calls_per_second: float

    def upstreams(self) -> dict[str, dict[str, str | float]]:
        known = self.mirror.upstreams()
        known[ASKED_BY_GENE]["requests_per_second"] = self.calls_per_second
        return known


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
    system.used_at_first = await system.measure()


async def write_genes(database: Database, mirror: Mirror, genes_max: int = GENES) -> Sequence[str]:
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
    return [genes[number * len(genes) // genes_max][0] for number in range(genes_max)]
