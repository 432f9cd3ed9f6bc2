"""Raw files go when nobody needs them, by age and by size; what a value was read from stays."""

from collections.abc import Mapping
from datetime import timedelta
from hashlib import sha256
from uuid import UUID

import pytest
import pytest_asyncio
from sqlalchemy import text

from services.annotator.errors import RawStoreUnavailable
from services.annotator.retention import Retention
from tests.builders import build_catalogue, build_file, build_release
from tests.integration.annotator.desk import Desk, in_both_places

pytestmark = in_both_places

AGE = timedelta(days=30)
AMPLE = 10**9

# Each release of HPO has one file of its own, and all have one in common.
FILES = {name: f"what {name} says\n".encode() * 100 for name in ("first", "second", "third")}
SHARED = b"the ontology of all\n" * 100


def hash_of(content: bytes) -> bytes:
    return sha256(content).digest()


@pytest_asyncio.fixture
async def releases(desk: Desk) -> Mapping[str, UUID]:
    """Three stored releases; of the first one's values none holds any more."""
    store = desk.releases.raw_store
    found = {}
    for content in (*FILES.values(), SHARED):
        await store.keep_bytes(content, hash_of(content))
    async with desk.engine.begin() as tx:
        await build_catalogue(tx)
        for name, content in FILES.items():
            found[name] = release_id = await build_release(tx, "hpo", name)
            file_id = await build_file(tx, release_id, "genes", hash_of(content))
            await build_file(tx, release_id, "ontology", hash_of(SHARED))
            if name != "first":
                await tx.execute(
                    text("""
                        INSERT INTO annotation (hgnc_id, source, valid_from, value, digest,
                            release_id, file_id, position, retrieved_at, parser_version, matched_by)
                        VALUES ('HGNC:' || :number, 'hpo', now(), '{}', '\\x01', :release_id,
                                :file_id, 1, now(), 1, 'entrez_id')
                    """),
                    {"number": str(file_id), "release_id": release_id, "file_id": file_id},
                )
        await tx.execute(text("UPDATE release SET sha256 = '\\x01' WHERE source = 'hpo'"))
    return found


async def sweep(desk: Desk, *, age: timedelta = AGE, bytes_max: int = AMPLE) -> None:
    await Retention(desk.engine, desk.releases.raw_store, age, bytes_max).sweep()


async def removed(desk: Desk) -> set[str]:
    rows = await desk.rows("SELECT name FROM release_file WHERE removed_at IS NOT NULL")
    return {row.name for row in rows}


async def grow_old(desk: Desk) -> None:
    async with desk.engine.begin() as tx:
        await tx.execute(
            text("UPDATE release_file SET retrieved_at = retrieved_at - interval '31 days'")
        )


@pytest.mark.usefixtures("releases")
async def test_what_nobody_needs_goes_when_it_is_old(desk: Desk) -> None:
    await sweep(desk)
    assert await removed(desk) == set()  # It is young.
    await grow_old(desk)
    await sweep(desk)
    # The second one's values hold, the third is the newest; the ontology is theirs, too.
    assert await removed(desk) == {"genes"}
    store = desk.releases.raw_store
    assert {name: await store.holds(hash_of(content)) for name, content in FILES.items()} == {
        "first": False,
        "second": True,
        "third": True,
    }
    assert await store.holds(hash_of(SHARED))


@pytest.mark.usefixtures("releases")
async def test_what_nobody_needs_goes_before_when_all_take_too_much(desk: Desk) -> None:
    store = desk.releases.raw_store
    all_of_it = sum((await store.sizes()).values())
    await sweep(desk, bytes_max=all_of_it)
    assert await removed(desk) == set()
    await sweep(desk, bytes_max=1)  # What is needed stays all the same.
    assert await removed(desk) == {"genes"}
    assert len(await store.sizes()) == len(FILES)


async def test_a_release_that_waits_for_a_person_keeps_its_files(
    desk: Desk, releases: Mapping[str, UUID]
) -> None:
    async with desk.engine.begin() as tx:
        await tx.execute(
            text("""
                UPDATE release SET state = 'quarantined', doubts = '[]', accepted_at = NULL,
                                   stored_at = NULL, readable_since = NULL WHERE id = :id
            """),
            {"id": releases["first"]},
        )
    await grow_old(desk)
    await sweep(desk, bytes_max=0)
    assert await removed(desk) == set()


@pytest.mark.usefixtures("releases")
async def test_a_store_that_is_away_is_swept_another_time(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = desk.releases.raw_store
    retention = Retention(desk.engine, store, AGE, AMPLE)
    await grow_old(desk)

    async def away(_: object) -> None:
        raise RawStoreUnavailable("nobody answers")

    with monkeypatch.context() as patch:
        patch.setattr(store, "remove", away)
        async with desk.engine.connect() as connection:
            assert not await retention.work(connection)
    assert await removed(desk) == set()
    assert len(await store.sizes()) == len(FILES) + 1
    await retention.sweep()
    assert await removed(desk) == {"genes"}
    assert len(await store.sizes()) == len(FILES)
