"""A run on the screen while it works: a bar per source, or a plain line every few seconds."""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.text import Text

from contracts.messages import SourceProgress
from services.cli import output
from services.cli.watch import Snapshot

PLAIN_SECONDS = 5.0
REFRESHES_PER_SECOND = 8
RATE_SECONDS = 5.0  # A rate is that of the last few seconds.
BAR_WIDTH = 20
SHOWN_STATES = ("failed", "paused", "cancelled")  # Those that a count does not show.


class Display(Protocol):
    def show(self, snapshot: Snapshot) -> None: ...


@contextmanager
def display() -> Iterator[Display]:
    """On a terminal bars that move, elsewhere lines that stay."""
    if not output.has_live_display(output.talk):
        yield Lines()
        return
    progress = Progress(
        _Name(),
        BarColumn(bar_width=BAR_WIDTH),
        _Percentage(),
        _Genes(),
        _Rate(),
        _Failed(),
        console=output.talk,
        refresh_per_second=REFRESHES_PER_SECOND,
    )
    with progress:
        yield Bars(progress)


def percentage(source: SourceProgress) -> str:
    """Genes with a value or known to have none, of all; failures never raise it."""
    if source.total_count is None:
        return "?%"
    if source.total_count == 0:
        return "100%" if source.state == "completed" else "0%"
    return f"{100 * counted(source) // source.total_count}%"


def waits(name: str, source: SourceProgress) -> str:
    """Whom it waits for, by the clock of whoever reads it; empty when it does not."""
    if source.waits_until is None:
        return ""
    until = source.waits_until.astimezone()
    return f"waiting for {source.waits_for or name} until {until:%H:%M:%S}: {source.waits_because}"


def counted(source: SourceProgress) -> int:
    return source.done_count + source.no_data_count


@dataclass
class Rates:
    """Genes a second of each source, over the last few seconds."""

    seen: dict[str, deque[tuple[float, int]]] = field(default_factory=dict)

    def note(self, name: str, count: int, at_seconds: float) -> float | None:
        points = self.seen.setdefault(name, deque())
        points.append((at_seconds, count))
        while len(points) > 2 and points[1][0] <= at_seconds - RATE_SECONDS:
            points.popleft()
        elapsed = at_seconds - points[0][0]
        return (count - points[0][1]) / elapsed if elapsed > 0 else None


class Lines:
    """For pipes, files and dumb terminals: nothing is ever drawn again."""

    def __init__(self) -> None:
        self._rates = Rates()
        self._shown_at = 0.0
        self._states: Mapping[str, tuple[str, str | None]] = {}

    def show(self, snapshot: Snapshot) -> None:
        now = time.monotonic()
        rates = {
            name: self._rates.note(name, counted(source), now)
            for name, source in snapshot.sources.items()
        }
        states = {
            name: (source.state, source.waits_because) for name, source in snapshot.sources.items()
        }
        due = now - self._shown_at >= PLAIN_SECONDS or snapshot.is_final
        if due or states != self._states:
            self._shown_at, self._states = now, states
            parts = [_plain(name, s, rates[name]) for name, s in snapshot.sources.items()]
            output.say(f"{snapshot.status}: {' · '.join(parts) or snapshot.message}")


def _plain(name: str, source: SourceProgress, rate: float | None) -> str:
    total = output.count(source.total_count)
    line = f"{name} {percentage(source)} {counted(source):,} of {total} genes"
    if source.state == "running" and rate:
        line += f", {rate:,.0f} genes/s"
    if source.failed_count:
        line += f", {source.failed_count:,} failed"
    if said := waits(name, source):
        line += f", {said}"
    return f"{line}, {source.state}" if source.state in SHOWN_STATES else line


class Bars:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._rates = Rates()
        self._tasks: dict[str, TaskID] = {}

    def show(self, snapshot: Snapshot) -> None:
        for name, source in snapshot.sources.items():
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(name, total=None)
            self._progress.update(
                self._tasks[name],
                total=None if source.total_count is None else max(source.total_count, 1),
                completed=1 if source.total_count == 0 else counted(source),
                source=source,
                rate=self._rates.note(name, counted(source), time.monotonic()),
                is_paused=snapshot.status == "paused",
            )


class _Cell(ProgressColumn):
    """A cell drawn from the source's counters; `rate` is genes a second."""

    def render(self, task: Task) -> Text:
        source: SourceProgress | None = task.fields.get("source")
        return self.draw(task, source) if source is not None else Text("")

    def draw(self, task: Task, source: SourceProgress) -> Text:
        raise NotImplementedError


class _Name(_Cell):
    def draw(self, task: Task, source: SourceProgress) -> Text:
        style = "bold red" if source.state == "failed" else "bold"
        return Text(task.description, style)


class _Percentage(_Cell):
    def draw(self, task: Task, source: SourceProgress) -> Text:  # noqa: ARG002
        return Text(percentage(source).rjust(4))


class _Genes(_Cell):
    def draw(self, task: Task, source: SourceProgress) -> Text:  # noqa: ARG002
        total = output.count(source.total_count)
        return Text(f"{counted(source):,} of {total} genes".rjust(22))


class _Rate(_Cell):
    def draw(self, task: Task, source: SourceProgress) -> Text:
        if said := waits(task.description, source):
            return Text(said, "yellow")
        if source.state != "running":
            return Text(source.state, "dim")
        if task.fields["is_paused"]:
            return Text("paused", "yellow")
        return Text(f"{task.fields['rate'] or 0:,.0f} genes/s", "cyan")


class _Failed(_Cell):
    def draw(self, task: Task, source: SourceProgress) -> Text:  # noqa: ARG002
        return Text(f"{source.failed_count:,} failed" if source.failed_count else "", "bold red")
