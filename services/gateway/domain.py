"""Plain types and pure rules: how genes are named, where a run stands, how that is said."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal
from uuid import UUID

from contracts.messages import (
    ACTIVE_STATES,
    ControlAction,
    Priority,
    RunProgress,
    SourceProgress,
    Strategy,
)
from services.gateway.errors import RunUnknown

# What became of a text that may name a gene, and how the text names the gene: by one of its ids,
# or by a name of the kind that `annotator.gene_name_v1.kind` has.
Refusal = Literal["unknown", "ambiguous", "withdrawn"]
Outcome = Literal["resolved", "unknown", "ambiguous", "withdrawn"]
MatchedBy = Literal[
    "hgnc_id", "entrez_id", "ensembl_gene_id", "approved", "previous", "alias", "withdrawn"
]

GENE_CHARACTERS_MAX = 100  # Of a text that may name a gene.

_HGNC_ID = re.compile(r"(?:hgnc:){1,2}([0-9]{1,9})", re.IGNORECASE | re.ASCII)
_VERSION = re.compile("[1-9][0-9]{0,8}")


# ---------------------------------------------------------------------------------- genes


def hgnc_id(text: str) -> str | None:
    """`HGNC:9008` for it, `hgnc:9008` and `hgnc:HGNC:9008`; None for anything else."""
    found = _HGNC_ID.fullmatch(text.strip())
    return f"HGNC:{found[1]}" if found else None


def fold(name: str) -> str:
    """What gene names are compared by, as `annotator.gene_name_v1.folded` has them."""
    return name.strip().lower()  # As PostgreSQL does: `casefold` would make two letters of one ß.


def pattern(part: str) -> str:
    """Of LIKE, for texts that have this part."""
    return "%" + re.sub(r"([\\%_])", r"\\\1", part) + "%"


@dataclass(frozen=True)
class Named:
    """A gene as an error names it."""

    hgnc_id: str
    symbol: str | None

    def __str__(self) -> str:
        return f"{self.hgnc_id} ({self.symbol})" if self.symbol else self.hgnc_id


@dataclass(frozen=True)
class Refused:
    """A text that names no gene, or not one alone. `place` counts from 0. `genes` are those
    that it may mean; of a withdrawn name, the genes that bore it."""

    place: int
    value: str
    outcome: Refusal
    genes: Sequence[Named]

    @property
    def accepted(self) -> str:
        listed = ", ".join(str(gene) for gene in self.genes)
        match self.outcome:
            case "unknown":
                guessed = f"; it may have been {listed}" if listed else ""
                return f"an HGNC id (HGNC:9008), a symbol, an Entrez or an Ensembl id{guessed}"
            case "ambiguous":
                return f"one of {listed}"
            case "withdrawn":
                return f"another gene: {listed} has no successor"


@dataclass(frozen=True)
class Resolved:
    """Genes found by name, each once, and a sample of the texts that were refused.

    `succeeded` are the withdrawn ids that were named and whose one successor was found."""

    hgnc_ids: Sequence[str]
    succeeded: Sequence[str]
    refused: Sequence[Refused]
    refused_count: int
    catalogue_empty: bool


# --------------------------------------------------------------------------------- panels


@dataclass(frozen=True)
class PanelVersion:
    """One version of a panel, which never changes."""

    panel_id: UUID
    version: int

    def __str__(self) -> str:
        """As people name it, in filters, orders and on the command line."""
        return f"{self.panel_id}@{self.version}"


def parse_panel(text: str) -> tuple[UUID, int | None]:
    """`<id>` or `<id>@<version>`; without a version the newest is meant. Raises ValueError."""
    panel_id, at, version = text.partition("@")
    if not at:
        return UUID(panel_id), None
    if not _VERSION.fullmatch(version):
        raise ValueError(version)
    return UUID(panel_id), int(version)


@dataclass(frozen=True)
class Member:
    """A gene of a panel, and what was given for it; `symbol` is what it was called then."""

    hgnc_id: str
    given: str
    symbol: str | None


@dataclass(frozen=True)
class Scope:
    """The genes of a version as they are now: for those that were merged, their successors.
    `refused` are those that no one gene stands for."""

    version: PanelVersion
    hgnc_ids: Sequence[str]
    refused: Sequence[Refused]


# ----------------------------------------------------------------------------------- runs


def parse_run_id(text: str) -> UUID:
    """Raises RunUnknown: a text that is no id names no run."""
    try:
        return UUID(text)
    except ValueError:
        raise RunUnknown(text) from None


DesiredState = Literal["running", "paused", "cancelled"]
DESIRED: Mapping[ControlAction, DesiredState] = {
    "pause": "paused",
    "resume": "running",
    "cancel": "cancelled",
}


@dataclass(frozen=True)
class Run:
    """A run as the user asked for it, and what is true of it. `sources` is in `progress`."""

    id: UUID
    name: str | None
    gene_count: int | None  # Asked for by name; None: all genes of the catalogue.
    requested_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    progress: RunProgress
    desired_state: DesiredState  # What was asked last; `progress.state` is true.
    priority: Priority
    strategy: Strategy
    dry_run: bool
    retries: UUID | None
    panel: PanelVersion | None  # Whose genes were ordered.
    source_times: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class NewRun:
    """A run as it is ordered. `genes` are HGNC ids; None: all of the catalogue or, of a retry, what
    failed in the run that it retries."""

    sources: tuple[str, ...]
    genes: tuple[str, ...] | None
    gene_count: int | None  # None: all of the catalogue.
    name: str | None = None
    priority: Priority = "normal"
    strategy: Strategy = "full"
    dry_run: bool = False
    retries: UUID | None = None
    panel: PanelVersion | None = None  # Whose genes they are.

    @property
    def scope(self) -> bytes:
        """What two runs over the same genes have in common."""
        if self.retries is not None:
            said = f"retry {self.retries}"
        else:
            said = "all" if self.genes is None else "\n".join(sorted(self.genes))
        return sha256(said.encode()).digest()


def failed_sources(progress: RunProgress) -> list[str]:
    """Those of which something has failed by now."""
    return [
        name
        for name, source in progress.sources.items()
        if source.failed_count or source.state == "failed"
    ]


def is_active(progress: RunProgress) -> bool:
    return progress.state in ACTIVE_STATES


def percent(progress: RunProgress) -> float | None:
    """0–100, rounded down; None until the total is known, and while there is none, as in a dry run.
    Neither failures nor what was cancelled raise it, and only the end is 100."""
    if progress.state == "completed" and not progress.cancelled_count:
        return 100.0
    if not progress.total_count:
        return None
    counted = progress.done_count + progress.no_data_count
    return min(1000 * counted // progress.total_count, 999) / 10


def sentence(progress: RunProgress) -> str:
    """Where a run stands, for a person."""
    sources = progress.sources
    waiting = [name for name, source in sources.items() if source.waits_until is not None]
    if progress.state == "planning":
        working = [name for name, source in sources.items() if source.state != "waiting"]
        first = [f"{', '.join(working)} first"] if working else []
        return "; ".join(
            ["planning", *first, *(_source_sentence(name, sources[name]) for name in waiting)]
        )
    if progress.state in ("running", "paused"):
        begun = [
            _source_sentence(name, source)
            for name, source in sources.items()
            if source.state in ("running", "paused") or name in waiting
        ]
        paused = ["paused"] if progress.state == "paused" else []
        return "; ".join(paused + begun) or "running"
    state = progress.state.replace("_", " ")
    if progress.total_count == 0 and progress.state == "completed":
        return "completed: nothing was fetched"
    cancelled = f", {progress.cancelled_count:,} cancelled" if progress.cancelled_count else ""
    return (
        f"{state}: {progress.done_count:,} annotations, {progress.no_data_count:,} without data, "
        f"{progress.failed_count:,} failed{cancelled}"
    )


def _source_sentence(name: str, source: SourceProgress) -> str:
    counted = source.done_count + source.no_data_count
    total = "" if source.total_count is None else f" of {source.total_count:,}"
    genes = "no gene is to be fetched" if source.total_count == 0 else f"{counted:,}{total} genes"
    failed = f", {source.failed_count:,} failed" if source.failed_count else ""
    paused = ", paused" if source.state == "paused" else ""
    waits = ""
    if source.waits_until is not None:
        until = source.waits_until.astimezone(UTC)
        waits = f", waits for {source.waits_for} until {until:%H:%M:%S} UTC: {source.waits_because}"
    return f"{name}: {genes}{failed}{paused}{waits}"
