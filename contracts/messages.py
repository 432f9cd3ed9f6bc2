"""Every command, fact and snapshot that services exchange, grouped by topic."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, ClassVar, Literal, Self, get_args
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from contracts.parts import PART_CHARACTERS_MAX, checked

GENES_MAX = 50_000  # Genes in one command; 0.7 MB, below a broker's message limit.
EPOCH_MAX = 2**63 - 1  # As much as a row can have: who hears of more would obey nothing else.
PARTS_MAX = 1_000  # Of a namespace that are forgotten together; 0.3 MB.

RunState = Literal[
    "planning", "running", "paused", "completed", "completed_with_errors", "failed", "cancelled"
]
RunEndState = Literal["completed", "completed_with_errors", "failed", "cancelled"]
SourceState = Literal["waiting", "running", "paused", "completed", "failed", "cancelled"]
SourceEndState = Literal["completed", "failed", "cancelled"]
ControlAction = Literal["pause", "resume", "cancel"]
Decision = Literal["accept", "reject"]
Strategy = Literal["full", "stale", "missing", "force"]
Priority = Literal["high", "normal", "low"]
ACTIVE_STATES: frozenset[str] = frozenset({"planning", "running", "paused"})
SOURCE_END_STATES: frozenset[str] = frozenset(get_args(SourceEndState))


# As `contracts.parts` writes them.
PartText = Annotated[str, Field(max_length=PART_CHARACTERS_MAX), AfterValidator(checked)]
Parts = Annotated[tuple[PartText, ...], Field(max_length=PARTS_MAX)]


class Message(BaseModel):
    """A command or a fact, immutable once written.

    Unknown fields are ignored, so that an old consumer can read a newer producer.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    topic: ClassVar[str]
    type: ClassVar[str]  # Sent as a header, so that a reader knows it before it parses the body.

    def key(self) -> str:
        """Messages with the same key are delivered in order."""
        raise NotImplementedError

    def subject(self) -> str:
        """What the message is about: a run, a gene, a source or a namespace."""
        return self.key()

    def destination(self) -> str:
        """The topic this message goes to."""
        return self.topic


class RunMessage(Message):
    run_id: UUID

    def key(self) -> str:
        return str(self.run_id)


# pipeline.commands.v1


class StartRun(RunMessage):
    """Annotate genes from sources. The gateway has resolved the genes, so a run can be repeated
    exactly; `genes` is None for all genes of the catalogue.

    `strategy` picks of them: `full` takes all, `stale` what is older than the source's time to
    live, failed or pending, `missing` what failed or is pending; `force` is `full`, and files are
    downloaded and matched anew although they are the same. `retries` is a run whose failures alone
    are worked again; `genes` is None then, and the annotator knows them.
    """

    topic: ClassVar[str] = "pipeline.commands.v1"
    type: ClassVar[str] = "annobus.run.start.v1"
    sources: tuple[str, ...] = Field(min_length=1)
    genes: tuple[str, ...] | None = Field(default=None, max_length=GENES_MAX)
    strategy: Strategy = "full"
    retries: UUID | None = None
    dry_run: bool = False  # Only say what it would fetch and change.
    priority: Priority = "normal"  # `high` goes before all others; `low` has a quarter's share.


class ControlRun(RunMessage):
    """Pause, resume or cancel a run, or one of its sources.

    `epoch` grows with every control of the run: an older one changes nothing any more.
    """

    topic: ClassVar[str] = "pipeline.commands.v1"
    type: ClassVar[str] = "annobus.run.control.v1"
    action: ControlAction
    source: str | None = None  # None: the run as a whole.
    epoch: int = Field(ge=1, le=EPOCH_MAX)


class DecideRelease(Message):
    """A person has looked at a quarantined release."""

    topic: ClassVar[str] = "pipeline.commands.v1"
    type: ClassVar[str] = "annobus.release.decide.v1"
    source: str
    release_id: UUID
    decision: Decision
    decided_by: str
    note: str

    def key(self) -> str:
        return self.source


class InvalidateNamespace(Message):
    """Forget what a namespace of the cache holds of these parts; without any, everything."""

    topic: ClassVar[str] = "pipeline.commands.v1"
    type: ClassVar[str] = "annobus.namespace.invalidate.v1"
    namespace: str
    parts: Parts = ()

    def key(self) -> str:
        return self.namespace


# annotation.work.<source>.v1


class AnnotateBatch(Message):
    """A hint that a batch is due. Its row in the database is the truth."""

    topic: ClassVar[str] = "annotation.work.{source}.v1"
    type: ClassVar[str] = "annobus.batch.annotate.v1"
    batch_id: UUID
    source: str

    def key(self) -> str:
        return str(self.batch_id)

    def destination(self) -> str:
        return self.topic.format(source=self.source)


# pipeline.events.v1


class RunFact(RunMessage):
    """A fact of a run; kept as a row, so that a reader resumes after the last `seq` it saw."""

    topic: ClassVar[str] = "pipeline.events.v1"
    seq: int


class RunPlanned(RunFact):
    """How many genes a run is over is known, and its batches are cut."""

    type: ClassVar[str] = "annobus.run.planned.v1"
    gene_count: int
    sources: tuple[str, ...]


class BatchAnnotated(RunFact):
    """The genes of one batch are stored: with a value, or known to have none."""

    type: ClassVar[str] = "annobus.batch.annotated.v1"
    batch_id: UUID
    source: str
    done_count: int
    no_data_count: int


class BatchDead(RunFact):
    """A batch that will not be tried again; `problem` is an RFC 9457 document."""

    type: ClassVar[str] = "annobus.batch.dead.v1"
    batch_id: UUID
    source: str
    failed_count: int
    problem: Mapping[str, str | int]


class RunPaused(RunFact):
    """No more of the run is begun, or of one source of it, until it is resumed."""

    type: ClassVar[str] = "annobus.run.paused.v1"
    source: str | None = None


class RunResumed(RunFact):
    """The run, or one source of it, goes on where it was."""

    type: ClassVar[str] = "annobus.run.resumed.v1"
    source: str | None = None


class RunCancelled(RunFact):
    """What is left of the run, or of one source of it, will not be done. That a source or the run
    has ended so is told by facts of their own, which follow."""

    type: ClassVar[str] = "annobus.run.cancelled.v1"
    source: str | None = None


class SourceCompleted(RunFact):
    """Every gene of the run has been counted for this source."""

    type: ClassVar[str] = "annobus.source.completed.v1"
    source: str
    state: SourceEndState
    done_count: int
    no_data_count: int
    failed_count: int
    cancelled_count: int = 0


class RunCompleted(RunFact):
    """The run has ended, exactly once."""

    type: ClassVar[str] = "annobus.run.completed.v1"
    state: RunEndState
    done_count: int
    no_data_count: int
    failed_count: int
    cancelled_count: int = 0


# pipeline.progress.v1


class SourceProgress(BaseModel):
    """Counters are genes: done (a value), no data, failed, cancelled. `total_count` is None until
    known. `waits_for` is an upstream that is left alone for a while: its own, or another that
    stands in for it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    state: SourceState
    total_count: int | None
    done_count: int
    no_data_count: int
    failed_count: int
    cancelled_count: int = 0
    release: str | None = None
    synthetic: bool = False
    problem: Mapping[str, str | int] | None = None
    waits_for: str | None = None
    waits_until: datetime | None = None
    waits_because: str | None = None


class RunProgress(RunMessage):
    """An absolute snapshot. A higher `seq` replaces a lower one, so a message that is
    lost, repeated or late does no harm."""

    topic: ClassVar[str] = "pipeline.progress.v1"
    type: ClassVar[str] = "annobus.run.progress.v1"
    seq: int
    state: RunState
    total_count: int | None
    done_count: int
    no_data_count: int
    failed_count: int
    cancelled_count: int = 0
    sources: Mapping[str, SourceProgress]

    @classmethod
    def of(
        cls, run_id: UUID, seq: int, state: RunState, sources: Mapping[str, SourceProgress]
    ) -> Self:
        """The run's counters are its sources' added up; its total is known when all of theirs
        are."""
        totals = [source.total_count for source in sources.values()]
        known = [total for total in totals if total is not None]
        return cls(
            run_id=run_id,
            seq=seq,
            state=state,
            total_count=sum(known) if len(known) == len(totals) else None,
            done_count=sum(source.done_count for source in sources.values()),
            no_data_count=sum(source.no_data_count for source in sources.values()),
            failed_count=sum(source.failed_count for source in sources.values()),
            cancelled_count=sum(source.cancelled_count for source in sources.values()),
            sources=sources,
        )


# annotation.changes.v1


class AnnotationsChanged(Message):
    """What a reader sees of these genes and this source may have changed."""

    topic: ClassVar[str] = "annotation.changes.v1"
    type: ClassVar[str] = "annobus.annotations.changed.v1"
    source: str
    release_id: UUID | None  # None: no release says so, the catalogue lacks what it is asked by.
    bucket: int
    genes: tuple[str, ...]

    def key(self) -> str:
        return f"{self.source}:{self.bucket}"


class ReleaseStored(Message):
    """A release of a bulk source is stored whole: a gene it does not name has no data."""

    topic: ClassVar[str] = "annotation.changes.v1"
    type: ClassVar[str] = "annobus.release.stored.v1"
    source: str
    release_id: UUID
    version: str

    def key(self) -> str:
        return self.source


class ReleaseDoubt(BaseModel):
    """One reason why a release had better not be believed unseen; the texts are for people."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    check: str
    found: str
    accepted: str


class ReleaseQuarantined(Message):
    """A release is not like those before it. Readers keep what they have until it is decided."""

    topic: ClassVar[str] = "annotation.changes.v1"
    type: ClassVar[str] = "annobus.release.quarantined.v1"
    source: str
    release_id: UUID
    version: str
    doubts: tuple[ReleaseDoubt, ...]

    def key(self) -> str:
        return self.source


class ReleaseDecided(Message):
    """A person has accepted or rejected a quarantined release."""

    topic: ClassVar[str] = "annotation.changes.v1"
    type: ClassVar[str] = "annobus.release.decided.v1"
    source: str
    release_id: UUID
    decision: Decision
    decided_by: str
    note: str

    def key(self) -> str:
        return self.source


class GeneEvent(Message):
    """What became of a gene that was known before. Its annotations stay with its id; what the
    id stands for now is in `annotator.gene_v1`."""

    topic: ClassVar[str] = "annotation.changes.v1"
    hgnc_id: str
    release_id: UUID

    def key(self) -> str:
        return self.hgnc_id


class GeneRenamed(GeneEvent):
    """An approved gene has another symbol."""

    type: ClassVar[str] = "annobus.gene.renamed.v1"
    symbol_before: str
    symbol_after: str


class GeneMerged(GeneEvent):
    """A gene was given up, and one other stands for it. That one may be withdrawn itself."""

    type: ClassVar[str] = "annobus.gene.merged.v1"
    symbol: str
    successor: str


class GeneSplit(GeneEvent):
    """A gene was given up, and several others stand for it."""

    type: ClassVar[str] = "annobus.gene.split.v1"
    symbol: str
    successors: tuple[str, ...]


class GeneWithdrawn(GeneEvent):
    """A gene was given up, and nothing stands for it."""

    type: ClassVar[str] = "annobus.gene.withdrawn.v1"
    symbol: str


class GeneRestored(GeneEvent):
    """A gene that was given up is approved again."""

    type: ClassVar[str] = "annobus.gene.restored.v1"
    symbol_before: str
    symbol_after: str


# cache.events.v1


class DocumentsRebuilt(Message):
    """New versions of gene documents, by HGNC id. Whoever holds an older one must drop it."""

    topic: ClassVar[str] = "cache.events.v1"
    type: ClassVar[str] = "annobus.documents.rebuilt.v1"
    versions: Mapping[str, int]

    def key(self) -> str:
        return "genes"


class NamespaceInvalidated(Message):
    """Whoever remembers something of an older epoch of this namespace, which concerns one of these
    parts, must forget it; without any, whatever it is."""

    topic: ClassVar[str] = "cache.events.v1"
    type: ClassVar[str] = "annobus.namespace.invalidated.v1"
    namespace: str
    epoch: int
    parts: Parts = ()

    def key(self) -> str:
        return self.namespace


TYPES: Mapping[str, type[Message]] = {
    message.type: message
    for message in (
        StartRun,
        ControlRun,
        DecideRelease,
        InvalidateNamespace,
        AnnotateBatch,
        RunPlanned,
        BatchAnnotated,
        BatchDead,
        RunPaused,
        RunResumed,
        RunCancelled,
        SourceCompleted,
        RunCompleted,
        RunProgress,
        AnnotationsChanged,
        ReleaseStored,
        ReleaseQuarantined,
        ReleaseDecided,
        GeneRenamed,
        GeneMerged,
        GeneSplit,
        GeneWithdrawn,
        GeneRestored,
        DocumentsRebuilt,
        NamespaceInvalidated,
    )
}
