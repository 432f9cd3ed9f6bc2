"""Who runs the cluster, what it touches outside its folder, and what is left when it is killed."""

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import pytest

from infra.addresses import OWNER_URL
from infra.cluster import Cluster
from tests.system import keep_cluster
from tests.waiting import is_alive, until

pytestmark = pytest.mark.embedded

GONE_WITHIN_SECONDS = 5.0
# An account that is not root and may still enter root's folders, where the interpreter may lie.
AS_ORDINARY_USER = ("unshare", "--user", "--map-user=1000", "--map-group=1000")


async def test_children_die_with_a_killed_parent_and_the_next_start_has_their_data(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    cluster = Cluster(state, {})
    with keep_cluster(state) as keeper:
        await cluster.create_database()
        before = cluster.environment()
        os.kill(keeper.process.pid, signal.SIGKILL)
        keeper.process.wait(GONE_WITHIN_SECONDS)
        with ExitStack() as stack:
            # At once, while its PostgreSQL still shuts down: the next start must wait for that.
            again, _ = await asyncio.gather(
                asyncio.to_thread(stack.enter_context, keep_cluster(state)),
                until(
                    lambda: not any(map(is_alive, keeper.pids.values())),
                    "its children end",
                    GONE_WITHIN_SECONDS,
                ),
            )
            assert set(again.pids) == set(keeper.pids) == {"postgres", "kafka"}
            assert cluster.environment() == before
            connection = await asyncpg.connect(before[OWNER_URL])
            await connection.close()
    assert cluster.holder is None
    cluster.remove()


def modes_of(path: Path) -> dict[Path, tuple[int, int, int]]:
    """Mode, owner and group of every folder above the project and the virtual environment."""
    folders = [path, *path.parents, Path("/var/lib"), Path(sys.prefix), *Path(sys.prefix).parents]
    found = {folder: folder.stat() for folder in folders}
    return {
        folder: (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
        for folder, status in found.items()
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to give PostgreSQL another account")
async def test_for_root_postgres_belongs_to_an_unprivileged_account_and_no_mode_changes(
    tmp_path: Path,
) -> None:
    project = tmp_path / "private project"
    project.mkdir(mode=0o700)
    before = modes_of(project)
    state = project / ".annobus"
    cluster = Cluster(state, {})
    await cluster.prepare()
    place = Path((state / "postgres-place").read_text())
    data = place / "data"
    account = cluster.processes[0].account
    assert account is not None
    assert 0 not in account
    for folder in (place, data):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert (folder.stat().st_uid, folder.stat().st_gid) == account
    assert not (state / "postgres").exists()
    assert modes_of(project) == before

    # A start that was cut off in the middle of initdb, and a lock file from before a reboot.
    shutil.rmtree(data)
    data.with_name("data.unfinished").mkdir()
    (data.with_name("data.unfinished") / "half").touch()
    cluster.close()
    await cluster.prepare()
    (data / "postmaster.pid").write_text(f"{os.getpid()}\n{data}\n")
    cluster.close()
    await cluster.prepare()
    assert not (data / "postmaster.pid").exists()
    cluster.close()
    cluster.remove()
    assert not place.exists()  # noqa: ASYNC240


def may_become_an_ordinary_user() -> bool:
    if os.geteuid() != 0:
        return True
    return subprocess.run([*AS_ORDINARY_USER, "true"], check=False).returncode == 0


@pytest.mark.skipif(not may_become_an_ordinary_user(), reason="no user namespaces here")
async def test_an_ordinary_user_has_everything_in_the_state_folder(tmp_path: Path) -> None:
    state = tmp_path / "of an ordinary user" / ".annobus"
    state.parent.mkdir(mode=0o750)
    prefix = AS_ORDINARY_USER if os.geteuid() == 0 else ()
    with keep_cluster(state, prefix) as keeper:
        assert keeper.uid != 0
        owner = (state / "postgres").stat().st_uid
        for pid in keeper.pids.values():
            assert Path(f"/proc/{pid}").stat().st_uid == owner  # noqa: ASYNC240
    assert not (state / "postgres-place").exists()
    assert stat.S_IMODE(state.parent.stat().st_mode) == 0o750
