"""`make faults`: the kill matrix by fresh seeds, or by those that are named, with long freezes."""

import os
import random
import sys

import pytest

from tests.faults import schedule

SEEDS_COUNT = 4
FROZEN_SECONDS = 14.0


def main(named: str) -> int:
    if named and not all(seed.isdecimal() for seed in named.split(",")):
        sys.exit(f"make faults: SEEDS={named} is not accepted; numbers are, such as SEEDS=17,4")
    seeds = named or ",".join(str(random.randrange(10_000)) for _ in range(SEEDS_COUNT))
    print(f"make faults SEEDS={seeds}", flush=True)  # noqa: T201  # To repeat it.
    os.environ.setdefault(schedule.FROZEN, str(FROZEN_SECONDS))
    os.environ[schedule.SEEDS] = seeds
    return pytest.main(["tests/faults", "--numprocesses", "2", "--dist", "loadfile"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
