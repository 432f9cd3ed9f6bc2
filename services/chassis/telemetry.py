"""Logs and metrics; every metric name stands here, in one table."""

import logging
import sys
from typing import Any

import structlog
from prometheus_client import Counter, Gauge, Histogram

from services.chassis.settings import SharedSettings

MESSAGES_HANDLED = Counter(
    "annobus_messages_handled_total", "Messages by outcome", ["topic", "type", "outcome"]
)
MESSAGES_UNKNOWN = Counter(
    "annobus_messages_unknown_total", "Facts of a type that contracts/ does not know", ["topic"]
)
SUBSCRIBERS_HELD = Gauge(
    "annobus_subscribers_held",
    "1: takes one message a minute, because almost all are parked",
    ["topic", "reason"],
)
DEAD_LETTERS_OPEN = Gauge(
    "annobus_dead_letters_open", "Dead letters that nobody has decided about", ["kind"]
)
MESSAGES_RELAYED = Counter("annobus_messages_relayed_total", "Outbox rows that arrived", ["topic"])
OUTBOX_ROWS = Gauge("annobus_outbox_rows", "Rows the last relay pass took up, at most one batch")
HTTP_REQUESTS = Histogram(
    "annobus_http_request_duration_seconds", "Time to answer", ["method", "route", "status"]
)
LOOP_LAG = Gauge("annobus_event_loop_lag_seconds", "How late the loop woke a sleeper, last probe")
UPSTREAM_REQUESTS = Histogram(
    "annobus_upstream_request_duration_seconds", "Upstream calls", ["source", "outcome"]
)
BATCHES = Counter("annobus_batches_total", "Batches by outcome", ["source", "outcome"])
DOCUMENTS_REBUILT = Counter("annobus_documents_rebuilt_total", "Gene documents", ["outcome"])
CACHE_READS = Counter(
    "annobus_cache_reads_total",
    "Cached values asked for: hit (in memory), shared (made by anybody), miss; beside them stale"
    " (found and not valid), made, failed, refused (made and not kept for others)",
    ["namespace", "outcome"],
)
CACHE_MEMORY_BYTES = Gauge(
    "annobus_cache_memory_bytes", "Cached values in memory, and what they cost", ["what"]
)
CACHE_AGE = Histogram(
    "annobus_cache_age_seconds",
    "How old cached values are when they are served",
    ["namespace"],
    buckets=(0.01, 0.1, 1, 5, 15, 30, 60, 300, 600, 3600),
)
ENTRIES_RECLAIMED = Counter(
    "annobus_cache_entries_reclaimed_total", "Entries deleted that were not valid", ["namespace"]
)
RECLAIM_SECONDS = Histogram(
    "annobus_cache_reclaim_seconds",
    "Transactions that look for entries to delete, those that were broken off included",
    buckets=(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.05, 0.1),
)
SOCKETS = Gauge("annobus_websocket_clients", "Open progress sockets")
EXPORTS = Gauge("annobus_exports", "Files of genes that are being written")
CHANGE_STREAMS = Gauge("annobus_change_streams", "Open streams of changes")


def configure_logging(settings: SharedSettings, service: str) -> None:
    """Send our logs, and those of libraries from WARNING up, to standard error in one form."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=False)
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
