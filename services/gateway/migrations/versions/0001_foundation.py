"""Runs as users asked for them, and idempotency keys."""

from pathlib import Path

from services.chassis.migrations import OUTBOX, run_script

revision = "gateway_0001"
down_revision = None


def upgrade() -> None:
    run_script(OUTBOX)
    run_script(Path(__file__).with_suffix(".sql"))
