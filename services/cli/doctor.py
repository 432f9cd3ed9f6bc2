"""`annobus doctor`: what may keep annobus from running here, and the way out.

Run as `python -m services.cli.doctor FOLDER [--json]`: it loads what no other command waits for.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from infra.addresses import KAFKA_BOOTSTRAP, OWNER_URL
from infra.cluster import Cluster
from infra.errors import ClusterError, InfraError
from services.cli import machine_checks, output, state, system_checks
from services.cli.errors import RUN_FAILED, CommandFailed
from services.cli.findings import Finding, Site, problem

CHECK_TIMEOUT_SECONDS = 30.0
STYLES = {"ok": "green", "warning": "yellow", "problem": "red"}

Check = Callable[[Site], Awaitable[Finding]]

CHECKS: Mapping[str, Check] = {
    "python": machine_checks.python,
    "state folder": machine_checks.state_folder,
    "disk": machine_checks.disk,
    "memory": machine_checks.memory,
    "port": machine_checks.gateway_port,
    "java": machine_checks.java,
    "kafka's jars": machine_checks.jars,
    "cluster": system_checks.cluster,
    "postgresql": system_checks.postgresql,
    "kafka": system_checks.kafka,
    "schemas": system_checks.schemas,
    "topics": system_checks.topic_shapes,
    "connections": system_checks.connections,
    "clock": system_checks.clock,
}


def look_around(folder: Path, environment: Mapping[str, str]) -> Site:
    """Where things are. Raises CommandFailed for a state file that cannot be read."""
    running = state.read(folder)
    embedded: Mapping[str, str] = {}
    cluster = Cluster(folder, variables={})
    if running is not None:
        try:
            embedded = cluster.environment()
        except ClusterError:  # It starts for the first time, and has no ports yet.
            embedded = {}
    processes = running.processes if running is not None else {}
    return Site(
        folder=folder,
        running=running,
        holder=cluster.holder,
        database_url=environment.get(OWNER_URL)
        or (embedded.get(OWNER_URL) if "postgres" in processes else None),
        kafka_bootstrap=environment.get(KAFKA_BOOTSTRAP)
        or (embedded.get(KAFKA_BOOTSTRAP) if "kafka" in processes else None),
        environment=environment,
    )


async def examine(site: Site, checks: Mapping[str, Check]) -> dict[str, Finding]:
    """One after the other: what is asked for its time must not compete."""
    return {name: await _finding(site, check) for name, check in checks.items()}


async def _finding(site: Site, check: Check) -> Finding:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
            return await check(site)
    except TimeoutError:
        found = f"no answer within {CHECK_TIMEOUT_SECONDS:g} s"
    except (OSError, InfraError) as error:
        found = str(error)
    return problem(found, "See annobus logs, and annobus status")


def show(findings: Mapping[str, Finding]) -> None:
    rows = [(finding.word, name, finding.found) for name, finding in findings.items()]
    output.print_table(("", "check", "found"), rows, styles=STYLES)
    arrow = output.arrow(output.data)
    for name, finding in findings.items():
        if finding.advice:
            output.print_line(f"{arrow} {name}: {finding.advice}")


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Exit code 1 when there is a problem."""
    # What it says of refused connections is a finding, said once and in words.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    output.accept_any_text()
    try:
        site = look_around(Path(arguments[0]), environment)
    except CommandFailed as error:
        output.show_failure(error)
        return error.exit_code
    findings = asyncio.run(examine(site, CHECKS))
    problems = [name for name, finding in findings.items() if finding.word == "problem"]
    if "--json" in arguments:
        checks = {name: asdict(finding) for name, finding in findings.items()}
        output.print_json({"ok": not problems, "checks": checks})
    else:
        show(findings)
    return RUN_FAILED if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
