"""The gene catalogue, sources, releases, runs, batches and versioned annotations."""

from pathlib import Path

from services.chassis.migrations import OUTBOX, run_script

revision = "annotator_0001"
down_revision = None


def upgrade() -> None:
    run_script(OUTBOX)
    run_script(Path(__file__).with_suffix(".sql"))
