"""`make faults`: runs under faults that a seed deals, one after another, for so many minutes."""

import argparse
import asyncio
import json
import logging
import random
import shutil
import statistics
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from tests import thin_hpo
from tests.faults import schedule
from tests.faults.checker import violations
from tests.faults.faults import DEADLY, FaultSpec, Strike
from tests.faults.history import History
from tests.faults.journal import Journal
from tests.faults.matrix import Outcome, System
from tests.faults.reworking import reworked_seconds
from tests.faults.servers import open_servers
from tests.system import ROOT, keep_mirror

MINUTES = 10.0
SEEDS_COUNT = 10_000
REPORT, JOURNAL, LOGS = "faults.json", "faults.jsonl", "faults"
STATE = ROOT / ".annobus"
GENES = 2_000  # Twenty calls: two seconds at this rate, without faults.
CALLS_PER_SECOND = 10.0


@dataclass
class Figures:
    """What is known of a schedule."""

    seed: int
    minutes: float
    runs: int = 0
    kills: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    missed: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    violations: list[dict[str, object]] = field(default_factory=list)
    ready: list[float] = field(default_factory=list)
    settled: list[float] = field(default_factory=list)
    reworked: list[float] = field(default_factory=list)

    def count(self, outcome: Outcome) -> None:
        self.runs += 1
        self.ends[outcome.history.state] += 1
        self.note_violations(outcome.violations, outcome.strikes)
        for fault, strike in outcome.strikes:
            if strike is None:
                self.missed += 1
                continue
            how = f" {fault.how['kind']}" if fault.how else ""
            self.faults[f"{fault.kind} {fault.target.partition('-')[0]}{how}"] += 1
            self.kills += fault.kind in DEADLY
        self.kills += outcome.killed_others
        struck = [(fault, strike) for fault, strike in outcome.strikes if strike is not None]
        self.reworked += reworked_seconds(outcome.history.writes, struck)
        for one in outcome.history.recoveries:
            self.settled.append(one.settled_seconds)
            self.ready += [] if one.ready_seconds is None else [one.ready_seconds]

    def note_violations(
        self,
        found: Mapping[str, Sequence[str]],
        strikes: Sequence[tuple[FaultSpec, Strike | None]],
    ) -> None:
        said = [str(fault) for fault, _ in strikes]
        self.violations += [
            {"run": self.runs, "invariant": name, "what": what, "faults": said}
            for name, what in found.items()
        ]

    def as_json(self) -> dict[str, object]:
        return {
            "seed": self.seed,
            "minutes": round(self.minutes, 2),
            "runs": self.runs,
            "ends": dict(self.ends),
            "kills": self.kills,
            "faults_fired": sum(self.faults.values()),
            "faults_missed": self.missed,
            "faults": dict(sorted(self.faults.items())),
            "violations": self.violations,
            "recovery_p50_s": percentile(self.ready, 50),
            "recovery_p99_s": percentile(self.ready, 99),
            "settled_p50_s": percentile(self.settled, 50),
            "settled_p99_s": percentile(self.settled, 99),
            "reworked": len(self.reworked),
            "reworked_p50_s": percentile(self.reworked, 50),
            "reworked_p99_s": percentile(self.reworked, 99),
        }


def percentile(seconds: Sequence[float], percent: int) -> float | None:
    """None of nothing."""
    if len(seconds) < 2:
        return round(seconds[0], 2) if seconds else None
    return round(statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1], 2)


async def run(system: System, figures: Figures, journal: Journal, minutes: float) -> None:
    """Until the time is over, or a run did not come to an end: then the system is of no use."""
    dealer = random.Random(figures.seed)
    began = time.time()
    while time.time() < began + 60 * minutes:
        dealt = schedule.deal(dealer)
        journal.note("run", type="invoke", run=figures.runs + 1)
        try:
            outcome = await system.attempt(
                *dealt.faults,
                random=dealer,
                invalidates=dealt.invalidates,
                controls=dealt.controls,
            )
        except Exception:  # noqa: BLE001  # Whatever it is, it is a finding.
            figures.runs += 1
            said = {"no end": traceback.format_exc().splitlines()[-30:]}
            figures.note_violations(said, [(fault, None) for fault in dealt.faults])
            journal.note("run", type="info", run=figures.runs, violations=said)
            return
        finally:
            figures.minutes = (time.time() - began) / 60
        figures.count(outcome)
        history = asdict(outcome.history)
        journal.note(
            "run", type="ok", run=figures.runs, violations=outcome.violations, history=history
        )
        show(figures, outcome, time.time() - began)


def show(figures: Figures, outcome: Outcome, seconds: float) -> None:
    struck = ", ".join(
        f"({fault})" if strike is None else str(fault) for fault, strike in outcome.strikes
    )
    said(f"{seconds:5.0f} s  run {figures.runs}: {outcome.history.state}; {struck}")
    for name, what in outcome.violations.items():
        said(f"         {name} is violated: {'; '.join(what)}")


def said(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def soak(seed: int, minutes: float) -> Figures:
    figures = Figures(seed, minutes)
    journal = Journal(STATE / JOURNAL)
    logs = STATE / LOGS
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    (STATE / JOURNAL).write_text("")
    journal.note("schedule", seed=seed, minutes=minutes)
    with tempfile.TemporaryDirectory() as data:
        thin_hpo.write_data(Path(data))
        options = ("--no-limits", "--data", data)
        with keep_mirror(Path(data) / "cache", *options) as mirror:
            async with open_servers(
                logs, mirror, calls_per_second=CALLS_PER_SECOND, genes_max=GENES
            ) as system:
                system.journal = journal
                await run(system, figures, journal, minutes)
    return figures


def check(file: Path) -> int:
    """Judge the histories of a schedule again. Returns how many are violated."""
    read = TypeAdapter(History)
    wrong = 0
    with file.open(encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            if "history" in line and (found := violations(read.validate_python(line["history"]))):
                wrong += 1
                said(f"run {line['run']}: {json.dumps(found, ensure_ascii=False)}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="make faults")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--seed", type=int, default=random.randrange(SEEDS_COUNT))
    parser.add_argument("--check", type=Path, metavar="FILE", help="judge a history again")
    wanted = parser.parse_args()
    if wanted.check is not None:
        return min(1, check(wanted.check))
    said(f"make faults MINUTES={wanted.minutes:g} SEED={wanted.seed}")  # To repeat it.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # A broker that is away is meant.
    figures = asyncio.run(soak(wanted.seed, wanted.minutes)).as_json()
    text = json.dumps(figures, indent=2, ensure_ascii=False)
    (STATE / REPORT).write_text(f"{text}\n", encoding="utf-8")
    said(text)
    return 1 if figures["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
