"""Raw files are kept in a folder or in a bucket, and nobody who reads them can tell where."""

import asyncio
import hashlib
import os
import random
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from contracts.messages import AnnotateBatch
from infra.ports import HOST, find_free
from services.annotator.errors import RawStoreRefused, RawStoreUnavailable
from services.annotator.raw_bucket import PART_BYTES, Bucket
from services.annotator.raw_store import RawStore, raw_store_of
from services.annotator.settings import AnnotatorSettings
from tests.integration.annotator.desk import Desk, in_both_places
from tests.integration.annotator.publishing import publish
from tests.s3 import SECRET, S3Server, keep_s3
from tests.system import ROOT

START_SECONDS_MAX = 30
LARGE_BYTES = 160 * 1024 * 1024
GROWTH_BYTES_MAX = 96 * 1024 * 1024


def settings(folder: Path, raw_settings: Mapping[str, str]) -> AnnotatorSettings:
    return AnnotatorSettings.model_validate(
        {"database_url": "postgresql://", "raw_folder": folder, **raw_settings}
    )


@pytest.fixture
def store(tmp_path: Path, raw_settings: Mapping[str, str]) -> RawStore:
    return raw_store_of(settings(tmp_path / "raw", raw_settings))


@in_both_places
async def test_what_is_kept_is_small_and_comes_back_byte_for_byte(store: RawStore) -> None:
    await store.make_ready()
    content = b"a table with many lines that are alike\n" * 10_000
    sha256 = hashlib.sha256(content).digest()
    async with store.workspace() as folder:
        (folder / "table").write_bytes(content)
        await store.keep(folder / "table", sha256)
        assert list(folder.iterdir()) == []
    await store.keep_bytes(content, sha256)  # Once more, by another way.
    await store.keep_bytes(b"{}", hashlib.sha256(b"{}").digest())

    assert await store.holds(sha256, hashlib.sha256(b"{}").digest())
    assert not await store.holds(sha256, hashlib.sha256(b"").digest())
    assert store.open(sha256).read() == content
    sizes = await store.sizes()
    assert sizes.keys() == {sha256, hashlib.sha256(b"{}").digest()}
    assert sizes[sha256] < len(content) / 100
    await store.remove([sha256])
    assert not await store.holds(sha256)
    await store.remove([sha256])


@in_both_places
async def test_a_file_of_many_parts_comes_back_as_it_was(store: RawStore, tmp_path: Path) -> None:
    content = random.Random(7).randbytes(3 * PART_BYTES + 17)  # noqa: S311
    sha256 = hashlib.sha256(content).digest()
    (tmp_path / "large").write_bytes(content)
    await store.keep(tmp_path / "large", sha256)
    with store.open(sha256) as file:
        assert file.read() == content


def test_a_file_whose_end_does_not_come_is_not_there(s3_server: S3Server, tmp_path: Path) -> None:
    bucket = Bucket(settings(tmp_path, s3_server.make_bucket()))

    def broken() -> Iterator[bytes]:
        yield bytes(2 * PART_BYTES)
        raise OSError("the disk has failed")

    with pytest.raises(OSError, match="the disk has failed"):
        bucket.put("half", broken())
    assert not bucket.holds("half")
    assert list(bucket.sizes()) == []


def test_the_memory_that_a_file_takes_does_not_grow_with_it(
    s3_server: S3Server, tmp_path: Path
) -> None:
    """Read by a process of its own: what it took at most is known at its end."""
    place = s3_server.make_bucket()
    grown = int(
        subprocess.run(
            (sys.executable, __file__, str(tmp_path)),
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "ANNOTATOR_DATABASE_URL": "postgresql://",
                "ANNOTATOR_RAW_FOLDER": str(tmp_path),
                **{f"ANNOTATOR_{name.upper()}": value for name, value in place.items()},
            },
            check=True,
            capture_output=True,
        ).stdout
    )
    assert grown < GROWTH_BYTES_MAX


def keep_and_read_large(folder: Path) -> int:
    """A file that cannot be packed goes into the store and comes out of it. Returns by how many
    bytes the process has grown at most."""
    store = raw_store_of(AnnotatorSettings())
    small = b"whatever the first file takes"
    asyncio.run(store.keep_bytes(small, hashlib.sha256(small).digest()))
    store.open(hashlib.sha256(small).digest()).read()
    before = peak_bytes()
    path, said = folder / "large", hashlib.sha256()
    chance = random.Random(3)  # noqa: S311
    with path.open("wb") as file:
        for _ in range(LARGE_BYTES // 1024**2):
            piece = chance.randbytes(1024**2)
            said.update(piece)
            file.write(piece)
    asyncio.run(store.keep(path, said.digest()))
    with store.open(said.digest()) as file:
        assert hashlib.file_digest(file, "sha256").digest() == said.digest()
    return peak_bytes() - before


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def test_a_bucket_that_is_not_there_is_refused(s3_server: S3Server, tmp_path: Path) -> None:
    store = raw_store_of(settings(tmp_path, s3_server.settings("nobody-made-this")))
    with pytest.raises(RawStoreRefused) as refused:
        await store.make_ready()
    assert str(refused.value) == (
        "ANNOTATOR_RAW_STORE=s3://nobody-made-this/some/prefix names a bucket that is not there;"
        " accepted is one that is"
    )


async def test_a_key_that_opens_nothing_is_refused_and_its_secret_not_told(tmp_path: Path) -> None:
    with keep_s3(knows_no_key=True) as server:
        store = raw_store_of(settings(tmp_path, server.settings("raw-annobus")))
        with pytest.raises(RawStoreRefused) as refused:
            await store.make_ready()
        with pytest.raises(RawStoreUnavailable) as unavailable:
            await store.keep_bytes(b"", hashlib.sha256(b"").digest())
    said = str(refused.value)
    assert said.startswith("ANNOTATOR_RAW_S3_ACCESS_KEY_ID=key-of-a-test is refused; accepted is")
    assert "\n" not in said
    assert SECRET not in said + str(unavailable.value) + repr(unavailable.value)


def test_a_key_that_is_set_signs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session's token of the environment belongs to another key, and would have it refused."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-another-key")
    heard: list[Mapping[str, str]] = []

    class Listening(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            heard.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with HTTPServer((HOST, 0), Listening) as server:
        answering = threading.Thread(target=server.handle_request)
        answering.start()
        place = S3Server(f"http://{HOST}:{server.server_port}").settings("raw-annobus")
        assert not Bucket(settings(tmp_path, place)).holds("anything")
        answering.join()
    (headers,) = heard
    assert "Credential=key-of-a-test/" in headers["authorization"]
    assert "x-amz-security-token" not in headers


async def test_a_bucket_that_only_has_other_things_is_ours_to_use(
    s3_server: S3Server, tmp_path: Path
) -> None:
    place = s3_server.make_bucket()
    other = Bucket(settings(tmp_path, place | {"raw_store": place["raw_store"] + "/else"}))
    other.put("readme.txt", iter([b"not ours"]))
    store = raw_store_of(settings(tmp_path, place))
    await store.make_ready()
    assert await store.sizes() == {}


@pytest.mark.parametrize("name", ["bucket", "away"])
async def test_the_start_says_in_a_sentence_what_is_wrong_with_the_place(
    name: str, s3_server: S3Server, tmp_path: Path
) -> None:
    """Nothing else is asked before: neither PostgreSQL nor Kafka is there."""
    fields = s3_server.settings("nobody-made-this")
    if name == "away":
        fields["raw_s3_endpoint"] = f"http://{HOST}:{find_free()}"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.annotator"),
        cwd=ROOT,
        env={
            **os.environ,
            "ANNOTATOR_DATABASE_URL": f"postgresql://nobody@{HOST}:1/none",
            "ANNOTATOR_RAW_FOLDER": str(tmp_path),
            **{f"ANNOTATOR_{key.upper()}": value for key, value in fields.items()},
        },
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    said: list[str] = []
    try:
        async with asyncio.timeout(START_SECONDS_MAX):
            while "raw_store_waits" not in (line := (await process.stderr.readline()).decode()):
                if not line:
                    break
                said.append(line)
            if name == "away":
                assert fields["raw_store"] in line
                process.terminate()
            code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert not any(SECRET in one for one in (*said, line))
    if name == "away":
        assert code == 0
        return
    assert code == 1
    assert said[-1].startswith("annobus annotator: ANNOTATOR_RAW_STORE=s3://nobody-made-this/")
    assert "Traceback" not in "".join(said)


@pytest.mark.parametrize("raw_settings", ["bucket"], indirect=True)
async def test_a_store_that_is_away_costs_attempts_and_nothing_else(
    loaded_desk: Desk, tmp_path: Path, raw_settings: Mapping[str, str]
) -> None:
    desk = loaded_desk
    await desk.order(["hpo"], ["HGNC:9008"])
    await desk.work()
    publisher = await publish(desk, "hpo")
    publisher.contents = {name: one + b"\n" for name, one in publisher.contents.items()}
    before = await desk.rows("SELECT * FROM current_annotation_v1 WHERE source = 'hpo'")
    away = settings(
        tmp_path, {**raw_settings, "raw_s3_endpoint": f"http://{HOST}:{find_free()}"}
    ).model_copy(update={"database_url": desk.releases.settings.database_url})
    good = desk.releases

    async def attempt(releases: object) -> tuple[str, str, int]:
        desk.handlers = replace(desk.handlers, prepare_release=releases.prepare_release)  # type: ignore[attr-defined]
        await desk.make_due()
        await desk.planner.plan_and_feed()
        for hint in await desk.relay():  # Once: on a slow machine the next attempt is due by then.
            if isinstance(hint, AnnotateBatch):
                await desk.handlers.on_annotate_batch(hint)
        row = await desk.row(
            """SELECT state, coalesce(problem->>'type', '') AS problem, attempt FROM batch
               WHERE kind = 'release' AND source = 'hpo' ORDER BY id DESC LIMIT 1"""
        )
        return row.state, row.problem, row.attempt

    await desk.order(["hpo"], ["HGNC:9008"])
    # First nobody can be asked what is there already; then a child finds that it cannot read.
    held = replace(good, raw_store=raw_store_of(away))
    assert await attempt(held) == ("pending", "urn:annobus:problem:raw-store-unavailable", 1)
    unread = replace(good, settings=away)
    assert await attempt(unread) == ("pending", "urn:annobus:problem:staging-failed", 2)
    assert await desk.rows("SELECT * FROM current_annotation_v1 WHERE source = 'hpo'") == before
    sent = publisher.sent
    assert await attempt(good) == ("done", "urn:annobus:problem:staging-failed", 3)
    assert publisher.sent == sent  # What was kept is there.
    await desk.work()
    rows = await desk.rows("SELECT state FROM run")
    assert [row.state for row in rows] == ["completed"] * len(rows)


if __name__ == "__main__":
    sys.stdout.write(str(keep_and_read_large(Path(sys.argv[1]))))
