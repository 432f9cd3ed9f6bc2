"""What a child process of a service asks for first; it imports nothing that takes time to load."""

import ctypes
import os
import signal

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def end_with_parent(parent_id: int) -> None:
    """In a child that was just started: end with the process that started it."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_id:
        raise SystemExit(1)  # It died before this could be asked for.
