"""Annotations of a gene as a reader sees them: those of its document, and what follows from the
sources alone, so that no document is rebuilt for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

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

    def has_answered(self, listed_at: float) -> bool:
        """Whether it has nothing to say of a gene that it did not name."""
        if self.kind == "api" or not self.has_release:
            return False
        return self.matched_until is None or listed_at <= self.matched_until


def complete(
    document: str,
    listed_at: float,
    sources: Sequence[SourceState],
    checked: Mapping[str, float],
) -> str | bytes:
    """The document with an annotation of each source. `listed_at` is when the gene was approved,
    `checked` when which API was asked about it.

    The statuses are those of `annotator.current_annotation_v1`, as of the document's values.
    """
    content = orjson.loads(document)
    if "annotations" not in content:  # Somebody chose other fields.
        return document
    said = content["annotations"]
    content["annotations"] = {
        source.name: _seen(
            source,
            said.get(source.name)
            or _nothing("empty" if source.has_answered(listed_at) else "pending"),
            checked.get(source.name),
        )
        for source in sources
    }
    return orjson.dumps(content)


def _seen(
    source: SourceState, said: Mapping[str, Any], checked_at: float | None
) -> Mapping[str, Any]:
    if said["status"] not in ("ok", "empty"):
        return said
    last_checked = checked_at or source.checked_at
    if last_checked is None and said["valid_from"] is not None:
        last_checked = datetime.fromisoformat(said["valid_from"]).timestamp()
    if last_checked is not None and last_checked < source.fresh_since:
        return {**said, "status": "stale"}
    return said


def _nothing(status: AnnotationStatus) -> Mapping[str, Any]:
    return {
        "status": status,
        "value": None,
        "release": None,
        "synthetic": False,
        "valid_from": None,
    }
