"""A whole system on the files of a folder: one run over all genes, and what readers see then."""

import asyncio
import gzip
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import httpx2
import orjson

from benchmarks.resources import Usage, looking_at
from infra.addresses import OWNER_URL
from infra.cluster import Cluster
from services.annotator import domain
from services.cli import state
from services.cli.processes import Options
from services.cli.system import Say, System
from tests.verify import hgnc
from tests.verify.folder import File, Folder
from tests.verify.reading import Value

SOURCES = ("hgnc", "hpo", "gnomad", "clingen", "clinvar")
SERVED_RELEASE = "gnomad.v4.1.1."  # Of gnomAD's releases the one that is asked for.
REQUIRED = (
    ("hgnc", "complete set"),
    ("hgnc", "withdrawn"),
    *(("hpo", role) for role in ("genes", "annotations", "ontology")),
)
PACKED = (".gz", ".bgz")
RUN_SECONDS_MAX = 300.0
POLL_SECONDS = 0.5
ANSWER_SECONDS_MAX = 60.0
DECISION = {"by": "verify-data", "note": "files of a folder are parts, and not of one day"}


Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class NotVerifiable(Exception):
    """The system did not come to have values of these files; the text says why."""


@dataclass
class Release:
    version: str
    synthetic: bool
    is_accepted_by_hand: bool
    values: dict[str, Value] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)  # Unmapped rows.
    unmapped_count: int = 0
    kept_unmapped_count: int = 0


@dataclass
class Seen:
    """What the system said and took: `genes` are the rows of its catalogue by HGNC id, `made` is
    what the mirror made up."""

    releases: Mapping[str, Release]
    genes: Mapping[str, Value]
    usage: Mapping[str, Usage]
    services: tuple[str, ...]
    seconds: float
    made: Mapping[str, Path]


def choose(folder: Folder) -> dict[str, File]:
    """The files that the mirror is to serve, each under the name by which it is looked for."""
    chosen: dict[str, File] = {}

    def add(target: str, file: File | None) -> None:
        if file is not None:
            packed = ".gz" if target.endswith((".txt", ".obo", ".hpoa", ".csv")) else ""
            chosen[target + (packed if file.path.suffix == ".gz" else "")] = file

    complete = [one for one in folder.of("hgnc", "complete set") if hgnc.is_complete(one.path)]
    if complete:
        form = "json" if hgnc.is_json(complete[-1].path) else "txt"
        add(f"hgnc/hgnc_complete_set.{form}", complete[-1])
    add("hgnc/withdrawn.txt", folder.newest("hgnc", "withdrawn"))
    add("hpo/genes_to_phenotype.txt", folder.newest("hpo", "genes"))
    add("hpo/phenotype.hpoa", folder.newest("hpo", "annotations"))
    add("hpo/hp.obo", folder.newest("hpo", "ontology"))
    for table in folder.of("gnomad", "table"):
        if table.name.startswith(SERVED_RELEASE):
            chosen = {name: one for name, one in chosen.items() if one.source != "gnomad"}
            # The mirror looks for packed ones only, as the upstream publishes them.
            chosen[
                f"gnomad/{table.path.stem if table.path.suffix in PACKED else table.name}.gz"
            ] = table
    if validity := folder.newest("clingen", "validity"):
        add(f"clingen/{validity.name.removesuffix('.gz')}", validity)
    add("clinvar/gene_specific_summary.txt", folder.newest("clinvar", "summary"))
    if variants := folder.newest("clinvar", "variants"):
        chosen["clinvar/variant_summary.txt.gz"] = variants
    return chosen


def missing(chosen: Mapping[str, File]) -> list[str]:
    """What the mirror cannot make up, so that nothing can be started without it."""
    roles = {(file.source, file.role) for file in chosen.values()}
    return [f"{source}: {role}" for source, role in REQUIRED if (source, role) not in roles]


def arrange(chosen: Mapping[str, File], target: Path) -> None:
    for name, file in chosen.items():
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        is_packed = file.path.read_bytes()[:2] == domain.GZIP
        if is_packed == name.endswith(".gz"):
            place.symlink_to(file.path.resolve())
        elif is_packed:
            place.write_bytes(gzip.decompress(file.path.read_bytes()))
        else:
            place.write_bytes(gzip.compress(file.path.read_bytes()))


async def see(folder: Path, data: Path, chosen: Mapping[str, File], say: Say) -> Seen:
    """Start a system in `folder` on the files of `data`, run everything, and read it.

    Raises NotVerifiable, CommandFailed and InfraError.
    """
    options = Options(state=folder / "state", data=data, limits=False)
    clock = asyncio.get_running_loop()
    async with System(options, "verify", say) as system, _connected(options) as database:
        running = state.read(options.state)
        assert running is not None
        roots = {name: one.pid for name, one in running.processes.items() if one.pid is not None}
        services = (*options.annotator_names, "cache", "gateway")
        metrics = {name: system.addresses[name] for name in services}
        began = clock.time()
        async with looking_at(roots, metrics) as resources:
            await _run(system.url, database, say)
            seconds = clock.time() - began
        made = {}
        if "clinvar/variant_summary.txt.gz" not in chosen:
            address = f"{system.addresses['mirror']}/clinvar/variant_summary.txt.gz"
            made["variants"] = await asyncio.to_thread(
                _download, address, folder / "variant_summary.txt.gz"
            )
        if "clinvar/gene_specific_summary.txt" not in {one.removesuffix(".gz") for one in chosen}:
            address = f"{system.addresses['mirror']}/clinvar/gene_specific_summary.txt"
            made["summary"] = await asyncio.to_thread(
                _download, address, folder / "gene_specific_summary.txt"
            )
        releases = {source: await _read_release(database, source) for source in SOURCES}
        genes = await _read_genes(database)
        return Seen(releases, genes, resources.usage(), services, seconds, made)


def remove(folder: Path) -> None:
    if (folder / "state").exists():
        Cluster(folder / "state").remove()
    shutil.rmtree(folder)


@asynccontextmanager
async def _connected(options: Options) -> AsyncIterator[Connection]:
    url = Cluster(options.state).environment()[OWNER_URL]
    connection = await asyncpg.connect(
        url, timeout=ANSWER_SECONDS_MAX, command_timeout=ANSWER_SECONDS_MAX
    )
    try:
        yield connection
    finally:
        await connection.close(timeout=ANSWER_SECONDS_MAX)


async def _run(url: str, database: Connection, say: Say) -> None:
    """Order everything, believe what is quarantined, and wait until all of it is stored."""
    async with httpx2.AsyncClient(
        base_url=url, timeout=ANSWER_SECONDS_MAX, trust_env=False
    ) as http:
        answer = await http.post("/api/runs", json={"all": True, "sources": list(SOURCES)})
        answer.raise_for_status()
        run_id = answer.json()["data"]["id"]
        try:
            async with asyncio.timeout(RUN_SECONDS_MAX):
                while not await _is_over(database, run_id):
                    await _accept(http, database, say)
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError as error:
            states = await database.fetch("SELECT source, state, problem FROM annotator.release_v1")
            raise NotVerifiable(
                f"not everything is stored after {RUN_SECONDS_MAX:g} s: "
                + "; ".join(f"{one['source']} {one['state']} {one['problem']}" for one in states)
            ) from error


async def _is_over(database: Connection, run_id: str) -> bool:
    """Whether all is stored. Raises NotVerifiable when something never will be."""
    run = await database.fetchrow(
        "SELECT finished_at FROM annotator.run_v1 WHERE run_id = $1::uuid", run_id
    )
    stored = await database.fetch(
        """SELECT DISTINCT source FROM annotator.release_v1
           WHERE state = 'stored' AND source = ANY($1)""",
        SOURCES,
    )
    failed = await database.fetch(
        """SELECT source, problem->>'type' AS type, problem->>'detail' AS detail
           FROM annotator.run_source_v1 WHERE run_id = $1::uuid AND problem IS NOT NULL""",
        run_id,
    )
    for one in failed:
        if not str(one["type"]).endswith("release-quarantined"):
            raise NotVerifiable(f"{one['source']} failed: {one['detail']}")
    return run is not None and run["finished_at"] is not None and len(stored) == len(SOURCES)


async def _accept(http: httpx2.AsyncClient, database: Connection, say: Say) -> None:
    waiting = await database.fetch(
        """SELECT release_id::text, source, doubts FROM annotator.release_v1
           WHERE state = 'quarantined' AND decision IS NULL AND source = ANY($1)""",
        SOURCES,
    )
    for one in waiting:
        address = f"/api/sources/{one['source']}/releases/{one['release_id']}/accept"
        answer = await http.post(address, json=DECISION)
        if answer.status_code == httpx2.codes.CONFLICT:
            continue  # It was accepted a moment ago.
        answer.raise_for_status()
        doubts = "; ".join(
            f"{doubt['check']}: {doubt['found']}" for doubt in orjson.loads(one["doubts"])
        )
        say(f"{one['source']}: accepted by {DECISION['by']} though it is unlike others: {doubts}")


async def _read_release(database: Connection, source: str) -> Release:
    row = await database.fetchrow(
        """SELECT release_id, version, synthetic, unmapped_count, decision
           FROM annotator.release_v1 WHERE source = $1 AND state = 'stored'
           ORDER BY retrieved_at DESC LIMIT 1""",
        source,
    )
    assert row is not None
    release = Release(
        row["version"],
        row["synthetic"],
        row["decision"] is not None,
        unmapped_count=row["unmapped_count"],
    )
    values = await database.fetch(
        """SELECT hgnc_id, value::text AS value FROM annotator.current_annotation_v1
           WHERE source = $1 AND value IS NOT NULL""",
        source,
    )
    release.values = {one["hgnc_id"]: orjson.loads(one["value"]) for one in values}
    unmapped = await database.fetch(
        "SELECT reason, row_count FROM annotator.unmapped_v1 WHERE release_id = $1",
        row["release_id"],
    )
    release.kept_unmapped_count = len(unmapped)
    for one in unmapped:
        release.reasons[one["reason"]] += one["row_count"]
    return release


async def _read_genes(database: Connection) -> dict[str, Value]:
    """What HGNC says of them; `listed_at` is when we were told."""
    rows: list[Any] = await database.fetch("SELECT * FROM annotator.gene_v1")
    return {
        row["hgnc_id"]: {name: of for name, of in row.items() if name != "listed_at"}
        for row in rows
    }


def _download(address: str, target: Path) -> Path:
    with httpx2.Client(timeout=ANSWER_SECONDS_MAX, trust_env=False) as http:
        answer = http.get(address)
        answer.raise_for_status()
    target.write_bytes(answer.content)
    return target
