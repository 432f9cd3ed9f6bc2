"""Gene documents, genes to rebuild, namespaces."""

from pathlib import Path

from services.chassis.migrations import OUTBOX, run_script

revision = "cache_0001"
down_revision = None


def upgrade() -> None:
    run_script(OUTBOX)
    run_script(Path(__file__).with_suffix(".sql"))
