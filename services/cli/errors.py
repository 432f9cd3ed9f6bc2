"""Why a command failed, for the person who typed it, and the exit code that says so to a script.

CommandFailed (1)
├── Refused (2)          what was asked cannot be: a wrong option, or a 4xx of the gateway
├── NotReachable (4)     nobody answers, or what answers cannot serve now
└── NotAuthorised (5)    a 401 or 403 of the gateway
"""

from collections.abc import Sequence
from typing import ClassVar

RUN_FAILED = 1
PARTIAL = 3
INTERRUPTED = 130

EXIT_CODES = (
    "Exit codes: 0 ok · 1 the run or the command failed · 2 usage, or the gateway refused the "
    "request · 3 partial: some genes failed, or the run was cancelled · 4 not reachable · "
    "5 not authorised · 130 interrupted"
)


class CommandFailed(Exception):
    """A sentence about what went wrong, lines with particulars, and what to do next."""

    exit_code: ClassVar[int] = RUN_FAILED

    def __init__(self, message: str, particulars: Sequence[str] = (), advice: str = "") -> None:
        super().__init__(message)
        self.particulars = list(particulars)
        self.advice = advice


class Refused(CommandFailed):
    exit_code = 2


class NotReachable(CommandFailed):
    exit_code = 4


class NotAuthorised(CommandFailed):
    exit_code = 5
