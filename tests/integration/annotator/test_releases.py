"""Releases of bulk sources: found, staged, accepted, stored whole; unchanged ones do no work."""

import re

import pytest
from sqlalchemy import text

from contracts.messages import AnnotateBatch, ReleaseStored
from services.annotator.domain import digest
from services.annotator.stager import Stager
from services.annotator.store.releases import Release
from tests.builders import IDS, build_release
from tests.integration.annotator.catalogue import write_catalogue
from tests.integration.annotator.desk import Desk
from tests.integration.annotator.publishing import publish
from tests.integration.annotator.small_release import (
    WITH_VALUE,
    keep_unchanged,
    look_upstream,
    stage,
    write_release,
)
from tests.system import Mirror


async def test_a_release_is_stored_whole_whatever_the_runs_scope(
    loaded_desk: Desk, mirror: Mirror
) -> None:
    desk = loaded_desk
    genes = (await desk.row("SELECT count(*) AS n FROM gene WHERE status = 'approved'")).n
    assert genes >= 44_000
    stored = (await desk.row("SELECT count(*) AS n FROM annotation WHERE source = 'hgnc'")).n
    assert stored == genes

    await desk.order(["hpo"], ["HGNC:9008", "HGNC:9009"])
    await desk.work()

    row = await desk.row("SELECT * FROM run_source WHERE source = 'hpo'")
    assert (row.state, row.done_count, row.total_count) == ("completed", 2, 2)
    assert (await desk.row("SELECT count(*) AS n FROM annotation WHERE source = 'hpo'")).n > 5_000
    assert (await desk.row("SELECT state FROM release WHERE source = 'hpo'")).state == "stored"
    told = [m.source for m in desk.published if isinstance(m, ReleaseStored)]
    assert told == ["hpo"]

    # Once more: nothing is new, nothing is staged, everything is counted.
    before = mirror.counters("hpo")
    versions = await desk.rows("SELECT id FROM annotation ORDER BY id")
    await desk.order(["hpo"])
    await desk.work()

    after = mirror.counters("hpo")
    assert after["not_modified"] - before["not_modified"] == 3
    assert after["requests"] - before["requests"] == 3
    assert await desk.rows("SELECT id FROM annotation ORDER BY id") == versions
    rows = await desk.rows("SELECT * FROM run_source WHERE source = 'hpo' AND total_count > 2")
    assert [(r.state, r.done_count + r.no_data_count) for r in rows] == [("completed", genes)]
    assert len(await desk.rows("SELECT 1 FROM release WHERE source = 'hpo'")) == 1
    await desk.planner.sweep_once()
    assert await desk.rows("SELECT 1 FROM staged LIMIT 1") == []


async def test_a_made_up_release_says_so_in_its_name_and_in_each_of_its_values(
    loaded_desk: Desk,
) -> None:
    desk = loaded_desk
    await desk.order(["gnomad"])
    await desk.work()

    release = await desk.row("SELECT * FROM release WHERE source = 'gnomad'")
    assert (release.state, release.synthetic) == ("stored", True)
    assert release.version == "v4.1.1-synthetic"
    row = await desk.row("SELECT * FROM run_source WHERE source = 'gnomad'")
    assert (row.state, row.failed_count, row.done_count) == ("completed", 0, release.row_count)
    values = await desk.row("""
        SELECT count(*) AS values, bool_and(synthetic) AS synthetic,
               count(*) FILTER (WHERE value->>'loeuf' IS NULL) AS without_loeuf,
               bool_and((value->>'is_constrained')::boolean
                        IS NOT DISTINCT FROM (value->>'loeuf')::float8 < 0.45) AS judged
        FROM current_annotation_v1 WHERE source = 'gnomad' AND status = 'ok'
    """)
    assert values.values == release.row_count > 19_000
    assert values.without_loeuf > 0
    assert (values.synthetic, values.judged) == (True, True)
    unmapped = await desk.row("SELECT * FROM unmapped_v1 WHERE release_id = :id", id=release.id)
    assert (unmapped.key, unmapped.row_count > 1_000) == ("transcripts of RefSeq", True)


async def test_staged_rows_lost_in_a_database_crash_are_staged_again_from_the_raw_bytes(
    loaded_desk: Desk, mirror: Mirror
) -> None:
    desk = loaded_desk
    await desk.order(["hpo"])
    for _ in range(2):  # The look, the release, and not one slice.
        await desk.planner.plan_and_feed()
        hints = [m for m in await desk.relay() if isinstance(m, AnnotateBatch)]
        kinds = await desk.rows("SELECT kind FROM batch WHERE state = 'queued'")
        if any(row.kind == "store" for row in kinds):
            break
        for hint in hints:
            await desk.handlers.on_annotate_batch(hint)
    downloads = mirror.counters("hpo")["statuses"]
    async with desk.engine.begin() as tx:  # What a crash does to unlogged tables.
        for table in ("staged", "staged_release"):
            await tx.execute(text(f"DELETE FROM {table}"))  # noqa: S608
        await tx.execute(text("UPDATE batch SET state = 'pending' WHERE state = 'queued'"))

    for _ in range(3):
        await desk.work()
        await desk.make_due()

    row = await desk.row("SELECT * FROM run_source WHERE source = 'hpo'")
    assert (row.state, row.failed_count) == ("completed", 0)
    assert row.done_count > 5_000
    assert mirror.counters("hpo")["statuses"].get("200") == downloads.get("200")


async def test_a_run_that_comes_while_a_release_is_being_stored_counts_every_gene_once(
    loaded_desk: Desk,
) -> None:
    desk = loaded_desk
    genes = (await desk.row("SELECT count(*) AS n FROM gene WHERE status = 'approved'")).n
    await desk.order(["hpo"])
    stored = 0
    while stored < 3:  # Three slices in, another run comes.
        await desk.planner.plan_and_feed()
        for hint in await desk.relay():
            if isinstance(hint, AnnotateBatch) and stored < 3:
                await desk.handlers.on_annotate_batch(hint)
                done = await desk.rows(
                    "SELECT 1 FROM batch WHERE kind = 'store' AND source = 'hpo' AND state = 'done'"
                )
                stored = len(done)
    async with desk.engine.begin() as tx:
        await tx.execute(text("UPDATE batch SET state = 'pending' WHERE state = 'queued'"))
    await desk.order(["hpo"])
    await desk.order(["hpo"], ["HGNC:9008"])
    await desk.work()

    rows = await desk.rows("SELECT * FROM run_source WHERE source = 'hpo' ORDER BY total_count")
    assert [row.state for row in rows] == ["completed"] * 3
    assert [row.done_count + row.no_data_count for row in rows] == [1, genes, genes]
    assert len({(row.done_count, row.no_data_count) for row in rows[1:]}) == 1


async def test_a_release_that_is_staged_anew_for_a_new_catalogue_stays_readable(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_catalogue(desk)
    keep_unchanged(desk)
    await write_release(desk, [IDS])
    await desk.order(["hpo"])
    await desk.work()
    async with desk.engine.begin() as tx:
        await build_release(tx, "hgnc", "next")
    seen: dict[str, tuple[str | None, dict[str, str]]] = {}

    async def look() -> None:
        """What readers see, by the state that the release is in."""
        release = await desk.row("SELECT state FROM release WHERE source = 'hpo'")
        published = await desk.row("SELECT release FROM source_v1 WHERE name = 'hpo'")
        rows = await desk.rows(
            "SELECT hgnc_id, status FROM current_annotation_v1 WHERE source = 'hpo'"
        )
        seen[release.state] = (published.release, {row.hgnc_id: row.status for row in rows})

    async def stage_anew(_: Stager, release: Release) -> None:
        await look()
        async with desk.engine.begin() as tx:
            await stage(tx, release.id)
            await tx.execute(text("UPDATE release SET state = 'staged' WHERE source = 'hpo'"))
        await look()

    await look()
    monkeypatch.setattr(Stager, "stage", stage_anew)  # Instead of reading real files.
    await desk.order(["hpo"])
    await look_upstream(desk)
    await look()
    assert set(seen) == {"stored", "fetched", "staged", "accepted"}
    statuses = {hgnc_id: "ok" if hgnc_id in WITH_VALUE else "empty" for hgnc_id in IDS}
    assert list(seen.values()) == [("made-up", statuses)] * len(seen)

    await desk.work()
    assert (await desk.row("SELECT state FROM release WHERE source = 'hpo'")).state == "stored"
    rows = await desk.rows("SELECT state FROM run")
    assert [row.state for row in rows] == ["completed", "completed"]


async def test_a_file_that_differs_by_the_day_it_was_made_is_no_other_release(
    loaded_desk: Desk,
) -> None:
    desk = loaded_desk
    await desk.order(["clingen"], ["HGNC:9008"])
    await desk.work()
    publisher = await publish(desk, "clingen")
    publisher.synthetic = True
    ((name, content),) = publisher.contents.items()
    first = await desk.row("SELECT id, checked_at FROM release WHERE source = 'clingen'")
    kept = await desk.releases.raw_store.sizes()

    publisher.contents[name] = re.sub(rb"CREATED: \d{4}", b"CREATED: 2031", content)
    assert publisher.contents[name] != content
    await desk.order(["clingen"], ["HGNC:9008"])
    await desk.work()
    assert publisher.sent == 1
    again = await desk.row("SELECT id, checked_at FROM release WHERE source = 'clingen'")
    assert again.id == first.id
    assert again.checked_at > first.checked_at
    assert await desk.releases.raw_store.sizes() == kept

    # The first line is no data: whatever else differs is another release, of its own bytes.
    publisher.contents[name] = content.replace(b"CURATIONS", b"CURATION", 1)
    assert publisher.contents[name] != content
    await desk.order(["clingen"], ["HGNC:9008"])
    await desk.work()
    rows = await desk.rows(
        """SELECT f.sha256 FROM release r JOIN release_file f ON f.release_id = r.id
           WHERE r.source = 'clingen' ORDER BY r.retrieved_at"""
    )
    assert [row.sha256 for row in rows] == [*map(digest, (content, publisher.contents[name]))]
