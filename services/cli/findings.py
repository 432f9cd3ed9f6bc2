"""What a check of `annobus doctor` says, and what it is given to look at."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from services.cli.state import SystemState

Word = Literal["ok", "warning", "problem", "not running"]


@dataclass(frozen=True)
class Finding:
    """`advice` is the way out, in one sentence; a problem always has one."""

    word: Word
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Site:
    """One machine and one state folder. Addresses are None of what does not run.

    `running` is the system that answers for the folder, `holder` the process that has taken it.
    """

    folder: Path
    running: SystemState | None
    holder: int | None
    database_url: str | None
    kafka_bootstrap: str | None
    environment: Mapping[str, str]


def ok(found: str) -> Finding:
    return Finding("ok", found)


def warning(found: str, advice: str) -> Finding:
    return Finding("warning", found, advice)


def problem(found: str, advice: str) -> Finding:
    return Finding("problem", found, advice)


NOT_RUNNING = Finding("not running", "it is not asked: nothing runs in this state folder")
UNREACHABLE = Finding("not running", "it is not asked: see above what does not answer")
