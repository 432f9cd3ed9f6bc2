"""The whole system as processes, with the annotator killed in the middle of its work."""

import json
from pathlib import Path

import pytest

from services.annotator.failpoints import Failpoint
from services.annotator.sources import SOURCES
from tests.builders import ASKABLE, IDS, build_catalogue
from tests.e2e.running import WAIT_SECONDS_MAX, Fired, run_services
from tests.faults.checker import violations
from tests.faults.client import Client
from tests.faults.evidence import Tap, gather, install_audit, settle
from tests.system import Database, Mirror, http_client
from tests.waiting import until


async def wrong_values(database: Database, mirror: Mirror) -> list[str]:
    """Genes whose current Ensembl value is not what the upstream says, asked here once more."""

    async with database.connect() as owner:
        rows = await owner.fetch(
            """SELECT g.ensembl_gene_id, a.value::text AS value
               FROM annotator.annotation a JOIN annotator.gene g USING (hgnc_id)
               WHERE a.source = 'ensembl' AND a.valid_to = 'infinity' AND a.value IS NOT NULL"""
        )
    wrong = []
    async with http_client(mirror.url) as client:
        for start in range(0, len(rows), 1000):
            part = rows[start : start + 1000]
            ids = [row["ensembl_gene_id"] for row in part]
            said = (await client.post("/ensembl/lookup/id", json={"ids": ids})).json()
            for row in part:
                value, truth = json.loads(row["value"]), said[row["ensembl_gene_id"]]
                if (value["start"], value["end"]) != (truth["start"], truth["end"]):
                    wrong.append(row["ensembl_gene_id"])
    return wrong


@pytest.mark.timeout(300)
async def test_the_main_job_with_the_annotator_killed_after_a_claim_and_after_a_store(
    database: Database, topic_prefix: str, mirror: Mirror, tmp_path: Path
) -> None:
    """44,000 genes, all sources, two kills: the run completes, each effect once."""
    async with database.connect() as owner:
        await install_audit(owner)
    async with run_services(database, topic_prefix, mirror, tmp_path) as running:
        running.arm("annotator", Failpoint.BATCH_CLAIMED, 60)
        running.arm("annotator", Failpoint.BATCH_LEFT, 100)
        client = Client(running.url)
        await client.watch(await client.order(all=True, sources=list(SOURCES), name=client.key))

        assert running.fired("annotator", Failpoint.BATCH_CLAIMED)
        assert running.fired("annotator", Failpoint.BATCH_LEFT)
        assert running.supervisor.restarts["annotator-0"] == 2
        assert client.frames[0]["type"] == "snapshot"
        assert client.frames[-1]["progress"] == 100
        assert client.longest_silence < 1.0

        await settle(database)
        tap = Tap(database.environment["ANNOBUS_KAFKA_BOOTSTRAP"], topic_prefix)
        assert violations(await gather(database, tap, client)) == {}
        assert await wrong_values(database, mirror) == []

        listed = await running.get("/api/genes?page[size]=1&page[total]=true")
        assert listed["meta"]["total"] >= 44_000

        async def readable() -> bool:
            document = (await running.get("/api/genes/PKD1"))["data"]["attributes"]
            return all(
                annotation["status"] == "ok" for annotation in document["annotations"].values()
            )

        await until(readable, "the gene document shows all sources", WAIT_SECONDS_MAX)


async def test_a_worker_that_dies_is_followed_by_another_instance(
    database: Database, topic_prefix: str, mirror: Mirror, tmp_path: Path
) -> None:
    """Two annotators; one is killed for good in the middle of a batch: the other one works it when
    the lease has ended."""
    async with database.begin("annotator") as tx:
        await build_catalogue(tx)
    async with database.connect() as owner:
        await install_audit(owner)
    async with run_services(database, topic_prefix, mirror, tmp_path, annotators=2) as running:

        async def killed() -> Fired | None:
            return running.fired("annotator", Failpoint.PAGE_FETCHED)

        names = {pid: name for name, pid in running.supervisor.pids.items()}
        running.arm("annotator", Failpoint.PAGE_FETCHED)
        client = Client(running.url)
        run_id = await client.order(genes=IDS, sources=["ensembl"], name=client.key)
        fired = await until(killed, "the failpoint is hit", WAIT_SECONDS_MAX)
        await running.supervisor.remove(names.pop(fired.pid))
        await client.watch(run_id)
        await settle(database)
        (other,) = (pid for pid, name in names.items() if name.startswith("annotator"))
        async with database.connect() as owner:
            claims = await owner.fetch(
                """SELECT writer FROM audit.batch_write JOIN annotator.batch b ON b.id = batch_id
                   WHERE new_token > old_token AND b.kind = 'fetch' ORDER BY audit.batch_write.id"""
            )
        assert [one["writer"] for one in claims] == [f"annotator {fired.pid}", f"annotator {other}"]
        tap = Tap(database.environment["ANNOBUS_KAFKA_BOOTSTRAP"], topic_prefix)
        assert violations(await gather(database, tap, client)) == {}


async def test_an_upstream_that_is_down_fails_its_source_and_the_others_finish(
    database: Database, topic_prefix: str, mirror: Mirror, tmp_path: Path
) -> None:
    async with database.begin("annotator") as tx:
        await build_catalogue(tx)
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
    async with database.begin("annotator") as tx:
        await build_catalogue(tx)
    async with run_services(database, topic_prefix, mirror, tmp_path) as running:
        run_id = await running.order(genes=IDS, sources=["ensembl"])
        await running.until_ended(run_id)

        async def served() -> bool:
            listed = await running.get("/api/genes?filter[hgnc_id]=HGNC:9008")
            return any(
                gene["attributes"]["annotations"]["ensembl"]["status"] == "ok"
                for gene in listed["data"]
            )

        await until(served, "the document shows the annotation", WAIT_SECONDS_MAX)
        await running.get("/api/genes/HGNC:9008")  # Now the gateway remembers it.
        async with database.connect() as owner:  # Behind everybody's back.
            await owner.execute(
                """UPDATE cache.gene
                   SET document = jsonb_set(document::jsonb, '{symbol}', '"OLD"')::json
                   WHERE hgnc_id = 'HGNC:9008'"""
            )
        kept = (await running.get("/api/genes/HGNC:9008"))["data"]["attributes"]["symbol"]
        assert kept == "PKD1"  # From memory: nothing has told the gateway to forget.

        async with http_client(running.url) as client:
            answer = await client.post("/api/cache/namespaces/genes/invalidate")
            assert answer.status_code == 202

        async def rebuilt() -> bool:
            async with database.connect() as owner:
                symbol = await owner.fetchval(
                    "SELECT document->>'symbol' FROM cache.gene WHERE hgnc_id = 'HGNC:9008'"
                )
            return bool(symbol == "PKD1")

        await until(rebuilt, "the document is rebuilt from the truth", WAIT_SECONDS_MAX)
        found = await running.get("/api/cache/namespaces/genes")
        assert found["data"]["attributes"]["epoch"] == 1
