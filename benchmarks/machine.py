"""The machine that the figures are of, and whether it had anything else to do."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

QUIET_LOAD_MAX = 0.5
GIB = 1024**3


@dataclass(frozen=True)
class Machine:
    cores: int
    memory_gib: float
    python: str
    system: str
    load: float  # The average of the minute before the start.

    @property
    def is_quiet(self) -> bool:
        return self.load <= QUIET_LOAD_MAX

    def line(self) -> str:
        quiet = "" if self.is_quiet else "; machine not quiet: the figures are only indicative"
        return (
            f"{self.cores} cores, {self.memory_gib:.0f} GiB, Python {self.python}, {self.system}, "
            f"load {self.load:.2f} before the start{quiet}"
        )


def look() -> Machine:
    total = next(
        line
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("MemTotal:")
    )
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        memory_gib=int(total.split()[1]) * 1024 / GIB,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()}",
        load=os.getloadavg()[0],
    )
