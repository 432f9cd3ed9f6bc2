"""gnomAD, gene by gene: its GraphQL service, asked for a few genes while its table is away."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import orjson
from pydantic import ValidationError

from services.annotator.domain import Answer, Client, Gene, Page, Response, TooMany, Version
from services.annotator.errors import (
    SchemaChanged,
    UpstreamTruncated,
    UpstreamUnavailable,
)
from services.annotator.sources.gnomad import RELEASES, Assembly, Gnomad, GnomadGene

PATH: Final = "api"
PAGE_SIZE: Final = 20  # A query may cost 25, and each gene costs one.
NOT_ASKED: Final = -1
NOT_FOUND: Final = "Gene not found"
TOO_MANY: Final = "Query rate limit exceeded"  # With any status, and without Retry-After.
PAUSE_SECONDS: Final = 60.0

# The service says of itself which genome it is asked about, and not which release that gives.
SERVED: Final[Mapping[Assembly, str]] = {"GRCh37": "v2.1.1", "GRCh38": "v4"}
# For each field of the value, the service's.
CONSTRAINT: Final[Mapping[str, str]] = {
    "pli": "pli",
    "loeuf": "oe_lof_upper",
    "oe_lof": "oe_lof",
    "oe_lof_lower": "oe_lof_lower",
    "obs_lof": "obs_lof",
    "exp_lof": "exp_lof",
    "lof_z": "lof_z",
    **{
        name: name
        for kind in ("mis", "syn")
        for name in (
            *(f"obs_{kind}", f"exp_{kind}", f"{kind}_z"),
            *(f"oe_{kind}", f"oe_{kind}_lower", f"oe_{kind}_upper"),
        )
    },
    "constraint_flags": "flags",
}


class GnomadApi:
    """Knows neither transcript nor decile, and of GRCh38 no threshold: it does not say whether
    that is v4.0, v4.1 or v4.1.1."""

    declaration = replace(
        Gnomad.declaration,
        name="gnomad_api",
        title="gnomAD: constraint of genes, gene by gene",
        base_url="https://gnomad.broadinstitute.org",
        requests_per_second=1 / 7,  # Ten in a minute are allowed.
    )
    page_size = PAGE_SIZE

    def __init__(self, assembly: Assembly = "GRCh38") -> None:
        self._assembly = assembly
        thresholds = {one.threshold for one in RELEASES.values() if one.assembly == assembly}
        self._threshold = thresholds.pop() if len(thresholds) == 1 else None

    async def version(self, client: Client) -> Version:
        response, _ = await _ask(client, {"query": "{__typename}"})
        name = f"{SERVED[self._assembly]} by GraphQL"
        return Version(f"{name}-synthetic" if response.synthetic else name, response.synthetic)

    async def fetch(self, client: Client, genes: Sequence[Gene]) -> Page:
        """One answer for each gene; its position is the place of its id in the request, from 0."""
        ids = list(dict.fromkeys(gene.ensembl_gene_id for gene in genes if gene.ensembl_gene_id))
        if not ids:
            return Page(PATH, b"{}", [Answer(gene.hgnc_id, None, NOT_ASKED) for gene in genes])
        names = {id_: f"g{place}" for place, id_ in enumerate(ids)}
        response, found = await _ask(client, self._query(names))
        if absent := [id_ for id_, name in names.items() if name not in found]:
            raise UpstreamTruncated(f"{response.url} has no answer for {absent[0]}")
        values = {id_: self._value(response.url, id_, found[name]) for id_, name in names.items()}
        answers = [
            Answer(gene.hgnc_id, values[gene.ensembl_gene_id], ids.index(gene.ensembl_gene_id))
            if gene.ensembl_gene_id
            else Answer(gene.hgnc_id, None, NOT_ASKED)
            for gene in genes
        ]
        return Page(response.url, response.content, answers)

    def _query(self, names: Mapping[str, str]) -> Mapping[str, object]:
        """All genes in one query, each under a name of its own."""
        variables = ", ".join(f"${name}: String!" for name in names.values())
        fields = f"gene_id symbol gnomad_constraint {{ {' '.join(CONSTRAINT.values())} }}"
        genes = "\n".join(
            f"{name}: gene(gene_id: ${name}, reference_genome: {self._assembly}) {{ {fields} }}"
            for name in names.values()
        )
        return {
            "query": f"query({variables}) {{\n{genes}\n}}",
            "variables": {name: id_ for id_, name in names.items()},
        }

    def _value(self, url: str, id_: str, gene: Mapping[str, Any] | None) -> GnomadGene | None:
        """None for a gene that gnomAD does not know, or has no constraint of."""
        if gene is None:
            return None
        try:
            if gene["gene_id"] != id_:
                raise SchemaChanged(f"{url}: asked for {id_}, it answers {gene['gene_id']!r:.40}")
            said = gene["gnomad_constraint"]
            if said is None:
                return None
            fields = {field: said[name] for field, name in CONSTRAINT.items()}
            loeuf, threshold = fields["loeuf"], self._threshold
            return GnomadGene(
                **fields,
                ensembl_gene_id=id_,
                symbol=gene["symbol"],
                matched_by="ensembl_gene_id",
                assembly=self._assembly,
                loeuf_threshold=threshold,
                is_constrained=None if loeuf is None or threshold is None else loeuf < threshold,
            )
        except (KeyError, TypeError) as error:
            raise SchemaChanged(f"{url}: {id_} lacks {error}: {gene!r:.80}") from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"])
            raise SchemaChanged(f"{url}: {id_}: {key}: {first['msg']}") from error


def too_many(content: bytes) -> TooMany | None:
    """Whether an answer, or the start of one, says that we ask too often."""
    try:
        said = orjson.loads(content)
    except orjson.JSONDecodeError:
        messages = [content.decode(errors="replace")]
    else:
        messages = _messages(said)
    limits = [message for message in messages if TOO_MANY in message]
    return TooMany(limits[0], PAUSE_SECONDS) if limits else None


async def _ask(client: Client, query: Mapping[str, object]) -> tuple[Response, Mapping[str, Any]]:
    """The answer and its data. Failures come with status 200 too, so they are looked at first."""
    response = await client.post(PATH, query, too_many)
    try:
        said = orjson.loads(response.content)
    except orjson.JSONDecodeError as error:
        raise UpstreamTruncated(f"{response.url}: the answer is no whole JSON: {error}") from error
    data = said.get("data") if isinstance(said, dict) else None
    found = data if isinstance(data, dict) else {}
    messages = _messages(said)
    unknown = [message for message in messages if message == NOT_FOUND]
    # The service does not always say which gene an error is of: there must be one for each null.
    if len(unknown) < len(messages) or len(unknown) != sum(one is None for one in found.values()):
        raise UpstreamUnavailable(f"{response.url}: {messages}, data {data!r:.200}")
    if not found:
        raise SchemaChanged(f"{response.url}: accepted is an object with data: {said!r:.200}")
    return response, found


def _messages(said: object) -> list[str]:
    errors = said.get("errors") if isinstance(said, dict) else None
    return [str(one.get("message") if isinstance(one, dict) else one) for one in errors or []]
