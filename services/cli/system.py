"""A local system while it runs: started in order, its state kept for others, stopped in reverse."""

import asyncio
import os
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

import httpx2

from infra import ports
from infra.addresses import OWNER_URL
from infra.cluster import Cluster
from infra.processes import run_to_end
from infra.supervisor import Supervisor
from services.cli import state
from services.cli.errors import CommandFailed, Refused
from services.cli.options import GATEWAY_PORT
from services.cli.processes import READY_TIMEOUT_SECONDS, Options, Plan

PORTS_FILE = "service-ports.json"
STATE_SECONDS = 0.5  # How often what is said of the processes is compared with what is true.

Say = Callable[[str], None]


class System:
    """Everything as child processes of this one. Entering starts it, leaving stops it.

    Raises CommandFailed, and InfraError whose text is a sentence for a person.
    """

    def __init__(self, options: Options, command: str, say: Say) -> None:
        self._options = options
        self._command = command
        self._say = say
        self._cluster = Cluster(options.state)
        self._supervisor = Supervisor()
        self._http = httpx2.AsyncClient(timeout=READY_TIMEOUT_SECONDS, trust_env=False)
        self._addresses: dict[str, str] = {}
        self._ready = False
        self._keeper: asyncio.Task[None] | None = None
        self._restarts: Mapping[str, int] = {}
        self._written: state.SystemState | None = None

    @property
    def url(self) -> str:
        return self._addresses["gateway"]

    @property
    def addresses(self) -> Mapping[str, str]:
        """Where each process answers, by its name."""
        return self._addresses

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except OSError as error:
            await self._stop()
            # A disk that filled up, a folder that others own: no fault of the code.
            raise CommandFailed(str(error), advice="Look for the cause: annobus doctor") from error
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stop()

    async def wait(self) -> None:
        """Raises SupervisorError when a process died too often."""
        await self._supervisor.wait()

    async def _start(self) -> None:
        clock = asyncio.get_running_loop()
        began = clock.time()
        self._say("preparing PostgreSQL and Kafka (a first start resolves Kafka's jars)")
        await self._cluster.prepare()
        self._keeper = asyncio.create_task(self._keep_state(), name="state")
        environment = self._cluster.environment()
        chosen = choose_ports(self._options, self._cluster.ports)
        plan = Plan(self._options, environment, chosen, self._http)
        self._addresses = plan.addresses()
        self._say("starting PostgreSQL and Kafka")
        await self._supervisor.add(*self._cluster.processes)
        await self._cluster.create_database()
        self._say("migrating schemas and topics")
        await run_to_end(plan.migrate())
        # From here on no child inherits an address that is not its own.
        for address in (OWNER_URL, *plan.service_addresses):
            os.environ.pop(address, None)
        if self._options.mirror:
            self._say("starting the mirror of the upstreams (a first start converts its data)")
            await self._supervisor.add(plan.mirror())
        self._say("starting annotator, cache and gateway")
        await self._supervisor.add(*plan.services())
        self._ready = True
        self._write_state()
        self._say(f"ready after {clock.time() - began:.1f} s")

    async def _stop(self) -> None:
        self._ready = False
        # A terminal that was closed takes no words, and must not keep anything running.
        with suppress(OSError):
            self._say("stopping everything in order")
        await self._supervisor.stop()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
            state.remove(self._options.state)
        self._cluster.close()
        await self._http.aclose()
        with suppress(OSError):
            self._say("stopped")

    async def _keep_state(self) -> None:
        """What others read of the processes follows what is true of them."""
        while True:
            self._write_state()
            await asyncio.sleep(STATE_SECONDS)

    def _write_state(self) -> None:
        pids, restarts = self._supervisor.pids, self._supervisor.restarts
        for name, number in restarts.items():
            if number > self._restarts.get(name, 0):
                self._say(f"{name} died and was started again ({number})")
        self._restarts = restarts
        started = state.started_at(os.getpid())
        assert started is not None
        current = state.SystemState(
            pid=os.getpid(),
            started=started,
            command=self._command,
            ready=self._ready,
            url=self._addresses.get("gateway"),
            processes={
                name: state.ProcessState(
                    pid=pids.get(name), restarts=restarts[name], address=address
                )
                for name, address in self._addresses.items()
                if name in restarts
            },
        )
        if current != self._written:
            state.write(self._options.state, current)
            self._written = current


def choose_ports(options: Options, taken: Collection[int]) -> dict[str, int]:
    """Raises Refused when the port that a person named for the gateway is taken."""
    port = options.port
    if port is not None and (port in taken or not ports.is_free(port)):
        raise Refused(f"--port {port} is taken: name another, or leave it out")
    return ports.choose(
        options.state / PORTS_FILE,
        options.names,
        wanted=None if port is None else {"gateway": port},
        default={"gateway": GATEWAY_PORT},
        taken=taken,
    )
