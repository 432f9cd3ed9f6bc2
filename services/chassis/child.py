"""What a child of a service asks for first: to end with it."""

import ctypes
import multiprocessing
import os
import signal

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """In a child that was just forked from a template: end with it, as it ends with the service."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    service = multiprocessing.parent_process()
    if service is not None and not service.is_alive():
        raise SystemExit(1)  # Both died before this could be asked for.


def end_with(service_pid: int) -> None:
    """In a program that a service has started."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != service_pid:
        raise SystemExit(1)
