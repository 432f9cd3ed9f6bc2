"""What can go wrong in the annotator, by what to do next.

PermanentError
├── SchemaChanged           an upstream's file or answer lacks what we read it by
├── ReleaseRefused          a release that cannot be right, or that a person has rejected
├── ReleaseQuarantined      a release that is not like those before it: a person has to decide
├── UpstreamRefused         400 or another 4xx: our request is wrong
├── UpstreamOversized       more bytes than the source can have, packed or not
├── UpstreamBlocked         403 without a time to come back: a person has to look
├── SourceUnknown           a command names a source that was never declared
├── SourceRetired           a run asks for a source that was removed since
├── RunUnknown              a control of a run that was never noted
├── CatalogueEmpty          a run over all genes, and there are none
├── RawStoreRefused         the raw store's settings name no place where files may be kept
├── GenesWithdrawn          no gene of a run is approved any more
└── AttemptsUsedUp          the last attempt at a batch ended with its worker
TransientError
├── UpstreamUnavailable     no answer, a 5xx, too slow, or HTML in place of data
├── UpstreamTruncated       fewer bytes or entries than announced
├── RateLimited             429, or what says as much; carries when to come back
├── UpstreamShut            not asked at all for a while: 429, or its breaker is open
├── ReleaseMissing          a release's staged rows are gone: it is staged again
├── RawStoreUnavailable     the place of the raw files does not answer as it should
├── StagingCrowded          others were read all the time: the release waits for room
├── StagingFailed           the child process that reads a release ended without a result
├── StoreIncomplete         a store did not account for every value that it was offered
├── BatchHeld               its run, or its source in it, is paused
├── BatchCancelled          its run, or its source in it, is cancelled
└── LeaseLost               another worker has the batch
"""

from uuid import UUID

from services.chassis.errors import PermanentError, Problem, TransientError


class SchemaChanged(PermanentError):
    """The upstream's data has another form than the one we read."""

    kind = "schema-changed"


class ReleaseRefused(PermanentError):
    """The upstream's release cannot be right."""

    kind = "release-refused"


class ReleaseQuarantined(PermanentError):
    """The upstream's release waits until a person accepts or rejects it."""

    kind = "release-quarantined"


class UpstreamRefused(PermanentError):
    """The upstream refuses our request."""

    kind = "upstream-refused"


class UpstreamOversized(PermanentError):
    """The upstream's answer is larger than it can be."""

    kind = "upstream-oversized"


class UpstreamBlocked(PermanentError):
    """The upstream shuts us out."""

    kind = "upstream-blocked"


class SourceUnknown(PermanentError):
    """No such source."""

    kind = "source-unknown"


class SourceRetired(PermanentError):
    """A source that is no longer asked."""

    kind = "source-retired"


class RunUnknown(PermanentError):
    """No such run."""

    kind = "run-unknown"


class CatalogueEmpty(PermanentError):
    """The gene catalogue is empty."""

    kind = "catalogue-empty"


class GenesWithdrawn(PermanentError):
    """The genes are not approved any more."""

    kind = "genes-withdrawn"


class RawStoreRefused(PermanentError):
    """The raw store cannot be where the settings say."""

    kind = "raw-store-refused"


class AttemptsUsedUp(PermanentError):
    """The worker died each time it tried."""

    kind = "attempts-used-up"


class UpstreamUnavailable(TransientError):
    """The upstream does not answer as it should. `is_answer` when it says itself that it failed."""

    kind = "upstream-unavailable"

    def __init__(self, detail: str, *, is_answer: bool = False) -> None:
        super().__init__(detail)
        self.is_answer = is_answer


class UpstreamTruncated(TransientError):
    """The upstream's answer is shorter than announced."""

    kind = "upstream-truncated"


class RateLimited(TransientError):
    """The upstream asks us to slow down."""

    kind = "rate-limited"

    def __init__(
        self, detail: str, retry_after_seconds: float | None, reason: str | None = None
    ) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds
        # In few words, for whoever waits.
        self.reason = reason or (
            "429" if retry_after_seconds is None else f"429, Retry-After {retry_after_seconds:g} s"
        )

    def problem(self) -> Problem:
        if self.retry_after_seconds is None:
            return super().problem()
        return super().problem() | {"retry_after_seconds": int(self.retry_after_seconds)}


class UpstreamShut(TransientError):
    """The upstream is left alone for a while."""

    kind = "upstream-shut"

    def __init__(self, detail: str, seconds: float) -> None:
        super().__init__(detail)
        self.seconds = seconds


class ReleaseMissing(TransientError):
    """The staged rows of a release are gone, as after a database crash."""

    kind = "release-missing"


class RawStoreUnavailable(TransientError):
    """The raw store does not answer as it should."""

    kind = "raw-store-unavailable"


class StagingCrowded(TransientError):
    """There was no room to read the release."""

    kind = "staging-crowded"


class StagingFailed(TransientError):
    """The child process that reads a release ended without a result."""

    kind = "staging-failed"


class StoreIncomplete(TransientError):
    """A store that did not account for every value it was offered."""

    kind = "store-incomplete"


class BatchHeld(TransientError):
    """The run of the batch is paused: it is given back where it is."""

    kind = "batch-held"


class BatchCancelled(TransientError):
    """The run of the batch is cancelled: nothing more of it is done."""

    kind = "batch-cancelled"


class LeaseLost(TransientError):
    """Another worker has claimed the batch since."""

    kind = "lease-lost"

    def __init__(self, batch_id: UUID, lease_token: int) -> None:
        super().__init__(f"batch {batch_id} is not leased under token {lease_token} any more")
