"""How often cached values are asked for, and what came of it: in this process, and for others."""

from collections import Counter
from collections.abc import Mapping
from typing import Literal

from services.chassis import telemetry

# Who asks finds a value in memory, among those that are shared, or not at all, and counts once. It
# counts besides when a value in memory was not valid, and when one was made, could not be made, or
# was made and not kept for others.
Outcome = Literal["hit", "shared", "miss", "stale", "made", "failed", "refused"]
OUTCOMES: tuple[Outcome, ...] = ("hit", "shared", "miss", "stale", "made", "failed", "refused")


class Tally:
    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._sent: Counter[tuple[str, str]] = Counter()

    def note(self, namespace: str, outcome: Outcome, number: int = 1) -> None:
        self.counts[namespace, outcome] += number
        telemetry.CACHE_READS.labels(namespace, outcome).inc(number)

    def take_unsent(self) -> Mapping[tuple[str, str], int]:
        """What was counted since it was taken last."""
        taken = self.counts - self._sent
        self._sent = self.counts.copy()
        return taken

    def put_back(self, unsent: Mapping[tuple[str, str], int]) -> None:
        """What was taken and could not be sent."""
        self._sent.subtract(unsent)
