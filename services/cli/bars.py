"""A run on the screen while it works: a bar per source, or a plain line every few seconds."""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.table import Column
from rich.text import Text

from contracts.messages import SOURCE_END_STATES, SourceProgress
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
        _Standing(),
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


def standing(source: SourceProgress, *, is_dry: bool) -> tuple[str, str]:
    """How far a source is: its percentage, where it has one, and in words. A dry run counts no
    gene: it looks, and has looked."""
    if is_dry:
        if source.state in SOURCE_END_STATES:
            return "", "has been looked at" if source.state == "completed" else "was not looked at"
        return "", "looks what there is"
    if source.total_count == 0 and source.state == "completed":
        return "100%", "nothing to fetch"
    total = output.count(source.total_count)
    return percentage(source), f"{counted(source):,} of {total} genes"


def state_of(source: SourceProgress, *, is_paused: bool) -> str:
    """Of a paused run nothing goes on, whatever its sources are at."""
    return "paused" if is_paused and source.state not in SOURCE_END_STATES else source.state


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
            parts = [
                _plain(name, source, rates[name], is_dry=snapshot.dry_run)
                for name, source in snapshot.sources.items()
            ]
            output.say(f"{snapshot.status}: {' · '.join(parts) or snapshot.message}")


def _plain(name: str, source: SourceProgress, rate: float | None, *, is_dry: bool) -> str:
    share, words = standing(source, is_dry=is_dry)
    line = f"{name} {share} {words}" if share else f"{name} {words}"
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
            is_whole = source.total_count == 0 and source.state in SOURCE_END_STATES
            self._progress.update(
                self._tasks[name],
                total=1 if is_whole else source.total_count or None,  # None moves to and fro.
                completed=1 if is_whole else counted(source),
                source=source,
                rate=self._rates.note(name, counted(source), time.monotonic()),
                is_paused=snapshot.status == "paused",
                is_dry=snapshot.dry_run,
            )


class _Cell(ProgressColumn):
    """A cell drawn from the source's counters; `rate` is genes a second."""

    def render(self, task: Task) -> Text:
        source: SourceProgress | None = task.fields.get("source")
        return self.draw(task, source) if source is not None else Text("")

    def draw(self, task: Task, source: SourceProgress) -> Text:
        raise NotImplementedError


class _Whole(_Cell):
    """One that is never broken over lines: what waits for somebody gives way."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True))


class _Name(_Whole):
    def draw(self, task: Task, source: SourceProgress) -> Text:
        style = "bold red" if source.state == "failed" else "bold"
        return Text(task.description, style)


class _Standing(_Whole):
    def draw(self, task: Task, source: SourceProgress) -> Text:
        share, words = standing(source, is_dry=task.fields["is_dry"])
        return Text(f"{share.rjust(4)} {words.rjust(22)}" if share else words)


class _Rate(_Cell):
    def draw(self, task: Task, source: SourceProgress) -> Text:
        if said := waits(task.description, source):
            return Text(output.plain(said), "yellow")
        state = state_of(source, is_paused=task.fields["is_paused"])
        if state != "running":
            return Text(state, "yellow" if state == "paused" else "dim")
        return Text(f"{task.fields['rate'] or 0:,.0f} genes/s", "cyan")


class _Failed(_Cell):
    def draw(self, task: Task, source: SourceProgress) -> Text:  # noqa: ARG002
        return Text(f"{source.failed_count:,} failed" if source.failed_count else "", "bold red")
