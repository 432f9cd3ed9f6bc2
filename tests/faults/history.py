"""What one run left behind: in the database, in the topics, and with the client that ordered it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contracts.messages import ControlAction


@dataclass(frozen=True)
class Order:
    """What a client did until it had an answer: the same order under the same key, again and
    again."""

    key: str
    attempts: int
    answers: Sequence[str]  # Run ids of the answers 202, in order.
    runs_with_key: int  # Rows that the gateway keeps for it.


@dataclass(frozen=True)
class SourceCounts:
    source: str
    state: str
    total: int | None
    done: int
    no_data: int
    failed: int
    cancelled: int = 0


@dataclass(frozen=True)
class BatchRow:
    batch_id: str
    source: str
    kind: str
    state: str
    genes: int
    checkpoint: int


@dataclass(frozen=True)
class Value:
    """A current version; the digest is empty where the source has no value any more."""

    hgnc_id: str
    source: str
    digest: str


@dataclass(frozen=True)
class FactRow:
    seq: int
    type: str
    batch_id: str | None


@dataclass(frozen=True)
class Announced:
    """A row that was put into an outbox, in the order of its id there."""

    topic: str
    key: str
    event_id: str


@dataclass(frozen=True)
class Arrived:
    """A record, in the order of its partition."""

    topic: str
    key: str
    event_id: str
    type: str
    seq: int | None = None


@dataclass(frozen=True)
class BatchWrite:
    """One change of a batch's row, as a trigger saw it."""

    xid: str
    writer: str  # The process, as its session names itself.
    batch_id: str
    source: str
    old_state: str
    new_state: str
    old_token: int
    new_token: int
    step: int  # Genes by which the checkpoint moved.
    lease_over: bool  # Before the change.
    at: float = 0.0  # Seconds of the wall clock.


@dataclass(frozen=True)
class Frame:
    type: str  # snapshot or fact
    seq: int
    status: str
    progress: float | None
    counts: Mapping[str, tuple[int, int, int]]  # Source → done, no data, failed.


@dataclass(frozen=True)
class Control:
    """What a client asked of its run; refused, because the run had ended, if not accepted."""

    action: ControlAction
    asked: float  # Seconds of the wall clock.
    answered: float
    accepted: bool


@dataclass(frozen=True)
class Usage:
    """What a process of a service takes when all is done, beside what it took at the start."""

    process: str
    what: str  # Such as open files.
    used: float
    at_first: float
    used_max: float


@dataclass(frozen=True)
class Recovery:
    """From the moment when a fault was over until what it hit answers, and until all is done."""

    fault: str
    ready_seconds: float | None  # None: it was hit again before.
    ready_seconds_max: float
    settled_seconds: float
    settled_seconds_max: float


@dataclass(frozen=True)
class History:
    order: Order
    state: str
    genes: Sequence[str]  # That the run is over.
    sources: Sequence[SourceCounts]
    batches: Sequence[BatchRow]
    values: Sequence[Value]
    facts: Sequence[FactRow]
    announced: Sequence[Announced]
    arrived: Sequence[Arrived]
    writes: Sequence[BatchWrite]
    stored: Sequence[tuple[str, str]]  # Transaction and source of each version.
    frames: Sequence[Frame]
    dead_letters: Sequence[str] = ()
    misspelt: Sequence[str] = ()  # Values whose digest is that of another text.
    expected: Sequence[Value] | None = None  # None: they are compared elsewhere.
    recoveries: Sequence[Recovery] = ()
    controls: Sequence[Control] = ()
    calls: Sequence[float] = ()  # When the upstream was asked for genes, on the wall clock.
    calls_per_second: float = 0.0  # That it is to be asked at most; 0: as fast as it answers.
    disturbed: Sequence[tuple[float, float]] = ()  # From each fault until all were ready again.
    usage: Sequence[Usage] = ()
    unread: Sequence[str] = ()  # Genes that the gateway shows otherwise than their documents.
    poison: Sequence[str] = ()  # Where the records are that nobody can handle.
