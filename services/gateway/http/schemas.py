"""What the resources of the interface are made of, as JSON Schemas: what is said of them here holds
for every answer, and an answer with another member is a mistake."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from contracts.messages import Priority, ReleaseDoubt, RunProgress, SourceProgress, Strategy
from contracts.views import (
    AnnotationStatus,
    AnnotationV1,
    BatchV1,
    ChangeV1,
    FieldStatisticsV1,
    GeneEventV1,
    GeneV1,
    NamespaceV1,
    OverlapV1,
    ReleaseFileV1,
    ReleaseV1,
    Severity,
    SourceStatisticsV1,
    SourceV1,
    SummaryKind,
)
from services.gateway.domain import DesiredState, MatchedBy, Outcome, Refusal
from services.gateway.gene_queries import FIELDS, SOURCES
from services.gateway.shapes import (
    ANY,
    BOOLEAN,
    COUNT,
    HGNC_ID,
    ID,
    INTEGER,
    NUMBER,
    OBJECT,
    TEXT,
    TIME,
    Schema,
    closed,
    columns,
    enum,
    keyed,
    listed,
    nullable,
    of,
    ref,
)
from services.gateway.spellings import Damage
from services.gateway.store import dead_letters, names, panels
from services.gateway.store.genes import ANNOTATIONS
from services.gateway.tables import Format
from services.gateway.tally import OUTCOMES

_VALUE = nullable(OBJECT)  # What a source says; its own `value_schema` says of what.
_SELF = ("self",)


def _resource(
    kind: str,
    attributes: Schema,
    *,
    identity: Schema = TEXT,
    links: Sequence[str] = _SELF,
    sometimes: Sequence[str] = (),  # Links to what there may not be: null.
    optional: Sequence[str] = (),  # Links that there may not be.
    meta: Schema | None = None,  # That there may not be.
    relationships: Schema | None = None,  # Told where they are asked for.
) -> dict[str, Any]:
    members: dict[str, Schema] = {
        "type": {"const": kind},
        "id": identity,
        "attributes": attributes,
    }
    if links:
        named = dict.fromkeys(links, TEXT) | {name: nullable(TEXT) for name in sometimes}
        members["links"] = closed(named, dict.fromkeys(optional, TEXT))
    told = {"meta": meta, "relationships": relationships}
    return closed(members, {name: schema for name, schema in told.items() if schema is not None})


def _all(names: Sequence[str], schema: Schema) -> dict[str, Schema]:
    return dict.fromkeys(names, schema)


# ----------------------------------------------------------------------------------- runs

_PREVIEW_OF_API = closed({"gene_count": COUNT, "request_count": COUNT, "seconds": nullable(NUMBER)})
_PREVIEW_OF_FILES = closed(
    {
        "release": nullable(TEXT),
        "is_new_release": BOOLEAN,
        **_all(("new_count", "changed_count", "withdrawn_count", "unchanged_count"), COUNT),
        "severities": closed(_all(get_args(Severity), COUNT)),
    }
)
_RUN_SOURCE = closed(
    columns(SourceProgress)
    | {
        "started_at": nullable(TIME),
        "finished_at": nullable(TIME),
        "changed_count": COUNT,
        # Of a dry run: what it would ask an API for, or what a release would change.
        "preview": {"anyOf": [_PREVIEW_OF_API, _PREVIEW_OF_FILES, {"type": "null"}]},
    }
)
_RUN = _resource(
    "runs",
    closed(
        {
            "name": nullable(TEXT),
            "desired_state": of(DesiredState),
            "priority": of(Priority),
            "strategy": of(Strategy),
            "dry_run": BOOLEAN,
            "retries": nullable(ID),
            "panel": nullable(TEXT),
            "progress": nullable({"type": "number", "minimum": 0, "maximum": 100}),
            "message": TEXT,
            "gene_count": nullable(COUNT),
            "requested_at": TIME,
            "started_at": nullable(TIME),
            "finished_at": nullable(TIME),
            **columns(RunProgress, but=("run_id", "sources")),
            "sources": keyed(ref("RunSource")),
        }
    ),
    identity=ID,
    links=("self", "progress"),
    optional=("panel",),
)

# ---------------------------------------------------------------------------------- genes

_ANNOTATION_OF_GENE = closed(
    {
        "status": of(AnnotationStatus),
        "as_of": nullable(TIME),
        "value": _VALUE,
        "release": nullable(TEXT),
        "synthetic": BOOLEAN,
        "valid_from": nullable(TIME),
    }
)
_GENE_ATTRIBUTES = columns(
    GeneV1, *(name for name in FIELDS if name not in (ANNOTATIONS, SOURCES))
) | {
    "hgnc_id": HGNC_ID,
    ANNOTATIONS: keyed(ref("AnnotationOfGene")),
}
# Of the document; one of a time in the past has none.
_VERSION_OF_GENE = closed({"version": {"type": "integer", "minimum": 1}})
_SOURCES_OF_GENE = closed(
    {
        SOURCES: closed(
            {"data": listed(closed({"type": {"const": "sources"}, "id": TEXT}))},
        )
    }
)
_NAMED = closed({"hgnc_id": HGNC_ID, "symbol": nullable(TEXT)})
_REFUSED = closed({"place": COUNT, "value": TEXT, "candidates": listed(_NAMED)})
_FACET_COUNTS = {"kind": of(SummaryKind), "known_count": COUNT, "unknown_count": COUNT}
_RESOLUTION = closed(
    {
        "value": TEXT,
        "outcome": of(Outcome),
        "hgnc_id": nullable(HGNC_ID),
        "symbol": nullable(TEXT),
        "matched_by": nullable(of(MatchedBy)),
        "successor_of": listed(HGNC_ID),
        "candidates": listed(
            closed(
                {
                    "hgnc_id": HGNC_ID,
                    "symbol": TEXT,
                    "matched_by": enum([*get_args(MatchedBy), "successor"]),
                    "name": nullable(TEXT),
                }
            )
        ),
        "flags": listed(enum(list(names.FLAGS))),
        "note": nullable(TEXT),
    }
)
META_RESOLVED = closed(
    {
        "total": COUNT,
        "outcomes": closed(_all(get_args(Outcome), COUNT)),
        "matched_by": closed(_all(get_args(MatchedBy), COUNT)),
        "flags": closed(_all(list(names.FLAGS), TEXT)),
    }
)
_PANEL_OF_LIST = closed(
    {"id": TEXT, "gene_count": COUNT, "withdrawn_count": COUNT, "withdrawn": listed(TEXT)}
)
META_GENES = closed({}, {"panel": _PANEL_OF_LIST, "total": COUNT, "as_of": TIME})
META_FACETS = closed({}, {"panel": _PANEL_OF_LIST})
META_QUERY = closed(
    _all(("asked_count", "gene_count", "total", "refused_count"), COUNT),
    {
        "panel": _PANEL_OF_LIST,
        **_all(("not_found", "ambiguous", "withdrawn"), listed(_REFUSED)),
    },
)
META_AS_OF = closed({"as_of": TIME})

# -------------------------------------------------------------------------------- sources

_SOURCE_ATTRIBUTES = columns(SourceV1, but=("matched_until", "value_schema")) | {
    "severities": keyed(of(Severity)),
    "summary_fields": keyed(of(SummaryKind)),
    "expected": nullable(OBJECT),
}
_RELEASE_ATTRIBUTES = columns(ReleaseV1, but=("accepted_xid", "readable_since", "stored_xid")) | {
    "doubts": nullable(listed(closed(columns(ReleaseDoubt)))),
    "problem": nullable(OBJECT),
}
_FILE = closed(columns(ReleaseFileV1, but=("file_id", "release_id")))
META_UNMAPPED = closed(
    {
        **_all(("total", "row_count", "kept_count"), COUNT),
        "unmapped_count": nullable(COUNT),
        "reasons": listed(closed({"reason": TEXT, "count": COUNT, "row_count": COUNT})),
        "truncated": BOOLEAN,
    }
)

# -------------------------------------------------------------------------------- history

_PROVENANCE = closed(
    {
        "release": closed(
            {
                "id": ID,
                "version": nullable(TEXT),
                "retrieved_at": TIME,
                **columns(ReleaseV1, "synthetic", "method", "sha256"),
            }
        ),
        "raw": closed(
            {
                "file": TEXT,
                "position": COUNT,
                **columns(ReleaseFileV1, but=("file_id", "release_id", "name")),
            }
        ),
        **columns(
            AnnotationV1,
            *("parser_version", "matched_by", "run_id", "cause", "severity"),
            *("valid_from", "valid_to"),
        ),
    }
)
_ANNOTATION = closed(
    {
        "hgnc_id": HGNC_ID,
        "source": TEXT,
        "valid_to": nullable(TIME),
        **_ANNOTATION_OF_GENE["properties"],
    },
    {"provenance": _PROVENANCE},
)
_SPAN = {"before": _VALUE, "after": _VALUE} | _all(("release_before", "release"), nullable(TEXT))
_CHANGE = _resource(
    "changes",
    closed(
        columns(
            ChangeV1,
            *("kind", "hgnc_id", "source", "changed_at", "cause", "severity"),
            *("release_id", "run_id", "gene_count"),
        )
        | _SPAN
        | {"symbol": nullable(TEXT)}
    ),
)
META_DIFF = closed({"from": TIME, "to": TIME})
META_CHANGES = closed({"cursor": TEXT})

# --------------------------------------------------------------------------------- panels

_COUNTS_OF_LIST = _all(("given_count", "duplicate_count", "left_out_count"), COUNT)
_COUNTS_SINCE = _all(("renamed_count", "withdrawn_count"), COUNT)
_LEFT_OUT = {
    "place": COUNT,
    "line": nullable({"type": "integer", "minimum": 1}),
    "value": TEXT,
    "outcome": of(Refusal),
    "damage": nullable(of(Damage)),
    "candidates": listed(_NAMED),
}
_VERSION_ATTRIBUTES = {
    "version": {"type": "integer", "minimum": 1},
    "gene_count": {"type": "integer", "minimum": 1},
    "note": nullable(TEXT),
    "made_at": TIME,
    "made_by": nullable(TEXT),
    **_COUNTS_OF_LIST,
}
_PANEL_ATTRIBUTES = {
    "name": TEXT,
    "description": nullable(TEXT),
    "created_at": TIME,
    "created_by": nullable(TEXT),
    "archived_at": nullable(TIME),
    **_VERSION_ATTRIBUTES,  # Of the newest.
}
_PANEL_LINKS = ("self", "version", "genes", "report", "versions")
_MEMBER = {
    "place": COUNT,
    "hgnc_id": HGNC_ID,
    "given": TEXT,
    "symbol_then": nullable(TEXT),
    "symbol": nullable(TEXT),
    "status": of(GeneV1.model_fields["status"].annotation),
    "state": enum(panels.STATES),
    "successors": listed(_NAMED),
}
_COMPARED = closed(
    {
        "hgnc_id": HGNC_ID,
        "symbol": nullable(TEXT),
        "status": _MEMBER["status"],
        "given": TEXT,
    }
)

# -------------------------------------------------------------------------------- letters

_BYTES = {"value": nullable(TEXT), "encoding": nullable(enum(("utf-8", "base64")))}
_LETTER_ATTRIBUTES = {
    "kind": enum(dead_letters.KINDS),
    "state": enum(dead_letters.STATES),
    "parked_at": TIME,
    "problem": OBJECT,
    "run_ids": listed(ID),
    **_all(("service", "consumer_group", "source", "topic", "type"), nullable(TEXT)),
    **_all(("attempts", "partition", "offset", "bytes"), nullable(COUNT)),
    **_all(("recorded_at", "decided_at"), nullable(TIME)),
    **_all(("decided_by", "note"), nullable(TEXT)),
    **_all(("batch_id", "retry_run_id", "retry_of"), nullable(ID)),
    "is_left_at_origin": nullable(BOOLEAN),
}
_OTHERS = ("retry_run", "retry_of")
_BATCH = closed(columns(BatchV1, "kind", "state", "gene_count", "checkpoint", "genes_left"))


def meta_decided(state: str) -> dict[str, Any]:
    return closed({f"{state}_count": COUNT, "left_count": COUNT, "runs": listed(TEXT)})


# ---------------------------------------------------------------------------------- cache

META_INVALIDATED = closed({"parts": listed(TEXT)})
META_WARMED = closed({"wanted_count": COUNT, "warmed_count": COUNT})
META_COVERAGE = closed({"panel": closed({"id": TEXT, "gene_count": COUNT})})
META_ROOT = closed({"service": TEXT})

# -------------------------------------------------------------------------------- problems

# What an entry may tell besides: which name, where it stood, and who is in the way.
_ERROR = closed(
    {"pointer": TEXT, "value": TEXT, "accepted": TEXT},
    {
        "code": enum([*(f"gene-{one}" for one in get_args(Refusal)), *get_args(Damage)]),
        **_all(("run", "newest", "panel"), TEXT),
        **{name: one for name, one in _LEFT_OUT.items() if name != "value"},
    },
)
PROBLEM = {
    "type": TEXT,
    "title": TEXT,
    "detail": TEXT,
    "status": INTEGER,
    "instance": {"type": "string", "pattern": "^urn:uuid:"},
}
_PROBLEM = closed(PROBLEM, {"errors": listed(ref("Error"))})

# By the names that the document has for them.
SCHEMAS: Mapping[str, Schema] = {
    "Error": _ERROR,
    "Problem": _PROBLEM,
    "Run": _RUN,
    "RunSource": _RUN_SOURCE,
    "Gene": _resource(
        "genes",
        closed(_GENE_ATTRIBUTES),
        identity=HGNC_ID,
        meta=_VERSION_OF_GENE,
        relationships=_SOURCES_OF_GENE,
    ),
    # With `fields[genes]`: those that were chosen.
    "SparseGene": _resource(
        "genes",
        closed({}, _GENE_ATTRIBUTES),
        identity=HGNC_ID,
        meta=_VERSION_OF_GENE,
        relationships=_SOURCES_OF_GENE,
    ),
    "AnnotationOfGene": _ANNOTATION_OF_GENE,
    "GeneEvent": _resource("gene-events", closed(columns(GeneEventV1, but=("xid",))), links=()),
    "Facet": _resource(
        "facets",
        {
            "anyOf": [
                closed(_FACET_COUNTS | {"least": ANY, "greatest": ANY}),
                closed(
                    _FACET_COUNTS
                    | {
                        "values": listed(
                            closed({"value": {"type": ["string", "boolean"]}, "count": COUNT})
                        )
                    }
                ),
            ]
        },
        links=(),
    ),
    "Resolution": _resource("resolutions", _RESOLUTION, links=()),
    "Source": _resource("sources", closed(_SOURCE_ATTRIBUTES)),
    "SourceInDetail": _resource("sources", closed(_SOURCE_ATTRIBUTES | {"value_schema": OBJECT})),
    "Release": _resource(
        "releases", closed(_RELEASE_ATTRIBUTES), identity=ID, links=("self", "unmapped")
    ),
    "ReleaseInDetail": _resource(
        "releases",
        closed(_RELEASE_ATTRIBUTES | {"file_count": COUNT, "files": listed(_FILE)}),
        identity=ID,
        links=("self", "unmapped"),
    ),
    "Unmapped": _resource(
        "unmapped",
        closed({"position": COUNT, "key": TEXT, "reason": TEXT, "row_count": COUNT}),
        links=(),
    ),
    "Annotation": _resource("annotations", _ANNOTATION),
    "Difference": _resource(
        "differences",
        closed({"hgnc_id": HGNC_ID, "symbol": nullable(TEXT), "source": TEXT, **_SPAN}),
    ),
    "Change": _CHANGE,
    "Panel": _resource("panels", closed(_PANEL_ATTRIBUTES), identity=ID, links=_PANEL_LINKS),
    "PanelInDetail": _resource(
        "panels", closed(_PANEL_ATTRIBUTES | _COUNTS_SINCE), identity=ID, links=_PANEL_LINKS
    ),
    "PanelVersion": _resource(
        "panel-versions", closed({"panel_id": ID, **_VERSION_ATTRIBUTES}), links=_PANEL_LINKS
    ),
    "PanelVersionInDetail": _resource(
        "panel-versions",
        closed(
            {
                "panel_id": ID,
                **_VERSION_ATTRIBUTES,
                **_COUNTS_SINCE,
                "left_out": listed(closed(_LEFT_OUT)),
            }
        ),
        links=_PANEL_LINKS,
    ),
    "PanelReport": _resource(
        "panel-reports",
        closed(
            _COUNTS_OF_LIST | {"left_out": listed(closed(_LEFT_OUT))},
            {
                "format": of(Format),
                "column": nullable(TEXT),
                "sheet": nullable(TEXT),
                **_all(("added_count", "already_count", "removed_count"), COUNT),
            },
        ),
    ),
    "PanelGene": _resource("panel-genes", closed(_MEMBER), identity=HGNC_ID),
    "PanelDiff": _resource(
        "panel-diffs",
        closed(
            {
                "panel_id": ID,
                "from_version": INTEGER,
                "to_version": INTEGER,
                "added": listed(_COMPARED),
                "removed": listed(_COMPARED),
                "kept_count": COUNT,
            }
        ),
    ),
    "DeadLetter": _resource(
        "dead-letters", closed(_LETTER_ATTRIBUTES), identity=ID, sometimes=_OTHERS
    ),
    "DeadLetterInDetail": _resource(
        "dead-letters",
        closed(
            {
                **_LETTER_ATTRIBUTES,
                "refusal": nullable(TEXT),
                "key": closed(_BYTES),
                "header_count": COUNT,
                "headers": listed(closed({"name": TEXT, **_BYTES})),
                "payload": closed(_BYTES),
                "batch": nullable(_BATCH),
            }
        ),
        identity=ID,
        sometimes=_OTHERS,
    ),
    "Namespace": _resource("namespaces", closed(columns(NamespaceV1))),
    "CacheStatistics": _resource(
        "cache-statistics",
        closed(
            columns(
                NamespaceV1,
                *("entry_count", "entry_bytes", "reclaimable_count", "dirty_count", "counted_at"),
            )
            | _all(("oldest_seconds", "newest_seconds"), nullable(NUMBER))
            | _all(("memory_count", "memory_bytes"), COUNT)
            | _all(("here", "all"), closed(_all(OUTCOMES, COUNT)))
        ),
    ),
    "SourceStatistics": _resource(
        "source-statistics",
        closed(
            columns(
                SourceV1,
                *("name", "title", "kind", "is_retired", "release", "synthetic", "ttl_seconds"),
                "score",
            )
            # All null before there are any.
            | {
                name: nullable(schema)
                for name, schema in columns(SourceStatisticsV1, but=("source",)).items()
            }
            | {"score_count": nullable(COUNT)}
            | _all(("score_mean", "score_median"), nullable(NUMBER))
        ),
    ),
    "FieldStatistics": _resource("field-statistics", closed(columns(FieldStatisticsV1))),
    "Overlap": _resource("overlaps", closed(columns(OverlapV1)), links=()),
    "Coverage": _resource(
        "coverage",
        closed(
            {
                "source": TEXT,
                "release": nullable(TEXT),
                "synthetic": BOOLEAN,
                "annotation_count": COUNT,
                "gene_count": COUNT,
                "without": listed(HGNC_ID),
            }
        ),
        links=(),
    ),
}
