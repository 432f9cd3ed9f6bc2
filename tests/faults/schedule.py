"""How much of the matrix is dealt: which seeds, and how long what is frozen stays so."""

import os

SEEDS = "ANNOBUS_FAULT_SEEDS"
FROZEN = "ANNOBUS_FAULT_FROZEN_SECONDS"


def seeds() -> tuple[int, ...]:
    return tuple(int(seed) for seed in os.environ.get(SEEDS, "1,2,3").split(","))


def frozen_seconds() -> float:
    return float(os.environ.get(FROZEN, "3"))
