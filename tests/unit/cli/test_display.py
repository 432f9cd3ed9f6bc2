"""How a run's counters become words and bars."""

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from contracts.messages import SourceProgress, SourceState
from services.cli import bars, output
from services.cli.watch import Snapshot


def source(
    total: int | None, done: int = 0, failed: int = 0, state: SourceState = "running"
) -> SourceProgress:
    return SourceProgress(
        state=state, total_count=total, done_count=done, no_data_count=0, failed_count=failed
    )


@pytest.mark.parametrize(
    ("progress", "shown"),
    [
        (source(None), "?%"),
        (source(0, state="failed"), "0%"),
        (source(0, state="completed"), "100%"),
        (source(3, done=1), "33%"),
        (source(1000, done=999), "99%"),
        (source(10, done=6, failed=4), "60%"),
        (source(10, done=10), "100%"),
    ],
)
def test_a_percentage_is_rounded_down_and_not_raised_by_failures(
    progress: SourceProgress, shown: str
) -> None:
    assert bars.percentage(progress) == shown


def test_a_rate_is_that_of_the_last_seconds() -> None:
    rates = bars.Rates()
    assert rates.note("hpo", 0, 0.0) is None
    assert rates.note("hpo", 100, 1.0) == 100
    for second in range(2, 10):
        rates.note("hpo", 100, float(second))
    assert rates.note("hpo", 100, 10.0) == 0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """What a person sees on a terminal of 120 columns."""
    terminal = Terminal()
    environment = {"TERM": "xterm-256color"}
    console = Console(file=terminal, width=120, force_terminal=True, _environ=environment)
    monkeypatch.setattr(output, "talk", console)
    return terminal


def snapshot(**sources: SourceProgress) -> Snapshot:
    return Snapshot(run_id="1", seq=1, status="running", sources=sources)


def test_a_terminal_has_a_bar_per_source_and_failures_in_words(shown: Terminal) -> None:
    with bars.display() as display:
        display.show(snapshot(hgnc=source(44_331, done=12_000), ensembl=source(None)))
        display.show(snapshot(hgnc=source(44_331, done=12_000, failed=7), ensembl=source(None)))
    text = shown.getvalue()
    assert "12,000 of 44,331 genes" in text
    assert " 27%" in text
    assert "0 of ? genes" in text
    assert "?%" in text
    assert "7 failed" in text
    assert "\x1b[1;31m" in text


def test_a_dumb_terminal_has_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    console = Console(file=terminal, width=120, _environ={"TERM": "dumb"})
    monkeypatch.setattr(output, "talk", console)
    with bars.display() as display:
        display.show(snapshot(hgnc=source(10, done=4, failed=1)))
        display.show(snapshot(hgnc=source(10, done=5, failed=1)))
        display.show(snapshot(hgnc=source(10, done=9, failed=1, state="completed")))
    assert terminal.getvalue().splitlines() == [
        "running: hgnc 40% 4 of 10 genes, 1 failed",
        "running: hgnc 90% 9 of 10 genes, 1 failed",
    ]


def test_forced_colours_in_a_pipe_do_not_make_it_a_terminal() -> None:
    console = Console(file=io.StringIO(), _environ={"FORCE_COLOR": "1", "TERM": "xterm"})
    assert console.is_terminal
    assert not output.has_live_display(console)


def test_a_table_in_a_pipe_is_plain_and_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.StringIO()
    console = Console(file=pipe, markup=False, highlight=False, soft_wrap=True, _environ={})
    monkeypatch.setattr(output, "data", console)
    name = "a long name " * 20
    output.print_table(("id", "n", "name"), [("A", "7", name), ("BB", "10", "[b]")], numbers=("n",))
    assert pipe.getvalue().splitlines() == [
        "id   n  name",
        f"A    7  {name}".rstrip(),
        "BB  10  [b]",
    ]


WAITING = SourceProgress(
    state="running",
    total_count=1000,
    done_count=100,
    no_data_count=0,
    failed_count=0,
    waits_for="ensembl",
    waits_until=datetime(2026, 11, 28, 14, 3, 10, tzinfo=UTC),
    waits_because="429, Retry-After 30 s",
)


def test_whom_a_source_waits_for_is_shown_on_a_terminal(shown: Terminal) -> None:
    with bars.display() as display:
        display.show(snapshot(ensembl=WAITING))
    said = " ".join(shown.getvalue().split())
    assert "waiting for ensembl until " in said
    assert "429, Retry-After 30 s" in said


def test_whom_a_source_waits_for_is_said_at_once_in_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipe = io.StringIO()
    monkeypatch.setattr(output, "talk", Console(file=pipe, width=200))
    lines = bars.Lines()
    lines.show(snapshot(ensembl=source(1000, done=100)))
    lines.show(snapshot(ensembl=WAITING))
    assert pipe.getvalue().splitlines()[1].endswith(":10: 429, Retry-After 30 s")
