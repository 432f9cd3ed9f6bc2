"""What `make demo` runs: a whole system in the foreground, and the main job on all its genes."""

import asyncio
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer import Option

from infra.errors import InfraError
from services.cli import bars, output, report, room, signals, state, watch
from services.cli.client import Client, connect
from services.cli.errors import CommandFailed
from services.cli.local import address_lines, choose
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
from services.cli.processes import Options
from services.cli.runs import EXIT_CODES_BY_STATE
from services.cli.system import System

READABLE_TIMEOUT_SECONDS = 120.0
READABLE_POLL_SECONDS = 0.2
SAMPLES = ("hgnc_id", "-hgnc_id", "symbol", "-symbol")
SAMPLE_SIZE = 200


def demo(
    once: Annotated[bool, Option("--once", help="Stop when the run is over.")] = False,
    annotators: Annotators = 1,
    mirror: Mirror = True,
    data: Data = None,
    no_limits: NoLimits = False,
    port: Port = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """Annotate every gene from every source, and watch it happen. Ctrl-C stops everything."""
    options = choose(folder, annotators, mirror, data, no_limits, port)
    running = state.read(options.state)
    if running is not None:
        raise CommandFailed(
            f"annobus runs here already ({running.command}, process {running.pid}) in {folder}",
            advice="Use it: annobus runs start --all --watch; or stop it: annobus down",
        )
    room.demand(options.state)
    say = _Clock()
    say("annobus demo: PostgreSQL, Kafka, three services and all human genes")
    try:
        code = signals.run(lambda: _demo(options, say, once, json))
    except InfraError as error:
        raise CommandFailed(str(error)) from error
    raise typer.Exit(code)


class _Clock:
    """Says each step with the seconds since the command was typed."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, line: str) -> None:
        output.say(f"{time.monotonic() - self._began:6.1f} s  {line}")


async def _demo(options: Options, say: _Clock, once: bool, json: bool) -> int:
    async with System(options, "demo", say) as system, connect(system.url) as client:
        code = await _unless_broken(system, _job(client, options, say, json))
        for line in address_lines(system.url):
            output.say(line) if json else output.print_line(line)
        if not once:
            say("everything stays up; Ctrl-C stops it")
            # Ctrl-C is how a demo ends, so it takes nothing from how the run ended.
            with suppress(asyncio.CancelledError):
                await system.wait()
        return code


async def _unless_broken(system: System, job: Coroutine[Any, Any, int]) -> int:
    """The job's answer; raises SupervisorError as soon as a process dies too often."""
    working = asyncio.create_task(job, name="job")
    broken = asyncio.create_task(system.wait(), name="broken")
    try:
        await asyncio.wait({working, broken}, return_when=asyncio.FIRST_COMPLETED)
        if broken.done():
            await broken
        return await working
    finally:
        for task in (working, broken):
            task.cancel()
        await asyncio.wait({working, broken})


async def _find_running(client: Client) -> str | None:
    """A run of everything that was stopped with the system, and goes on: the same again would be
    refused."""
    sources = (await client.get("/api/sources"))["data"]
    known = {one["id"] for one in sources if not one["attributes"]["is_retired"]}
    for run in (await client.get("/api/progress/status"))["data"]:
        ordered = run["attributes"]
        is_whole = ordered["gene_count"] is None and ordered["retries"] is None
        is_fetching = ordered["state"] in ("planning", "running") and not ordered["dry_run"]
        if is_whole and is_fetching and known <= {*ordered["sources"]}:
            return str(run["id"])
    return None


async def _job(client: Client, options: Options, say: _Clock, json: bool) -> int:
    began = time.monotonic()
    run_id = await _find_running(client)
    if run_id is not None:
        say(f"run {run_id}, of before, goes on: all genes from all sources")
    else:
        ordered = await client.post("/api/progress/trigger/annotation_pipeline")
        run_id = ordered["data"]["id"]
        say(f"run {run_id}: all genes from all sources")
    with bars.display() as display:
        async for snapshot in watch.follow(client, run_id):
            display.show(snapshot)
    document = await client.get(f"/api/runs/{run_id}")
    say("the run is over; waiting until every document can be read")
    genes = report.build(document, seconds=0).genes
    await _await_readable(client, genes)
    result = report.build(document, time.monotonic() - began)
    path = result.write(options.state)
    output.print_json(result.model_dump()) if json else result.show()
    say(f"report written to {path}")
    code = EXIT_CODES_BY_STATE[document["data"]["attributes"]["state"]]
    problems = result.problems()
    if problems:
        output.show_failure(
            CommandFailed(
                "the run is not as it should be", problems, "See annobus logs annotator-0"
            )
        )
    return code or (CommandFailed.exit_code if problems else 0)


async def _await_readable(client: Client, genes: int) -> None:
    deadline = time.monotonic() + READABLE_TIMEOUT_SECONDS
    while not await _is_readable(client, genes):
        if time.monotonic() > deadline:
            raise CommandFailed(
                f"not every document could be read {READABLE_TIMEOUT_SECONDS:g} s after the run",
                advice="See annobus logs cache",
            )
        await asyncio.sleep(READABLE_POLL_SECONDS)


async def _is_readable(client: Client, genes: int) -> bool:
    """Every gene of the run is listed, and of hundreds of documents, whatever order they are
    rebuilt in, none still waits for a source."""
    for sort in SAMPLES:
        parameters = {"page[size]": str(SAMPLE_SIZE), "page[total]": "true", "sort": sort}
        page = await client.get("/api/genes", parameters)
        if page["meta"]["total"] < genes:
            return False
        for item in page["data"]:
            annotations = item["attributes"]["annotations"].values()
            if any(annotation["status"] == "pending" for annotation in annotations):
                return False
    return True
