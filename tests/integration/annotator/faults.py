"""The ways in which an upstream fails, and what its client makes of each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.annotator.errors import (
    RateLimited,
    UpstreamBlocked,
    UpstreamOversized,
    UpstreamRefused,
    UpstreamTruncated,
    UpstreamUnavailable,
)
from services.chassis.errors import AnnobusError

DEADLINE_SECONDS = 0.3


@dataclass(frozen=True)
class Case:
    """`deadlines` are those of the client that the fault runs into, made short for the test."""

    name: str
    fault: Mapping[str, Any]
    error: type[AnnobusError]
    says: str
    deadlines: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


CASES = [
    Case("500", {"kind": "status", "status": 500}, UpstreamUnavailable, "answers 500"),
    Case("503", {"kind": "status", "status": 503}, UpstreamUnavailable, "answers 503"),
    Case("403", {"kind": "status", "status": 403}, UpstreamBlocked, "answers 403"),
    Case("404", {"kind": "status", "status": 404}, UpstreamRefused, "answers 404"),
    Case("429", {"kind": "rate_limited", "seconds": 7}, RateLimited, "answers 429"),
    Case(
        "hang",
        {"kind": "hang"},
        UpstreamUnavailable,
        "took more than",
        {"CALL_SECONDS": DEADLINE_SECONDS, "DOWNLOAD_SECONDS": DEADLINE_SECONDS},
    ),
    Case(
        "drip",
        {"kind": "drip", "bytes_per_second": 20},
        UpstreamUnavailable,
        "bytes in|took more than",
        {"CALL_SECONDS": DEADLINE_SECONDS, "SLOW_SECONDS": DEADLINE_SECONDS},
    ),
    Case("truncated", {"kind": "truncated"}, UpstreamTruncated, "(?i)peer closed|incomplete"),
    Case("cut gzip", {"kind": "cut_gzip"}, UpstreamTruncated, "gzip without its end"),
    Case("reset", {"kind": "reset"}, UpstreamUnavailable, "ReadError"),
    Case("html", {"kind": "html"}, UpstreamUnavailable, "answers text/html"),
    Case("wrong type", {"kind": "content_type"}, UpstreamUnavailable, "answers text/html"),
    Case("bomb", {"kind": "bomb"}, UpstreamOversized, "[0-9]+ are unpacked"),
]
