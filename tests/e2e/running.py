"""The three services as processes of their own, on a database and topics of their own."""

import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import httpx2

from contracts.messages import ACTIVE_STATES
from contracts.topics import topics
from infra.processes import Process
from infra.supervisor import Supervisor
from services.annotator.sources import SOURCES
from services.chassis import failpoints
from services.cli.migrate import create_topics
from tests.system import ROOT, Database, free_ports, http_client
from tests.waiting import until

READY_TIMEOUT_SECONDS = 30
WAIT_SECONDS_MAX = 120.0


class Upstreams(Protocol):
    """Where the sources are asked: the mirror, or what stands for it."""

    def upstreams(self) -> Mapping[str, Mapping[str, str | float]]: ...


@dataclass(frozen=True)
class Fired:
    pid: int
    at: float  # Seconds of the wall clock.


@dataclass(frozen=True)
class Running:
    """A system that runs: where its gateway answers, and who keeps it alive."""

    url: str
    ports: Mapping[str, int]
    supervisor: Supervisor
    folder: Path
    processes: Mapping[str, Process]  # By name, those that were started at first.

    def arm(
        self,
        service: str,
        point: StrEnum,
        hits: int = 1,
        send: signal.Signals = signal.SIGKILL,
    ) -> None:
        """Stop whichever process of this service is the one to bring the count to zero."""
        folder = self.folder / "failpoints"
        (folder / f"{service}.{point}{failpoints.FIRED}").unlink(missing_ok=True)
        failpoints.arm(folder, service, point, hits, send)

    def disarm(self, service: str, point: StrEnum) -> None:
        (self.folder / "failpoints" / f"{service}.{point}").unlink(missing_ok=True)

    def fired(self, service: str, point: StrEnum) -> Fired | None:
        try:
            mark = self.folder / "failpoints" / f"{service}.{point}{failpoints.FIRED}"
            pid, at = mark.read_text().split()
        except FileNotFoundError:
            return None
        return Fired(int(pid), float(at))

    def readiness(self) -> dict[str, Callable[[], Awaitable[bool]]]:
        """By the name of each process: whether it is ready."""
        return {name: is_ready(port) for name, port in self.ports.items()}

    async def get(self, path: str) -> Any:
        async with http_client(self.url) as client:
            answer = await client.get(path)
            answer.raise_for_status()
            return answer.json()

    async def order(self, **body: Any) -> str:
        async with http_client(self.url) as client:
            answer = await client.post("/api/runs", json=body)
            assert answer.status_code == 202, answer.text
            return str(answer.json()["data"]["id"])

    async def run_state(self, run_id: str) -> str:
        return str((await self.get(f"/api/runs/{run_id}"))["data"]["attributes"]["state"])

    async def has_ended(self, run_id: str) -> bool:
        return await self.run_state(run_id) not in ACTIVE_STATES

    async def until_ended(self, run_id: str) -> str:
        await until(lambda: self.has_ended(run_id), f"run {run_id} ends", WAIT_SECONDS_MAX)
        return await self.run_state(run_id)


@asynccontextmanager
async def run_services(
    database: Database,
    topic_prefix: str,
    upstreams: Upstreams,
    folder: Path,
    *,
    annotators: int = 1,
    gateways: int = 1,
    environments: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> AsyncIterator[Running]:
    """Gateways are called `gateway`, `gateway-1` and so on; `url` is that of the first.
    `environments` are what processes have of their own, by their names."""
    bootstrap = database.environment["ANNOBUS_KAFKA_BOOTSTRAP"]
    await create_topics(bootstrap, topics(SOURCES, topic_prefix))
    (folder / "failpoints").mkdir(parents=True)
    replicas = [f"gateway-{number}" for number in range(1, gateways)]
    names = [*(f"annotator-{slot}" for slot in range(annotators)), "cache", "gateway", *replicas]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    shared = {
        "ANNOBUS_KAFKA_BOOTSTRAP": bootstrap,
        "ANNOBUS_TOPIC_PREFIX": topic_prefix,
        "ANNOBUS_ENVIRONMENT": "test",
        "ANNOBUS_FAILPOINTS_FOLDER": str(folder / "failpoints"),
    }
    processes = []
    for name, port in ports.items():
        service = name.partition("-")[0]
        environment = shared | {
            f"{service.upper()}_DATABASE_URL": database.environment[
                f"{service.upper()}_DATABASE_URL"
            ],
            f"{service.upper()}_PORT": str(port),
        }
        if service == "annotator":
            environment |= {
                "ANNOTATOR_SLOT": name.partition("-")[2],
                "ANNOTATOR_RAW_FOLDER": str(folder / "raw"),
                "ANNOTATOR_UPSTREAMS": json.dumps(upstreams.upstreams()),
            }
        environment |= environments.get(name, {})
        processes.append(
            Process(
                name=name,
                command=[sys.executable, "-m", f"services.{service}"],
                cwd=ROOT,
                log_file=folder / f"{name}.log",
                environment=environment,
                ready=is_ready(port),
                start_timeout_seconds=READY_TIMEOUT_SECONDS,
            )
        )
    async with Supervisor() as supervisor:
        await supervisor.add(*processes)
        url = f"http://127.0.0.1:{ports['gateway']}"
        named = {process.name: process for process in processes}
        yield Running(url, ports, supervisor, folder, named)


def is_ready(port: int) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        try:
            async with http_client() as client:
                return bool(
                    (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
                )
        except httpx2.HTTPError:
            return False

    return ready
