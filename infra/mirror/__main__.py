"""Starts the mirror: prepares what it serves, then says on standard output where it serves it."""

import argparse
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import uvicorn

from infra.mirror import clingen, clinvar, ensembl, gnomad, hgnc, hpo
from infra.mirror.connection import Connection
from infra.mirror.files import UnusableData
from infra.mirror.server import build_app

STOP_SECONDS: Final = 2
BACKLOG: Final = 1024


class Server(uvicorn.Server):
    """Tells whoever started it that it answers, and on which port."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or []:
            host, port, *_ = listening.getsockname()
            print(f"mirror ready http://{host}:{port}", flush=True)


def main() -> None:
    arguments = _arguments()
    try:
        if arguments.data is None:
            offers = {
                "hgnc": hgnc.from_package(arguments.cache),
                "hpo": hpo.from_package(arguments.cache),
            }
        else:
            offers = {
                "hgnc": hgnc.from_folder(arguments.data, arguments.cache),
                "hpo": hpo.from_folder(arguments.data, arguments.cache),
            }
        records = hgnc.read_records(offers["hgnc"].files[hgnc.COMPLETE_SET].path)
        genes, origin = ensembl.genes_of(records), offers["hgnc"].origin
        data, cache = arguments.data, arguments.cache
        real = gnomad.from_folder(data, cache) if data is not None else None
        offers["gnomad"] = real or gnomad.offer(genes, origin, cache)
        offers["ensembl"] = ensembl.offer(genes, origin)
        offers["clingen"] = clingen.offer(records, origin, cache, data)
        offers["clinvar"] = clinvar.offer(records, origin, cache, data)
        listening = socket.create_server((arguments.host, arguments.port), backlog=BACKLOG)
    except UnusableData as error:
        sys.exit(f"mirror: {error}")
    except OSError as error:
        sys.exit(f"mirror: {error} (port {arguments.port}, cache {arguments.cache})")
    app = build_app(offers, genes, limits=not arguments.no_limits)
    config = uvicorn.Config(
        app,
        http=Connection,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    # It has stopped in order already when the signal is raised again.
    with suppress(KeyboardInterrupt):
        Server(config).run(sockets=[listening])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m infra.mirror", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="the address it listens at")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument(
        "--cache", type=Path, required=True, help="folder for what is prepared once"
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="folder with hgnc/ and hpo/ to serve instead of the packages; and with clingen/,"
        " clinvar/ and gnomad/ instead of what is made up",
    )
    parser.add_argument("--no-limits", action="store_true", help="never answer 429")
    return parser.parse_args()


if __name__ == "__main__":
    main()
