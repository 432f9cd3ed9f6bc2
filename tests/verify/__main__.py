"""`make verify-data`: are the values that come of a folder's upstream files those in the files?"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.resources import MIB
from infra.addresses import KAFKA_BOOTSTRAP, OWNER_URL
from infra.errors import InfraError
from services.cli import signals
from services.cli.errors import CommandFailed
from tests.system import ROOT
from tests.verify import report, system, verifying
from tests.verify.folder import KINDS, File, Folder, recognise

STATE = ROOT / ".annobus"
PREFIX = "verify-"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make verify-data", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with hgnc/, hpo/, …")
    data = parser.parse_args().data
    if named := [name for name in (OWNER_URL, KAFKA_BOOTSTRAP) if os.environ.get(name)]:
        return _fail(f"{' and '.join(named)} must not be set: it has a cluster of its own")
    if not data.is_dir():
        return _fail(f"there is no folder {data}; name one that has {', '.join(KINDS)}: DATA=…")
    folder = recognise(data)
    chosen = system.choose(folder)
    if missing := system.missing(chosen):
        return _fail(f"{data} has not what nothing can be compared without: {', '.join(missing)}")
    STATE.mkdir(exist_ok=True)
    try:
        for left in STATE.glob(f"{PREFIX}*"):
            system.remove(left)  # It was killed here; one that still runs holds its lock.
        work = Path(tempfile.mkdtemp(prefix=PREFIX, dir=STATE))
        try:
            return signals.run(lambda: _verify(folder, chosen, work))
        finally:
            system.remove(work)
    except (InfraError, CommandFailed, system.NotVerifiable) as error:
        return _fail(str(error))


async def _verify(folder: Folder, chosen: Mapping[str, File], work: Path) -> int:
    began = time.monotonic()
    system.arrange(chosen, work / "data")
    seen = await system.see(work, work / "data", chosen, _say)
    _say("reading the files once more, independently")
    checked = await asyncio.to_thread(verifying.check_all, folder, chosen, seen, work)
    for line in report.lines(folder, checked, system.SOURCES):
        print(line)
    for name, usage in seen.usage.items():
        print(f"{name}: {usage.peak_mib * MIB / verifying.MEGABYTE:.0f} MB of memory at most")
    print(f"run of the five sources: {seen.seconds:.0f} s; all: {time.monotonic() - began:.0f} s")
    problems = [
        *report.problems(folder, checked, system.SOURCES),
        *verifying.memory(seen.usage, seen.services),
    ]
    for problem in problems:
        print(f"not as it should be: {problem}")
    print(report.verdict(checked))
    differ = any(one.differences for one in checked)
    return 1 if problems or differ else 0


def _fail(reason: str) -> int:
    print(f"make verify-data: {reason}", file=sys.stderr)
    return 1


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
