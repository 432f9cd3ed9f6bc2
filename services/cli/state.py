"""`.annobus/state.json`: which system runs here, as which process, at which addresses."""

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from services.cli.errors import CommandFailed

STATE_FILE = "state.json"
LOG_FOLDER = "logs"
SUPERVISOR = "supervisor"  # The name of the log that the process above all others writes.


class ProcessState(BaseModel):
    """A process of the system; `address` is a URL, or host:port of what speaks no HTTP."""

    model_config = ConfigDict(frozen=True)

    pid: int | None
    restarts: int
    address: str


class SystemState(BaseModel):
    """What the process above all others says of its system; `started` tells it from a later one
    that was given the same pid."""

    model_config = ConfigDict(frozen=True)

    pid: int
    started: int
    command: str
    ready: bool
    url: str | None
    processes: Mapping[str, ProcessState]


def log_file(folder: Path, name: str) -> Path:
    return folder / LOG_FOLDER / f"{name}.log"


def read(folder: Path) -> SystemState | None:
    """What runs in this state folder; None where nothing does."""
    path = folder / STATE_FILE
    try:
        state = SystemState.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        raise CommandFailed(
            f"{path} cannot be read: {error.errors()[0]['msg']}",
            advice="Remove this file when no annobus process runs any more",
        ) from error
    return state if started_at(state.pid) == state.started else None


def write(folder: Path, state: SystemState) -> None:
    path = folder / STATE_FILE
    temporary = path.with_suffix(f".{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(state.model_dump_json(indent=2) + "\n")
    temporary.replace(path)


def remove(folder: Path) -> None:
    (folder / STATE_FILE).unlink(missing_ok=True)


def started_at(pid: int) -> int | None:
    """When a process was started, in clock ticks since boot; None when it does not run."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in the second field may hold spaces and brackets; the third is the process's state.
    fields = status.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])
