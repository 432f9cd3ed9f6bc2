"""Reads genes as people do, some of them again and again, and checks that no answer is stale.

`python -m benchmarks.zipf URL KAFKA SECONDS [PACE [TOPIC_PREFIX]]` prints a line when it has begun
to count, reads until that time is over or standard input ends, then prints what it saw as one JSON
object.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import accumulate
from random import Random

import httpx2
import orjson
import uvloop
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from benchmarks.child import Child, run_module
from benchmarks.connection import BROKEN, Connection, connect, request, until_told
from benchmarks.figures import Latencies, summarise
from benchmarks.staleness import Checker, Verdict
from contracts.messages import DocumentsRebuilt

EXPONENT = 1.0
SEED = 7
CONCURRENCY = 4
# In all. Who reads without a pause measures itself, and takes from what it measures.
REQUESTS_PER_SECOND = 500.0  # The pace.
# Without a pause: then in memory is what is there where a gateway has been up for some minutes.
WARM_UP_SECONDS = 10.0
DRAWN_AT_ONCE = 1_000
ORDER_PERIOD_SECONDS = 2.0
ORDERED_GENES = 5  # That are to be forgotten by one order, drawn as those that are read.
# Of the reads that the gateway counted: others who read genes meanwhile would be measured, too.
OTHERS_MAX = 0.02
NAMESPACE = "genes"
VERSION = b'"meta":{"version":'
LISTING_SECONDS_MAX = 30.0
RECONNECT_SECONDS = 0.05
READING_SECONDS_MAX = 120.0
BEGIN_SECONDS_MAX = 60.0
HEAR_SECONDS_MAX = 10.0  # Until everything that was told has been heard, at the end.
FETCH_MS = 200
FINISH_SECONDS_MAX = 30.0
BEGUN = b"begun\n"


@dataclass(frozen=True)
class ZipfFigures:
    """`counted` are the reads of documents that the gateway counted meanwhile, `hits` those that
    it found in memory; `heard` the versions that were announced, `ordered` the genes that were
    ordered to be forgotten."""

    latencies: Latencies
    counted: int
    hits: int
    heard: int
    ordered: int
    verdict: Verdict

    @property
    def hit_rate(self) -> float:
        return self.hits / self.counted if self.counted else 0.0

    @property
    def problems(self) -> list[str]:
        found = []
        if self.latencies.failed:
            found.append(f"{self.latencies.failed} of {self.latencies.requests} requests failed")
        if self.verdict.stale:
            found.append(
                f"{self.verdict.stale} of {self.verdict.judged} answers were stale, "
                f"the worst {self.verdict.lag_max_seconds:.1f} s after an invalidation"
            )
        if not self.verdict.judged:
            found.append("no answer could be judged: no gene that was read was invalidated before")
        others = self.counted - self.latencies.requests
        if abs(others) > OTHERS_MAX * self.counted:
            found.append(f"{others} of {self.counted} reads that were counted were of others")
        return found


class Reader:
    """Reads in its own process until it is told to finish."""

    def __init__(self, child: Child) -> None:
        self._child = child

    async def finish(self) -> ZipfFigures:
        """Stop it now; raises RuntimeError when it failed."""
        told = await self._child.finish(FINISH_SECONDS_MAX)
        latencies, verdict = Latencies(**told.pop("latencies")), Verdict(**told.pop("verdict"))
        return ZipfFigures(latencies=latencies, verdict=verdict, **told)


@asynccontextmanager
async def reading(
    url: str,
    kafka_bootstrap: str,
    *,
    topic_prefix: str = "",
    pace: float = REQUESTS_PER_SECOND,
    seconds: float = READING_SECONDS_MAX,
) -> AsyncIterator[Reader]:
    """A reader that has begun to count; whatever happens, nobody reads any more afterwards.
    Raises RuntimeError when it could not begin. Nobody else may read genes from this gateway
    meanwhile: it does not count who reads."""
    what = (url, kafka_bootstrap, str(seconds), str(pace), topic_prefix)
    async with run_module("benchmarks.zipf", *what) as child:
        if await child.first_line(BEGIN_SECONDS_MAX) != BEGUN:
            raise RuntimeError("the reader of genes could not begin; it has said why")
        yield Reader(child)


def draw(genes: list[str], seed: int) -> Iterator[str]:
    """Genes without end, the n-th of them with a share of 1/n^EXPONENT; which is the first, a
    shuffle says: their ids would have the oldest, who are known best, in front."""
    random = Random(seed)  # noqa: S311
    ranked = random.sample(genes, len(genes))
    weights = [*accumulate(1 / rank**EXPONENT for rank in range(1, len(ranked) + 1))]
    while True:
        yield from random.choices(ranked, cum_weights=weights, k=DRAWN_AT_ONCE)


@dataclass(frozen=True)
class _Counts:
    reads: int
    hits: int


class _Work:
    def __init__(self, url: str, genes: list[str], checker: Checker, pace: float) -> None:
        self._url = url
        self._period = 1 / pace
        self._genes = draw(genes, SEED)
        self._to_forget = draw(genes, SEED)  # The same shuffle.
        self._checker = checker
        self._latencies: list[float] = []
        self._failed = 0
        self._due = time.perf_counter()
        self._is_warm = False
        self.ordered = 0

    async def keep_reading(self) -> None:
        """At a pace that all share, once it is warm; what is late is not made up for."""
        while True:
            try:
                async with connect(self._url) as connection:
                    while True:
                        await self._turn()
                        await self._read(connection, next(self._genes))
            except BROKEN:
                self._failed += 1
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _turn(self) -> None:
        if not self._is_warm:
            return
        now = time.perf_counter()
        self._due = max(self._due + self._period, now)
        await asyncio.sleep(self._due - now)

    async def _read(self, connection: Connection, gene: str) -> None:
        """Raises ValueError when the answer is no gene with its version."""
        asked, began = time.time(), time.perf_counter()
        status, body = await connection.ask(request(self._url, f"/api/genes/{gene}"))
        took = time.perf_counter() - began
        version = body.rpartition(VERSION)[2].partition(b"}")[0]
        if status != httpx2.codes.OK:
            raise ValueError(status)
        self._checker.answered(gene, int(version), asked)
        self._latencies.append(took)

    async def keep_ordering(self) -> None:
        """That some genes be forgotten, now and then: for those whose document stays the same,
        nothing else would tell of it."""
        while True:
            await asyncio.sleep(ORDER_PERIOD_SECONDS)
            genes = [*{next(self._to_forget) for _ in range(ORDERED_GENES)}]
            try:
                async with connect(self._url) as connection:
                    await self._order(connection, genes)
            except BROKEN:
                self._failed += 1

    async def _order(self, connection: Connection, genes: list[str]) -> None:
        """Raises ValueError when it is not accepted."""
        target = f"/api/cache/namespaces/{NAMESPACE}/invalidate"
        body = orjson.dumps({"genes": genes})
        status, said = await connection.ask(request(self._url, target, "POST", body))
        if status != httpx2.codes.ACCEPTED:
            raise ValueError(status, said)
        acknowledged = time.time()
        for gene in genes:
            self._checker.ordered(gene, acknowledged)
        self.ordered += len(genes)

    def begin(self) -> None:
        """Count from here, at the pace."""
        self._is_warm = True
        self._latencies.clear()
        self._failed = 0

    def latencies(self, seconds: float) -> Latencies:
        if not self._latencies:
            raise RuntimeError(f"no gene was answered, {self._failed} failed")
        return summarise(self._latencies, self._failed, seconds)


@asynccontextmanager
async def _hearing(bootstrap: str, topic: str, checker: Checker) -> AsyncIterator["_Hearing"]:
    """What is announced from now on, without a group, as a gateway hears it."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        auto_offset_reset="latest",
        fetch_max_wait_ms=FETCH_MS,
    )
    await consumer.start()
    try:
        if not consumer.assignment():
            raise RuntimeError(f"{bootstrap} has no topic {topic!r}: is that the system's Kafka?")
        now = await consumer.end_offsets(consumer.assignment())
        for partition, offset in now.items():
            consumer.seek(partition, offset)
        yield _Hearing(consumer, checker, now)
    finally:
        await consumer.stop()


class _Hearing:
    def __init__(
        self, consumer: AIOKafkaConsumer, checker: Checker, now: dict[TopicPartition, int]
    ) -> None:
        self._consumer = consumer
        self._checker = checker
        self._next = now
        self.heard = 0

    async def keep_hearing(self) -> None:
        async for record in self._consumer:
            self._hear(record)
            self._next[TopicPartition(record.topic, record.partition)] = record.offset + 1

    async def catch_up(self) -> None:
        """Until everything that had been told by now was heard."""
        ends = await self._consumer.end_offsets(list(self._next))
        async with asyncio.timeout(HEAR_SECONDS_MAX):
            while any(self._next[partition] < end for partition, end in ends.items()):
                await asyncio.sleep(FETCH_MS / 1000)

    def _hear(self, record: ConsumerRecord) -> None:
        """Its time is when its sender gave it to the broker: never later than the broker's
        acknowledgement."""
        if dict(record.headers).get("ce_type") != DocumentsRebuilt.type.encode():
            return
        told = DocumentsRebuilt.model_validate_json(record.value)
        for gene, version in told.versions.items():
            self._checker.invalidated(gene, version, record.timestamp / 1000)
        self.heard += len(told.versions)


async def _list_genes(http: httpx2.AsyncClient) -> list[str]:
    answer = await http.get("/api/export", params={"format": "csv", "columns": "hgnc_id"})
    answer.raise_for_status()
    genes = [line for line in answer.text.splitlines() if line.startswith("HGNC:")]
    if not genes:
        raise RuntimeError("there are no genes to read: annobus runs start --all")
    return genes


async def _count(http: httpx2.AsyncClient) -> _Counts:
    """What this gateway has counted since it started."""
    answer = await http.get("/api/cache/statistics")
    answer.raise_for_status()
    (here,) = (one["attributes"]["here"] for one in answer.json()["data"] if one["id"] == NAMESPACE)
    return _Counts(here["hit"] + here["shared"] + here["miss"], here["hit"])


async def _read(
    url: str, bootstrap: str, seconds: float, pace: float, topic_prefix: str
) -> ZipfFigures:
    """Raises RuntimeError when there was nothing to read or to hear."""
    checker = Checker()
    async with (
        httpx2.AsyncClient(base_url=url, timeout=LISTING_SECONDS_MAX, trust_env=False) as http,
        _hearing(bootstrap, topic_prefix + DocumentsRebuilt.topic, checker) as hearing,
        asyncio.TaskGroup() as group,
    ):
        reader = _Work(url, await _list_genes(http), checker, pace)
        listening = group.create_task(hearing.keep_hearing())
        asking = [
            group.create_task(reader.keep_ordering()),
            *(group.create_task(reader.keep_reading()) for _ in range(CONCURRENCY)),
        ]
        await asyncio.sleep(WARM_UP_SECONDS)
        first = await _count(http)
        reader.begin()
        began = time.perf_counter()
        sys.stdout.buffer.write(BEGUN)
        sys.stdout.buffer.flush()
        await until_told(seconds)
        took = time.perf_counter() - began
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
        last = await _count(http)
        await hearing.catch_up()
        listening.cancel()
    return ZipfFigures(
        latencies=reader.latencies(took),
        counted=last.reads - first.reads,
        hits=last.hits - first.hits,
        heard=hearing.heard,
        ordered=reader.ordered,
        verdict=checker.judge(),
    )


def main() -> None:
    url, bootstrap, seconds, *rest = sys.argv[1:]
    pace, prefix = [*rest, *(str(REQUESTS_PER_SECOND), "")[len(rest) :]]
    seen = uvloop.run(_read(url, bootstrap, float(seconds), float(pace), prefix))
    sys.stdout.buffer.write(orjson.dumps(asdict(seen)))


if __name__ == "__main__":
    main()
