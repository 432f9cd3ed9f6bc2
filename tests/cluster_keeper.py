"""Keeps a cluster up for one test session: prints that it is ready, ends when its input ends."""

import asyncio
import sys
from pathlib import Path

from infra.cluster import Cluster
from infra.supervisor import Supervisor


async def main(state: Path) -> None:
    cluster = Cluster(state)
    await cluster.prepare()
    async with Supervisor() as supervisor:
        await supervisor.add(*cluster.processes)
        print("ready", flush=True)  # noqa: T201  # This is what the test session waits for.
        await asyncio.to_thread(sys.stdin.read)
    cluster.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
