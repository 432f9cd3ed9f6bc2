"""`annobus up`, `down` and `status`: a system of this machine, in the background."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx2
import typer

from infra.addresses import KAFKA_BOOTSTRAP, OWNER_URL
from infra.cluster import Cluster
from infra.state import make_private_folder
from services.cli import output, room, state
from services.cli.errors import INTERRUPTED, RUN_FAILED, CommandFailed, NotReachable, Refused
from services.cli.logs import Tail
from services.cli.options import (
    DEFAULT_STATE,
    Annotators,
    Data,
    Json,
    Mirror,
    NoLimits,
    Port,
    State,
)
from services.cli.processes import PROJECT, READY_TIMEOUT_SECONDS, Options

POLL_SECONDS = 0.1
UP_TIMEOUT_SECONDS = 600.0  # A first start fetches 46 MB of jars over a line nobody knows.
DOWN_TIMEOUT_SECONDS = 120.0
STATUS_STYLES = {"ready": "green", "not ready": "red", "not running": "red"}


def choose(
    folder: Path,
    annotators: int,
    mirror: bool,
    data: Path | None,
    no_limits: bool,
    port: int | None,
) -> Options:
    """What was asked, checked as a whole. Raises Refused."""
    if no_limits and not mirror:
        raise Refused("--no-limits needs the mirror: the real upstreams' limits are to be kept")
    if data is not None and not mirror:
        raise Refused("--data is what the mirror serves: leave out --no-mirror")
    if not folder.absolute().parent.is_dir():
        raise Refused(f"--state {folder}: the folder {folder.absolute().parent} does not exist")
    return Options(
        state=folder.absolute(),
        annotators=annotators,
        mirror=mirror,
        data=data.absolute() if data is not None else None,
        limits=not no_limits,
        port=port,
    )


def up(
    annotators: Annotators = 1,
    mirror: Mirror = True,
    data: Data = None,
    no_limits: NoLimits = False,
    port: Port = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """Start the embedded cluster and the services, and leave them running."""
    options = choose(folder, annotators, mirror, data, no_limits, port)
    running = state.read(options.state)
    if running is not None:
        output.say(f"annobus runs here already ({running.command}, process {running.pid})")
        if not running.ready:
            with closing(_tail(options.state)) as tail:
                running = _await_ready(options.state, running.pid, lambda: None, tail)
    else:
        running = _start(options)
    if json:
        output.print_json(running.model_dump())
    else:
        for line in address_lines(running.url or ""):
            output.print_line(line)


def address_lines(url: str) -> list[str]:
    return [
        f"gateway      {url}/",
        f"one gene     {url}/api/genes/PKD1",
        f"all genes    {url}/api/genes?page[number]=1",
        f"sources      {url}/api/sources",
        f"all runs     ws{url.removeprefix('http')}/api/progress/ws",
    ]


def _start(options: Options) -> state.SystemState:
    room.demand(options.state)
    make_private_folder(options.state)
    make_private_folder(options.state / state.LOG_FOLDER)
    with (
        closing(_tail(options.state)) as tail,
        state.log_file(options.state, state.SUPERVISOR).open("ab") as opened,
    ):
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "services.cli.daemon", options.model_dump_json()],
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=opened,
            stderr=opened,
            start_new_session=True,
        )
        try:
            return _await_ready(options.state, supervisor.pid, supervisor.poll, tail)
        except KeyboardInterrupt:
            output.say("interrupted: what was started is stopped again")
            supervisor.terminate()
            supervisor.wait(DOWN_TIMEOUT_SECONDS)
            raise typer.Exit(INTERRUPTED) from None


def _tail(folder: Path) -> Tail:
    """What the process above all others says from now on."""
    return Tail(state.log_file(folder, state.SUPERVISOR), at_end=True)


def _await_ready(
    folder: Path, pid: int, ended: Callable[[], int | None], tail: Tail
) -> state.SystemState:
    """Shows what the process above all others says until its system is ready or it has ended."""
    deadline = time.monotonic() + UP_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        code = ended()
        running = state.read(folder)
        _show(tail)
        if running is not None and running.pid == pid and running.ready:
            return running
        if code is not None or state.started_at(pid) is None:
            _show(tail)
            raise typer.Exit(code or RUN_FAILED)
        time.sleep(POLL_SECONDS)
    raise CommandFailed(
        f"annobus was not ready after {UP_TIMEOUT_SECONDS:g} s and goes on starting",
        advice="See what it does: annobus logs supervisor; stop it: annobus down",
    )


def _show(tail: Tail) -> None:
    for line in tail.new_lines():
        output.say(line)


def down(folder: State = DEFAULT_STATE, json: Json = False) -> None:
    """Stop what `annobus up` started, in order."""
    running = state.read(folder.absolute())
    if running is None:
        output.say(f"no annobus runs in {folder}")
    else:
        _stop(folder.absolute(), running)
    if json:
        output.print_json({"stopped": running is not None})


def _stop(folder: Path, running: state.SystemState) -> None:
    with closing(_tail(folder)) as tail:
        # Its identity was checked by the time it was started, so no other process is hit.
        os.kill(running.pid, signal.SIGTERM)
        deadline = time.monotonic() + DOWN_TIMEOUT_SECONDS
        while state.started_at(running.pid) == running.started:
            _show(tail)
            if time.monotonic() > deadline:
                raise CommandFailed(
                    f"process {running.pid} has not stopped after {DOWN_TIMEOUT_SECONDS:g} s",
                    advice=f"See annobus logs supervisor, then end it: kill -9 {running.pid}",
                )
            time.sleep(POLL_SECONDS)
        _show(tail)


def status(folder: State = DEFAULT_STATE, json: Json = False) -> None:
    """Each process: its id, its restarts, whether it is ready."""
    running = state.read(folder.absolute())
    if running is None:
        if json:
            output.print_json({"running": False})
        raise NotReachable(f"no annobus runs in {folder}", advice="Start one: annobus up")
    words = asyncio.run(_words(running))
    if json:
        processes = {
            name: process.model_dump() | {"status": words[name]}
            for name, process in running.processes.items()
        }
        about = {"running": True, "ready": running.ready, "url": running.url, "pid": running.pid}
        output.print_json(about | {"command": running.command, "processes": processes})
    else:
        rows = [
            (name, str(process.pid or ""), str(process.restarts), words[name], process.address)
            for name, process in running.processes.items()
        ]
        columns = ("process", "pid", "restarts", "status", "address")
        output.print_table(columns, rows, numbers=("pid", "restarts"), styles=STATUS_STYLES)
    if not running.ready:
        output.say(f"process {running.pid} ({running.command}) is starting or stopping it")
    if not running.ready or set(words.values()) != {"ready"}:
        raise typer.Exit(RUN_FAILED)


async def _words(running: state.SystemState) -> dict[str, str]:
    async with httpx2.AsyncClient(timeout=READY_TIMEOUT_SECONDS, trust_env=False) as http:
        answers = await asyncio.gather(
            *(_word(http, process) for process in running.processes.values())
        )
    return dict(zip(running.processes, answers, strict=True))


async def _word(http: httpx2.AsyncClient, process: state.ProcessState) -> str:
    """Services are asked whether they are ready; of the rest it is asked whether it answers."""
    if process.pid is None or state.started_at(process.pid) is None:
        return "not running"
    try:
        if process.address.startswith("http"):
            answer = await http.get(f"{process.address}/readyz")
            # The mirror knows no such address, and answers all the same.
            return "not ready" if answer.status_code >= 500 else "ready"
        host, _, port = process.address.rpartition(":")
        async with asyncio.timeout(READY_TIMEOUT_SECONDS):
            _, writer = await asyncio.open_connection(host, int(port))
        writer.close()
        await writer.wait_closed()
    except (httpx2.TransportError, OSError):
        return "not ready"
    return "ready"


def migrate(folder: State = DEFAULT_STATE, json: Json = False) -> None:
    """Bring schemas, declared sources and topics to what this version needs."""
    environment = dict(os.environ)
    if OWNER_URL not in environment:
        running = state.read(folder.absolute())
        if running is None or not running.ready:
            raise NotReachable(
                f"no annobus runs in {folder}, so there is nothing to migrate",
                advice="annobus up migrates by itself; for databases of your own set "
                f"{OWNER_URL} and {KAFKA_BOOTSTRAP}",
            )
        environment |= Cluster(folder.absolute()).environment()
    arguments = ["--json"] if json else []
    # A process of its own: it alone is given the owner's address, and loads what it needs for it.
    command = [sys.executable, "-m", "services.cli.migrate", *arguments]
    raise typer.Exit(subprocess.run(command, cwd=PROJECT, env=environment, check=False).returncode)


def doctor(folder: State = DEFAULT_STATE, json: Json = False) -> None:
    """What may keep annobus from running here, and the way out."""
    arguments = [str(folder.absolute()), *(["--json"] if json else [])]
    # A process of its own: what it loads would make every other command start later.
    command = [sys.executable, "-m", "services.cli.doctor", *arguments]
    raise typer.Exit(subprocess.run(command, cwd=PROJECT, check=False).returncode)
