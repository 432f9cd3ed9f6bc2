"""A database with something of every kind and in every state that an answer tells of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import text

from services.cache import store
from services.cache.statistics import VIEWS
from tests.builders import build_file, build_release
from tests.integration.gateway.desk import GONE, OLD, PKD1, PKD2, TAFAZZIN, WWTR1, Desk
from tests.integration.gateway.letters import dead_batch, keep, letter
from tests.integration.gateway.storing import Storing

DOUBTS = [{"check": "records", "found": "3", "accepted": "at least 5,000"}]
PREVIEWS: Mapping[str, Mapping[str, Any]] = {
    "ensembl": {"gene_count": 7, "request_count": 1, "seconds": None},
    "hpo": {
        "release": "2025-01-16",
        "is_new_release": True,
        "new_count": 1,
        "changed_count": 2,
        "withdrawn_count": 3,
        "unchanged_count": 4,
        "severities": {"none": 0, "minor": 1, "major": 1, "clinical": 0},
    },
}


@dataclass(frozen=True)
class Plenty:
    """What to put into addresses."""

    panel_id: str
    run_ids: Mapping[str, str]  # By what became of them.
    releases: Mapping[str, str]  # By their state.
    letters: Mapping[str, str]  # By their kind.
    early: str  # A time before the newest values.

    @property
    def names(self) -> dict[str, str]:
        """For the parameters of paths."""
        return {
            "gene": PKD1,
            "name": "hpo",
            "source": "ensembl",
            "namespace": "genes",
            "run_id": self.run_ids["failed"],
            "release_id": self.releases["stored"],
            "letter_id": self.letters["message"],
            "panel_id": self.panel_id,
            "version": "1",
            "other": "2",
        }


async def fill(desk: Desk) -> Plenty:
    await desk.add_genes()
    early = await _store_values(desk)
    await _tell_events(desk)
    releases = await _make_releases(desk)
    panel_id = await _make_panel(desk)
    run_ids = await _make_runs(desk, panel_id)
    batch_run = UUID(run_ids["active"])
    await dead_batch(desk, [PKD1, PKD2], run_id=batch_run)
    await keep(desk, letter(1, key=b"\xff", value=b"\xfe", is_left_at_origin=False))
    await keep(desk, letter(2))
    rows = await desk.rows("SELECT id::text, kind FROM gateway.dead_letter ORDER BY id")
    async with desk.database.begin("cache") as tx:
        await store.rebuild(tx, [PKD1, PKD2, TAFAZZIN, WWTR1, OLD, GONE])
    for view in VIEWS:
        await desk.execute(f"REFRESH MATERIALIZED VIEW cache.{view}")
    return Plenty(
        panel_id=panel_id,
        run_ids=run_ids,
        releases=releases,
        letters={row["kind"]: row["id"] for row in rows},
        early=early,
    )


async def _store_values(desk: Desk) -> str:
    """Two versions of a value of each of two sources; returns a time between them."""
    async with desk.database.engine("annotator") as engine:
        storing = Storing(engine)
        symbols = {PKD1: "PKD1", PKD2: "PKD2", TAFAZZIN: "TAFAZZIN", WWTR1: "WWTR1"}
        await storing.name(await storing.release("hgnc", "2026-01"), symbols)
        early = ""
        for version, number in (("115", 7), ("116", 8)):
            of_api = await storing.release("ensembl", version)
            of_files = await storing.release("gnomad", f"v{version}")
            await storing.store("ensembl", of_api, {PKD1: number, PKD2: None})
            moment = await storing.store("gnomad", of_files, {PKD1: number, PKD2: 1})
            early = early or moment.isoformat()
    await desk.execute("UPDATE annotator.annotation SET severity = 'major' WHERE cause IS NOT NULL")
    return early


async def _tell_events(desk: Desk) -> None:
    async with desk.database.begin("annotator") as tx:
        release_id = await build_release(tx, "hgnc")
        await tx.execute(
            text("""
                INSERT INTO gene_event (hgnc_id, kind, symbol_before, symbol_after, successors,
                                        release_id)
                VALUES (:old, 'merged', 'OLD1', 'OLD1', ARRAY[:gene], :release_id),
                       (:gene, 'renamed', 'OLDER', 'PKD1', '{}', :release_id)
            """),
            {"old": OLD, "gene": PKD1, "release_id": release_id},
        )


async def _make_releases(desk: Desk) -> dict[str, str]:
    found = {}
    async with desk.database.begin("annotator") as tx:
        for state in ("stored", "quarantined", "rejected"):
            release_id = await build_release(tx, "hpo", state)
            await build_file(tx, release_id, "phenotype.hpoa", b"\xab", 12)
            await tx.execute(
                text("INSERT INTO unmapped VALUES (:release_id, 1, '12', 'no gene of ours', 3)"),
                {"release_id": release_id},
            )
            found[state] = str(release_id)
        await tx.execute(
            text("""
                UPDATE release SET state = 'quarantined', doubts = CAST(:doubts AS jsonb),
                    accepted_at = NULL, stored_at = NULL, readable_since = NULL,
                    unmapped_count = 2, row_count = 5
                WHERE version = 'quarantined'
            """),
            {"doubts": orjson.dumps(DOUBTS).decode()},
        )
        await tx.execute(
            text("""
                UPDATE release SET state = 'rejected', doubts = CAST(:doubts AS jsonb),
                    accepted_at = NULL, stored_at = NULL, readable_since = NULL,
                    problem = '{"type": "x", "title": "x", "detail": "x"}', decision = 'reject',
                    decided_at = now(), decided_by = 'me', decision_note = 'too small'
                WHERE version = 'rejected'
            """),
            {"doubts": orjson.dumps(DOUBTS).decode()},
        )
    return found


async def _make_panel(desk: Desk) -> str:
    made = await desk.client.post(
        "/api/panels",
        json={
            "name": "kidney",
            "description": "of the kidney",
            "genes": [PKD1, "OLD1", "nothing", "SHARED", "2-Mar"],
            "unresolved": "leave_out",
            "by": "me",
            "note": "first",
        },
    )
    assert made.status_code == 201, made.text
    panel_id: str = made.json()["data"]["id"]
    address = f"/api/panels/{panel_id}/versions"
    for change in (
        {"base_version": 1, "add": [PKD2, TAFAZZIN]},
        {"base_version": 2, "remove": [TAFAZZIN]},
    ):
        revised = await desk.client.post(address, json=change)
        assert revised.status_code == 201, revised.text
    await desk.execute("UPDATE annotator.gene SET symbol = 'YOUNGER' WHERE hgnc_id = $1", PKD2)
    return panel_id


async def _make_runs(desk: Desk, panel_id: str) -> dict[str, str]:
    """One that nobody has heard of, one that is worked, ended ones, a dry one."""
    order: dict[str, Any] = {"sources": ["hpo", "gnomad"], "all": True}
    found = {"ordered": await desk.start(sources=["hpo"], panel=panel_id, name="of a panel")}
    for name in ("active", "completed", "failed", "dry"):
        sources = {"sources": ["hpo", "ensembl"]} if name == "dry" else {}
        found[name] = await desk.start(**order | sources, dry_run=name == "dry", name=name)
    for name in ("active", "completed", "failed"):
        await desk.plan(found[name])
        await desk.work(found[name], done=7, no_data=1, failed=1 if name == "failed" else 0)
    await desk.finish(found["completed"])
    await desk.execute(
        """UPDATE annotator.run_source SET state = 'failed', finished_at = now(),
           failed_count = total_count,
           problem = '{"type": "urn:annobus:problem:x", "title": "x", "detail": "x"}'
           WHERE run_id = $1 AND source = 'hpo'""",
        found["failed"],
    )
    await desk.plan(found["dry"], total=0)
    for source, preview in PREVIEWS.items():
        await desk.execute(
            "UPDATE annotator.run_source SET preview = $3 WHERE run_id = $1 AND source = $2",
            *(found["dry"], source, orjson.dumps(preview).decode()),
        )
    return {name: str(run_id) for name, run_id in found.items()}
