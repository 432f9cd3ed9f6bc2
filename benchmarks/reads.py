"""What a system with all genes answers, and how fast, while it has nothing else to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import median
from time import perf_counter

import httpx2

from benchmarks import bare, exports, gateways
from benchmarks.exports import FORMATS, ExportFigures
from benchmarks.figures import Latencies
from benchmarks.owner import Owner
from benchmarks.reader import GENE_LIST, Reading, read
from infra.cluster import Cluster
from services.cli import state
from services.cli.processes import Options

SEED = 7
ROUNDS = 5  # Of a comparison: the two in turn.
ROUND_SECONDS = 1.0
CROWDS = (100, 400)  # Connections at once.
READ_SECONDS = 4.0
QUERIES = 200
NAMES = 20_000
RESOLVE_SECONDS_MAX = 30.0


@dataclass(frozen=True)
class Compared:
    """Answers per second of a gateway's memory, and of a bare FastAPI route with the same bytes."""

    bytes: int
    memory: Sequence[float]
    bare: Sequence[float]

    @property
    def ratio(self) -> float:
        return median(a / b for a, b in zip(self.memory, self.bare, strict=True))


@dataclass(frozen=True)
class ReadFigures:
    page: Compared
    gene: Compared
    crowds: dict[int, Latencies]  # By connections at once.
    without_memory: Latencies
    filtered: Latencies
    resolve_seconds: Sequence[float]
    exports: dict[str, ExportFigures]

    @property
    def readings(self) -> dict[str, Latencies]:
        crowds = {f"{number} at once": seen for number, seen in self.crowds.items()}
        return crowds | {"without memory": self.without_memory, "filtered": self.filtered}


async def measure(options: Options, url: str, owner: Owner) -> ReadFigures:
    """Raises RuntimeError and httpx2.HTTPError when something is not answered as it should be."""
    environment = Cluster(options.state).environment()
    symbols = await owner.list_symbols(NAMES)
    async with httpx2.AsyncClient(
        base_url=url, timeout=RESOLVE_SECONDS_MAX, trust_env=False
    ) as http:
        page = await _compare(http, GENE_LIST)
        gene = await _compare(http, f"/api/genes/{await owner.any_gene()}")
        crowds = {
            number: await read(url, Reading(seconds=READ_SECONDS, connections=number))
            for number in CROWDS
        }
        async with gateways.one_more(options, environment, hears=False) as deaf:
            without_memory = await read(deaf, Reading(seconds=READ_SECONDS))
        filtered = await _filter(http)
        resolve_seconds = [await _resolve(http, symbols) for _ in range(ROUNDS)]
    running = state.read(options.state)
    assert running is not None
    gateway = running.processes["gateway"].pid
    assert gateway is not None
    return ReadFigures(
        page=page,
        gene=gene,
        crowds=crowds,
        without_memory=without_memory,
        filtered=filtered,
        resolve_seconds=resolve_seconds,
        exports={form: await exports.measure(url, gateway, form) for form in FORMATS},
    )


async def _compare(http: httpx2.AsyncClient, target: str) -> Compared:
    answer = await http.get(target)
    answer.raise_for_status()
    ours: list[float] = []
    theirs: list[float] = []
    async with bare.serving(answer.content, answer.headers["content-type"]) as url:
        for _ in range(ROUNDS):
            for counted, where, asked in (
                (ours, str(http.base_url), target),
                (theirs, url, "/"),
            ):
                what = Reading(targets=[asked], seconds=ROUND_SECONDS, genes_min=1)
                counted.append((await read(where, what)).per_second)
    return Compared(len(answer.content), ours, theirs)


async def _filter(http: httpx2.AsyncClient) -> Latencies:
    """Filters on one number and sorts by another, no two alike, one after the other."""
    fields = await _measured_fields(http)
    random = Random(SEED)  # noqa: S311  # The same queries each time.
    targets = []
    for _ in range(QUERIES):
        filtered, placed = random.sample(fields, 2)
        bound = random.uniform(filtered.least, filtered.greatest)
        told = round(bound) if filtered.kind == "integer" else bound
        operator, sign = random.choice(("gte", "lte")), random.choice(("", "-"))
        targets.append(
            f"/api/genes?filter[{filtered.name}][{operator}]={told}&sort={sign}{placed.name}"
        )
    what = Reading(targets=targets, seconds=READ_SECONDS, connections=1, genes_min=0, warm_up=10)
    return await read(str(http.base_url), what)


@dataclass(frozen=True)
class _Field:
    name: str
    kind: str
    least: float
    greatest: float


async def _measured_fields(http: httpx2.AsyncClient) -> list[_Field]:
    answer = await http.get("/api/statistics/fields")
    answer.raise_for_status()
    told = [one["attributes"] for one in answer.json()["data"]]
    kinds = {}
    for source in {one["source"] for one in told}:
        answer = await http.get(f"/api/sources/{source}")
        answer.raise_for_status()
        kinds[source] = answer.json()["data"]["attributes"]["summary_fields"]
    return [
        _Field(
            name=f"{one['source']}.{one['field']}",
            kind=kinds[one["source"]][one["field"]],
            least=one["least"],
            greatest=one["greatest"],
        )
        for one in told
        if one["known_count"]
    ]


async def _resolve(http: httpx2.AsyncClient, symbols: Sequence[str]) -> float:
    """Seconds until the last of them is answered for."""
    began = perf_counter()
    answer = await http.post("/api/genes/resolve", json={"genes": symbols})
    seconds = perf_counter() - began
    answer.raise_for_status()
    found = answer.json()["meta"]["outcomes"]["resolved"]
    if found != len(symbols):
        raise RuntimeError(f"{found} of {len(symbols)} approved symbols were resolved")
    return seconds
