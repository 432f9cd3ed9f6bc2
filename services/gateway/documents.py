"""Gene documents in memory, ready to be sent; forgotten when a newer one is heard of."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog
from cachebox import LRUCache

from services.chassis import telemetry

log = structlog.get_logger()

NAMESPACE = "genes"
BYTES_MAX = 64 * 1024 * 1024
ENTRY_BYTES = 400  # What an entry costs beside its body.
HEARD_MAX = 200_000  # Genes whose newest version is remembered; the catalogue has 45,000.
AGE_SECONDS_MAX = 60.0  # What a message that got lost without a trace costs at most.


@dataclass(frozen=True)
class Held:
    """An answer as it is sent; `version` is that of the document in it."""

    version: int
    etag: str
    body: bytes
    kept_at: float = field(default_factory=time.monotonic)


def _size(_: str, held: Held) -> int:
    return len(held.body) + ENTRY_BYTES


class Documents:
    """What was read before an invalidation is not kept after it (D20).

    Who reads takes `generation` first and gives it back with what was read. Nothing is kept
    while nobody would tell us of changes.
    """

    def __init__(self) -> None:
        self._held: LRUCache[str, Held] = LRUCache(BYTES_MAX, getsizeof=_size)
        self._heard: dict[str, int] = {}
        self._epochs: dict[str, int] = {}
        self._trusted = False
        self.generation = 0

    def get(self, hgnc_id: str) -> Held | None:
        held = self._held.get(hgnc_id)
        if held is not None and time.monotonic() - held.kept_at < AGE_SECONDS_MAX:
            telemetry.L1_REQUESTS.labels("hit").inc()
            return held
        telemetry.L1_REQUESTS.labels("miss").inc()
        return None

    def keep(self, hgnc_id: str, held: Held, generation: int) -> None:
        """Unless a newer version, or that all must be forgotten, was heard of meanwhile."""
        if not self._trusted or generation != self.generation:
            return
        if held.version >= self._heard.get(hgnc_id, 0) and _size("", held) <= BYTES_MAX:
            self._held[hgnc_id] = held

    def hear(self, versions: Mapping[str, int]) -> None:
        if len(self._heard) + len(versions) > HEARD_MAX:
            self._heard.clear()
            self.forget()
        for hgnc_id, version in versions.items():
            if version <= self._heard.get(hgnc_id, 0):
                continue
            self._heard[hgnc_id] = version
            held = self._held.get(hgnc_id)
            if held is not None and held.version < version:
                self._held.pop(hgnc_id)

    def invalidate(self, namespace: str, epoch: int) -> None:
        if epoch <= self._epochs.get(namespace, 0):
            return
        self._epochs[namespace] = epoch
        if namespace == NAMESPACE:
            self.forget()

    def trust(self, hears: bool) -> None:
        """Say whether changes are heard of at the moment."""
        if self._trusted != hears:
            log.info("documents_trusted" if hears else "documents_forgotten")
            self._trusted = hears
            self.forget()

    def forget(self) -> None:
        self._held.clear()
        self.generation += 1
