"""Where a test may stop an annotator: each point is named by what has just been done."""

from enum import StrEnum


class Failpoint(StrEnum):
    RUN_WRITTEN = "run_written"  # The ordered run, not committed.
    RUN_NOTED = "run_noted"  # Committed; the command is not acknowledged.
    PLAN_WRITTEN = "plan_written"  # A run's plan, not committed.
    PLAN_COMMITTED = "plan_committed"  # No hint is announced yet.
    HINTS_WRITTEN = "hints_written"  # Batches are queued, not committed.
    HINTS_COMMITTED = "hints_committed"  # The planner is about to sleep.
    BATCH_CLAIMED = "batch_claimed"  # The lease is committed, nothing is done.
    ANSWER_BEGUN = "answer_begun"  # An upstream is in the middle of its answer.
    PAGE_FETCHED = "page_fetched"  # An API's answer is in memory alone.
    PAGE_WRITTEN = "page_written"  # Values, counters and facts, not committed.
    PAGE_COMMITTED = "page_committed"  # Nobody is told yet.
    RELEASE_FETCHED = "release_fetched"  # Files are in the raw store, no row names them.
    STAGING_BEGUN = "staging_begun"  # The child reads a release, its parent waits.
    ROWS_COPIED = "rows_copied"  # In the child: the staged rows, not committed.
    RELEASE_STAGED = "release_staged"  # Committed by the child, which has ended.
    ACCEPTANCE_WRITTEN = "acceptance_written"  # The release and its slices, not committed.
    SLICE_WRITTEN = "slice_written"  # A slice of a release, not committed.
    COMPLETION_WRITTEN = "completion_written"  # The store that ends the run, not committed.
    BATCH_LEFT = "batch_left"  # Done or given back, and committed; not acknowledged.
