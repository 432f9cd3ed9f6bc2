"""The state folder (`.annobus`): who uses it, and what the next start must find again."""

import contextlib
import fcntl
import json
import os
import secrets
import time
from pathlib import Path

from infra.errors import ClusterError

PASSWORD_BYTES = 24
ROLES = ("postgres", "annobus", "annotator", "cache", "gateway")
LOCK_TRIES_MAX = 5
LOCK_POLL_SECONDS = 0.01


class StateFolder:
    """One folder per cluster; `acquire` makes it and keeps others out until `release` or death."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.logs = self.path / "logs"
        self._lock_file = self.path / "lock"
        self._lock: int | None = None

    def acquire(self) -> None:
        if self._lock is not None:
            return
        make_private_folder(self.path)
        make_private_folder(self.logs)
        lock = os.open(self._lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        for _ in range(LOCK_TRIES_MAX):
            if try_lock(lock, fcntl.LOCK_EX):
                break
            # It may be somebody who only asks for the holder, and has it for an instant.
            time.sleep(LOCK_POLL_SECONDS)
        else:
            holder = _read_holder(lock) or "unknown"
            os.close(lock)
            raise ClusterError(
                f"{self.path} is in use by the process {holder}: "
                "stop it first, or use another state folder"
            )
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        self._lock = lock

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def holder(self) -> int | None:
        """The process id of the supervisor that uses the folder now."""
        if self._lock is not None:
            return os.getpid()
        try:
            lock = os.open(self._lock_file, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            return None if try_lock(lock, fcntl.LOCK_SH) else _read_holder(lock)
        finally:
            os.close(lock)

    def make_passwords(self) -> None:
        if not self._passwords_file.exists():
            passwords = {role: secrets.token_urlsafe(PASSWORD_BYTES) for role in ROLES}
            write_private(self._passwords_file, json.dumps(passwords, indent=2))

    def password(self, role: str) -> str:
        return str(self._read(self._passwords_file)[role])

    def port(self, name: str) -> int:
        return self.ports()[name]

    def ports(self) -> dict[str, int]:
        return {name: int(port) for name, port in self._read(self.ports_file).items()}

    @property
    def ports_file(self) -> Path:
        return self.path / "ports.json"

    @property
    def _passwords_file(self) -> Path:
        return self.path / "passwords.json"

    def _read(self, file: Path) -> dict[str, str | int]:
        try:
            content: dict[str, str | int] = json.loads(file.read_text())
        except FileNotFoundError:
            raise ClusterError(
                f"{self.path} holds no cluster yet ({file.name} is missing): start one first"
            ) from None
        except ValueError as error:
            raise ClusterError(
                f"{file} is damaged ({error}): restore or remove {self.path}"
            ) from None
        return content


def make_private_folder(path: Path) -> None:
    """0700 when it is made here; a folder that exists keeps its mode."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)


def write_private(file: Path, text: str) -> None:
    """Whole or not at all, readable by nobody else at any moment."""
    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as output:
        output.write(text)
    new.replace(file)


def try_lock(file: int, kind: int) -> bool:
    """Takes a file lock of this kind (fcntl.LOCK_EX, LOCK_SH) on an open file, or says no."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_holder(lock: int) -> int | None:
    text = os.pread(lock, 32, 0)
    return int(text) if text else None
