"""The catalogue of sources: one file each, one line here."""

from collections.abc import Mapping

from services.annotator.domain import Source
from services.annotator.sources.ensembl import Ensembl
from services.annotator.sources.gnomad import Gnomad
from services.annotator.sources.hgnc import Hgnc
from services.annotator.sources.hpo import Hpo

SOURCES: Mapping[str, Source] = {
    source.declaration.name: source for source in (Hgnc(), Hpo(), Gnomad(), Ensembl())
}
