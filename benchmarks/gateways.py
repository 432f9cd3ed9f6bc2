"""A gateway beside the one of a system."""

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx2

from benchmarks.child import PROJECT
from infra import ports
from infra.addresses import KAFKA_BOOTSTRAP
from infra.processes import Process
from infra.supervisor import Supervisor
from services.cli import state
from services.cli.processes import Options

NOBODY = "127.0.0.1:9"  # The port for what is thrown away: no Kafka answers there.


@asynccontextmanager
async def one_more(
    options: Options, environment: Mapping[str, str], *, hears: bool = True
) -> AsyncIterator[str]:
    """Yields its address; one that hears nothing of changes keeps nothing in memory."""
    port = ports.find_free()
    url = f"http://127.0.0.1:{port}"
    name = "gateway-1"
    async with (
        httpx2.AsyncClient(base_url=url, trust_env=False) as http,
        Supervisor() as supervisor,
    ):

        async def ready() -> bool:
            try:
                return (await http.get("/readyz" if hears else "/livez")).is_success
            except httpx2.TransportError:
                return False

        await supervisor.add(
            Process(
                name=name,
                command=(sys.executable, "-m", "services.gateway"),
                cwd=PROJECT,
                log_file=state.log_file(options.state, name),
                environment={
                    KAFKA_BOOTSTRAP: environment[KAFKA_BOOTSTRAP] if hears else NOBODY,
                    "GATEWAY_DATABASE_URL": environment["GATEWAY_DATABASE_URL"],
                    "GATEWAY_PORT": str(port),
                },
                ready=ready,
            )
        )
        yield url
