"""The whole system as processes, with the annotator killed in the middle of its work."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from aiokafka import AIOKafkaConsumer
from websockets.asyncio.client import connect

from contracts.messages import RunCompleted
from services.annotator.sources import SOURCES
from tests.e2e.running import Running, run_services, until
from tests.integration.annotator.catalogue import ASKABLE, GENES, IDS
from tests.system import Database, Mirror

ENDED = ("completed", "completed_with_errors", "failed")


async def facts_in_kafka(database: Database, prefix: str, run_id: str) -> Counter[str]:
    """The facts of a run by type, as any consumer may count them, each event id once."""
    consumer = AIOKafkaConsumer(
        f"{prefix}pipeline.events.v1",
        bootstrap_servers=database.environment["ANNOBUS_KAFKA_BOOTSTRAP"],
        auto_offset_reset="earliest",
    )
    await consumer.start()
    seen: dict[str, str] = {}
    try:
        while records := await consumer.getmany(timeout_ms=1000):
            for record in (record for batch in records.values() for record in batch):
                headers = {name: value.decode() for name, value in record.headers}
                if headers["ce_subject"] == run_id:
                    seen[headers["ce_id"]] = headers["ce_type"]
    finally:
        await consumer.stop()
    return Counter(seen.values())


async def wrong_values(database: Database, mirror: Mirror) -> list[str]:
    """Genes whose current Ensembl value is not what the upstream says, asked here once more."""

    async with database.connect() as owner:
        rows = await owner.fetch(
            """SELECT g.ensembl_gene_id, a.value::text AS value
               FROM annotator.annotation a JOIN annotator.gene g USING (hgnc_id)
               WHERE a.source = 'ensembl' AND a.valid_to = 'infinity' AND a.value IS NOT NULL"""
        )
    wrong = []
    async with httpx2.AsyncClient(base_url=mirror.url) as client:
        for start in range(0, len(rows), 1000):
            part = rows[start : start + 1000]
            ids = [row["ensembl_gene_id"] for row in part]
            said = (await client.post("/ensembl/lookup/id", json={"ids": ids})).json()
            for row in part:
                value, truth = json.loads(row["value"]), said[row["ensembl_gene_id"]]
                if (value["start"], value["end"]) != (truth["start"], truth["end"]):
                    wrong.append(row["ensembl_gene_id"])
    return wrong


async def violations(database: Database, run_id: str) -> dict[str, Any]:
    """What must be empty, whatever was killed."""
    async with database.connect() as owner:
        twice = await owner.fetch(
            """SELECT hgnc_id, source FROM annotator.annotation
               WHERE valid_to = 'infinity' GROUP BY 1, 2 HAVING count(*) > 1"""
        )
        backwards = await owner.fetch(
            "SELECT hgnc_id FROM annotator.annotation WHERE valid_from >= valid_to"
        )
        misspelt = await owner.fetch(
            """SELECT hgnc_id, source FROM annotator.annotation
               WHERE value IS NOT NULL AND digest <> sha256(convert_to(value::text, 'UTF8'))"""
        )
        miscounted = await owner.fetch(
            """SELECT s.source, s.done_count, count(a.value) AS stored
               FROM annotator.run_source s LEFT JOIN annotator.annotation a
                   ON a.source = s.source AND a.valid_to = 'infinity' AND a.value IS NOT NULL
               WHERE s.run_id = $1 GROUP BY s.source, s.done_count
               HAVING s.done_count <> count(a.value)""",
            run_id,
        )
        unsettled = await owner.fetch(
            """SELECT source FROM annotator.run_source
               WHERE run_id = $1
                 AND done_count + no_data_count + failed_count <> total_count""",
            run_id,
        )
        completions = await owner.fetchval(
            "SELECT count(*) FROM annotator.run_fact WHERE run_id = $1 AND type = $2",
            run_id,
            RunCompleted.type,
        )
        disordered = await owner.fetch(
            """SELECT seq FROM (SELECT seq, time, lag(time) OVER (ORDER BY seq) AS before
                                FROM annotator.run_fact WHERE run_id = $1) facts
               WHERE before > time""",
            run_id,
        )
    found = {
        "two current versions": twice,
        "versions that end before they begin": backwards,
        "digests of another text than the value's": misspelt,
        "counters that differ from the rows": miscounted,
        "genes of no outcome": unsettled,
        "completions but one": [] if completions == 1 else [completions],
        "facts out of order": disordered,
    }
    return {what: rows for what, rows in found.items() if rows}


class Watcher:
    """A client of a run's socket: what it was told, in order, by `type` and `seq`."""

    def __init__(self, running: Running, run_id: str) -> None:
        self._url = f"{running.url.replace('http', 'ws', 1)}/ws/jobs/{run_id}"
        self.frames: list[dict[str, Any]] = []
        self.longest_silence = 0.0

    async def until_ended(self) -> None:
        clock = asyncio.get_running_loop()
        async with asyncio.timeout(180), connect(self._url) as socket:
            last = clock.time()
            async for text in socket:
                self.longest_silence = max(self.longest_silence, clock.time() - last)
                last = clock.time()
                self.frames.append(json.loads(text))
                if self.ended():
                    return

    def ended(self) -> bool:
        newest = self.frames[-1]
        return newest["type"] == "snapshot" and newest["status"] in ENDED

    def seqs(self, kind: str) -> list[int]:
        return [frame["seq"] for frame in self.frames if frame["type"] == kind]


@pytest.mark.timeout(300)
async def test_the_main_job_with_the_annotator_killed_after_a_claim_and_after_a_store(
    database: Database, topic_prefix: str, mirror: Mirror, tmp_path: Path
) -> None:
    """44,000 genes, all sources, two kills: the run completes, each effect once."""
    failpoints = {"after_claim": 60, "after_store": 100}
    async with run_services(
        database, topic_prefix, mirror, tmp_path, failpoints=failpoints
    ) as running:
        run_id = await running.order(all=True, sources=list(SOURCES))
        watcher = Watcher(running, run_id)
        await watcher.until_ended()

        assert running.fired("after_claim")
        assert running.fired("after_store")
        assert running.supervisor.restarts["annotator-0"] == 2
        assert watcher.frames[0]["type"] == "snapshot"
        assert watcher.frames[-1]["status"] == "completed"
        assert watcher.frames[-1]["progress"] == 100
        assert watcher.seqs("snapshot") == sorted(watcher.seqs("snapshot"))
        facts = watcher.seqs("fact")
        assert facts == sorted(set(facts))
        assert watcher.longest_silence < 1.0

        assert await violations(database, run_id) == {}
        assert await wrong_values(database, mirror) == []
        told = await facts_in_kafka(database, topic_prefix, run_id)
        assert told[RunCompleted.type] == 1

        listed = await running.get("/api/genes?page[size]=1&page[total]=true")
        assert listed["meta"]["total"] >= 44_000

        async def readable() -> bool:
            document = (await running.get("/api/genes/PKD1"))["data"]["attributes"]
            return all(
                annotation["status"] == "ok" for annotation in document["annotations"].values()
            )

        await until(readable, "the gene document shows all sources")


async def test_a_worker_that_dies_is_followed_by_another_instance(
    database: Database, topic_prefix: str, mirror: Mirror, tmp_path: Path
) -> None:
    """Two annotators; one is killed for good: the other takes its batches when the lease ends."""
    await write_catalogue(database)
    async with run_services(database, topic_prefix, mirror, tmp_path, annotators=2) as running:
        run_id = await running.order(genes=IDS, sources=["ensembl"])
        await running.supervisor.remove("annotator-0")
        assert await running.until_ended(run_id) == "completed"
        assert await violations(database, run_id) == {}


async def test_an_upstream_that_is_down_fails_its_source_and_the_others_finish(
    database: Database, topic_prefix: str, mirror: Mirror, tmp_path: Path
) -> None:
    await write_catalogue(database)
    with mirror.fault("hpo", kind="status", status=403):  # Blocked: no retry would help.
        async with run_services(database, topic_prefix, mirror, tmp_path) as running:
            run_id = await running.order(genes=IDS, sources=["ensembl", "hpo"])
            assert await running.until_ended(run_id) == "completed_with_errors"
            attributes = (await running.get(f"/api/runs/{run_id}"))["data"]["attributes"]
    hpo, ensembl = attributes["sources"]["hpo"], attributes["sources"]["ensembl"]
    assert (hpo["state"], hpo["failed_count"]) == ("failed", len(IDS))
    assert "403" in hpo["problem"]["detail"]
    assert (ensembl["state"], ensembl["done_count"]) == ("completed", len(ASKABLE))


async def test_an_invalidated_namespace_is_forgotten_by_the_gateway(
    database: Database, topic_prefix: str, mirror: Mirror, tmp_path: Path
) -> None:
    await write_catalogue(database)
    async with run_services(database, topic_prefix, mirror, tmp_path) as running:
        run_id = await running.order(genes=IDS, sources=["ensembl"])
        await running.until_ended(run_id)

        async def served() -> bool:
            listed = await running.get("/api/genes?filter[hgnc_id]=HGNC:9008")
            return any(
                gene["attributes"]["annotations"]["ensembl"]["status"] == "ok"
                for gene in listed["data"]
            )

        await until(served, "the document shows the annotation")
        await running.get("/api/genes/HGNC:9008")  # Now the gateway remembers it.
        async with database.connect() as owner:  # Behind everybody's back.
            await owner.execute(
                """UPDATE cache.gene
                   SET document = jsonb_set(document::jsonb, '{symbol}', '"OLD"')::json
                   WHERE hgnc_id = 'HGNC:9008'"""
            )
        kept = (await running.get("/api/genes/HGNC:9008"))["data"]["attributes"]["symbol"]
        assert kept == "PKD1"  # From memory: nothing has told the gateway to forget.

        async with httpx2.AsyncClient(base_url=running.url) as client:
            answer = await client.post("/api/cache/namespaces/genes/invalidate")
            assert answer.status_code == 202

        async def rebuilt() -> bool:
            async with database.connect() as owner:
                symbol = await owner.fetchval(
                    "SELECT document->>'symbol' FROM cache.gene WHERE hgnc_id = 'HGNC:9008'"
                )
            return bool(symbol == "PKD1")

        await until(rebuilt, "the document is rebuilt from the truth")
        epoch = (await running.get("/api/cache/namespaces"))["data"][0]["attributes"]["epoch"]
        assert epoch == 1


async def write_catalogue(database: Database) -> None:
    """A few genes as if HGNC had been read, so that a list can be annotated at once."""

    async with database.connect() as owner:
        await owner.executemany(
            """INSERT INTO annotator.gene (hgnc_id, symbol, status, entrez_id, ensembl_gene_id)
               VALUES ($1, $2, 'approved', $3, $4)""",
            GENES,
        )
        await owner.executemany(
            """INSERT INTO annotator.gene_name (folded, name, kind, hgnc_id)
               VALUES (lower($2), $2, 'approved', $1)""",
            [gene[:2] for gene in GENES],
        )
        await owner.execute(
            """INSERT INTO annotator.release (id, source, version, state, parser_version,
                   retrieved_at, checked_at, accepted_at, stored_at, readable_since)
               VALUES ($1, 'hgnc', 'few', 'stored', 1, now(), now(), now(), now(), now())""",
            uuid4(),
        )
