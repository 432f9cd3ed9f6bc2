"""Where a test may stop a cache: each point is named by what has just been done."""

from enum import StrEnum


class Failpoint(StrEnum):
    MARKS_WRITTEN = "marks_written"  # Genes to rebuild, not committed.
    MARKS_COMMITTED = "marks_committed"  # The message is not acknowledged.
    EPOCH_WRITTEN = "epoch_written"  # A namespace is invalidated, not committed.
    EPOCH_COMMITTED = "epoch_committed"  # The command is not acknowledged.
    DOCUMENTS_WRITTEN = "documents_written"  # Rebuilt, not committed.
    DOCUMENTS_COMMITTED = "documents_committed"  # Nobody is told yet.
