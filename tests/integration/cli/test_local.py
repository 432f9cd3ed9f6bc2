"""A whole system as `annobus up` and `annobus demo` run it: started, broken, stopped."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.cluster import Cluster
from services.cli import state
from tests.integration.cli.conftest import COMMAND, Annobus
from tests.system import ROOT
from tests.waiting import block_until

pytestmark = pytest.mark.embedded

DEADLINE_SECONDS = 60
OWNER = "ANNOBUS_DATABASE_URL"
ADDRESSES = {
    "annotator-0": "ANNOTATOR_DATABASE_URL",
    "annotator-1": "ANNOTATOR_DATABASE_URL",
    "cache": "CACHE_DATABASE_URL",
    "gateway": "GATEWAY_DATABASE_URL",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One state folder for all, so that only the first start is a first start."""
    folder = tmp_path_factory.mktemp("local") / "state folder"
    yield folder
    subprocess.run([*COMMAND, "down", "--state", str(folder)], cwd=ROOT, check=True, timeout=60)
    Cluster(folder, variables={}).remove()


def environment_of(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if pair)


def test_up_status_restart_and_down(folder: Path, annobus: Annobus) -> None:
    here = ("--state", str(folder))
    up = annobus("up", "--annotators", "2", "--no-limits", "--json", *here)
    assert up.returncode == 0, up.stderr
    running = json.loads(up.stdout)
    assert running["ready"]
    assert "starting PostgreSQL and Kafka" in up.stderr

    status = annobus("status", "--json", *here)
    assert status.returncode == 0, status.stdout + status.stderr
    processes = json.loads(status.stdout)["processes"]
    assert set(processes) == {*ADDRESSES, "postgres", "kafka", "mirror"}
    assert {process["status"] for process in processes.values()} == {"ready"}

    for name, address in ADDRESSES.items():
        environment = environment_of(processes[name]["pid"])
        databases = [key for key in environment if key.endswith("_DATABASE_URL")]
        assert databases == [address]
        assert OWNER not in environment
    upstreams = json.loads(environment_of(processes["annotator-1"]["pid"])["ANNOTATOR_UPSTREAMS"])
    assert upstreams["ensembl"]["requests_per_second"] == 0
    assert environment_of(processes["annotator-1"]["pid"])["ANNOTATOR_SLOT"] == "1"
    assert os.getpriority(os.PRIO_PROCESS, processes["cache"]["pid"]) == 5

    again = annobus("up", *here)
    assert again.returncode == 0
    assert f"runs here already (up, process {running['pid']})" in again.stderr
    demo = annobus("demo", "--once", *here)
    assert demo.returncode == 1
    assert "runs here already" in demo.stderr

    doctor = annobus("doctor", "--json", *here)
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    checks = json.loads(doctor.stdout)["checks"]
    about_the_system = list(checks)[list(checks).index("cluster") :]
    assert {checks[name]["word"] for name in about_the_system} == {"ok"}

    assert annobus("runs", "list", *here).returncode == 0
    migrated = annobus("migrate", "--json", *here)
    assert migrated.returncode == 0, migrated.stderr
    assert json.loads(migrated.stdout)["schemas"] == {}

    os.kill(processes["cache"]["pid"], signal.SIGKILL)
    block_until(lambda: restarts(folder, "cache") == 1, "the cache is started again")
    block_until(lambda: annobus("status", *here).returncode == 0, "all is ready")
    logged = annobus("logs", "supervisor", *here)
    assert "cache died and was started again (1)" in logged.stdout

    pids = until_all_run(folder)
    down = annobus("down", *here)
    assert down.returncode == 0, down.stderr
    assert down.stderr.splitlines()[-1] == "stopped"
    assert [pid for pid in pids if state.started_at(pid) is not None] == []
    assert annobus("status", *here).returncode == 4


def until_all_run(folder: Path) -> list[int]:
    """The ids of all processes, at a moment when none of them is between death and restart."""
    pids: list[int] = []

    def all_run() -> bool:
        running = state.read(folder)
        assert running is not None
        found = [process.pid for process in running.processes.values()]
        pids[:] = [running.pid, *(pid for pid in found if pid is not None)]
        return None not in found

    block_until(all_run, "every process runs", DEADLINE_SECONDS)
    return pids


def restarts(folder: Path, name: str) -> int:
    running = state.read(folder)
    return running.processes[name].restarts if running is not None else 0


def test_an_interrupted_demo_stops_everything_and_says_130(folder: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "demo", "--once", "--state", str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        assert demo.stderr is not None
        lines = []
        for line in demo.stderr:
            lines.append(line)
            if "all genes from all sources" in line:
                break
        running = state.read(folder)
        assert running is not None, lines
        demo.send_signal(signal.SIGINT)
        rest = demo.stderr.read()
        assert demo.wait(DEADLINE_SECONDS) == 130
    assert rest.rstrip().endswith("stopped")
    assert "Traceback" not in rest
    assert not (folder / state.STATE_FILE).exists()
    for process in running.processes.values():
        assert process.pid is not None
        assert state.started_at(process.pid) is None
