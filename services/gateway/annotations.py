"""Annotations of a gene as a reader sees them: those of its document, and what follows from the
sources alone, so that no document is rebuilt for it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

import orjson

from contracts.views import AnnotationStatus


@dataclass(frozen=True)
class SourceState:
    """What is true of all that a source says; times are seconds of the epoch."""

    name: str
    kind: Literal["bulk", "api"]
    has_release: bool  # That readers may rely on.
    matched_until: float | None  # Genes that were listed later were not looked for in it.
    checked_at: float | None
    fresh_since: float  # What was checked before is stale.

    def silence(self, listed_at: float) -> AnnotationStatus:
        """The status of a gene that it said nothing of."""
        if self.kind == "api" or not self.has_release:
            return "pending"
        if self.matched_until is not None and listed_at > self.matched_until:
            return "pending"
        return "stale" if self.is_older(self.checked_at) else "empty"

    def is_older(self, checked_at: float | None) -> bool:
        return checked_at is not None and checked_at < self.fresh_since


def complete(
    document: str,
    annotated_by: Collection[str],
    listed_at: float,
    sources: Sequence[SourceState],
    checked: Mapping[str, float],
) -> str:
    """The document with an annotation of each source, its annotations being its last member, and
    with the time as of which each holds: when the source, or of an API the gene, was checked last.

    `annotated_by` are the sources with one already, `listed_at` is when the gene was approved,
    `checked` when which API was asked about it. The statuses are those of
    `annotator.current_annotation_v1`, as of the document's values. What nobody asks for is not
    parsed: documents are large.
    """
    said = {
        source: checked.get(source.name) or source.checked_at
        for source in sources
        if source.name in annotated_by
    }
    if any(at is None or source.is_older(at) for source, at in said.items()):
        document = _with_age(document, said)
    else:
        for source, at in said.items():
            document = _with_time(document, source.name, at)
    silent = [source for source in sources if source.name not in annotated_by]
    if not silent:
        return document
    added = ",".join(
        f'"{source.name}":{_nothing(source, source.silence(listed_at))}' for source in silent
    )
    end = document.rindex("}", 0, document.rindex("}"))  # Of the annotations.
    return f"{document[:end]}{',' if said else ''}{added}{document[end:]}"


def _with_age(document: str, said: Mapping[SourceState, float | None]) -> str:
    content = orjson.loads(document)
    for source, at in said.items():
        annotation = content["annotations"][source.name]
        # What stood in for a release is as old as its value.
        checked_at = at or _seconds(annotation["valid_from"])
        if annotation["status"] in ("ok", "empty") and source.is_older(checked_at):
            annotation["status"] = "stale"
        annotation["as_of"] = None if checked_at is None else _iso(checked_at)
    return orjson.dumps(content).decode()


def _with_time(document: str, source: str, at: float | None) -> str:
    """Put into the annotation of a source, as PostgreSQL writes it: with spaces that no value has,
    so that it is no part of one."""
    head = f'"{source}" : {{'
    assert at is not None
    before, found, behind = document.partition(head)
    if not found:
        raise ValueError(f"a document has no annotation of {source}, which it is said to have")
    return f'{before}{head}"as_of" : "{_iso(at)}", {behind}'


def _seconds(time: str | None) -> float | None:
    return None if time is None else datetime.fromisoformat(time).timestamp()


@lru_cache(maxsize=1_000)  # Of a release that was checked they are the same for all genes.
def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _nothing(source: SourceState, status: AnnotationStatus) -> str:
    at = "null" if source.checked_at is None else f'"{_iso(source.checked_at)}"'
    return f'{{"status":"{status}","as_of":{at},{_NOTHING}'


_NOTHING = '"value":null,"release":null,"synthetic":false,"valid_from":null}'
