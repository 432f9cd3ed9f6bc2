"""The supervisor starts, watches, restarts and stops real processes."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra import processes, supervisor
from infra.errors import SupervisorError
from infra.processes import Process, run_to_end
from infra.supervisor import Supervisor
from tests.waiting import is_alive, until

pytestmark = pytest.mark.embedded

SLEEP = "import time; time.sleep(60)"
DEADLINE_SECONDS = 5.0
SESSIONS = Path("/proc/self/autogroup")

Build = Callable[..., Process]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    def build_process(name: str = "sleeper", code: str = SLEEP, **overrides: Any) -> Process:
        process = Process(
            name=name,
            command=(sys.executable, "-I", "-S", "-c", code),
            cwd=tmp_path,
            log_file=tmp_path / f"{name}.log",
            start_timeout_seconds=DEADLINE_SECONDS,
        )
        return replace(process, **overrides)

    return build_process


def exists(file: Path) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        return os.path.exists(file)  # noqa: ASYNC240, PTH110  # Takes microseconds.

    return ready


async def test_who_adds_a_process_goes_on_when_it_is_ready_and_they_stop_in_reverse(
    build: Build, tmp_path: Path
) -> None:
    story = tmp_path / "story"
    code = """
import signal, sys, time
def tell(word):
    with open({story!r}, "a") as story: story.write({name!r} + " " + word + "\\n")
def stop(*_):
    tell("stops"); sys.exit()
signal.signal(signal.SIGTERM, stop)
time.sleep({seconds}); tell("is ready"); open({flag!r}, "w").close()
time.sleep(60)
"""
    planned = []
    for name, seconds in (("first", 0.2), ("second", 0.0)):
        flag = tmp_path / name
        text = code.format(story=str(story), name=name, seconds=seconds, flag=str(flag))
        planned.append(build(name, text, ready=exists(flag)))

    async with Supervisor() as running:
        for process in planned:
            await running.add(process)
        assert list(running.pids) == ["first", "second"]

    told = story.read_text().splitlines()
    assert told == ["first is ready", "second is ready", "second stops", "first stops"]


async def test_a_child_that_ends_while_it_starts_is_an_error_with_the_end_of_its_log(
    build: Build, tmp_path: Path
) -> None:
    process = build(code="raise SystemExit('no such setting')", ready=exists(tmp_path / "never"))
    with pytest.raises(SupervisorError, match="exit code 1") as caught:
        await Supervisor().add(process)
    assert str(process.log_file) in str(caught.value)
    assert "no such setting" in str(caught.value)


async def test_when_one_of_a_group_fails_to_start_none_is_left(
    build: Build, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    code = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    running = Supervisor()
    with pytest.raises(SupervisorError, match="was not ready after"):
        await running.add(
            build("good", code),
            build("late", ready=exists(tmp_path / "never"), start_timeout_seconds=0.5),
        )
    assert running.pids == {}
    assert not is_alive(int(pid_file.read_text()))


async def test_a_killed_child_is_started_again_within_moments(build: Build) -> None:
    async with Supervisor() as running:
        await running.add(build())
        pid = running.pids["sleeper"]
        clock = asyncio.get_running_loop()
        os.kill(pid, signal.SIGKILL)
        killed = clock.time()
        await until(lambda: running.pids.get("sleeper", pid) != pid, "it is started again")
        # 10 ms on a quiet machine; a poll of a second would not pass.
        assert clock.time() - killed < 0.5
        assert running.restarts == {"sleeper": 1}


async def test_a_child_that_dies_again_and_again_stops_everything(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "DEATHS_MAX", 3)
    monkeypatch.setattr(supervisor, "RESTART_DELAY_SECONDS", 0.01)
    running = Supervisor()
    await running.add(build("steady"))
    await running.add(build("broken", "raise SystemExit(7)"))
    steady = running.pids["steady"]
    with pytest.raises(SupervisorError, match=r"broken died 3 times in 60 s .* exit code 7"):
        await asyncio.wait_for(running.wait(), DEADLINE_SECONDS)
    assert not is_alive(steady)
    await running.stop()


async def test_a_child_that_ignores_the_stop_signal_is_killed(build: Build, tmp_path: Path) -> None:
    deaf = f"""
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open({str(tmp_path / "deaf")!r}, "w").close()
time.sleep(60)
"""
    process = build(code=deaf, ready=exists(tmp_path / "deaf"), stop_timeout_seconds=0.2)
    async with Supervisor() as running:
        await running.add(process)
        pid = running.pids["sleeper"]
    assert not is_alive(pid)


async def test_the_children_of_a_dead_child_end_with_it(build: Build, tmp_path: Path) -> None:
    grandchild = tmp_path / "grandchild"
    code = f"""
import os, time
if os.fork() == 0:
    open({str(grandchild)!r} + ".new", "w").write(str(os.getpid()))
    os.rename({str(grandchild)!r} + ".new", {str(grandchild)!r})
time.sleep(60)
"""
    async with Supervisor() as running:
        await running.add(build(code=code, ready=exists(grandchild)))
        pid = int(grandchild.read_text())
        os.kill(running.pids["sleeper"], signal.SIGKILL)
        await until(lambda: not is_alive(pid), "the grandchild ends")


async def test_a_removed_child_is_gone_and_its_name_is_free(build: Build) -> None:
    async with Supervisor() as running:
        await running.add(build())
        pid = running.pids["sleeper"]
        with pytest.raises(ValueError, match="sleeper"):
            await running.add(build())
        await running.remove("sleeper")
        assert not is_alive(pid)
        await running.add(build())
        assert running.pids["sleeper"] != pid


async def test_children_run_with_the_niceness_and_signals_they_were_given(build: Build) -> None:
    code = """
import os, signal
raise SystemExit(0 if os.nice(0) == 7 and os.environ["GREETING"] == "hello"
    and os.getsid(0) == os.getpid() else 1)
"""
    await run_to_end(build(code=code, nice=7, environment={"GREETING": "hello"}))


@pytest.mark.skipif(not SESSIONS.exists(), reason="this kernel does not share among sessions")
async def test_sessions_that_start_together_are_each_as_nice_as_they_were_given(
    build: Build,
) -> None:
    code = """
words = open("/proc/self/autogroup").read().split()
raise SystemExit(0 if words[-2:] == ["nice", "7"] else " ".join(words))
"""
    await asyncio.gather(*(run_to_end(build(code=code, nice=7)) for _ in range(4)))


async def test_a_command_that_does_not_exist_says_so(build: Build) -> None:
    with pytest.raises(SupervisorError, match="cannot start /no/such/program"):
        await run_to_end(build(command=("/no/such/program",)))


async def test_a_long_log_is_put_aside_before_a_start(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "LOG_BYTES_MAX", 100)
    process = build(code="print('new')")
    process.log_file.write_text("old " * 50)
    await run_to_end(process)
    assert process.log_file.read_text() == "new\n"
    assert process.log_file.with_name("sleeper.log.1").read_text().startswith("old")
