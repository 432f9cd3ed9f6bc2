"""Everything that one bench measured, whether it is as it should be, and its file."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from benchmarks.entries import EntryFigures
from benchmarks.figures import Latencies
from benchmarks.machine import Machine
from benchmarks.reads import ReadFigures
from benchmarks.resources import Usage
from benchmarks.runs import RunFigures
from benchmarks.statements import StatementFigures
from benchmarks.zipf import ZipfFigures

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
class Paced:
    """A run over all sources while the gene list is read at a pace, None without a pause, and the
    same reader before, with nothing else to do."""

    per_second: float | None
    idle: Latencies
    measured: Measured
    during: Latencies

    @property
    def name(self) -> str:
        return "without a pause" if self.per_second is None else f"{self.per_second:,.0f}/s"


@dataclass(frozen=True)
class Report:
    """`first` fills an empty database; `paced` and `zipf_run` do all of it again while somebody
    reads; `bulk`, `hpo` and `ensembl` are runs over some sources, into a database without their
    values."""

    machine: Machine
    start: Start
    second_start: Start
    first: Measured
    paced: Sequence[Paced]
    zipf_run: Measured
    zipf: ZipfFigures
    bulk: Measured
    hpo: Measured
    ensembl: Measured
    reads: ReadFigures
    entries: EntryFigures
    statements: StatementFigures

    @property
    def runs(self) -> dict[str, Measured]:
        return {
            "first run": self.first,
            **{f"run, read {one.name}": one.measured for one in self.paced},
            "run, genes read": self.zipf_run,
            "hpo and gnomad": self.bulk,
            "hpo alone": self.hpo,
            "ensembl alone": self.ensembl,
        }

    @property
    def readings(self) -> dict[str, Latencies]:
        return {
            **{f"idle, {one.name}": one.idle for one in self.paced},
            **{f"in a run, {one.name}": one.during for one in self.paced},
            **self.reads.readings,
        }

    def problems(self) -> list[str]:
        """What is wrong; how fast something is depends on the machine, and is no problem."""
        found = [
            f"{name}: {problem}"
            for name, measured in self.runs.items()
            for problem in measured.run.problems
        ]
        found += [
            f"gene list, {name}: {seen.failed} of {seen.requests} requests failed"
            for name, seen in self.readings.items()
            if seen.failed
        ]
        return found + self.zipf.problems + self.entries.problems

    def write(self, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        path = folder / RESULT_FILE
        partial = path.with_suffix(".partial")
        content = asdict(self) | {"problems": self.problems()}
        partial.write_bytes(
            orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS) + b"\n"
        )
        partial.replace(path)
        return path
