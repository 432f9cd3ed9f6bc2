"""What a client of the gateway can get wrong.

RequestError
├── ParameterUnknown        400  a query parameter that this address does not have
├── ParameterInvalid        400  a query parameter or a header whose value does not fit
├── RunUnknown              404
├── RunEnded                409  a control of a run, or of a source of it, that has ended
├── RunNotFailed            409  a retry of what has not failed
├── RunIdentical            409  an order for what another run is fetching just now
├── RunUnfinished           409  a run whose end is asked for while it goes on, or too soon after it
├── GeneUnknown             404
├── GeneNotBuilt            404  the catalogue has the gene, its document is not built yet
├── GeneAmbiguous           409  a name that several genes bear
├── GeneWithdrawn           410  and nothing succeeded it
├── SourceUnknown           404  a source in the path
├── ReleaseUnknown          404
├── ReleaseNotQuarantined   409  a decision about a release that waits for none
├── ReleaseSuperseded       409  an acceptance of a release that is older than what readers have
├── SourceRetired           409  an acceptance of a release that nobody can store any more
├── AnnotationUnknown       404  the origin of a value that there is not
├── NamespaceUnknown        404
├── NamespaceNotWarmable    409  a namespace of which nobody knows what will be asked for
├── DeadLetterUnknown       404
├── DeadLetterDecided       409  another decision about a letter that somebody has decided about
├── DeadLetterUnsendable    409  a retry of what there is nothing to send of, or nowhere to send it
├── PanelUnknown            404  a panel, or a version of one
├── PanelNameTaken          409  another panel that is not archived has the name
├── PanelChanged            409  a version that is not made from the newest one
├── PanelArchived           409  a change of a panel that is archived, or a run over it
├── CatalogueEmpty          409  genes are named before there is a catalogue to find them in
├── MediaUnknown            415  an upload that is no kind of list
├── UploadUnreadable        422  an upload that cannot be read, or not as a list of genes
├── PanelInvalid            422  a panel, or a version of one, with other fields or none of them
├── PanelRefused            422  names on the list of a panel; `errors` has an entry for each
├── BodyUnexpected          422  a body where the path says it all
├── DecisionInvalid         422  a decision with other fields, or about no letter in particular
├── InvalidationInvalid     422  parts of a namespace that there cannot be
├── WarmingInvalid          422  a warming with other fields
├── NamesInvalid            422  a list of names with other fields
├── OrderInvalid            422  an order that contradicts itself
├── RetryInvalid            422  a retry with other fields
├── SourcesRefused          422  sources of an order; `errors` has an entry for each
├── GenesRefused            422  genes of an order; `errors` has an entry for each
├── IdempotencyMismatch     422  the same key with another order
├── ExportFailed            500  the process that writes a file has failed
├── ExportsCrowded          503  as many files are being written here as may be
├── StreamsCrowded          503  as many streams of changes are open here as may be
└── UploadsCrowded          503  an upload while others are read
"""

from uuid import UUID

from services.chassis.errors import RequestError, field_error


class ParameterUnknown(RequestError):
    """An unknown query parameter."""

    kind = "parameter-unknown"
    status = 400


class ParameterInvalid(RequestError):
    """A parameter does not fit."""

    kind = "parameter-invalid"
    status = 400


class RunUnknown(RequestError):
    """No such run."""

    kind = "run-unknown"
    status = 404

    def __init__(self, run_id: UUID | str) -> None:
        error = field_error("path run_id", str(run_id), "the id of a run that GET /api/runs lists")
        super().__init__(f"no run {error['value']!r}; GET /api/runs lists those there are", [error])


class RunEnded(RequestError):
    """The run cannot be controlled any more."""

    kind = "run-ended"
    status = 409


class RunNotFailed(RequestError):
    """Nothing of the run has failed."""

    kind = "run-not-failed"
    status = 409


class RunIdentical(RequestError):
    """Another run fetches the same."""

    kind = "run-identical"
    status = 409


class RunUnfinished(RequestError):
    """The run has not ended."""

    kind = "run-unfinished"
    status = 409


class GeneUnknown(RequestError):
    """No such gene."""

    kind = "gene-unknown"
    status = 404


class GeneNotBuilt(RequestError):
    """The gene's document is not built yet."""

    kind = "gene-not-built"
    status = 404


class GeneAmbiguous(RequestError):
    """Several genes bear this name."""

    kind = "gene-ambiguous"
    status = 409


class GeneWithdrawn(RequestError):
    """The gene is withdrawn."""

    kind = "gene-withdrawn"
    status = 410


class SourceUnknown(RequestError):
    """No such source."""

    kind = "source-unknown"
    status = 404


class ReleaseUnknown(RequestError):
    """No such release of this source."""

    kind = "release-unknown"
    status = 404

    def __init__(self, source: str, release_id: str) -> None:
        address = f"/api/sources/{source}/releases"
        accepted = f"the id of a release that GET {address} lists"
        error = field_error("path release_id", release_id, accepted)
        super().__init__(
            f"no release {error['value']!r} of {source}; GET {address} lists those there are",
            [error],
        )


class ReleaseNotQuarantined(RequestError):
    """The release waits for no decision."""

    kind = "release-not-quarantined"
    status = 409


class ReleaseSuperseded(RequestError):
    """Readers have a newer release."""

    kind = "release-superseded"
    status = 409


class SourceRetired(RequestError):
    """The source is retired."""

    kind = "source-retired"
    status = 409


class AnnotationUnknown(RequestError):
    """The source has no value of this gene."""

    kind = "annotation-unknown"
    status = 404


class NamespaceUnknown(RequestError):
    """No such namespace."""

    kind = "namespace-unknown"
    status = 404


class NamespaceNotWarmable(RequestError):
    """There is nothing to warm in this namespace."""

    kind = "namespace-not-warmable"
    status = 409


class DeadLetterUnknown(RequestError):
    """No such dead letter."""

    kind = "dead-letter-unknown"
    status = 404

    def __init__(self, letter_id: str) -> None:
        accepted = "the id of a letter that GET /api/dead-letters lists"
        error = field_error("path letter_id", letter_id, accepted)
        super().__init__(f"no dead letter {error['value']!r}; accepted: {accepted}", [error])


class DeadLetterDecided(RequestError):
    """Somebody has decided about the dead letter."""

    kind = "dead-letter-decided"
    status = 409


class DeadLetterUnsendable(RequestError):
    """The dead letter cannot be retried."""

    kind = "dead-letter-unsendable"
    status = 409


class PanelUnknown(RequestError):
    """No such panel."""

    kind = "panel-unknown"
    status = 404

    def __init__(self, panel: str, pointer: str = "path panel_id") -> None:
        accepted = "the id of a panel that GET /api/panels lists, with a version that it has"
        error = field_error(pointer, panel, accepted)
        super().__init__(f"no panel {error['value']!r}; accepted: {accepted}", [error])


class PanelNameTaken(RequestError):
    """Another panel has this name."""

    kind = "panel-name-taken"
    status = 409


class PanelChanged(RequestError):
    """The panel has a newer version."""

    kind = "panel-changed"
    status = 409


class PanelArchived(RequestError):
    """The panel is archived."""

    kind = "panel-archived"
    status = 409


class MediaUnknown(RequestError):
    """The upload is of a kind that is not read."""

    kind = "media-unknown"
    status = 415


class UploadUnreadable(RequestError):
    """The upload cannot be read."""

    kind = "upload-unreadable"
    status = 422


class PanelInvalid(RequestError):
    """The panel does not fit."""

    kind = "panel-invalid"
    status = 422


class PanelRefused(RequestError):
    """Genes of the panel cannot be resolved."""

    kind = "panel-refused"
    status = 422


class UploadsCrowded(RequestError):
    """Other uploads are read just now."""

    kind = "uploads-crowded"
    status = 503


class CatalogueEmpty(RequestError):
    """The gene catalogue is empty."""

    kind = "catalogue-empty"
    status = 409

    def __init__(self) -> None:
        super().__init__(
            "genes cannot be found by name before the catalogue is loaded: "
            "start a run over all genes first (all: true, or POST /api/progress/trigger/hgnc)"
        )


class BodyUnexpected(RequestError):
    """This request has no body."""

    kind = "body-unexpected"
    status = 422


class DecisionInvalid(RequestError):
    """The decision does not fit."""

    kind = "decision-invalid"
    status = 422


class InvalidationInvalid(RequestError):
    """The parts to forget do not fit."""

    kind = "invalidation-invalid"
    status = 422


class WarmingInvalid(RequestError):
    """The warming has other fields."""

    kind = "warming-invalid"
    status = 422


class NamesInvalid(RequestError):
    """The list of names does not fit."""

    kind = "names-invalid"
    status = 422


class OrderInvalid(RequestError):
    """The order contradicts itself."""

    kind = "order-invalid"
    status = 422


class RetryInvalid(RequestError):
    """The retry has other fields."""

    kind = "retry-invalid"
    status = 422


class SourcesRefused(RequestError):
    """Sources of the order cannot be asked."""

    kind = "sources-refused"
    status = 422


class GenesRefused(RequestError):
    """Genes of the order cannot be resolved."""

    kind = "genes-refused"
    status = 422


class IdempotencyMismatch(RequestError):
    """The idempotency key belongs to another order."""

    kind = "idempotency-mismatch"
    status = 422


class ExportFailed(RequestError):
    """The file could not be written."""

    kind = "export-failed"
    status = 500


class ExportsCrowded(RequestError):
    """Too many files are being written."""

    kind = "exports-crowded"
    status = 503


class StreamsCrowded(RequestError):
    """Too many streams are open."""

    kind = "streams-crowded"
    status = 503
