"""Keeps a cluster up: says on its output who works for it, ends when its input ends."""

import asyncio
import json
import os
import sys
from pathlib import Path

from infra.cluster import Cluster
from infra.supervisor import Supervisor


async def main(state: Path) -> None:
    cluster = Cluster(state, {})
    await cluster.prepare()
    async with Supervisor() as supervisor:
        await supervisor.add(*cluster.processes)
        said = {"pids": supervisor.pids, "uid": os.geteuid()}
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
    cluster.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
