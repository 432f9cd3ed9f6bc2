"""A run as `annobus runs show` and `runs list` print it."""

from collections.abc import Mapping, Sequence
from typing import Any

from contracts.messages import ACTIVE_STATES, SourceProgress
from services.cli import bars, output, pages, watch
from services.cli.client import Document

STATE_STYLES = {
    "failed": "red",
    "completed_with_errors": "yellow",
    "cancelled": "yellow",
    "paused": "yellow",
    "completed": "green",
}
# What was asked last, where the run is not there yet.
ASKED = {
    "paused": "a pause is asked for",
    "running": "a resume is asked for",
    "cancelled": "a cancel is asked for",
}
SOURCES_NAMED_MAX = 3


def print_run(document: Document) -> None:
    run = document["data"]["attributes"]
    snapshot = watch.snapshot_of(document)
    remarks = "; ".join(_remarks(run))
    output.print_line(
        f"run {snapshot.run_id}: {snapshot.status}{f' ({remarks})' if remarks else ''}"
    )
    if snapshot.dry_run:
        _print_found(snapshot.sources, run["sources"])
    else:
        _print_counts(snapshot)
    for problem, names in _problems(snapshot.sources).items():
        output.print_line(f"{', '.join(names)}: {problem}")
    for name, source in snapshot.sources.items():
        if said := bars.waits(name, source):
            output.print_line(said[0].upper() + said[1:])
    if snapshot.is_final and not snapshot.dry_run and _has_failed(snapshot.sources):
        output.say_next("what failed can be tried again", f"annobus runs retry {snapshot.run_id}")


def _list_row(item: Document) -> tuple[str, ...]:
    run = item["attributes"]
    genes = "all" if run.get("gene_count") is None else output.count(run["gene_count"])
    sources = list(run["sources"])
    named = ", ".join(sources) if len(sources) <= SOURCES_NAMED_MAX else f"{len(sources)} sources"
    return (
        *(item["id"], run["state"], output.moment(run.get("requested_at"))),
        *(_order_of(run), genes, named, run.get("name") or ""),
    )


RUNS = pages.Listing(
    "/api/runs",
    ("run", "state", "requested", "order", "genes", "sources", "name"),
    _list_row,
    numbers=("genes",),
    styles=STATE_STYLES,
)


def _order_of(run: Mapping[str, Any]) -> str:
    """What was ordered, in a word or two."""
    if run.get("dry_run"):
        return "dry run"
    return "retry" if run.get("retries") else str(run.get("strategy", "full"))


def _remarks(run: Mapping[str, Any]) -> list[str]:
    """What is not usual of it."""
    strategy, priority = run.get("strategy", "full"), run.get("priority", "normal")
    found = [
        run.get("name"),
        "dry run" if run.get("dry_run") else None,
        f"retry of run {run['retries']}" if run.get("retries") else None,
        f"panel {run['panel']}" if run.get("panel") else None,
        f"strategy {strategy}" if strategy != "full" else None,
        f"priority {priority}" if priority != "normal" else None,
        _asked(run["state"], run.get("desired_state", "running")),
    ]
    return [one for one in found if one]


def _asked(state: str, desired: str) -> str | None:
    is_there = desired == state or (desired == "running" and state != "paused")
    return None if is_there or state not in ACTIVE_STATES else ASKED[desired]


def _problems(sources: Mapping[str, SourceProgress]) -> Mapping[str, Sequence[str]]:
    """Which sources have which problem: it may be one for all of them."""
    found: dict[str, list[str]] = {}
    for name, source in sources.items():
        if source.problem is not None:
            said = f"{source.problem.get('title')}: {source.problem.get('detail')}"
            found.setdefault(said, []).append(name)
    return found


def _has_failed(sources: Mapping[str, SourceProgress]) -> bool:
    return any(source.failed_count or source.state == "failed" for source in sources.values())


def _print_counts(snapshot: watch.Snapshot) -> None:
    sources = snapshot.sources
    # Most runs are never cancelled, and their table stays narrow.
    is_cut = any(source.cancelled_count for source in sources.values())
    numbers = ("genes", "done", "no data", "failed", *(("cancelled",) if is_cut else ()))
    rows = [
        (
            name,
            bars.state_of(source, is_paused=snapshot.status == "paused"),
            *map(
                output.count,
                (
                    source.total_count,
                    source.done_count,
                    source.no_data_count,
                    source.failed_count,
                    source.cancelled_count,
                )[: len(numbers)],
            ),
            _release(source),
        )
        for name, source in sources.items()
    ]
    columns = ("source", "state", *numbers, "release")
    output.print_table(columns, rows, numbers=numbers, styles=STATE_STYLES)


def _release(source: SourceProgress) -> str:
    """Most that are made up say so in their name."""
    name = source.release or ""
    return f"{name} (synthetic)" if source.synthetic and "synthetic" not in name else name


def _print_found(sources: Mapping[str, SourceProgress], attributes: Mapping[str, Document]) -> None:
    """A dry run counts no gene; what it has found out is all there is to say."""
    rows = []
    for name, source in sources.items():
        preview = attributes[name].get("preview")
        rows.append((name, source.state, "" if preview is None else _previewed(preview)))
    output.print_table(("source", "state", "found"), rows, styles=STATE_STYLES)


def _previewed(preview: Document) -> str:
    """What a dry run found out of a source, in words."""
    if "request_count" in preview:
        seconds = preview["seconds"]
        pace = "" if seconds is None else f", which takes {seconds:,g} s at the least"
        genes = output.many(preview["gene_count"], "gene")
        return f"would ask for {genes} in {output.many(preview['request_count'], 'request')}{pace}"
    weights = [f"{count:,} {name}" for name, count in preview["severities"].items() if count]
    weighed = f"; of these {', '.join(reversed(weights))}" if weights else ""
    news = "would store release" if preview["is_new_release"] else "has stored release"
    return (
        f"{news} {preview['release']}: {preview['new_count']:,} new,"
        f" {preview['changed_count']:,} changed, {preview['withdrawn_count']:,} withdrawn"
        f"{weighed}; {preview['unchanged_count']:,} unchanged"
    )
