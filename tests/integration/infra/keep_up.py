"""Keeps a cluster up until its input ends; says on its output who works for it."""

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
        await cluster.create_database()
        said = {"pids": supervisor.pids, "uid": os.geteuid(), **cluster.environment()}
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
    cluster.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
