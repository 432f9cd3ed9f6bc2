"""What a subscription remembers between two messages: how often it tried, and how much it parks.

Where almost everything is parked, it is the reader that is at fault, or whoever writes: then the
messages are better off in their topic than in the table of dead letters.
"""

import time
from collections import deque
from collections.abc import Sequence

import structlog

from services.chassis import telemetry

log = structlog.get_logger()

IN_A_ROW_MAX = 20  # Messages parked one behind the other, before the subscriber is held.
LAST_COUNT = 50  # Messages of which the share is taken.
SHARE_MAX = 0.9  # Of them parked, before it is held.
PROBE_SECONDS = 60.0  # Who is held takes one message in so long.


class Parking:
    """Of all members of one group that read one topic in this process."""

    def __init__(self, topic: str, group: str, probe_seconds: float = PROBE_SECONDS) -> None:
        self.topic = topic
        self.group = group
        self._probe_seconds = probe_seconds
        self._attempts: dict[int, tuple[int, int]] = {}  # By partition: an offset, and how many.
        self._in_a_row = 0
        self._last = deque[bool](maxlen=LAST_COUNT)  # Parked, or handled.
        self._reason: str | None = None  # Why it is held.
        self._probe_at = 0.0

    def count_attempt(self, partition: int, offset: int) -> int:
        """How often this message has been taken up here, this time included."""
        before, count = self._attempts.get(partition, (offset, 0))
        count = count + 1 if before == offset else 1
        self._attempts[partition] = (offset, count)
        return count

    def wait_seconds(self) -> float:
        """How long messages are left alone. 0: one may be taken now, and must be reported by one of
        the three below; of who is held, it is the probe, and the next has to wait."""
        if self._reason is None:
            return 0.0
        now = time.monotonic()
        if now < self._probe_at:
            return self._probe_at - now
        self._probe_at = now + self._probe_seconds
        return 0.0

    def note_handled(self) -> None:
        self._note(is_parked=False)
        if self._reason is not None:
            log.info("subscriber_released", topic=self.topic, group=self.group)
            telemetry.SUBSCRIBERS_HELD.labels(self.topic, self._reason).set(0)
            self._reason = None
            self._last.clear()  # Or it would be held again by what it parked before.

    def note_parked(self) -> None:
        self._note(is_parked=True)
        if self._reason is not None:
            return
        if self._in_a_row >= IN_A_ROW_MAX:
            self._hold("in_a_row")
        elif len(self._last) == LAST_COUNT and sum(self._last) >= SHARE_MAX * LAST_COUNT:
            self._hold("share")

    def note_nothing(self) -> None:
        """The message was for others, or is tried again: it tells nothing, and was no probe."""
        self._probe_at = 0.0

    def problems(self) -> Sequence[str]:
        """What readiness says."""
        if self._reason is None:
            return []
        what = {
            "in_a_row": f"{IN_A_ROW_MAX} messages in a row were parked",
            "share": f"at least {SHARE_MAX:.0%} of the last {LAST_COUNT} messages were parked",
        }[self._reason]
        which = f"the subscriber of {self.topic} (group {self.group})"
        return [f"{which} is held: {what}; it takes one in {self._probe_seconds:g} s"]

    def _note(self, *, is_parked: bool) -> None:
        self._in_a_row = self._in_a_row + 1 if is_parked else 0
        self._last.append(is_parked)

    def _hold(self, reason: str) -> None:
        self._reason = reason
        self._probe_at = time.monotonic() + self._probe_seconds
        telemetry.SUBSCRIBERS_HELD.labels(self.topic, reason).set(1)
        log.error("subscriber_held", topic=self.topic, group=self.group, reason=reason)
