"""A client as the interface asks it to be: it repeats an order under its key, and comes back to the
socket with the last fact that it knows."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx2
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from contracts.messages import ACTIVE_STATES, ControlAction, RunCompleted
from tests.faults.history import Control
from tests.faults.journal import Journal
from tests.system import http_client

RETRY_SECONDS = 0.1
ANSWER_SECONDS_MAX = 5.0
PATIENCE_SECONDS = 120.0


@dataclass
class Client:
    """`frames` is what it was told, in order, over all its connections."""

    url: str
    key: str = field(default_factory=lambda: uuid4().hex)
    attempts: int = 0
    answers: list[str] = field(default_factory=list)
    frames: list[dict[str, Any]] = field(default_factory=list)
    connections: int = 0
    longest_silence: float = 0.0
    controls: list[Control] = field(default_factory=list)
    journal: Journal = field(default_factory=Journal)

    async def order(self, **body: Any) -> str:
        """Until it is accepted: what was not answered may have been accepted."""
        answer = await self._insist("/api/runs", body)
        assert answer.status_code == 202, answer.text
        self.answers.append(str(answer.json()["data"]["id"]))
        return self.answers[-1]

    async def invalidate(self, namespace: str) -> None:
        await self._insist(f"/api/cache/namespaces/{namespace}/invalidate", None)

    async def control(self, run_id: str, action: ControlAction) -> None:
        """Until it is accepted, or refused because the run has ended."""
        asked = time.time()
        answer = await self._insist(f"/api/runs/{run_id}/{action}", None)
        assert answer.status_code in (202, 409), answer.text
        accepted = answer.status_code == 202
        self.controls.append(Control(action, asked, time.time(), accepted=accepted))

    async def _insist(self, path: str, body: dict[str, Any] | None) -> httpx2.Response:
        while True:
            self.attempts += path == "/api/runs"
            self.journal.operation("invoke", path)
            answer = await self._post(path, body)
            if answer is not None:
                self.journal.operation(
                    "ok" if answer.is_success else "fail", path, answer.status_code
                )
                return answer
            self.journal.operation("info", path)
            await asyncio.sleep(RETRY_SECONDS)

    async def _post(self, path: str, body: dict[str, Any] | None) -> httpx2.Response | None:
        """None where nothing is known: no answer, or one that says to come again."""
        try:
            async with http_client(self.url, ANSWER_SECONDS_MAX) as client:
                answer = await client.post(path, json=body, headers={"Idempotency-Key": self.key})
        except httpx2.HTTPError:
            return None
        return None if answer.status_code >= 500 else answer

    async def watch(self, run_id: str) -> None:
        """Until the run has ended, and all of it was told."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not self.is_over:
                self.journal.operation("invoke", "watch", run_id)
                try:
                    await self._listen(run_id)
                    self.journal.operation("ok", "watch", len(self.frames))
                except (OSError, ConnectionClosed, InvalidHandshake) as error:
                    self.journal.operation("info", "watch", repr(error))
                    await asyncio.sleep(RETRY_SECONDS)

    async def _listen(self, run_id: str) -> None:
        known = max(self.seqs("fact"), default=0)
        address = f"{self.url.replace('http', 'ws', 1)}/ws/jobs/{run_id}?after={known}"
        clock = asyncio.get_running_loop()
        async with connect(address, open_timeout=ANSWER_SECONDS_MAX) as socket:
            self.connections += 1
            last = clock.time()
            async for text in socket:
                self.longest_silence = max(self.longest_silence, clock.time() - last)
                last = clock.time()
                self.frames.append(json.loads(text))
                if self.is_over:
                    return

    @property
    def is_over(self) -> bool:
        """The fact that it is over has come, and a snapshot that says so: in which order depends
        on whether the client was there."""
        snapshots = (frame for frame in reversed(self.frames) if frame["type"] == "snapshot")
        newest = next(snapshots, None)
        return (
            newest is not None
            and newest["status"] not in ACTIVE_STATES
            and any(frame.get("event") == RunCompleted.type for frame in self.frames)
        )

    def seqs(self, kind: str) -> list[int]:
        return [frame["seq"] for frame in self.frames if frame["type"] == kind]
