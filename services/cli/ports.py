"""Ports of this machine: free ones, and the same ones at the next start."""

import random
import socket
from collections.abc import Collection, Sequence
from pathlib import Path

import orjson

from infra.state import write_private
from services.cli.errors import CommandFailed, Refused

HOST = "127.0.0.1"
PORTS_FILE = "service-ports.json"
# Below what outgoing connections are given, so that none of them sits on a port we come back to.
PORT_MIN, PORT_MAX = 20_000, 32_000
TRIES_MAX = 1_000


def choose(
    folder: Path, names: Sequence[str], gateway_default: int, gateway_port: int | None
) -> dict[str, int]:
    """A free port for each name: the remembered one where it is free, another where it is not.

    Raises Refused when the port that a person named for the gateway is taken.
    """
    path = folder / PORTS_FILE
    remembered = _remembered(path)
    if gateway_port is not None and not is_free(gateway_port):
        raise Refused(f"--port {gateway_port} is taken: name another, or leave it out")
    chosen: dict[str, int] = {}
    for name in names:
        wanted = [remembered[name]] if name in remembered else []
        if name == "gateway":
            wanted = [gateway_port] if gateway_port is not None else [*wanted, gateway_default]
        chosen[name] = _first_free(wanted, chosen.values())
    write_private(path, orjson.dumps(remembered | chosen).decode())
    return chosen


def _remembered(path: Path) -> dict[str, int]:
    """A file that a full disk cut off is forgotten: other ports do as well."""
    try:
        ports: dict[str, int] = orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return {}
    return ports


def _first_free(wanted: Sequence[int], taken: Collection[int]) -> int:
    others = (random.randint(PORT_MIN, PORT_MAX) for _ in range(TRIES_MAX))
    for port in (*wanted, *others):
        if port not in taken and is_free(port):
            return port
    raise CommandFailed(f"no free port between {PORT_MIN} and {PORT_MAX} on {HOST}")


def is_free(port: int) -> bool:
    """Connections of an earlier run that still close do not count: the servers ignore them too."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
