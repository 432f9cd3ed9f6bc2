"""A run of which some genes fail, and its retry when the upstream is well: who is asked what."""

from pathlib import Path
from typing import Any

import pytest

from tests.builders import ASKABLE, GENES, IDS, build_catalogue
from tests.e2e.running import Running, run_services
from tests.e2e.slow_upstream import slow_upstream
from tests.system import Database, http_client

ENSEMBL_IDS = {gene[0]: str(gene[3]) for gene in GENES}
BAD = [ENSEMBL_IDS[hgnc_id] for hgnc_id in ASKABLE[2:4]]


async def retry(running: Running, run_id: str) -> str:
    async with http_client(running.url) as client:
        answer = await client.post(f"/api/runs/{run_id}/retry")
        assert answer.status_code == 202, answer.text
        return str(answer.json()["data"]["id"])


async def shown(running: Running, run_id: str) -> Any:
    return (await running.get(f"/api/runs/{run_id}"))["data"]["attributes"]


async def rows(database: Database, run_id: str) -> list[Any]:
    async with database.connect() as owner:
        return [
            dict(row)
            for table in ("run_source", "run_fact", "batch")
            for row in await owner.fetch(
                f"SELECT * FROM annotator.{table} t WHERE run_id = $1 ORDER BY t::text",  # noqa: S608
                run_id,
            )
        ]


@pytest.mark.timeout(180)
async def test_a_retry_asks_for_the_genes_that_failed_and_changes_nothing_of_the_old_run(
    database: Database, topic_prefix: str, tmp_path: Path
) -> None:
    async with database.begin("annotator") as tx:
        await build_catalogue(tx)
    with slow_upstream() as upstream:
        upstream.poison.update(BAD)
        async with run_services(database, topic_prefix, upstream, tmp_path) as running:
            old = await running.order(genes=IDS, sources=["ensembl"])
            assert await running.until_ended(old) == "completed_with_errors"
            before, its_rows = await shown(running, old), await rows(database, old)
            assert (before["done_count"], before["failed_count"]) == (len(ASKABLE) - 2, 2)

            upstream.poison.clear()
            upstream.calls.clear()
            new = await retry(running, old)
            assert await running.until_ended(new) == "completed"
            after = await shown(running, new)
            assert (after["retries"], after["gene_count"], after["done_count"]) == (old, 2, 2)
            assert sorted(one for call in upstream.calls for one in call.ids) == sorted(BAD)
            assert await shown(running, old) == before
            assert await rows(database, old) == its_rows
