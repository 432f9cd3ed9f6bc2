"""What processes take of memory, files and sessions: none of it must grow with the faults."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import asyncpg

from tests.faults.faults import SERVICES

MEMORY, FILES, SESSIONS, MESSAGES = "MiB of memory", "open files", "sessions", "messages"
# A pool may keep five connections and open five more; memory that was freed may stay taken.
USED_MORE_MAX: Mapping[str, float] = {MEMORY: 100, FILES: 30, SESSIONS: 10, MESSAGES: 0}
NOBODY = "processes that are gone"
OUTBOX = "outboxes"

Used = dict[tuple[str, str], float]  # Whose and what → how much.


async def measure(owner: "asyncpg.Connection[asyncpg.Record]", pids: Mapping[str, int]) -> Used:
    used = _of_processes(pids)
    sessions = await owner.fetch(
        """SELECT application_name AS application, count(*) FROM pg_stat_activity
           WHERE datname = current_database() AND usename = ANY($1::text[])
           GROUP BY application_name""",
        list(SERVICES),
    )
    names = {str(pid): name for name, pid in pids.items()}
    for row in sessions:
        name = names.get(row["application"].rpartition(" ")[2], NOBODY)
        used[name, SESSIONS] = used.get((name, SESSIONS), 0) + row["count"]
    used.setdefault((NOBODY, SESSIONS), 0)
    used[OUTBOX, MESSAGES] = await owner.fetchval(
        """SELECT (SELECT count(*) FROM annotator.outbox) + (SELECT count(*) FROM cache.outbox)
                + (SELECT count(*) FROM gateway.outbox)"""
    )
    return used


def _of_processes(pids: Mapping[str, int]) -> Used:
    used: Used = {}
    for name, pid in pids.items():
        process = Path(f"/proc/{pid}")
        with suppress(FileNotFoundError, ProcessLookupError):
            kibibytes = (process / "status").read_text().partition("VmRSS:")[2].split()[0]
            used[name, MEMORY] = int(kibibytes) / 1024
            used[name, FILES] = len(list((process / "fd").iterdir()))
    return used
