"""Everything that one bench measured, whether it is as it should be, and its file."""

from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from benchmarks.figures import Latencies
from benchmarks.machine import Machine
from benchmarks.resources import Usage
from benchmarks.runs import RunFigures
from benchmarks.statements import StatementFigures

RESULT_FILE = "bench.json"


@dataclass(frozen=True)
class Start:
    """Seconds until everything was ready, and when each step began."""

    seconds: float
    steps: list[tuple[float, str]]


@dataclass(frozen=True)
class Measured:
    """A run, and what each process took meanwhile."""

    run: RunFigures
    usage: dict[str, Usage]


@dataclass(frozen=True)
class Report:
    """`first` fills an empty database, `second` does all of it again while a reader reads;
    `bulk`, `hpo` and `ensembl` are runs over some sources, into a database without their values."""

    machine: Machine
    start: Start
    second_start: Start
    first: Measured
    idle: Latencies
    second: Measured
    during: Latencies
    bulk: Measured
    hpo: Measured
    ensembl: Measured
    statements: StatementFigures

    @property
    def runs(self) -> dict[str, Measured]:
        return {
            "first run": self.first,
            "second run": self.second,
            "hpo and gnomad": self.bulk,
            "hpo alone": self.hpo,
            "ensembl alone": self.ensembl,
        }

    @property
    def readings(self) -> dict[str, Latencies]:
        return {"idle": self.idle, "second run": self.during}

    def problems(self) -> list[str]:
        found = [
            f"{name}: {problem}"
            for name, measured in self.runs.items()
            for problem in measured.run.problems
        ]
        return found + [
            f"gene list, {name}: {seen.failed} of {seen.requests} requests failed"
            for name, seen in self.readings.items()
            if seen.failed
        ]

    def write(self, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        path = folder / RESULT_FILE
        partial = path.with_suffix(".partial")
        content = asdict(self) | {"problems": self.problems()}
        partial.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")
        partial.replace(path)
        return path
