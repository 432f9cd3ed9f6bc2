"""Which processes a local system consists of: their commands, environment and readiness."""

import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import orjson
from pydantic import BaseModel, ConfigDict

import services
from infra.addresses import KAFKA_BOOTSTRAP, OWNER_URL
from infra.processes import Process
from services.annotator.sources import UPSTREAMS
from services.cli import state

PROJECT = Path(services.__path__[0]).parent
BACKGROUND_NICE = 5  # What works in the background gives way to what answers people.
MIGRATE_TIMEOUT_SECONDS = 120.0
MIRROR_TIMEOUT_SECONDS = 180.0  # Its first start converts 44,000 genes.
SERVICE_TIMEOUT_SECONDS = 60.0
READY_TIMEOUT_SECONDS = 5.0

LOOPBACK_HOSTS = "127.0.0.1,localhost"


class Options(BaseModel):
    """What a person chose; paths are absolute."""

    model_config = ConfigDict(frozen=True)

    state: Path
    annotators: int = 1
    mirror: bool = True
    data: Path | None = None
    limits: bool = True
    port: int | None = None

    @property
    def annotator_names(self) -> list[str]:
        return [f"annotator-{slot}" for slot in range(self.annotators)]

    @property
    def names(self) -> list[str]:
        """What is given a port; the gateway comes first."""
        return ["gateway", "cache", *self.annotator_names, *(["mirror"] if self.mirror else [])]


@dataclass(frozen=True)
class Plan:
    """One system's processes. `environment` has the addresses of the cluster, `ports` one port
    for each name, `http` asks whether they are ready."""

    options: Options
    environment: Mapping[str, str]
    ports: Mapping[str, int]
    http: httpx2.AsyncClient

    def addresses(self) -> dict[str, str]:
        database = urlsplit(self.environment[OWNER_URL])
        return {
            "postgres": f"{database.hostname}:{database.port}",
            "kafka": self.environment[KAFKA_BOOTSTRAP],
            **{name: f"http://127.0.0.1:{port}" for name, port in self.ports.items()},
        }

    @property
    def service_addresses(self) -> list[str]:
        """The variables that hold one service's database address each."""
        return [name for name in self.environment if name not in (OWNER_URL, KAFKA_BOOTSTRAP)]

    def migrate(self) -> Process:
        own = {name: self.environment[name] for name in (OWNER_URL, KAFKA_BOOTSTRAP)}
        return self._python("migrate", ["services.cli.migrate"], own, MIGRATE_TIMEOUT_SECONDS)

    def mirror(self) -> Process:
        port, cache = self.ports["mirror"], self.options.state / "mirror"
        command = ["infra.mirror", "--port", str(port), "--cache", str(cache)]
        if self.options.data is not None:
            command += ["--data", str(self.options.data)]
        if not self.options.limits:
            command.append("--no-limits")
        process = self._python("mirror", command, {}, MIRROR_TIMEOUT_SECONDS)
        return replace(process, ready=self._answers(port, "/"))

    def services(self) -> Iterator[Process]:
        for slot, name in enumerate(self.options.annotator_names):
            own = {
                "ANNOTATOR_SLOT": str(slot),
                "ANNOTATOR_RAW_FOLDER": str(self.options.state / "raw"),
            }
            if self.options.mirror:
                own["ANNOTATOR_UPSTREAMS"] = orjson.dumps(self._upstreams()).decode()
            yield self._service(name, "annotator", own, BACKGROUND_NICE)
        yield self._service("cache", "cache", {}, BACKGROUND_NICE)
        yield self._service("gateway", "gateway", {}, 0)

    def _upstreams(self) -> dict[str, dict[str, str | int]]:
        """Where the mirror answers for each upstream; 0 requests a second: without a limit."""
        base = self.addresses()["mirror"]
        rate = {} if self.options.limits else {"requests_per_second": 0}
        return {name: {"base_url": f"{base}/{name}", **rate} for name in UPSTREAMS}

    def _service(self, name: str, service: str, own: Mapping[str, str], nice: int) -> Process:
        prefix = service.upper()
        address = f"{prefix}_DATABASE_URL"
        environment = {
            KAFKA_BOOTSTRAP: self.environment[KAFKA_BOOTSTRAP],
            address: self.environment[address],
            f"{prefix}_PORT": str(self.ports[name]),
            "ANNOBUS_LOG_FORMAT": os.environ.get("ANNOBUS_LOG_FORMAT", "console"),
            **own,
        }
        module = f"services.{service}"
        process = self._python(name, [module], environment, SERVICE_TIMEOUT_SECONDS)
        return replace(process, ready=self._answers(self.ports[name], "/readyz"), nice=nice)

    def _python(
        self,
        name: str,
        module_and_arguments: Sequence[str],
        environment: Mapping[str, str],
        start_timeout_seconds: float,
    ) -> Process:
        return Process(
            name=name,
            command=(sys.executable, "-m", *module_and_arguments),
            cwd=PROJECT,
            log_file=state.log_file(self.options.state, name),
            environment={**_direct(), **environment},
            start_timeout_seconds=start_timeout_seconds,
        )

    def _answers(self, port: int, path: str) -> Callable[[], Awaitable[bool]]:
        async def ready() -> bool:
            try:
                response = await self.http.get(f"http://127.0.0.1:{port}{path}")
            except httpx2.TransportError:
                return False
            return response.status_code == httpx2.codes.OK

        return ready


def _direct() -> dict[str, str]:
    """This machine's own addresses are asked directly, whatever proxy the environment names."""
    known = [os.environ[name] for name in ("no_proxy", "NO_PROXY") if os.environ.get(name)]
    direct = ",".join([*known, LOOPBACK_HOSTS])
    return {"no_proxy": direct, "NO_PROXY": direct}
