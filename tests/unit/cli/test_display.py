"""How a run's counters become words and bars."""

import io
import re
from datetime import UTC, datetime

import pytest
from rich.console import Console

from contracts.messages import SourceProgress, SourceState
from services.cli import bars, output
from services.cli.errors import CommandFailed
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


def snapshot(*, dry_run: bool = False, **sources: SourceProgress) -> Snapshot:
    return Snapshot(run_id="1", seq=1, status="running", sources=sources, dry_run=dry_run)


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


def test_a_dry_run_shows_no_count_of_what_it_does_not_count(
    shown: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {
        "hgnc": source(None, state="waiting"),
        "hpo": source(0, state="waiting"),
        "ensembl": source(0, state="completed"),
    }
    with bars.display() as display:
        display.show(snapshot(dry_run=True, **sources))
    pipe = io.StringIO()
    monkeypatch.setattr(output, "talk", Console(file=pipe, width=200))
    bars.Lines().show(snapshot(dry_run=True, **sources))
    assert pipe.getvalue().strip() == (
        "running: hgnc looks what there is · hpo looks what there is · ensembl has been looked at"
    )
    for said in (shown.getvalue(), pipe.getvalue()):
        assert "looks what there is" in said
        assert "has been looked at" in said
        assert "genes" not in said
        assert "%" not in said


def test_a_source_of_which_nothing_is_picked_has_nothing_to_fetch(shown: Terminal) -> None:
    with bars.display() as display:
        display.show(snapshot(hpo=source(0, state="completed")))
    assert "100% " in shown.getvalue()
    assert "nothing to fetch" in shown.getvalue()


def test_a_paused_run_is_paused_wherever_it_has_not_ended(shown: Terminal) -> None:
    sources = {name: source(None, state="waiting") for name in ("hgnc", "hpo")}
    sources["ensembl"] = source(5, done=5, state="completed")
    paused = snapshot(dry_run=False, **sources)
    with bars.display() as display:
        display.show(paused.model_copy(update={"status": "paused"}))
    assert shown.getvalue().count("paused") >= 2
    assert "waiting" not in shown.getvalue()


def test_what_a_terminal_would_obey_is_shown_and_not_done(
    shown: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = "\x1b]0;mine\x07\x1b[2J\x9b2J\r"
    with bars.display() as display:
        display.show(snapshot(hpo=WAITING.model_copy(update={"waits_because": evil})))
    assert r"\x1b]0;mine" in "".join(shown.getvalue().split())
    assert "\x1b]0;" not in shown.getvalue()
    for console in ("data", "talk"):
        monkeypatch.setattr(output, console, Console(file=(pipe := io.StringIO()), width=200))
        output.print_table(("name",), [(evil + "\n",)])
        output.print_line(evil)
        output.say(evil)
        output.show_failure(CommandFailed(evil, [evil], evil))
        assert not set("\x1b\x07\x9b\r") & set(pipe.getvalue())


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal of 60 columns."""
    terminal = Terminal()
    environment = {"TERM": "xterm", "NO_COLOR": "1"}
    console = Console(
        file=terminal, width=60, force_terminal=True, highlight=False, _environ=environment
    )
    for name in ("data", "talk"):
        monkeypatch.setattr(output, name, console)
    return terminal


ID = "01a221e1-05f1-7972-a367-e4ef456bf2a5"


def test_an_id_is_never_cut_and_what_has_no_room_is_told_below(narrow: Terminal) -> None:
    columns = ("id", "state", "attempts", "what", "problem")
    rows = [(ID, "open", "1", f"ensembl {ID}", "answers 400"), ("short", "retried", "12", "", "x")]
    output.print_table(columns, rows, numbers=("attempts",))
    plain = re.sub(r"\x1b\[\d*m", "", narrow.getvalue())
    assert [line.rstrip() for line in plain.splitlines()] == [
        "id                                    state    attempts",
        f"{ID}  open            1",
        "  what: ensembl 01a221e1-05f1-7972-a367-e4ef456bf2a5 ·",
        "  problem: answers 400",
        "short                                 retried        12",
        "  problem: x",
    ]


def test_lines_end_between_words_on_a_terminal_and_a_command_has_its_own(narrow: Terminal) -> None:
    said = "one two three four five six seven eight nine ten eleven twelve thirteen"
    output.say(said)
    output.show_failure(CommandFailed(said))
    output.say_next("run 1 is ordered", f"annobus runs watch {ID}")
    lines = [line.rstrip() for line in narrow.getvalue().splitlines()]
    assert all(len(line) <= 60 or "\x1b" in line for line in lines)
    assert " ".join(lines[:2]) == said
    assert lines[-1].endswith(f"annobus runs watch {ID}")


def test_a_time_is_shown_as_its_readers_clock_has_it() -> None:
    utc = datetime(2026, 11, 28, 14, 3, 10, tzinfo=UTC)
    assert output.moment(utc.isoformat()) == f"{utc.astimezone():%Y-%m-%d %H:%M:%S}"
    assert output.moment(None) == ""
