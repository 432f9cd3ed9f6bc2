"""The life of a service's process: it ends when it is told to, whatever it is waiting for."""

import asyncio
import json
import os
import signal
import sys
from datetime import datetime
from pathlib import Path

import pytest

from tests.system import ROOT, Database

START_TIMEOUT_SECONDS = 30
STOP_SECONDS_MAX = 5.0
NOWHERE = "127.0.0.1:1"  # Nothing listens there.


@pytest.mark.parametrize("service", ["annotator", "cache"])
async def test_a_service_that_waits_for_kafka_ends_when_it_is_told_to(
    service: str, database: Database, tmp_path: Path
) -> None:
    name = f"{service.upper()}_DATABASE_URL"
    environment = {
        name: database.environment[name],
        "ANNOBUS_KAFKA_BOOTSTRAP": NOWHERE,
        "ANNOBUS_LOG_FORMAT": "json",
        "ANNOTATOR_RAW_FOLDER": str(tmp_path),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"services.{service}"),
        cwd=ROOT,
        env={**os.environ, **environment},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(START_TIMEOUT_SECONDS):
            while (await said(process.stderr)) != "kafka_unreachable":
                pass
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STOP_SECONDS_MAX):
            while (await said(process.stderr)) != "stopped":
                pass
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


# A service of which one loop ends with an error, and which waits for something when it stops.
ILL = """
import asyncio

from pydantic import SecretStr

from services.chassis.process import Process
from services.chassis.settings import ServiceSettings


async def fail():
    raise RuntimeError("lost")


async def main():
    settings = ServiceSettings(database_url=SecretStr("postgresql://nobody@127.0.0.1:9/none"))
    async with Process("ill", settings) as life:
        life.at_stop(asyncio.Event().wait)
        life.keep("failing", fail())
        await life.until_stopped()


asyncio.run(main())
"""


async def test_a_process_that_ends_because_it_is_ill_does_not_wait_long(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", ILL, cwd=ROOT, stderr=file
        )
    async with asyncio.timeout(START_TIMEOUT_SECONDS):
        assert await process.wait() == -signal.SIGKILL
    events = [json.loads(line) for line in log.read_text().splitlines()]
    at = {one["event"]: datetime.fromisoformat(one["timestamp"]) for one in events}
    assert (at["stop_given_up"] - at["stopping"]).total_seconds() < STOP_SECONDS_MAX


async def said(log: asyncio.StreamReader) -> str:
    """The event of the next line of a log."""
    line = await log.readline()
    assert line, "the process ended before it said so"
    event: str = json.loads(line)["event"]
    return event
