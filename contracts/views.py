"""One model per published view: the columns that a reader of another service may rely on."""

from datetime import datetime
from typing import Any, ClassVar, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from contracts.messages import Decision, RunState, SourceState

AnnotationStatus = Literal["ok", "empty", "pending", "error", "stale"]
BatchState = Literal["pending", "queued", "leased", "done", "dead", "cancelled"]
ReleaseState = Literal["fetched", "staged", "quarantined", "accepted", "stored", "rejected"]
Cause = Literal["upstream", "parser", "mapping", "correction"]
Severity = Literal["none", "minor", "major", "clinical"]
SummaryKind = Literal["number", "integer", "boolean", "text", "date", "texts"]


class View(BaseModel):
    model_config = ConfigDict(frozen=True)

    view: ClassVar[str]


class GeneV1(View):
    """One row per HGNC id, withdrawn ones included; `successors` says what became of those."""

    view: ClassVar[str] = "annotator.gene_v1"
    hgnc_id: str
    symbol: str
    name: str | None
    status: Literal["approved", "withdrawn", "merged"]
    locus_group: str | None
    locus_type: str | None
    location: str | None
    entrez_id: str | None
    ensembl_gene_id: str | None
    successors: list[str]
    listed_at: datetime  # When the release was retrieved that approved it.


class GeneNameV1(View):
    """Every name a gene has or had; `folded` is what names are compared by."""

    view: ClassVar[str] = "annotator.gene_name_v1"
    folded: str
    name: str
    kind: Literal["approved", "previous", "alias", "withdrawn"]
    hgnc_id: str


class GeneEventV1(View):
    """What became of a gene that was known before. Follow it by (xid, id), as AnnotationV1."""

    view: ClassVar[str] = "annotator.gene_event_v1"
    xid: int
    id: int
    hgnc_id: str
    kind: Literal["renamed", "merged", "split", "withdrawn", "restored"]
    symbol_before: str
    symbol_after: str
    successors: list[str]
    release_id: UUID
    at: datetime


class CurrentAnnotationV1(View):
    """Gene × source as a reader sees it now; one row for each pair, value or not."""

    view: ClassVar[str] = "annotator.current_annotation_v1"
    hgnc_id: str
    source: str
    status: AnnotationStatus
    value: Any | None
    release_id: UUID | None
    release: str | None
    synthetic: bool
    valid_from: datetime | None
    checked_at: datetime | None


class CheckedV1(View):
    """When an API was last asked about a gene, and what came of it. Of bulk sources there is none:
    a gene was checked when the release was."""

    view: ClassVar[str] = "annotator.checked_v1"
    hgnc_id: str
    source: str
    outcome: Literal["ok", "empty", "error"]
    checked_at: datetime


class AnnotationV1(View):
    """Every version of every annotation. Follow it by (xid, id), and only where
    xid < pg_snapshot_xmin(pg_current_snapshot()): identity order is not commit order."""

    view: ClassVar[str] = "annotator.annotation_v1"
    xid: int
    id: int
    hgnc_id: str
    source: str
    valid_from: datetime
    valid_to: datetime | None
    is_current: bool  # Ask by it: current and former versions have an index each.
    value: Any | None  # None: the source had a value and has none any more.
    release_id: UUID
    file_id: int
    position: int
    parser_version: int
    matched_by: Literal["hgnc_id", "entrez_id", "ensembl_gene_id", "symbol"]
    run_id: UUID | None
    cause: Cause | None  # Why it is another than before; None: it is the first.
    severity: Severity | None  # None, too, for what is told as one change of its release.


class ChangeV1(View):
    """A value that is another than before, or a release whose values are one change together;
    followed as `annotation_v1` is."""

    view: ClassVar[str] = "annotator.change_v1"
    xid: int
    id: int
    kind: Literal["annotation", "release"]
    hgnc_id: str | None  # None: a release.
    source: str
    changed_at: datetime
    cause: Cause | None  # None: the first release of its source.
    severity: Severity | None
    before: Any | None
    release_id_before: UUID | None
    after: Any | None
    release_id: UUID
    run_id: UUID | None
    gene_count: int


class RunV1(View):
    """What is true of a run's execution."""

    view: ClassVar[str] = "annotator.run_v1"
    run_id: UUID
    state: RunState
    seq: int
    gene_count: int | None
    planned_all: bool
    started_at: datetime
    finished_at: datetime | None


class RunSourceV1(View):
    """How many genes of a run each source has settled, by outcome."""

    view: ClassVar[str] = "annotator.run_source_v1"
    run_id: UUID
    source: str
    state: SourceState
    total_count: int | None
    done_count: int
    no_data_count: int
    failed_count: int
    cancelled_count: int
    changed_count: int
    release: str | None
    synthetic: bool
    problem: Any | None
    started_at: datetime | None
    finished_at: datetime | None
    preview: Any | None  # Of a dry run: what it would fetch, or change.
    waits_for: str | None  # An upstream that is left alone: its own, or who stands in for it.
    waits_until: datetime | None
    waits_because: str | None


class RunFactV1(View):
    """The facts of a run in order; a client resumes after the last `seq` it saw."""

    view: ClassVar[str] = "annotator.run_fact_v1"
    run_id: UUID
    seq: int
    type: str
    time: datetime
    body: Any


class BatchV1(View):
    """The work items, those of runs and those of sources."""

    view: ClassVar[str] = "annotator.batch_v1"
    batch_id: UUID
    kind: Literal["release", "store", "fetch"]
    source: str
    run_id: UUID | None
    release_id: UUID | None
    state: BatchState
    gene_count: int
    checkpoint: int
    attempt: int
    next_attempt_at: datetime
    problem: Any | None
    genes_left: list[str] | None  # From the checkpoint on; None: a look for a release has none.


class SourceV1(View):
    """What a source says of itself, and its newest release that readers may rely on."""

    view: ClassVar[str] = "annotator.source_v1"
    name: str
    title: str
    kind: Literal["bulk", "api"]
    is_catalogue: bool
    identifier: str
    joins: list[str]
    homepage: str
    licence: str
    citation: str
    wire_format: str
    parser_version: int
    requests_per_second: float
    concurrency: int
    page_size: int | None
    score: str | None
    value_schema: Any
    severities: Any
    summary_fields: Any  # What genes are filtered and sorted by: the field, and its SummaryKind.
    expected: Any | None
    is_retired: bool  # Nobody asks it any more; what it said stays.
    ttl_seconds: int
    release_id: UUID | None
    release: str | None
    synthetic: bool
    checked_at: datetime | None
    stored_at: datetime | None
    matched_until: datetime | None  # Genes that were listed later were not looked for in it.
    annotation_count: int


class UpstreamV1(View):
    """Whom all annotators together leave alone, until when and why. One that is called as it may
    be has neither, one that has not been called yet has no row."""

    view: ClassVar[str] = "annotator.upstream_v1"
    name: str
    share: float  # Of the declared rate: less than 1 after a 429.
    waits_until: datetime | None
    waits_because: str | None


class ReleaseV1(View):
    """Every release that was fetched, whatever became of it."""

    view: ClassVar[str] = "annotator.release_v1"
    release_id: UUID
    source: str
    version: str | None
    state: ReleaseState
    synthetic: bool
    sha256: str | None
    parser_version: int
    method: str
    baseline_id: UUID | None  # What it was compared with.
    cause: Cause | None
    is_new_method: bool  # All its changes are one.
    doubts: Any | None  # Why it was quarantined.
    decision: Decision | None
    decided_at: datetime | None
    decided_by: str | None
    decision_note: str | None
    row_count: int | None
    unmapped_count: int | None
    changed_count: int  # Genes whose value it made another.
    retrieved_at: datetime
    checked_at: datetime
    accepted_at: datetime | None
    accepted_xid: int | None  # Its values were stored from this transaction on,
    stored_at: datetime | None
    readable_since: datetime | None
    stored_xid: int | None  # until this one.
    problem: Any | None


class ReleaseFileV1(View):
    """The files of releases, and the answers of an API, as they lie in the raw store."""

    view: ClassVar[str] = "annotator.release_file_v1"
    file_id: int
    release_id: UUID
    name: str
    url: str
    etag: str | None
    last_modified: str | None
    media_type: str | None
    sha256: str  # Hexadecimal; what they are stored under.
    bytes: int
    retrieved_at: datetime
    removed_at: datetime | None  # Its bytes are not kept any more.


class UnmappedV1(View):
    """What a release says of things that are no gene of ours, with the reason."""

    view: ClassVar[str] = "annotator.unmapped_v1"
    release_id: UUID
    source: str
    position: int  # From 1, in the order in which they were found; some may be left out.
    key: str
    reason: str
    row_count: int


class CachedGeneV1(View):
    """A gene document.

    The last member of `document` are the annotations of those sources that said something of the
    gene, named in `annotated_by`. Of a bulk source that did not, its release says that it is
    empty if that was matched since the gene was listed; an API has not been asked.
    """

    view: ClassVar[str] = "cache.gene_v1"
    hgnc_id: str
    version: int
    document: Any
    status: Literal["approved", "withdrawn", "merged"]
    annotated_by: list[str]
    listed_at: datetime


class GeneSummaryV1(View):
    """What genes are filtered and sorted by. Besides these it has a column `source.field` for each
    of `source_v1.summary_fields`."""

    view: ClassVar[str] = "cache.gene_summary_v1"
    hgnc_id: str
    hgnc_number: int
    symbol: str
    status: Literal["approved", "withdrawn", "merged"]
    name: str | None
    locus_group: str | None
    locus_type: str | None
    location: str | None
    entrez_id: str | None
    ensembl_gene_id: str | None
    sources: list[str]  # Those with a value.
    annotation_count: int


class NamespaceV1(View):
    """What of the cache is forgotten together. `epoch` counts what was invalidated of it, parts or
    all; what was made before the epoch `floor` is not valid. `genes` are the documents; the others
    hold entries, which have a time to live. Counts are a few seconds old."""

    view: ClassVar[str] = "cache.namespace_v1"
    namespace: str
    epoch: int
    invalidated_at: datetime | None
    floor: int
    ttl_seconds: float | None
    negative_ttl_seconds: float | None
    entry_bytes_max: int | None
    entries_max: int | None
    entry_count: int
    entry_bytes: int
    reclaimable_count: int  # Not valid, and still there.
    reclaimed_count: int  # Deleted since there is this namespace.
    oldest_at: datetime | None
    newest_at: datetime | None
    counted_at: datetime | None
    dirty_count: int | None  # Documents that are to be built anew; None: it has none.


class EntryV1(View):
    """A cached value that is valid. Gateways make them, and `cache.put_entry_v1(namespace, key,
    epoch, made_at, parts, value)` keeps them for all, and returns false for what it refuses. Read
    the namespace's epoch, in the same statement as this, before anything that a value is of."""

    view: ClassVar[str] = "cache.entry_v1"
    namespace: str
    key: str
    epoch: int
    value: bytes | None  # None: it is known that there is nothing.
    made_at: datetime
    expires_at: datetime


class ReadsV1(View):
    """How often cached values were asked for, of all gateways together, which tell it to
    `cache.count_reads_v1(namespaces, outcomes, counts)`."""

    view: ClassVar[str] = "cache.reads_v1"
    namespace: str
    outcome: Literal["hit", "shared", "miss", "stale", "made", "failed", "refused"]
    count: int


class SourceStatisticsV1(View):
    """How many approved genes a source has a value of, and how fresh they are."""

    view: ClassVar[str] = "cache.source_statistics_v1"
    source: str
    gene_count: int
    annotation_count: int
    no_data_count: int
    pending_count: int
    error_count: int
    stale_count: int
    oldest_checked_at: datetime | None
    newest_checked_at: datetime | None
    as_of: datetime


class FieldStatisticsV1(View):
    """Of approved genes, and of each summary field that is a number."""

    view: ClassVar[str] = "cache.field_statistics_v1"
    source: str
    field: str
    known_count: int
    mean: float | None
    median: float | None
    least: float | None
    greatest: float | None


class OverlapV1(View):
    """How many approved genes have values of exactly these sources."""

    view: ClassVar[str] = "cache.overlap_v1"
    sources: list[str]
    gene_count: int


VIEWS: tuple[type[View], ...] = (
    GeneV1,
    GeneNameV1,
    GeneEventV1,
    CurrentAnnotationV1,
    CheckedV1,
    AnnotationV1,
    ChangeV1,
    RunV1,
    RunSourceV1,
    RunFactV1,
    BatchV1,
    SourceV1,
    UpstreamV1,
    ReleaseV1,
    ReleaseFileV1,
    UnmappedV1,
    CachedGeneV1,
    GeneSummaryV1,
    NamespaceV1,
    SourceStatisticsV1,
    FieldStatisticsV1,
    OverlapV1,
    EntryV1,
    ReadsV1,
)
