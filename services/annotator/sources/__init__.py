"""The catalogue of sources: one file each, one line here."""

from collections.abc import Mapping

from services.annotator.domain import Declaration, Source, fallback
from services.annotator.sources.clingen import Clingen
from services.annotator.sources.clinvar import Clinvar
from services.annotator.sources.ensembl import Ensembl
from services.annotator.sources.gnomad import Gnomad
from services.annotator.sources.gnomad_api import GnomadApi
from services.annotator.sources.hgnc import Hgnc
from services.annotator.sources.hpo import Hpo

SOURCES: Mapping[str, Source] = {
    source.declaration.name: source
    for source in (
        Hgnc(),
        Hpo(),
        Gnomad(fallback=GnomadApi()),
        Ensembl(),
        Clingen(),
        Clinvar(),
    )
}
# Whom we may call: the upstream of each source, and those that stand in for one.
UPSTREAMS: Mapping[str, Declaration] = {
    one.declaration.name: one.declaration
    for source in SOURCES.values()
    for one in (source, fallback(source))
    if one is not None
}
