"""Child processes: how one is described, started, waited for and ended."""

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from infra.errors import SupervisorError

LAUNCHER = Path(__file__).with_name("launch.py")
LOG_BYTES_MAX = 10 * 1024 * 1024
LOG_TAIL_BYTES = 8 * 1024
LOG_TAIL_LINES = 15
READY_POLL_SECONDS = 0.05
KEEP_ACCOUNT = (-1, -1)

Child = asyncio.subprocess.Process


async def _at_once() -> bool:
    return True


def _nothing() -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Process:
    """One command the supervisor runs.

    `environment` is added to the supervisor's own. `ready` is asked again and again while the
    process starts: it answers False for "not yet" and raises when waiting longer is pointless.
    `death_signal` is what the process gets when the supervisor dies, however it dies.
    `after_death` ends what outlives the process outside its process group. `account` is
    (user id, group id); changing it needs root.
    """

    name: str
    command: Sequence[str]
    cwd: Path
    log_file: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    ready: Callable[[], Awaitable[bool]] = _at_once
    start_timeout_seconds: float = 30.0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_seconds: float = 15.0
    death_signal: signal.Signals = signal.SIGKILL
    after_death: Callable[[], None] = _nothing
    account: tuple[int, int] | None = None
    nice: int = 0


async def spawn(process: Process) -> Child:
    """Starts it in a session of its own: Ctrl-C in a terminal must reach the supervisor alone."""
    if threading.current_thread() is not threading.main_thread():
        # The kernel ties the death signal to the thread that forked, not to the process.
        raise RuntimeError("processes must be started from the main thread")
    user_id, group_id = process.account or KEEP_ACCOUNT
    settings = (os.getpid(), int(process.death_signal), process.nice, user_id, group_id)
    with _open_log(process.log_file) as log:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(LAUNCHER), *map(str, settings), *process.command),
            cwd=process.cwd,
            env={**os.environ, **process.environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


async def wait_until_ready(process: Process, child: Child) -> None:
    died = asyncio.ensure_future(child.wait())
    try:
        async with asyncio.timeout(process.start_timeout_seconds):
            while not died.done():
                if await process.ready():
                    return
                await asyncio.wait({died}, timeout=READY_POLL_SECONDS)
    except TimeoutError:
        seconds = f"{process.start_timeout_seconds:g} s"
        raise SupervisorError(_with_log(process, f"was not ready after {seconds}")) from None
    finally:
        died.cancel()
    raise SupervisorError(_with_log(process, f"{describe_exit(child)} while it started"))


async def run_to_end(process: Process) -> None:
    """Runs a command that must end well by itself, within its start timeout."""
    child = await spawn(process)
    try:
        async with asyncio.timeout(process.start_timeout_seconds):
            await child.wait()
    except TimeoutError:
        seconds = f"{process.start_timeout_seconds:g} s"
        raise SupervisorError(_with_log(process, f"did not end within {seconds}")) from None
    finally:
        await end(process, child)
    if child.returncode != 0:
        raise SupervisorError(_with_log(process, describe_exit(child)))


async def end(process: Process, child: Child) -> None:
    """Asks it to stop, kills it when it does not, and kills what it left behind in its session."""
    if child.returncode is None:
        _send(child, process.stop_signal)
        try:
            async with asyncio.timeout(process.stop_timeout_seconds):
                await child.wait()
        except TimeoutError:
            _send(child, signal.SIGKILL)
            await child.wait()
    kill_leftovers(process, child)


def _send(child: Child, signal_: signal.Signals) -> None:
    # Not `child.send_signal`: it looks whether the child still runs and may take its exit code from
    # asyncio's watcher.
    with contextlib.suppress(ProcessLookupError):
        os.kill(child.pid, signal_)


def kill_leftovers(process: Process, child: Child) -> None:
    """Ends the children of a dead child: they share its process group and hold its ports."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    process.after_death()


def describe_exit(child: Child) -> str:
    if child.returncode is not None and child.returncode < 0:
        return f"was ended by {signal.Signals(-child.returncode).name}"
    return f"ended with exit code {child.returncode}"


async def together(*steps: Coroutine[object, object, None]) -> None:
    """Runs them at once; the first error is raised as it is, when the others are cancelled."""
    tasks = [asyncio.create_task(step) for step in steps]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _open_log(file: Path) -> BinaryIO:
    if file.exists() and file.stat().st_size > LOG_BYTES_MAX:
        file.replace(file.with_name(f"{file.name}.1"))
    return file.open("ab")


def _with_log(process: Process, what: str) -> str:
    with process.log_file.open("rb") as log:
        log.seek(max(0, process.log_file.stat().st_size - LOG_TAIL_BYTES))
        lines = log.read().decode(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return "\n".join((f"{process.name} {what}; the end of {process.log_file}:", *lines))
