"""`annobus doctor` where nothing runs, and on a real PostgreSQL and a real Kafka."""

import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from contracts.topics import topics
from services.annotator.sources import SOURCES
from services.cli import doctor, migrate, state, system_checks
from services.cli.findings import Site
from tests.integration.cli.conftest import Annobus
from tests.system import Database, SharedCluster


def site(folder: Path, environment: dict[str, str], prefix: str) -> Site:
    return doctor.look_around(folder, environment | {"ANNOBUS_TOPIC_PREFIX": prefix})


def test_nothing_needs_to_run(annobus: Annobus, tmp_path: Path) -> None:
    ended = annobus("doctor", "--json")
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert report["ok"]
    assert list(report["checks"]) == list(doctor.CHECKS)
    asked = ("postgresql", "kafka", "schemas", "topics", "connections", "clock")
    assert {report["checks"][name]["word"] for name in asked} == {"not running"}
    assert not (tmp_path / ".annobus").exists()


def test_a_problem_has_a_way_out_where_the_terminal_knows_ascii_alone(annobus: Annobus) -> None:
    ended = annobus(
        "doctor", "--state", "/proc/annobus-ü", TERM="dumb", LC_ALL="C", PYTHONIOENCODING="ascii"
    )
    assert ended.returncode == 1, ended.stderr
    assert ended.stdout.isascii()
    assert "problem" in ended.stdout
    assert "-> state folder: Make it writable" in ended.stdout
    assert ended.stderr == ""


async def test_a_migrated_database_is_fine_and_an_empty_one_is_not(
    cluster: SharedCluster, database: Database, tmp_path: Path, topic_prefix: str
) -> None:
    here = site(tmp_path, database.environment, topic_prefix)
    assert (await system_checks.schemas(here)).word == "ok"
    assert (await system_checks.postgresql(here)).found.endswith("answers")
    assert (await system_checks.clock(here)).word == "ok"

    await cluster.create_database("never_migrated")
    empty = await system_checks.schemas(
        site(tmp_path, cluster.environment("never_migrated"), topic_prefix)
    )
    assert empty.word == "problem"
    assert "cache is at none, needed is cache_0001" in empty.found
    assert empty.advice.endswith("annobus migrate")


async def test_topics_are_compared_and_not_made(
    database: Database, tmp_path: Path, topic_prefix: str
) -> None:
    here = site(tmp_path, database.environment, topic_prefix)
    missing = await system_checks.topic_shapes(here)
    assert missing.word == "problem"
    assert f"topic {topic_prefix}dlq.v1 is missing" in missing.found
    assert await system_checks.topic_shapes(here) == missing
    bootstrap = database.environment["ANNOBUS_KAFKA_BOOTSTRAP"]
    wanted = topics(SOURCES, topic_prefix)
    await migrate.create_topics(bootstrap, wanted)
    assert (await system_checks.topic_shapes(here)).word == "ok"


@pytest.mark.parametrize(("annotators", "word"), [(1, "ok"), (32, "problem")])
async def test_connections_of_what_runs_are_summed(
    database: Database, tmp_path: Path, annotators: int, word: str
) -> None:
    names = ["postgres", "gateway", "cache", *(f"annotator-{slot}" for slot in range(annotators))]
    process = state.ProcessState(pid=None, restarts=0, address="127.0.0.1:1")
    running = state.SystemState(
        pid=os.getpid(),
        started=0,
        command="up",
        ready=True,
        url=None,
        processes=dict.fromkeys(names, process),
    )
    here = replace(site(tmp_path, database.environment, ""), running=running)
    found = await system_checks.connections(here)
    declared = system_checks.CONNECTIONS
    each = {
        name: one.pool_size + one.pool_overflow + one.sessions for name, one in declared.items()
    }
    total = each["gateway"] + each["cache"] + annotators * each["annotator"]
    assert found.word == word
    assert f"may open {total}," in found.found


async def test_a_clock_that_differs_is_a_warning(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SimpleNamespace(time=lambda: time.time() - 100)
    monkeypatch.setattr(system_checks, "time", slow)
    found = await system_checks.clock(site(tmp_path, database.environment, ""))
    assert found.word == "warning"
    assert re.fullmatch(r"the database's is (99|100)\.\d\d s ahead", found.found)
