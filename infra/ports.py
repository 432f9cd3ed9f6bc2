"""Ports of this machine: free ones, and the same ones at the next start."""

import json
import secrets
import socket
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from infra.errors import ClusterError
from infra.state import write_private

HOST = "127.0.0.1"
PORT_MIN, PORT_MAX = 15_000, 65_535
TRIES_MAX = 1_000
EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def choose(
    file: Path,
    names: Iterable[str],
    *,
    wanted: Mapping[str, int] | None = None,
    default: Mapping[str, int] | None = None,
    taken: Collection[int] = (),
) -> dict[str, int]:
    """A port for each name, remembered in `file`: the first that is free of the one that is wanted,
    the one it had before, its default, and any other. `taken` are those of what may not run yet.
    """
    remembered = _remembered(file)
    chosen: dict[str, int] = {}
    for name in names:
        first = [ports[name] for ports in (wanted, remembered, default) if ports and name in ports]
        others = {*chosen.values(), *taken}
        free = (port for port in first if port not in others and is_free(port))
        chosen[name] = next(free, 0) or find_free({*others, *remembered.values()})
    if not chosen.items() <= remembered.items():
        write_private(file, json.dumps(remembered | chosen, indent=2))
    return chosen


def _remembered(file: Path) -> dict[str, int]:
    """A file that a full disk cut off is forgotten: other ports do as well."""
    try:
        return {name: int(port) for name, port in json.loads(file.read_bytes()).items()}
    except (FileNotFoundError, ValueError):
        return {}


def find_free(taken: Collection[int] = ()) -> int:
    """Any port that nobody listens on, and that no outgoing connection is given: a client that
    retries while a server restarts would otherwise one day be given the server's own port, and
    connect to itself.
    """
    ports = _not_outgoing()
    for _ in range(TRIES_MAX):
        port = secrets.choice(ports)
        if port not in taken and is_free(port):
            return port
    raise ClusterError(f"no free port between {ports[0]} and {ports[-1]} on {HOST}")


def _not_outgoing() -> range:
    """Below or above the ports of outgoing connections, wherever there are more; where these are
    nearly all ports, nothing is left but to take one of theirs."""
    low, high = map(int, EPHEMERAL_PORTS.read_text().split())
    below = range(PORT_MIN, low)
    above = range(max(high + 1, PORT_MIN), PORT_MAX + 1)
    wider = max(below, above, key=len)
    return wider if len(wider) >= TRIES_MAX else range(PORT_MIN, PORT_MAX + 1)


def is_free(port: int) -> bool:
    """Connections of an earlier run that still close do not count: the servers ignore them too."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
