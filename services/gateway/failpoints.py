"""Where a test may stop a gateway: each point is named by what has just been done."""

from enum import StrEnum


class Failpoint(StrEnum):
    ORDER_WRITTEN = "order_written"  # Run, key and command, not committed.
    ORDER_COMMITTED = "order_committed"  # Nobody is answered yet.
    PROGRESS_HEARD = "progress_heard"  # A snapshot has come, no frame is made of it.
    FACT_HEARD = "fact_heard"  # A fact is known to be there, its row is not read.
    FRAMES_MADE = "frames_made"  # For all sockets of a run; none has sent them.
    DOCUMENTS_HEARD = "documents_heard"  # Documents have changed, the old ones are remembered.
