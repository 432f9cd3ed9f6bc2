"""Keeps a cluster up: says on its output who works for it, ends when its input ends.

One whose state folder lies in memory is removed then, however the tests have ended: nobody would
find it there."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from infra import postgres
from infra.cluster import Cluster
from infra.supervisor import Supervisor
from tests.memory import MEMORY


async def main(state: Path) -> None:
    # Who stops the tests stops their whole group; this one has to clear up behind them.
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, lambda: None)
    in_memory = state.is_relative_to(MEMORY)
    if in_memory:
        postgres.UNPRIVILEGED_PARENT = MEMORY
    cluster = Cluster(state, {})
    await cluster.prepare()
    async with Supervisor() as supervisor:
        await supervisor.add(*cluster.processes)
        said = {"pids": supervisor.pids, "uid": os.geteuid()}
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
    cluster.close()
    if in_memory:
        cluster.remove()
        state.parent.rmdir()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
