"""A release after another: just what differs is told, and what is unlike it waits for a person."""

import gzip
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
import pytest_asyncio
from sqlalchemy import text

from contracts.messages import (
    AnnotateBatch,
    DecideRelease,
    Decision,
    ReleaseDecided,
    ReleaseQuarantined,
    RunFact,
)
from services.annotator import domain, errors
from services.annotator.domain import Batch, Record, StoredFile, open_raw
from services.annotator.sources.clinvar import ROWS, VARIANTS
from services.annotator.sources.hpo import DISEASES, GENES, ONTOLOGY, Hpo
from services.annotator.store import catalogue
from tests.integration.annotator.desk import Desk, in_both_places, open_desk
from tests.integration.annotator.publishing import Publisher, edit, publish
from tests.system import Database, Mirror

SEVERITIES = {"none": 0, "minor": 1, "major": 2, "clinical": 3}


@pytest_asyncio.fixture
async def publisher(stored_desk: Desk) -> Publisher:
    """HPO is stored as the mirror has it; whatever a test writes is its next release."""
    assert await states(stored_desk) == ["stored"]
    return await publish(stored_desk, "hpo")


async def states(desk: Desk) -> list[str]:
    rows = await desk.rows("SELECT state FROM release WHERE source = 'hpo' ORDER BY retrieved_at")
    return [row.state for row in rows]


async def values(desk: Desk) -> dict[str, str]:
    rows = await desk.rows(
        """SELECT hgnc_id, value::text AS value FROM current_annotation_v1
           WHERE source = 'hpo' AND value IS NOT NULL"""
    )
    return {row.hgnc_id: row.value for row in rows}


async def read(desk: Desk, contents: Mapping[str, bytes], folder: Path) -> dict[str, str]:
    """What these files say, by the source itself and nothing of the engine."""
    files = {}
    for name, content in contents.items():
        path = folder / name
        path.write_bytes(content)
        files[name] = StoredFile(partial(open_raw, path), b"", None, None)
    async with desk.engine.connect() as connection:
        genes = await catalogue.get_catalogue(connection)
    return {
        entry.hgnc_id: domain.canonical(entry.value).decode()
        for entry in Hpo().read(files, genes)
        if isinstance(entry, Record)
    }


async def told(desk: Desk) -> dict[str, Any]:
    rows = await desk.rows(
        """SELECT kind, hgnc_id, cause, severity, before::text AS before, after::text AS after
           FROM change_v1 WHERE source = 'hpo' AND kind = 'annotation' ORDER BY xid, id"""
    )
    assert len({row.hgnc_id for row in rows}) == len(rows)
    return {row.hgnc_id: row for row in rows}


async def work_slices(desk: Desk, count: int) -> None:
    """Work until so many slices of the newest release are stored, and no further."""
    while True:
        await desk.planner.plan_and_feed()
        for message in await desk.relay():
            if isinstance(message, AnnotateBatch):
                await desk.handlers.on_annotate_batch(message)
                stored = await desk.row("""
                    SELECT count(*) AS n FROM batch WHERE kind = 'store' AND state = 'done'
                      AND release_id = (SELECT id FROM release WHERE source = 'hpo'
                                        ORDER BY retrieved_at DESC LIMIT 1)
                """)
                if (await states(desk))[-1] != "stored" and stored.n == count:
                    return


async def last_problem(desk: Desk) -> str:
    (row,) = await desk.rows(
        """SELECT problem->>'type' AS type FROM run_source rs JOIN run ON run.id = rs.run_id
           WHERE source = 'hpo' ORDER BY run.started_at DESC LIMIT 1"""
    )
    return str(row.type)


@pytest.mark.usefixtures("publisher")
async def test_the_genes_of_one_change_stay_so_when_their_release_is_matched_anew(
    stored_desk: Desk,
) -> None:
    """As it is after each new catalogue, and after a crash in the middle of its storing."""
    desk = stored_desk
    before = await genes_of_release(desk)
    (change,) = await desk.rows("SELECT gene_count FROM change_v1 WHERE source = 'hpo'")
    assert change.gene_count == len(before)
    async with desk.engine.begin() as tx:  # Matched against a catalogue that there was.
        await tx.execute(text("UPDATE release SET catalogue_id = NULL WHERE source = 'hpo'"))
    await desk.order(["hpo"], ["HGNC:9008"])
    await desk.work()
    row = await desk.row("SELECT state, cause, changed_count FROM release WHERE source = 'hpo'")
    assert (row.state, row.cause, row.changed_count) == ("stored", "mapping", 0)
    assert await genes_of_release(desk) == before


async def genes_of_release(desk: Desk) -> set[str]:
    """As readers find them: by the transactions of the release."""
    rows = await desk.rows("""
        SELECT a.hgnc_id FROM release_v1 r JOIN annotation_v1 a
            ON a.release_id = r.release_id AND a.xid BETWEEN r.accepted_xid AND r.stored_xid
        WHERE r.source = 'hpo'
    """)
    return {row.hgnc_id for row in rows}


async def test_what_was_stored_before_a_crash_is_counted_with_the_rest(
    loaded_desk: Desk,
) -> None:
    desk = loaded_desk
    await desk.order(["hpo"], ["HGNC:9008"])
    await work_slices(desk, 3)
    async with desk.engine.begin() as tx:
        for table in ("staged", "staged_release"):
            await tx.execute(text(f"DELETE FROM {table}"))  # noqa: S608
        await tx.execute(text("UPDATE batch SET state = 'pending' WHERE state = 'queued'"))
    for _ in range(3):
        await desk.work()
        await desk.make_due()
    assert await states(desk) == ["stored"]
    (change,) = await desk.rows("SELECT gene_count FROM change_v1 WHERE source = 'hpo'")
    assert change.gene_count == len(await values(desk)) == len(await genes_of_release(desk))


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_release_over_another_tells_exactly_what_differs_and_restarts_in_the_middle(
    stored_desk: Desk,
    publisher: Publisher,
    stored_database: Database,
    mirror: Mirror,
    loaded_raw_folder: Path,
    tmp_path: Path,
    seed: int,
) -> None:
    desk = stored_desk
    before = await read(desk, publisher.contents, tmp_path)
    assert await values(desk) == before
    (first,) = await desk.rows("SELECT * FROM change_v1 WHERE source = 'hpo'")
    assert (first.kind, first.cause, first.gene_count) == ("release", None, len(before))

    publisher.contents[GENES] = edit(publisher.contents[GENES], seed, {"drop": 0.01, "trim": 0.02})
    after = await read(desk, publisher.contents, tmp_path)
    await desk.order(["hpo"], ["HGNC:9008"])
    await work_slices(desk, 3)
    async with desk.engine.begin() as tx:  # What a crash of both does: hints and staged rows gone.
        for table in ("staged", "staged_release"):
            await tx.execute(text(f"DELETE FROM {table}"))  # noqa: S608
        await tx.execute(text("UPDATE batch SET state = 'pending' WHERE state = 'queued'"))
    async with open_desk(stored_database, mirror, loaded_raw_folder) as another:
        another.use(upstreams={"hpo": publisher})
        for _ in range(3):
            await another.work()
            await another.make_due()

    assert await states(desk) == ["stored", "stored"]
    assert await values(desk) == after
    changes = await told(desk)
    assert {gene: (row.before, row.after) for gene, row in changes.items()} == {
        gene: (before.get(gene), after.get(gene))
        for gene in before.keys() | after.keys()
        if before.get(gene) != after.get(gene)
    }
    assert changes
    # The name is that of phenotype.hpoa, which is the same: other bytes under it are a correction.
    assert {row.cause for row in changes.values()} == {"correction"}
    gone = [row for gene, row in changes.items() if gene not in after]
    assert gone
    assert {row.severity for row in gone} == {"clinical"}
    assert {row.severity for row in changes.values()} <= {"major", "clinical"}


@in_both_places
async def test_a_new_parser_reads_what_is_there_and_its_changes_are_its_own(
    loaded_desk: Desk,
) -> None:
    desk = loaded_desk
    await desk.order(["hpo"], ["HGNC:9008"])
    await desk.work()
    publisher = await publish(desk, "hpo")
    async with desk.engine.begin() as tx:  # As if an older parser had read these otherwise.
        await tx.execute(
            text("""
                UPDATE annotation SET value = '{"term_count": 0}',
                                      digest = sha256('{"term_count": 0}'::bytea)
                WHERE source = 'hpo' AND hgnc_id IN (SELECT hgnc_id FROM annotation
                    WHERE source = 'hpo' AND value IS NOT NULL ORDER BY hgnc_id LIMIT 7)
            """)
        )
    newer = Hpo()
    newer.declaration = replace(Hpo.declaration, parser_version=2)
    desk.use(sources={"hpo": newer})
    publisher.contents[GENES] = edit(publisher.contents[GENES], 3, {"drop": 0.01})

    await desk.order(["hpo"], ["HGNC:9008"])
    await desk.work()
    assert publisher.sent == 0
    changes = await told(desk)
    assert [row.cause for row in changes.values()] == ["parser"] * 7
    assert {row.severity for row in changes.values()} == {"clinical"}

    await desk.order(["hpo"], ["HGNC:9008"])  # And now what the upstream changed meanwhile.
    await desk.work()
    assert publisher.sent == 1
    rows = await desk.rows("SELECT DISTINCT cause FROM change_v1 WHERE source = 'hpo'")
    assert {row.cause for row in rows} == {None, "parser", "correction"}


@pytest.mark.parametrize("decision", ["accept", "reject"])
async def test_a_release_unlike_the_one_before_it_waits_for_a_person(
    stored_desk: Desk, publisher: Publisher, tmp_path: Path, decision: Decision
) -> None:
    desk = stored_desk
    good = publisher.contents[GENES]
    before = await values(desk)
    publisher.contents[GENES] = edit(good, 4, {"drop": 0.3})
    for _ in range(2):  # Whoever asks again is told the same, and nothing is fetched again.
        await desk.order(["hpo"], ["HGNC:9008"])
        await desk.work()
        assert await states(desk) == ["stored", "quarantined"]
        assert await values(desk) == before
        assert await last_problem(desk) == "urn:annobus:problem:release-quarantined"
    assert publisher.sent == 1
    (event,) = [one for one in desk.published if isinstance(one, ReleaseQuarantined)]
    assert [doubt.check for doubt in event.doubts] == ["records", "records", "churn"]
    assert await told(desk) == {}

    await desk.handlers.on_decide_release(decide(event.release_id, decision))
    await desk.handlers.on_decide_release(decide(event.release_id, "reject"))  # Too late.
    await desk.work()
    decided = [one for one in desk.published if isinstance(one, ReleaseDecided)]
    assert [(one.decision, one.decided_by) for one in decided] == [(decision, "r.franklin")]
    after = await read(desk, publisher.contents, tmp_path)
    if decision == "accept":
        assert await states(desk) == ["stored", "stored"]
        assert await values(desk) == after
        assert {gene: row.after for gene, row in (await told(desk)).items()} == {
            gene: after.get(gene) for gene in before if before[gene] != after.get(gene)
        }
    else:
        assert await states(desk) == ["stored", "rejected"]
        assert await values(desk) == before
        await desk.order(["hpo"], ["HGNC:9008"])
        await desk.work()
        assert await last_problem(desk) == "urn:annobus:problem:release-refused"

    publisher.contents[GENES] = edit(good, 5, {"trim": 0.01})  # The next one is as expected.
    await desk.order(["hpo"], ["HGNC:9008"])
    await desk.work()
    if decision == "reject":
        assert await states(desk) == ["stored", "rejected", "stored"]
        assert await values(desk) == await read(desk, publisher.contents, tmp_path)


async def test_an_acceptance_that_crosses_the_end_of_its_batch_is_not_lost(
    stored_desk: Desk, publisher: Publisher
) -> None:
    desk = stored_desk
    publisher.contents[GENES] = edit(publisher.contents[GENES], 4, {"drop": 0.3})
    prepare_release = desk.handlers.prepare_release

    async def prepare_and_decide(batch: Batch) -> list[RunFact]:
        try:
            return await prepare_release(batch)
        except errors.ReleaseQuarantined:  # Seen, and the batch is not buried yet.
            row = await desk.row("SELECT id FROM release WHERE state = 'quarantined'")
            await desk.handlers.on_decide_release(decide(row.id, "accept"))
            raise

    desk.handlers = replace(desk.handlers, prepare_release=prepare_and_decide)
    await desk.order(["hpo"], ["HGNC:9008"])
    await desk.work()
    assert await states(desk) == ["stored", "stored"]


async def test_what_was_accepted_is_stored_though_another_came_and_waits_too(
    stored_desk: Desk, publisher: Publisher, tmp_path: Path
) -> None:
    desk = stored_desk
    good = publisher.contents[GENES]
    first = await quarantine(desk, publisher, edit(good, 4, {"drop": 0.3}))
    accepted = dict(publisher.contents)
    second = await quarantine(desk, publisher, edit(good, 5, {"drop": 0.6}))
    assert await states(desk) == ["stored", "quarantined", "quarantined"]

    await desk.handlers.on_decide_release(decide(first, "accept"))
    await desk.work()
    assert await states(desk) == ["stored", "stored", "quarantined"]
    assert await values(desk) == await read(desk, accepted, tmp_path)
    await desk.handlers.on_decide_release(decide(second, "accept"))
    await desk.work()
    assert await states(desk) == ["stored", "stored", "stored"]
    assert await values(desk) == await read(desk, publisher.contents, tmp_path)


async def test_what_is_older_than_what_readers_have_is_not_accepted_any_more(
    stored_desk: Desk, publisher: Publisher
) -> None:
    desk = stored_desk
    good = publisher.contents[GENES]
    first = await quarantine(desk, publisher, edit(good, 4, {"drop": 0.3}))
    publisher.contents[GENES] = edit(good, 5, {"trim": 0.01})
    await desk.order(["hpo"], ["HGNC:9008"])
    await desk.work()
    before = await values(desk)
    await desk.handlers.on_decide_release(decide(first, "accept"))
    await desk.work()
    assert await states(desk) == ["stored", "quarantined", "stored"]
    assert await values(desk) == before
    # Nor does it keep anybody looking for what nobody will store.
    await quarantine(desk, publisher, edit(good, 6, {"drop": 0.3}))
    await desk.handlers.on_decide_release(decide(first, "reject"))
    assert await states(desk) == ["stored", "rejected", "stored", "quarantined"]


async def quarantine(desk: Desk, publisher: Publisher, genes: bytes) -> UUID:
    """Publish a release that has to wait for a person. Returns its id."""
    publisher.contents[GENES] = genes
    await desk.order(["hpo"], ["HGNC:9008"])
    await desk.work()
    row = await desk.row("SELECT id, state FROM release ORDER BY retrieved_at DESC LIMIT 1")
    assert row.state == "quarantined"
    release_id: UUID = row.id
    return release_id


def decide(release_id: UUID, decision: Decision) -> DecideRelease:
    return DecideRelease(
        source="hpo",
        release_id=release_id,
        decision=decision,
        decided_by="r.franklin",
        note="looked at",
    )


@pytest.mark.parametrize(
    ("check", "change"),
    [
        pytest.param(
            "columns", {GENES: (b"\tdisease_id\n", b"\tdisease_id\textra\n")}, id="column"
        ),
        pytest.param("media type", {"media_type": "application/octet-stream"}, id="media type"),
    ],
)
async def test_another_form_is_noticed_though_it_can_be_read(
    stored_desk: Desk, publisher: Publisher, check: str, change: Mapping[str, Any]
) -> None:
    desk = stored_desk
    if "media_type" in change:
        publisher.media_types[DISEASES] = change["media_type"]
        publisher.contents[DISEASES] += b"\n"
    else:
        header, *lines = publisher.contents[GENES].splitlines(keepends=True)
        rows = [line.rstrip(b"\n") + b"\tx\n" for line in lines]
        publisher.contents[GENES] = header.rstrip(b"\n") + b"\textra\n" + b"".join(rows)
    assert ONTOLOGY in publisher.contents
    await desk.order(["hpo"], ["HGNC:9008"])
    await desk.work()
    assert await states(desk) == ["stored", "quarantined"]
    (event,) = [one for one in desk.published if isinstance(one, ReleaseQuarantined)]
    assert [doubt.check for doubt in event.doubts] == [check]


@pytest.mark.parametrize("file", [GENES, DISEASES])
async def test_what_no_database_can_keep_is_refused_at_once(
    stored_desk: Desk, publisher: Publisher, file: str
) -> None:
    """NUL is a character to JSON, and none to PostgreSQL."""
    desk = stored_desk
    before = await values(desk)
    content = publisher.contents[file]
    if file == GENES:  # In what becomes a key of the report.
        line = content.splitlines()[-1].split(b"\t")
        publisher.contents[file] = content + b"\t".join([b"1\x002", *line[1:]]) + b"\n"
    else:  # In what becomes part of values.
        publisher.contents[file] = content.replace(b"POLYCYSTIC", b"POLY\x00CYSTIC").replace(
            b"olycystic", b"oly\x00cystic"
        )
        assert b"\x00" in publisher.contents[file]
    await desk.order(["hpo"], ["HGNC:9008"])
    await desk.work()
    assert await states(desk) == ["stored", "rejected"]
    assert await last_problem(desk) == "urn:annobus:problem:release-refused"
    problem = await desk.row("SELECT problem FROM release WHERE state = 'rejected'")
    assert "the character NUL" in problem.problem["detail"]
    assert await values(desk) == before
    batch = await desk.row("SELECT attempt FROM batch WHERE state = 'dead'")
    assert batch.attempt == 1


@pytest.mark.parametrize("share", [0.1, 10])
async def test_a_tenth_or_ten_times_clinvars_rows_are_noticed_by_their_number(
    loaded_desk: Desk, share: float
) -> None:
    """Ten times are each row ten times: no value is another, and nothing else speaks against it."""
    desk = loaded_desk
    await desk.order(["clinvar"], ["HGNC:9008"])
    await desk.work()
    publisher = await publish(desk, "clinvar")
    publisher.synthetic, publisher.media_types[VARIANTS] = True, "application/x-gzip"
    header, *lines = gzip.decompress(publisher.contents[VARIANTS]).splitlines(keepends=True)
    kept = lines * 10 if share > 1 else lines[::10]
    publisher.contents[VARIANTS] = gzip.compress(header + b"".join(kept), compresslevel=1)

    await desk.order(["clinvar"], ["HGNC:9008"])
    await desk.work()
    before, after = await desk.rows(
        """SELECT state, counts->>'variant rows' AS rows, doubts::text AS doubts FROM release
           WHERE source = 'clinvar' ORDER BY retrieved_at"""
    )
    assert (before.state, after.state) == ("stored", "quarantined")
    assert (int(before.rows), int(after.rows)) == (len(lines), len(kept))
    doubts = {doubt["check"]: doubt["found"] for doubt in orjson.loads(after.doubts)}
    assert doubts[ROWS] == str(len(kept))
    if share > 1:
        assert doubts.keys() == {ROWS}
