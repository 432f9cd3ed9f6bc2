"""Turns itself into a supervised command, after setting niceness, account and death signal.

A program of its own instead of a `preexec_fn`: Python code between fork and exec may deadlock when
the parent has threads, which asyncio's child watcher gives it. It is run as `python -I -S launch.py
PARENT DEATH_SIGNAL NICE UID GID COMMAND…` (-1: keep the account) and keeps its process id.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
SESSION = Path("/proc/self/autogroup")
SESSION_TRIES_MAX, SESSION_RETRY_SECONDS = 20, 0.11
# Python ignores these two, and an ignored signal stays ignored in the command it turns into.
IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


def main() -> None:
    parent, death_signal, niceness, uid, gid = (int(value) for value in sys.argv[1:6])
    command = sys.argv[6:]
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for ignored in IGNORED_BY_PYTHON:
        signal.signal(ignored, signal.SIG_DFL)
    _be_nice(niceness)
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # The kernel forgets the death signal when the account changes, so this comes after it.
    if prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        sys.exit(f"cannot set the parent-death signal: {os.strerror(ctypes.get_errno())}")
    # A parent that died before that line sends no signal any more.
    if os.getppid() != parent:
        sys.exit("the supervisor is gone")
    try:
        os.execvp(command[0], command)  # noqa: S606
    except OSError as error:
        sys.exit(f"cannot start {command[0]}: {error.strerror}")


def _be_nice(niceness: int) -> None:
    own = os.nice(niceness)
    # Where the kernel shares processors between sessions, and this is one, niceness counts among
    # its own processes alone; the session has another. Only one in 0.1 s can be set on a machine.
    for _ in range(SESSION_TRIES_MAX if niceness else 0):
        try:
            SESSION.write_text(str(own), encoding="ascii")
        except BlockingIOError:
            time.sleep(SESSION_RETRY_SECONDS)
        except OSError:
            return
        else:
            return


if __name__ == "__main__":
    main()
