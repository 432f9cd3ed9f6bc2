"""What a state folder remembers: who runs here, at which ports, and what was logged."""

import os
import socket
from contextlib import closing
from pathlib import Path

import pytest

from infra import ports
from services.cli import state
from services.cli.errors import CommandFailed, Refused
from services.cli.logs import Tail
from services.cli.processes import Options
from services.cli.system import choose_ports


def system(pid: int, started: int) -> state.SystemState:
    process = state.ProcessState(pid=pid, restarts=0, address="http://127.0.0.1:1")
    return state.SystemState(
        pid=pid,
        started=started,
        command="up",
        ready=True,
        url="http://127.0.0.1:1",
        processes={"gateway": process},
    )


def test_a_system_is_found_by_its_process_and_its_start(tmp_path: Path) -> None:
    started = state.started_at(os.getpid())
    assert started is not None
    written = system(os.getpid(), started)
    state.write(tmp_path, written)
    assert state.read(tmp_path) == written
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600


def test_another_process_with_the_same_id_is_not_the_system(tmp_path: Path) -> None:
    started = state.started_at(os.getpid())
    assert started is not None
    state.write(tmp_path, system(os.getpid(), started + 1))
    assert state.read(tmp_path) is None


def test_no_state_is_no_system_and_a_damaged_one_is_said(tmp_path: Path) -> None:
    assert state.read(tmp_path / "nowhere") is None
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(CommandFailed, match=r"state\.json cannot be read"):
        state.read(tmp_path)


def test_a_named_port_is_kept_or_refused_but_never_replaced(tmp_path: Path) -> None:
    with socket.create_server((ports.HOST, 0)) as server:
        port = server.getsockname()[1]
        options = Options(state=tmp_path, port=port)
        with pytest.raises(Refused, match=f"--port {port} is taken"):
            choose_ports(options, taken=())
    with pytest.raises(Refused, match=f"--port {port} is taken"):
        choose_ports(options, taken=[port])
    chosen = choose_ports(options, taken=())
    assert chosen["gateway"] == port
    assert choose_ports(Options(state=tmp_path), taken=()) == chosen


def test_a_log_is_followed_across_its_replacement(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    with closing(Tail(log, at_end=True)) as early:
        assert list(early.new_lines()) == []
        log.write_text("old\n")
        assert list(early.new_lines()) == ["old"]
    with closing(Tail(log, at_end=True)) as tail:
        with log.open("a") as file:
            file.write("one\ntw")
        assert list(tail.new_lines()) == ["one"]
        with log.open("a") as file:
            file.write("o\n")
        log.replace(tmp_path / "x.log.1")
        log.write_text("three\n")
        assert list(tail.new_lines()) == ["two", "three"]
