"""Ensembl: where a gene lies on the genome, what kind it is, and its canonical transcript."""

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, Literal, Self

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    computed_field,
    model_validator,
)

from services.annotator.domain import SUMMARY, Answer, Client, Declaration, Gene, Page, Version
from services.annotator.errors import (
    SchemaChanged,
    UpstreamRefused,
    UpstreamTruncated,
    UpstreamUnavailable,
)

LOOKUP: Final = "lookup/id"
RELEASE: Final = "info/data"
PAGE_SIZE: Final = 100  # Ensembl takes 1,000; a page is also what one transaction stores.
# So many ids in a row cannot all be unknown: it is how a failure inside Ensembl looks from here.
UNKNOWN_MAX: Final = 50
INTERNAL_FAILURE: Final = "something bad has happened"
NOT_ASKED: Final = -1

HGNC_ID: Final = re.compile(r"\bAcc:(HGNC:[0-9]+)\]")
PRIMARY_ASSEMBLY: Final = frozenset({*(str(number) for number in range(1, 23)), "X", "Y", "MT"})


class EnsemblGene(BaseModel):
    """A gene on the reference genome; positions are in base pairs from 1, both ends included."""

    model_config = ConfigDict(frozen=True)

    ensembl_gene_id: str = Field(validation_alias="id", description="without version")
    version: int = Field(description="of the gene's model")
    display_name: str | None = Field(None, description="Ensembl's name, not always the symbol")
    biotype: str = Field(description="such as protein_coding or lncRNA", json_schema_extra=SUMMARY)
    assembly: str = Field(validation_alias="assembly_name", description="such as GRCh38")
    chromosome: str = Field(
        validation_alias="seq_region_name",
        description="1–22, X, Y, MT, or the name of an alternative sequence",
        json_schema_extra=SUMMARY,
    )
    start: int = Field(ge=1, json_schema_extra=SUMMARY)
    end: int = Field(json_schema_extra=SUMMARY)
    strand: Literal[1, -1]
    canonical_transcript: str | None = Field(None, description="ENST id with version")
    hgnc_id_in_description: str | None = Field(description="the HGNC id that Ensembl gives it")
    hgnc_id_matches: bool | None = Field(
        description="whether that is the gene asked for; null when Ensembl gives none"
    )

    @computed_field(json_schema_extra=SUMMARY)  # type: ignore[prop-decorator]
    @property
    def length_bp(self) -> int:
        return self.end - self.start + 1

    @computed_field  # type: ignore[prop-decorator]
    @property
    def is_primary_assembly(self) -> bool:
        """False on an alternative sequence such as CHR_HSCHR6_MHC_COX."""
        return self.chromosome in PRIMARY_ASSEMBLY

    @model_validator(mode="after")
    def _ends_after_its_start(self) -> Self:
        if self.start > self.end:
            raise ValueError(f"start {self.start} is after end {self.end}")
        return self


class Ensembl:
    declaration = Declaration(
        name="ensembl",
        title="Ensembl: gene models on GRCh38",
        base_url="https://rest.ensembl.org",
        homepage="https://www.ensembl.org",
        licence="no restrictions on use (EMBL-EBI terms of use)",
        citation="Ensembl 2025; Dyer et al. 2025, doi:10.1093/nar/gkae1071",
        wire_format="REST POST /lookup/id, JSON",
        identifier="ensembl_gene_id",
        joins=("ensembl_gene_id",),
        value=EnsemblGene,
        ttl=timedelta(days=30),  # A release comes about four times a year.
        parser_version=1,
        requests_per_second=10,  # Ensembl shuts out who asks more than 15 for long.
        concurrency=3,
    )
    page_size = PAGE_SIZE

    async def version(self, client: Client) -> Version:
        """The number of the data release; a synthetic one bears that in its name."""
        response = await client.get(RELEASE)
        said = _object(response.url, response.content)
        releases = said.get("releases")
        if not isinstance(releases, list) or not releases:
            raise SchemaChanged(f"{response.url}: releases is {releases!r}; accepted is [number]")
        synthetic = response.synthetic or said.get("synthetic") is True
        return Version(f"{releases[0]}-synthetic" if synthetic else str(releases[0]), synthetic)

    async def fetch(self, client: Client, genes: Sequence[Gene]) -> Page:
        """One answer for each gene; genes that share an Ensembl id have the same one.

        An answer's position is the place of the id in the request, from 0. A gene that has lost
        its Ensembl id since the page was planned is answered without asking.
        """
        ids = list(dict.fromkeys(gene.ensembl_gene_id for gene in genes if gene.ensembl_gene_id))
        if not ids:
            return Page(LOOKUP, b"{}", [Answer(gene.hgnc_id, None, NOT_ASKED) for gene in genes])
        try:
            response = await client.post(LOOKUP, {"ids": ids})
        except UpstreamRefused as error:
            if INTERNAL_FAILURE in str(error):
                raise UpstreamUnavailable(str(error), is_answer=True) from error
            raise
        found = _object(response.url, response.content)
        if absent := [id_ for id_ in ids if id_ not in found]:
            raise UpstreamTruncated(
                f"{response.url} answers {len(ids) - len(absent)} of {len(ids)} ids;"
                f" the first one without an answer is {absent[0]}"
            )
        if len(ids) > UNKNOWN_MAX and not any(found[id_] for id_ in ids):
            raise UpstreamUnavailable(
                f"{response.url} knows none of {len(ids)} ids; expected is one at least"
            )
        positions = {id_: position for position, id_ in enumerate(ids)}
        answers = [_answer(gene, found, positions, response.url) for gene in genes]
        return Page(response.url, response.content, answers)


def _object(url: str, content: bytes) -> dict[str, Any]:
    try:
        said = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise UpstreamTruncated(f"{url}: the answer is no whole JSON: {error}") from error
    if not isinstance(said, dict):
        raise SchemaChanged(f"{url} answers a JSON {type(said).__name__}; accepted is an object")
    return said


def _answer(gene: Gene, found: Mapping[str, Any], positions: Mapping[str, int], url: str) -> Answer:
    id_ = gene.ensembl_gene_id
    if id_ is None:
        return Answer(gene.hgnc_id, None, NOT_ASKED)
    entry = found[id_]
    if entry is None:
        return Answer(gene.hgnc_id, None, positions[id_])
    if not isinstance(entry, dict):
        raise SchemaChanged(f"{url}: {id_} is {entry!r:.80}; accepted is an object or null")
    named = HGNC_ID.search(entry.get("description") or "")
    hgnc_id = named[1] if named else None
    # A gene that Ensembl gives to another HGNC id is what HGNC says it is, until they agree: the
    # value is kept, because "none" would be untrue, and says that they do not.
    told = {
        "hgnc_id_in_description": hgnc_id,
        "hgnc_id_matches": None if hgnc_id is None else hgnc_id == gene.hgnc_id,
    }
    try:
        value = EnsemblGene.model_validate(entry | told)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "start, end"
        raise SchemaChanged(f"{url}: {id_}: {key}: {first['msg']}") from error
    return Answer(gene.hgnc_id, value, positions[id_])
