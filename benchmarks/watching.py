"""Watches a run's socket as a client does, and notes when which frame came."""

import asyncio
import time
from dataclasses import dataclass

import orjson
from websockets.asyncio.client import connect

from benchmarks.figures import count_disorder, longest_silence
from contracts.messages import ACTIVE_STATES

FRAME_SECONDS_MAX = 30.0  # Longer than any silence worth a figure: then the socket is dead.


@dataclass(frozen=True)
class Watched:
    """What the socket told from its opening to the frame that ended the run."""

    frames: int
    facts: int
    out_of_order: int
    longest_silence_seconds: float


async def watch(url: str, run_id: str) -> Watched:
    """Raises TimeoutError and the errors of the socket when it breaks."""
    address = f"ws{url.removeprefix('http')}/ws/jobs/{run_id}?after=0"
    facts: list[int] = []
    snapshots: list[int] = []
    async with connect(address, proxy=None) as socket:
        moments = [time.perf_counter()]
        while True:
            async with asyncio.timeout(FRAME_SECONDS_MAX):
                told = await socket.recv()
            moments.append(time.perf_counter())
            frame = orjson.loads(told)
            if frame["type"] == "fact":
                facts.append(frame["seq"])
                continue
            snapshots.append(frame["seq"])
            if frame["status"] not in ACTIVE_STATES:
                break
    return Watched(
        frames=len(facts) + len(snapshots),
        facts=len(facts),
        out_of_order=count_disorder(facts, snapshots),
        longest_silence_seconds=longest_silence(moments),
    )
