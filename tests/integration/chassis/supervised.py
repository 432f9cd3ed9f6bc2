"""A listener as its supervisor and its readers see it."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from infra.processes import Process
from infra.supervisor import Supervisor
from tests.integration.chassis.desk import WAIT_SECONDS, Broker
from tests.system import ROOT, free_ports, http_client
from tests.waiting import is_alive, until

NAME = "listener"
AMPLE_SECONDS = 15.0
SHORT_SECONDS = 1.0
AT_ONCE_SECONDS = 3.0


@dataclass(frozen=True)
class Listener:
    supervisor: Supervisor
    notes: Path
    log_file: Path
    client: httpx2.AsyncClient

    @property
    def pid(self) -> int:
        return self.supervisor.pids[NAME]

    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    async def problems(self) -> list[str] | None:
        """None while nobody answers."""
        try:
            answer = await self.client.get("/readyz?verbose")
        except httpx2.TransportError:
            return None
        found: list[str] = answer.json()["checks"]["kafka"]["problems"]
        assert (answer.status_code == httpx2.codes.OK) == (found == [])
        return found

    async def until(self, condition: Callable[[], bool]) -> None:
        await until(condition, f"not this alone: {self.noted()}", WAIT_SECONDS)

    async def until_said(self, event: str) -> None:
        await self.until(lambda: f'"event": "{event}"' in self.log_file.read_text())


@asynccontextmanager
async def supervised(
    broker: Broker, folder: Path, stop_seconds: float = AMPLE_SECONDS
) -> AsyncIterator[Listener]:
    (port,) = free_ports(1)
    notes, log_file = folder / "notes", folder / "log"
    url = f"http://127.0.0.1:{port}"
    async with http_client(url) as client, Supervisor() as running:
        listener = Listener(running, notes, log_file, client)

        async def ready() -> bool:
            return await listener.problems() == []

        await running.add(
            Process(
                name=NAME,
                command=(
                    *(sys.executable, "-m", "tests.integration.chassis.listener"),
                    *(str(port), str(notes), str(stop_seconds)),
                ),
                cwd=ROOT,
                log_file=log_file,
                environment={
                    "ANNOBUS_KAFKA_BOOTSTRAP": broker.settings.kafka_bootstrap,
                    "ANNOBUS_TOPIC_PREFIX": broker.prefix,
                },
                ready=ready,
            )
        )
        yield listener


async def ended(pid: int, send: signal.Signals) -> float:
    """Seconds from a signal to the end of the process."""
    clock = asyncio.get_running_loop()
    began = clock.time()
    os.kill(pid, send)
    await until(lambda: not is_alive(pid), f"process {pid} ends", WAIT_SECONDS)
    return clock.time() - began
