"""Plain types and pure rules: what a source is, what a batch is, when to try again."""

import hashlib
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from email.utils import parsedate
from functools import cached_property
from gzip import BadGzipFile, GzipFile
from io import BufferedReader
from pathlib import Path
from random import uniform
from typing import Any, BinaryIO, Literal, Protocol
from uuid import UUID
from zlib import crc32

import orjson
from backports.zstd import ZstdFile
from pydantic import BaseModel
from typing_extensions import TypeIs

from contracts.messages import AnnotationsChanged
from contracts.views import Severity, SummaryKind
from services.annotator.errors import (
    RateLimited,
    ReleaseMissing,
    ReleaseRefused,
    SchemaChanged,
    StagingCrowded,
    UpstreamOversized,
    UpstreamRefused,
    UpstreamShut,
    UpstreamTruncated,
    UpstreamUnavailable,
)
from services.chassis.errors import PermanentError

ZSTD = ".zst"  # What the raw store's names end in.
GZIP = b"\x1f\x8b"  # What such a file begins with, whatever it is called.
READ_BYTES = 256 * 1024
LINE_BYTES_MAX = 1024**2

# PostgreSQL's text has no NUL, and its `json` takes one that nothing can then read. With another
# backslash before it, it is a backslash and five letters.
NUL = b"\\u0000"
NUL_IN_JSON = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
SHOWN_BYTES = 40  # Before and behind it.

ATTEMPTS_MAX = 5
# Before a page that the upstream fails at is halved: fewer than open its breaker.
WHOLE_ATTEMPTS = 3
# Times that a page is halved before any gene was answered: three bad ones leave a quarter without.
BLIND_HALVINGS_MAX = 2
# Times that an upstream may answer a batch with 429: 14 minutes of pauses that it did not choose
# itself, and then a person had better hear of it.
REFUSALS_MAX = 20
BACKOFF_FIRST_SECONDS = 1.0
BACKOFF_SECONDS_MAX = 60.0
CHANGE_BUCKETS = 8  # Streams of changes per source.
CHANGED_GENES_MAX = 4_000  # Genes in one message; 50 KB.
FALLBACK_ATTEMPT = 2  # Whoever stands in for files is asked when they failed twice,
FALLBACK_SECONDS = 120.0  # or are to be left alone for longer than this.
FALLBACK_GENES_MAX = 200  # Of all runs that wait, at once; ten requests of gnomAD's.

Kind = Literal["bulk", "api"]
Identifier = Literal["hgnc_id", "entrez_id", "ensembl_gene_id"]
MatchedBy = Literal["hgnc_id", "entrez_id", "ensembl_gene_id", "symbol"]
BatchKind = Literal["release", "store", "fetch"]


@dataclass(frozen=True)
class RemoteFile:
    """A file of a release; `path` follows the source's base URL.

    `varying` matches whole lines that are others each time the file is asked for, such as the day
    of its making: a file in which nothing else is another is the same file.
    """

    name: str
    path: str
    bytes_max: int
    varying: re.Pattern[bytes] | None = None


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What each release of a bulk source is like; another one waits until a person decides.

    Shares are of 1. Unmapped: entries that are no gene of ours, of all entries. Churn: values that
    readers have and that would be another or none. Nulls: records whose field is null or empty.
    """

    records: tuple[int, int]  # At least, at most.
    unmapped_share_max: float
    churn_share_max: float = 0.2
    nulls_share_max: Mapping[str, float] = field(default_factory=dict)
    sentinels: tuple[str, ...]  # HGNC ids of genes that every release names.
    # For each name that the source counts by: at least, at most. What is made up may have fewer.
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What a source says of itself; published as `annotator.source_v1`."""

    name: str
    title: str
    base_url: str
    homepage: str
    licence: str
    citation: str
    wire_format: str  # And its version, as people call it.
    identifier: Identifier  # A gene without it has no data here.
    joins: tuple[MatchedBy, ...]  # What an entry is matched to a gene by, in this order.
    value: type[BaseModel]  # Each field with its unit, and with its severity unless it is minor.
    ttl: timedelta  # Older than this, a value is stale.
    parser_version: int  # Raised whenever the same bytes would give another value.
    requests_per_second: float
    concurrency: int = 1  # Batches of it that one annotator works at a time.
    method: str = "1"  # How the upstream makes its values; with another one all are one change.
    score: str | None = None  # The field of the value that statistics take a mean of.
    expected: Expected | None = None  # None where there is no release to compare: an API.
    is_catalogue: bool = False


@dataclass(frozen=True)
class Gene:
    hgnc_id: str
    symbol: str
    entrez_id: str | None
    ensembl_gene_id: str | None


@dataclass(frozen=True)
class Catalogue:
    """The approved genes, for joining a release's rows to them."""

    genes: Sequence[Gene]

    @cached_property
    def by_symbol(self) -> Mapping[str, Gene]:
        return {gene.symbol: gene for gene in self.genes}

    @cached_property
    def by_entrez_id(self) -> Mapping[str, Sequence[Gene]]:
        return _grouped((gene.entrez_id, gene) for gene in self.genes)

    @cached_property
    def by_ensembl_gene_id(self) -> Mapping[str, Sequence[Gene]]:
        return _grouped((gene.ensembl_gene_id, gene) for gene in self.genes)


def _grouped(pairs: Iterator[tuple[str | None, Gene]]) -> Mapping[str, Sequence[Gene]]:
    groups: dict[str, list[Gene]] = {}
    for key, gene in pairs:
        if key is not None:
            groups.setdefault(key, []).append(gene)
    return groups


def open_raw(path: Path) -> BufferedReader:
    """The bytes of a file that was compressed with zstd, or was not."""
    if path.suffix != ZSTD:
        return path.open("rb")
    return unpacked(path)


def unpacked(packed: Path | BufferedReader) -> BufferedReader:
    """What was compressed with zstd."""
    return BufferedReader(ZstdFile(packed), READ_BYTES)


def numbered_lines(file: BufferedReader, name: str, bytes_max: int) -> Iterator[tuple[int, bytes]]:
    """Each line of an unpacked file with its number, without its end. Raises ReleaseRefused when
    there are more bytes than that, or too many in a line, or when what is packed is cut short."""
    size = 0
    try:
        for number, line in enumerate(iter(lambda: file.readline(LINE_BYTES_MAX), b""), start=1):
            size += len(line)
            if len(line) == LINE_BYTES_MAX or size > bytes_max:
                raise ReleaseRefused(
                    f"{name} has {size} bytes at line {number}, {len(line)} of them in it;"
                    f" accepted are less than {bytes_max}, and {LINE_BYTES_MAX} in a line"
                )
            yield number, line.rstrip(b"\r\n")
    except (EOFError, BadGzipFile, zlib.error) as error:
        raise ReleaseRefused(f"{name} is no whole gzip file: {error}") from error


def identity(content: BinaryIO, varying: re.Pattern[bytes]) -> bytes:
    """A hash of all lines but these, of which only the place counts."""
    lines = hashlib.sha256()
    with content:
        for line in iter(lambda: content.readline(LINE_BYTES_MAX), b""):
            lines.update(b"\0" if varying.fullmatch(line.rstrip(b"\r\n")) else line)
    return lines.digest()


@dataclass(frozen=True)
class StoredFile:
    """A file of a release; `open` gives its bytes as they came, and the hash is of these."""

    open: Callable[[], BufferedReader]
    sha256: bytes
    etag: str | None
    last_modified: str | None

    @property
    def published(self) -> date | None:
        """The day of its Last-Modified; None when there is none, or one that is no day."""
        said = parsedate(self.last_modified) if self.last_modified else None
        try:
            return None if said is None else date(*said[:3])
        except (ValueError, OverflowError):  # Such as 31 Feb, or a year of twenty digits.
            return None

    @contextmanager
    def unpacked(self) -> Iterator[BufferedReader]:
        """Its bytes, however it came packed: a bgzf file is many gzip files, one behind the other.

        What is wrong with it, `numbered_lines` says.
        """
        with self.open() as raw:
            if not raw.peek(len(GZIP)).startswith(GZIP):
                yield raw
                return
            with GzipFile(fileobj=raw) as packed:
                yield BufferedReader(packed, READ_BYTES)


@dataclass(frozen=True)
class Columns:
    """How a file of a release names its columns, or its keys. Comes before what it holds."""

    file: str
    names: Sequence[str]


@dataclass(frozen=True)
class Record:
    """What a release says of one gene. `position` is where in the file: a line from 1, an index."""

    hgnc_id: str
    value: BaseModel
    file: str
    position: int
    matched_by: MatchedBy


@dataclass(frozen=True)
class Unmapped:
    """Something in a release that is no gene of ours; `key` is the upstream's name for it."""

    key: str
    reason: str
    row_count: int = 1


@dataclass(frozen=True)
class Doubt:
    """Why a release had better not be believed before a person has looked at it.

    `check` is a word such as rows, churn or assembly; `found` and `accepted` are for people.
    """

    check: str
    found: str
    accepted: str


@dataclass(frozen=True)
class Count:
    """How much a release has of something that is in no record by itself, such as rows that only
    add up to a value: a part of them missing changes every value a little. Comes once a name."""

    name: str
    count: int


Entry = Record | Unmapped | Columns | Doubt | Count


class BulkSource(Protocol):
    """A source that publishes releases as files. Runs in a child process, off every loop."""

    @property
    def declaration(self) -> Declaration: ...

    @property
    def files(self) -> tuple[RemoteFile, ...]: ...

    def version(self, files: Mapping[str, StoredFile]) -> str:
        """The release's name as people know it. Raises SchemaChanged."""
        ...

    def read(self, files: Mapping[str, StoredFile], catalogue: Catalogue) -> Iterator[Entry]:
        """Everything the release says, at most one record per gene. Raises SchemaChanged."""
        ...


@dataclass(frozen=True)
class Answer:
    """What an API says of one gene; `value` is None when it says that it knows none."""

    hgnc_id: str
    value: BaseModel | None
    position: int


@dataclass(frozen=True)
class Page:
    """One answer of an API: what it says, and its bytes."""

    url: str
    content: bytes
    answers: Sequence[Answer]


@dataclass(frozen=True)
class Version:
    """What an API serves at the moment."""

    name: str
    synthetic: bool


@dataclass(frozen=True)
class Response:
    url: str
    content: bytes
    synthetic: bool


@dataclass(frozen=True)
class TooMany:
    """What an answer says that means 429; `seconds` is when to come back."""

    detail: str
    seconds: float


# Looks whether an answer, or the start of one that came with an error, says so.
Refusal = Callable[[bytes], TooMany | None]


class Client(Protocol):
    """One upstream's HTTP client as a source sees it; paths follow the base URL."""

    async def get(self, path: str) -> Response: ...

    async def post(self, path: str, body: object, refusal: Refusal | None = None) -> Response: ...


class ApiSource(Protocol):
    """A source that is asked for genes, a page at a time."""

    @property
    def declaration(self) -> Declaration: ...

    @property
    def page_size(self) -> int:
        """Genes in one request, and in one batch."""
        ...

    async def version(self, client: Client) -> Version:
        """Raises the errors of the upstream, and SchemaChanged."""
        ...

    async def fetch(self, client: Client, genes: Sequence[Gene]) -> Page:
        """One answer for each gene. Raises the errors of the upstream, and SchemaChanged."""
        ...


Source = BulkSource | ApiSource


def is_api(source: Source) -> TypeIs[ApiSource]:
    return hasattr(source, "page_size")


def fallback(source: Source) -> ApiSource | None:
    """Whom to ask for a few genes while this source's files cannot be had, if it names anybody."""
    found: ApiSource | None = getattr(source, "fallback", None)
    return found


def kind(source: Source) -> Kind:
    return "api" if is_api(source) else "bulk"


def severity(name: Severity) -> dict[str, Any]:
    """For the `json_schema_extra` of a value's field: how much a change of it matters."""
    return {"severity": name}


def severities(value: type[BaseModel]) -> dict[str, Severity]:
    """How much a change of each field matters: minor unless it is declared."""
    declared: dict[str, Severity] = {}
    for name, one in value.model_fields.items():
        extra = one.json_schema_extra
        declared[name] = extra.get("severity", "minor") if isinstance(extra, dict) else "minor"  # type: ignore[assignment]
    return declared


# For the `json_schema_extra` of a value's field: genes are filtered and sorted by it.
SUMMARY: dict[str, Any] = {"summary": True}
_SUMMARY_KINDS: Mapping[str, SummaryKind] = {
    "number": "number",
    "integer": "integer",
    "boolean": "boolean",
    "string": "text",
}


def summary_fields(value: type[BaseModel]) -> dict[str, SummaryKind]:
    """The fields that genes are filtered and sorted by, and what each is. Of a list of things with
    an id, the ids are. Raises TypeError for a field that is neither one value nor a list."""
    schema = value.model_json_schema(mode="serialization")
    return {
        name: _summary_kind(name, one, schema.get("$defs", {}))
        for name, one in schema["properties"].items()
        if one.get("summary")
    }


def _summary_kind(name: str, schema: Mapping[str, Any], known: Mapping[str, Any]) -> SummaryKind:
    (one,) = [
        known[part["$ref"].rpartition("/")[2]] if "$ref" in part else part
        for part in schema.get("anyOf", [schema])
        if part.get("type") != "null"
    ]
    if one.get("type") == "array":
        items = one["items"]
        items = known[items["$ref"].rpartition("/")[2]] if "$ref" in items else items
        if items.get("type") == "string" or "id" in items.get("properties", {}):
            return "texts"
    if one.get("format") == "date":
        return "date"
    if one.get("type") not in _SUMMARY_KINDS:
        raise TypeError(f"{name} is no single value, and no list of texts or of things with an id")
    return _SUMMARY_KINDS[one["type"]]


def canonical(value: BaseModel) -> bytes:
    """A value's one spelling in JSON: equal values are equal bytes. Raises SchemaChanged for a text
    that no database can keep."""
    content = orjson.dumps(value.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)
    if NUL in content and (found := NUL_IN_JSON.search(content)):  # The first alone is fast.
        said = content[max(found.start() - SHOWN_BYTES, 0) : found.end() + SHOWN_BYTES]
        raise SchemaChanged(f"a value has the character NUL: …{said.decode(errors='replace')}…")
    return content


def require_texts(*texts: str) -> None:
    """Raises SchemaChanged for one that no database can keep."""
    for said in texts:
        if "\x00" in said:
            raise SchemaChanged(f"a text has the character NUL: {said!r:.100}")


def digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


@dataclass(frozen=True)
class Offered:
    """Values for one page of genes, column by column, as the store statement takes them.

    A gene known to have no data has the value None and an empty digest.
    """

    hgnc_ids: list[str] = field(default_factory=list)
    values: list[str | None] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)

    def add(self, answer: Answer) -> None:
        content = canonical(answer.value) if answer.value is not None else None
        self.hgnc_ids.append(answer.hgnc_id)
        self.values.append(content.decode() if content is not None else None)
        self.digests.append(digest(content) if content is not None else b"")
        self.positions.append(answer.position)


@dataclass(frozen=True)
class Batch:
    """A claimed batch: the token proves that the lease is still ours."""

    id: UUID
    kind: BatchKind
    source: str
    run_id: UUID | None
    release_id: UUID | None
    genes: Sequence[str]
    checkpoint: int
    attempt: int
    lease_token: int
    claimed_at: datetime  # The database's clock: whatever is fetched now is no older.
    control_epoch: int = 0  # The newest control of its run that the claim knew.
    is_dry: bool = False  # What is new is staged and compared, and not accepted.
    is_forced: bool = False  # Whatever is published is downloaded and matched.
    halvings: int = 0  # How often what it is a part of failed and was halved.
    refusals: int = 0  # Answers of 429 so far.


@dataclass(frozen=True)
class Counts:
    """Genes by outcome."""

    done: int = 0
    no_data: int = 0
    failed: int = 0
    changed: int = 0


# Not the batch's fault, and no attempt: it waits for its release, for room to read it, or for an
# upstream that is left alone. A 429 is counted by itself.
UNCOUNTED = (ReleaseMissing, StagingCrowded, UpstreamShut, RateLimited)


# What an upstream says of a page, and may say because of one gene of it.
OF_A_PAGE = (SchemaChanged, UpstreamRefused, UpstreamOversized, UpstreamTruncated)


def is_suspect(batch: Batch, error: Exception) -> bool:
    """Whether one of the batch's genes may be what fails, so that the others are better off
    without it. Of an upstream that does not answer at all, no gene is the cause."""
    if batch.kind != "fetch":
        return False
    if isinstance(error, UpstreamUnavailable) and not error.is_answer:
        return False
    if not isinstance(error, (*OF_A_PAGE, UpstreamUnavailable)):
        return False
    is_permanent = isinstance(error, PermanentError)
    return is_permanent or batch.halvings > 0 or batch.attempt >= WHOLE_ATTEMPTS


def retry_after(batch: Batch, error: Exception) -> timedelta | None:
    """When a failed batch is due again; None when it will not be tried again."""
    if isinstance(error, RateLimited):
        return _retry_refused(batch.refusals + 1, error)
    if isinstance(error, UpstreamShut):  # Not all of them at that moment.
        return timedelta(seconds=error.seconds + uniform(0.0, BACKOFF_FIRST_SECONDS))
    if isinstance(error, UNCOUNTED):
        return timedelta(seconds=BACKOFF_FIRST_SECONDS)
    if isinstance(error, PermanentError) or batch.attempt >= ATTEMPTS_MAX:
        return None
    return backoff(batch.attempt)


def needs_stand_in(batch: Batch, error: Exception) -> bool:
    """Whether the files that a batch looks for cannot be had: at all, once more, or for a while."""
    wait = retry_after(batch, error)
    is_long = wait is None or wait.total_seconds() > FALLBACK_SECONDS
    return is_long or batch.attempt >= FALLBACK_ATTEMPT


def backoff(times: int) -> timedelta:
    """Until another attempt, after so many; not all come back at once."""
    return timedelta(seconds=_backoff_seconds(times) * uniform(0.8, 1.2))


def _retry_refused(refusals: int, error: RateLimited) -> timedelta | None:
    if refusals >= REFUSALS_MAX:
        return None
    seconds = _backoff_seconds(refusals)
    if error.retry_after_seconds is None:
        return backoff(refusals)
    # Never before the upstream said; a little after, so that not all come back at once.
    return timedelta(seconds=max(seconds, error.retry_after_seconds) * uniform(1.0, 1.2))


def _backoff_seconds(times: int) -> float:
    return min(BACKOFF_FIRST_SECONDS * 2.0 ** (times - 1), BACKOFF_SECONDS_MAX)


def changes(source: str, release_id: UUID | None, genes: Sequence[str]) -> list[AnnotationsChanged]:
    """What to tell readers: some genes look different now."""
    parts = [
        tuple(genes[start : start + CHANGED_GENES_MAX])
        for start in range(0, len(genes), CHANGED_GENES_MAX)
    ]
    return [
        AnnotationsChanged(
            source=source,
            release_id=release_id,
            bucket=crc32(part[0].encode()) % CHANGE_BUCKETS,
            genes=part,
        )
        for part in parts
    ]
