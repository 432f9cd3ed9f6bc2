"""Releases of a source, their files, and the report of what was no gene in them."""

from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from sqlalchemy import text

from tests.builders import build_file, build_release
from tests.integration.gateway.desk import Desk, open_desk
from tests.system import Database, SharedCluster, database_to_read

ENTRIES = [("12", "no approved gene has this Entrez id", 3), ("ACMG", "no gene, but a word", 1)] * 3


async def build_reported(database: Database) -> UUID:
    """A release of HPO with six entries in its report, of which seven were found."""
    async with database.begin("annotator") as tx:
        await build_release(tx, "hpo", "older")
        release_id = await build_release(tx, "hpo", "newer")
        await build_file(tx, release_id, "phenotype.hpoa", b"\xab", 12)
        await build_file(tx, release_id, "hp.obo", b"\xcd", 34)
        await tx.execute(
            text("UPDATE release SET row_count = 5, unmapped_count = 7 WHERE id = :release_id"),
            {"release_id": release_id},
        )
        for position, (key, reason, row_count) in enumerate(ENTRIES, start=1):
            await tx.execute(
                text("INSERT INTO unmapped VALUES (:release_id, :position, :key, :reason, :rows)"),
                {
                    "release_id": release_id,
                    "position": position,
                    "key": key,
                    "reason": reason,
                    "rows": row_count,
                },
            )
    return release_id


@pytest.fixture(scope="module")
def reported_database(cluster: SharedCluster, template: str) -> Iterator[Database]:
    async def report(database: Database) -> None:
        await build_reported(database)

    yield from database_to_read(cluster, template, report)


@pytest_asyncio.fixture
async def reported(reported_database: Database) -> AsyncIterator[Desk]:
    async with open_desk(reported_database) as desk:
        yield desk


@pytest_asyncio.fixture
async def release_id(reported: Desk) -> UUID:
    (row,) = await reported.rows("SELECT id FROM annotator.release WHERE version = 'newer'")
    return UUID(str(row["id"]))


async def get(desk: Desk, address: str, **parameters: str) -> dict[str, Any]:
    answer = await desk.client.get(address, params=parameters or None)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def test_releases_are_listed_newest_first(reported: Desk, release_id: UUID) -> None:
    document = await get(reported, "/api/sources/hpo/releases")
    assert [item["attributes"]["version"] for item in document["data"]] == ["newer", "older"]
    assert document["data"][0]["id"] == str(release_id)
    assert (await get(reported, "/api/sources/gnomad/releases"))["data"] == []

    address, found = "/api/sources/hpo/releases?page[size]=1", []
    while address:
        page = await get(reported, address)
        found += [item["attributes"]["version"] for item in page["data"]]
        address = page["links"]["next"]
    assert found == ["newer", "older"]


async def test_a_release_has_its_files(reported: Desk, release_id: UUID) -> None:
    document = await get(reported, f"/api/sources/hpo/releases/{release_id}")
    release = document["data"]["attributes"]
    assert (release["state"], release["unmapped_count"], release["problem"]) == ("stored", 7, None)
    assert release["file_count"] == 2
    assert [(file["name"], file["sha256"], file["bytes"]) for file in release["files"]] == [
        ("phenotype.hpoa", "ab", 12),
        ("hp.obo", "cd", 34),
    ]
    assert {"url", "etag", "last_modified", "retrieved_at"} <= set(release["files"][0])
    unmapped = await get(reported, document["data"]["links"]["unmapped"])
    assert len(unmapped["data"]) == len(ENTRIES)


async def test_a_rejected_release_says_why_and_has_no_report(desk: Desk) -> None:
    async with desk.database.begin("annotator") as tx:
        rejected = await tx.scalar(
            text("""
                INSERT INTO release (source, state, parser_version, retrieved_at, checked_at,
                                     problem)
                VALUES ('hpo', 'rejected', 1, now(), now(), '{"title": "HTML"}') RETURNING id
            """)
        )
    release = (await get(desk, f"/api/sources/hpo/releases/{rejected}"))["data"]["attributes"]
    assert release["problem"] == {"title": "HTML"}
    report = await get(desk, f"/api/sources/hpo/releases/{rejected}/unmapped")
    assert report["data"] == []
    assert (report["meta"]["unmapped_count"], report["meta"]["truncated"]) == (None, False)


async def test_the_release_of_an_api_has_an_empty_report(desk: Desk) -> None:
    async with desk.database.begin("annotator") as tx:
        release_id = await build_release(tx, "ensembl", state="accepted")
    report = await get(desk, f"/api/sources/ensembl/releases/{release_id}/unmapped")
    assert report["data"] == []
    assert (report["meta"]["unmapped_count"], report["meta"]["truncated"]) == (None, False)


async def test_a_report_is_paged_by_key_and_says_what_it_leaves_out(
    reported: Desk, release_id: UUID
) -> None:
    address = f"/api/sources/hpo/releases/{release_id}/unmapped?page[size]=4"
    found = []
    while address:
        page = await get(reported, address)
        found += [
            (entry["key"], entry["reason"], entry["row_count"])
            for entry in (item["attributes"] for item in page["data"])
        ]
        assert page["meta"] == {
            "total": 6,
            "row_count": 12,
            "reasons": [
                {"reason": ENTRIES[0][1], "count": 3, "row_count": 9},
                {"reason": ENTRIES[1][1], "count": 3, "row_count": 3},
            ],
            "unmapped_count": 7,
            "kept_count": 6,
            "truncated": True,
        }
        address = page["links"]["next"]
    assert found == ENTRIES


async def test_a_report_is_filtered_by_exact_reason_and_key(desk: Desk) -> None:
    address = f"/api/sources/hpo/releases/{await build_reported(desk.database)}/unmapped"
    found = await get(desk, address, **{"filter[reason]": "no gene, but a word"})
    assert {item["attributes"]["key"] for item in found["data"]} == {"ACMG"}
    assert (found["meta"]["total"], found["meta"]["kept_count"]) == (3, 6)
    assert found["meta"]["truncated"]
    await desk.execute("UPDATE annotator.release SET unmapped_count = 6")
    found = await get(desk, address, **{"filter[reason]": "no gene, but a word"})
    assert not found["meta"]["truncated"]
    found = await get(desk, address, **{"filter[key]": "12", "page[size]": "2"})
    assert [item["id"] for item in found["data"]] == ["1", "3"]
    following = await get(desk, found["links"]["next"])
    assert [item["id"] for item in following["data"]] == ["5"]
    assert (await get(desk, address, **{"filter[reason]": "no gene"}))["data"] == []


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("nowhere/releases", 404, "source-unknown"),
        ("nowhere/releases/01a2132c-57a3-7734-8466-9088325737d3", 404, "source-unknown"),
        ("hpo/releases/01a2132c-57a3-7734-8466-9088325737d3", 404, "release-unknown"),
        ("hpo/releases/newest", 404, "release-unknown"),
        ("hpo/releases/newest/unmapped", 404, "release-unknown"),
        ("hpo/releases?page[size]=201", 400, "parameter-invalid"),
        ("hpo/releases?filter[state]=stored", 400, "parameter-unknown"),
    ],
)
async def test_what_there_is_not_is_told(
    reported: Desk, release_id: UUID, path: str, status: int, kind: str
) -> None:
    answer = await reported.client.get(f"/api/sources/{path}")
    assert answer.status_code == status
    assert answer.json()["type"] == f"urn:annobus:problem:{kind}"
    other = await reported.client.get(f"/api/sources/gnomad/releases/{release_id}")
    assert other.json()["type"] == "urn:annobus:problem:release-unknown"


async def test_a_report_s_parameters_are_checked(reported: Desk, release_id: UUID) -> None:
    for parameter in ("page[after]=x", "page[total]=true", "filter[reason]=", "sort=key"):
        answer = await reported.client.get(
            f"/api/sources/hpo/releases/{release_id}/unmapped?{parameter}"
        )
        assert answer.status_code == 400, parameter


REASONS = {"by": "r.franklin", "note": "the file was split; see its release notes"}


@pytest_asyncio.fixture
async def quarantined(desk: Desk) -> str:
    async with desk.database.begin("annotator") as tx:
        release_id = await build_release(tx, "hpo", "doubtful", state="fetched", is_readable=False)
        await tx.execute(
            text("""
                UPDATE release SET state = 'quarantined',
                    doubts = '[{"check": "records", "found": "17", "accepted": "4000 to 10000"}]'
                WHERE id = :release_id
            """),
            {"release_id": release_id},
        )
    return str(release_id)


@pytest.mark.parametrize("decision", ["accept", "reject"])
async def test_a_person_decides_about_a_release_in_quarantine(
    desk: Desk, quarantined: str, decision: str
) -> None:
    address = f"/api/sources/hpo/releases/{quarantined}"
    shown = (await get(desk, address))["data"]["attributes"]
    assert (shown["state"], shown["doubts"][0]["check"]) == ("quarantined", "records")
    answer = await desk.client.post(f"{address}/{decision}", json=REASONS)
    assert (answer.status_code, answer.headers["location"]) == (202, address)
    (command,) = await desk.outbox()
    assert (command["topic"], command["key"]) == ("pipeline.commands.v1", "hpo")
    assert (command["release_id"], command["decision"]) == (quarantined, decision)
    assert (command["decided_by"], command["note"]) == (REASONS["by"], REASONS["note"])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"by": "r.franklin"}, "note"),
        ({**REASONS, "note": "  "}, "note"),
        ({**REASONS, "by": "x" * 201}, "by"),
        ({**REASONS, "force": True}, "force"),
    ],
)
async def test_a_decision_says_who_and_why(
    desk: Desk, quarantined: str, body: dict[str, Any], says: str
) -> None:
    answer = await desk.client.post(f"/api/sources/hpo/releases/{quarantined}/accept", json=body)
    assert answer.status_code == 422
    assert says in answer.text
    assert await desk.outbox() == []


async def test_what_waits_for_no_decision_takes_none(reported: Desk, release_id: UUID) -> None:
    answer = await reported.client.post(
        f"/api/sources/hpo/releases/{release_id}/reject", json=REASONS
    )
    assert answer.status_code == 409
    assert "is stored" in answer.json()["detail"]


async def test_what_is_older_than_what_readers_have_can_only_be_rejected(
    desk: Desk, quarantined: str
) -> None:
    address = f"/api/sources/hpo/releases/{quarantined}"
    async with desk.database.begin("annotator") as tx:
        newer = await build_release(tx, "hpo", "newer")
    answer = await desk.client.post(f"{address}/accept", json=REASONS)
    assert (answer.status_code, answer.json()["type"]) == (
        409,
        "urn:annobus:problem:release-superseded",
    )
    assert str(newer) in answer.json()["detail"]
    assert await desk.outbox() == []
    assert (await desk.client.post(f"{address}/reject", json=REASONS)).status_code == 202


async def test_a_release_of_a_retired_source_can_only_be_rejected(
    desk: Desk, quarantined: str
) -> None:
    """Nobody is left who could store it."""
    address = f"/api/sources/hpo/releases/{quarantined}"
    await desk.execute("UPDATE annotator.source SET is_retired = true WHERE name = 'hpo'")
    answer = await desk.client.post(f"{address}/accept", json=REASONS)
    assert (answer.status_code, answer.json()["type"]) == (
        409,
        "urn:annobus:problem:source-retired",
    )
    assert await desk.outbox() == []
    assert (await desk.client.post(f"{address}/reject", json=REASONS)).status_code == 202
