"""Named points where a test stops the process, to prove that nothing depends on its survival.

Each service names its own points in its `failpoints.py`, by what has just been done there. A file
`<service>.<point>` in the folder of the settings arms one while the process runs; it holds a count
of hits and a signal. The hit that brings the count to zero renames the file to `….fired`, with the
process id and the time in it, and sends the signal: SIGKILL, or SIGSTOP for a process that somebody
wakes again later. Without the folder a point costs a comparison.
"""

import fcntl
import os
import signal
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from services.chassis.settings import SharedSettings

FIRED = ".fired"


class Failpoint(StrEnum):
    """Points that every service has, and the one of a migration."""

    RELAY_READ = "relay_read"  # Rows of the outbox are read, none is sent.
    RELAY_SENT = "relay_sent"  # They have arrived, and are still in the outbox.
    STOP_BEGUN = "stop_begun"  # Asked to stop, everything still runs.
    SCHEMA_MIGRATED = "schema_migrated"  # One service's schema, not committed.


@dataclass
class _Switch:
    folder: Path | None = None
    service: str = ""


_switch = _Switch()


def switch_on(settings: SharedSettings, service: str) -> None:
    """Let this process be stopped, if the settings have a folder, which production refuses."""
    _switch.folder = settings.failpoints_folder
    _switch.service = service


def hit(point: StrEnum) -> None:
    if _switch.folder is not None:
        _look(_switch.folder / f"{_switch.service}.{point}")


def _look(armed: Path) -> None:
    try:
        file = armed.open("r+", encoding="utf-8")
    except FileNotFoundError:
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)  # Processes of one service count their hits together.
        hits, _, name = file.read().partition(" ")
        if not armed.exists():  # Another one's hit was the last.
            return
        left = int(hits) - 1
        file.seek(0)
        file.truncate()
        file.write(f"{left} {name}" if left else f"{os.getpid()} {time.time()}")
        file.flush()
        if left:
            return
        armed.rename(armed.with_name(armed.name + FIRED))
    os.kill(os.getpid(), signal.Signals[name])


def arm(folder: Path, service: str, point: StrEnum, hits: int, send: signal.Signals) -> None:
    """For tests: whole or not at all, because the process looks at any moment."""
    armed = folder / f"{service}.{point}"
    new = armed.with_name(f"{armed.name}.new")
    new.write_text(f"{hits} {send.name}", encoding="utf-8")
    new.rename(armed)
