"""Gene documents in memory, ready to be sent; forgotten when a newer one is heard of."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import structlog
from cachebox import LRUCache

from contracts.parts import Part
from services.gateway.tally import Tally
from services.gateway.wanted import Wanted

log = structlog.get_logger()

NAMESPACE = "genes"
BYTES_MAX = 64 * 1024 * 1024
ENTRY_BYTES = 400  # What an entry costs beside its body.
HEARD_MAX = 200_000  # Genes whose newest version is remembered; the catalogue has 45,000.
AGE_SECONDS_MAX = 60.0  # What a message that got lost without a trace costs at most.

_DATA = b'"data":'


@dataclass
class Held:
    """An answer as it is sent; `version` is that of the document in it, `read_at` when somebody
    asked for it last."""

    version: int
    etag: str
    body: bytes
    kept_at: float = field(default_factory=time.monotonic)
    read_at: float = field(default_factory=time.monotonic)

    @property
    def resource(self) -> bytes:
        """The gene alone, as a list has it: `data` is the last member of an answer."""
        return self.body[self.body.index(_DATA) + len(_DATA) : -1]


def _size(_: str, held: Held) -> int:
    return len(held.body) + ENTRY_BYTES


class Documents:
    """What was read before an invalidation is not kept after it (D20).

    Who reads takes `generation` first and gives it back with what was read. Nothing is kept
    while nobody would tell us of changes. What is forgotten is `wanted`, if it is in use.
    """

    def __init__(self, tally: Tally | None = None) -> None:
        self._tally = tally or Tally()
        self._held: LRUCache[str, Held] = LRUCache(BYTES_MAX, getsizeof=_size)
        self._heard: dict[str, int] = {}
        self._epoch = 0  # When all were forgotten last.
        self._trusted = False
        self.wanted = Wanted()
        self.generation = 0

    def hold(self, documents: Mapping[str, Held]) -> bool:
        """Whether these are still what is in memory. They are asked for nowhere else."""
        now = time.monotonic()
        for hgnc_id, held in documents.items():
            if self._held.get(hgnc_id) is not held or now - held.kept_at >= AGE_SECONDS_MAX:
                return False
            held.read_at = now
        self._tally.note(NAMESPACE, "hit", len(documents))
        return True

    def get(self, hgnc_id: str) -> Held | None:
        now = time.monotonic()
        held = self._held.get(hgnc_id)
        if held is not None and now - held.kept_at < AGE_SECONDS_MAX:
            held.read_at = now
            self._tally.note(NAMESPACE, "hit")
            return held
        if held is not None:
            self._tally.note(NAMESPACE, "stale")
        self._tally.note(NAMESPACE, "miss")
        return None

    def keep(self, hgnc_id: str, held: Held, generation: int) -> bool:
        """Whether it is kept: not if a newer version, or that it must be forgotten, was heard of
        meanwhile."""
        if not self._trusted or generation != self.generation:
            return False
        if held.version < self._heard.get(hgnc_id, 0) or _size("", held) > BYTES_MAX:
            return False
        self._held[hgnc_id] = held
        self.wanted.discard(hgnc_id)
        return True

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
                self._drop(hgnc_id)

    def invalidate(self, namespace: str, epoch: int, parts: Iterable[str] = ()) -> None:
        """Forget these genes, or all: of a source that is named alone, nobody here knows whose
        documents it is in."""
        if namespace != NAMESPACE:
            return
        forgotten = [Part.parse(part) for part in parts]
        genes = [gene for part in forgotten if (gene := part.gene or part.key) is not None]
        if forgotten and len(genes) == len(forgotten):
            self.generation += 1  # Also of those that are being read.
            for gene in genes:
                self._drop(gene)
        elif forgotten or epoch > self._epoch:
            self._epoch = max(epoch, self._epoch)
            self.forget()

    def trust(self, hears: bool) -> None:
        """Say whether changes are heard of at the moment."""
        if self._trusted != hears:
            log.info("documents_trusted" if hears else "documents_forgotten")
            self._trusted = hears
            self.forget()

    @property
    def count(self) -> int:
        return len(self._held)

    @property
    def bytes(self) -> int:
        return self._held.current_size()

    def forget(self) -> None:
        self._want(self._held.items())
        self._held.clear()
        self.generation += 1

    def _drop(self, hgnc_id: str) -> None:
        held = self._held.pop(hgnc_id, None)
        if held is not None:
            self._want([(hgnc_id, held)])

    def _want(self, forgotten: Iterable[tuple[str, Held]]) -> None:
        """What nobody would tell changes of is not kept, so that it is not wanted either."""
        if self._trusted:
            self.wanted.add((hgnc_id, held.read_at) for hgnc_id, held in forgotten)
        else:
            self.wanted.clear()
