"""What `annobus doctor` finds on a machine where nothing runs, and what it says of it."""

import os
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from infra import jars
from services.annotator.settings import AnnotatorSettings
from services.cache.settings import CacheSettings
from services.chassis.settings import ServiceSettings
from services.cli import doctor, machine_checks, state, system_checks
from services.cli.findings import Finding, Site, ok, warning
from services.cli.room import GIGABYTE
from services.gateway.settings import GatewaySettings


def site(folder: Path, **environment: str) -> Site:
    return doctor.look_around(folder, environment)


def killed_run(folder: Path) -> None:
    """The state of a supervisor that had our process id, and was started before us."""
    started = state.started_at(os.getpid())
    assert started is not None
    state.write(
        folder,
        state.SystemState(
            pid=os.getpid(), started=started - 1, command="up", ready=True, url=None, processes={}
        ),
    )


async def test_a_folder_that_takes_no_file_is_a_problem(tmp_path: Path) -> None:
    assert (await machine_checks.state_folder(site(tmp_path / "new"))).word == "ok"
    assert not (tmp_path / "new").exists()
    found = await machine_checks.state_folder(site(Path("/proc/annobus")))
    assert found.word == "problem"
    assert "/proc cannot be written" in found.found
    assert "--state" in found.advice


@pytest.mark.parametrize(
    ("free", "word"), [(0.4, "problem"), (2, "warning"), (5, "ok")], ids=["full", "low", "free"]
)
async def test_a_full_disk_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, word: str
) -> None:
    usage = SimpleNamespace(free=int(free * GIGABYTE))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    found = await machine_checks.disk(site(tmp_path))
    assert found.word == word
    assert f"{free:.1f} GB free" in found.found


async def test_little_memory_is_a_warning_before_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "meminfo"
    file.write_text("MemTotal: 9000000 kB\nMemAvailable: 500000 kB\n")
    monkeypatch.setattr(machine_checks, "MEMORY_FILE", file)
    found = await machine_checks.memory(site(tmp_path))
    assert (found.word, found.found) == ("warning", "0.5 GB available")


async def test_a_taken_port_of_the_gateway_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(machine_checks, "GATEWAY_PORT", port)
        found = await machine_checks.gateway_port(site(tmp_path))
        assert (found.word, found.found) == ("warning", f"{port} is taken by another program")
    assert (await machine_checks.gateway_port(site(tmp_path))).word == "ok"


async def test_a_java_that_cannot_run_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_checks, "JAVA", tmp_path / "java")
    found = await machine_checks.java(site(tmp_path))
    assert found.word == "problem"
    assert "does not start: No such file" in found.found


async def test_damaged_jars_are_named_and_missing_ones_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    here = site(tmp_path / "state")
    assert "will be fetched" in (await machine_checks.jars(here)).found
    assert not (tmp_path / "cache").exists()

    folder = tmp_path / "cache" / "annobus" / f"kafka-{jars.VERSION}"
    folder.mkdir(parents=True)
    (folder / "slf4j-api-1.7.36.jar").write_bytes(b"half a jar")
    found = await machine_checks.jars(here)
    assert found.word == "problem"
    assert "slf4j-api-1.7.36.jar" in found.found
    assert found.advice.endswith(f"rm -r {folder}")


async def test_what_a_killed_start_left_is_said(tmp_path: Path) -> None:
    assert (await system_checks.cluster(site(tmp_path))).word == "not running"
    killed_run(tmp_path)
    killed = await system_checks.cluster(site(tmp_path))
    assert (killed.word, "was killed" in killed.found) == ("warning", True)
    (tmp_path / "kafka" / "unfinished").mkdir(parents=True)
    half = await system_checks.cluster(site(tmp_path))
    assert half.word == "warning"
    assert f"{tmp_path / 'kafka' / 'unfinished'} half-written" in half.found


async def test_a_server_that_does_not_answer_is_one_problem(tmp_path: Path) -> None:
    here = site(
        tmp_path,
        ANNOBUS_DATABASE_URL="postgresql://annobus:secret@127.0.0.1:1/annobus",
        ANNOBUS_KAFKA_BOOTSTRAP="127.0.0.1:1",
    )
    findings = await doctor.examine(here, doctor.CHECKS)
    problems = {name for name, finding in findings.items() if finding.word == "problem"}
    assert problems == {"postgresql", "kafka"}
    assert findings["schemas"].word == findings["topics"].word == "not running"
    assert "secret" not in str(findings)


async def test_a_check_that_fails_is_a_problem_and_the_others_go_on(tmp_path: Path) -> None:
    async def broken(_site: Site) -> Finding:
        raise OSError("the disk is gone")

    async def fine(_site: Site) -> Finding:
        return ok("fine")

    findings = await doctor.examine(site(tmp_path), {"broken": broken, "fine": fine})
    assert [finding.word for finding in findings.values()] == ["problem", "ok"]
    assert findings["broken"].found == "the disk is gone"


def test_a_finding_and_its_way_out_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.show({"disk": warning("1.0 GB free", "Free some"), "java": ok("25")})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:3]] == [
        ["warning", "disk", "1.0", "GB", "free"],
        ["ok", "java", "25"],
    ]
    assert lines[3].endswith(" disk: Free some")


@pytest.mark.parametrize(
    ("service", "settings"),
    [("annotator", AnnotatorSettings), ("cache", CacheSettings), ("gateway", GatewaySettings)],
)
def test_connections_are_counted_as_the_services_declare_them(
    service: str, settings: type[ServiceSettings]
) -> None:
    declared = system_checks.CONNECTIONS[service]
    fields = settings.model_fields
    assert declared.pool_size == fields["pool_size"].default
    assert declared.pool_overflow == fields["pool_overflow"].default
