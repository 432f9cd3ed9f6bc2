"""Synthetic Ensembl: gene lookups in the true format, made from the id alone and marked as made."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from infra.mirror.files import MADE, Offer

RELEASE: Final = 115
IDS_MAX: Final = 1000
BODY_BYTES_MAX: Final = 256 * 1024
# The plain and the expanded answer of each gene: 100 MB when everything was asked once.
ANSWERS_MAX: Final = 100_000

GENE_ID: Final = re.compile(r"ENSG(\d{11})")
CHROMOSOMES: Final = (*(str(number) for number in range(1, 23)), "X", "Y")
# Shorter than the shortest chromosome, so that every place made up here exists.
CHROMOSOME_BP: Final = 46_000_000
MITOCHONDRION_BP: Final = 16_569
# Sixteen equally likely kinds.
BIOTYPES: Final = (
    *["protein_coding"] * 8,
    *["lncRNA"] * 5,
    *["processed_pseudogene"] * 2,
    "misc_RNA",
)


@dataclass(frozen=True)
class Gene:
    ensembl_id: str
    symbol: str
    name: str
    hgnc_id: str


def genes_of(records: Iterable[Mapping[str, Any]]) -> dict[str, Gene]:
    """By Ensembl id; of two HGNC records with the same id the first one wins."""
    genes: dict[str, Gene] = {}
    for record in records:
        ensembl_id = record.get("ensembl_gene_id", "")
        if GENE_ID.fullmatch(ensembl_id) and ensembl_id not in genes:
            symbol = record["symbol"]
            name = record.get("name", symbol)
            genes[ensembl_id] = Gene(ensembl_id, symbol, name, record["hgnc_id"])
    return genes


def offer(genes: Mapping[str, Gene], catalogue: str) -> Offer:
    return Offer(
        origin=f"made up, for the Ensembl ids of {catalogue}",
        release=str(RELEASE),
        synthetic=True,
        rows=len(genes),
        licence="none: synthetic",
        citation="none: these values are not Ensembl's and must not be cited",
        files={},
        counts={"genes": len(genes)},
    )


class Lookup:
    """The routes of the REST service that the annotator calls."""

    def __init__(self, genes: Mapping[str, Gene]) -> None:
        self._genes = genes
        self._record = lru_cache(ANSWERS_MAX)(self._make_record)

    async def by_ids(self, request: Request) -> Response:
        content = await _read_at_most(request, BODY_BYTES_MAX)
        if content is None:
            return _answer(
                {"error": f"POST message too large. Limit of {BODY_BYTES_MAX} bytes"}, 413
            )
        try:
            body = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            return _answer({"error": f"The POST body is not JSON: {error}"}, 400)
        ids = body.get("ids") if isinstance(body, dict) else None
        if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
            return _answer({"error": "POST body must contain 'ids' key with array of values"}, 400)
        if len(ids) > IDS_MAX:
            found = f"{len(ids)} ids where there is a limit of {IDS_MAX}"
            return _answer({"error": f"POST message too large. {found}"}, 400)
        options = {**body, **request.query_params}
        return Response(
            self.answer(ids, expand=_is_on(options, "expand"), mane=_is_on(options, "mane")),
            headers=MADE,
            media_type="application/json",
        )

    def answer(self, ids: Iterable[str], *, expand: bool, mane: bool) -> bytes:
        """A JSON object by id; an id that nobody knows has the value null."""
        parts = (
            orjson.dumps(one) + b":" + self._record(one, expand, mane) for one in dict.fromkeys(ids)
        )
        return b"{" + b",".join(parts) + b"}"

    async def data_release(self, _request: Request) -> Response:
        return _answer({"releases": [RELEASE], "synthetic": True})

    async def ping(self, _request: Request) -> Response:
        return _answer({"ping": 1})

    def _make_record(self, ensembl_id: str, expand: bool, mane: bool) -> bytes:
        gene = self._genes.get(ensembl_id)
        record = None if gene is None else describe(gene, expand=expand, mane=mane)
        # orjson's bytes keep the buffer they were written to, some 8 KB each: a copy does not.
        return bytes(memoryview(orjson.dumps(record)))


def describe(gene: Gene, *, expand: bool, mane: bool) -> dict[str, Any]:
    """The same on every machine, because every number comes from the digits of the id's hash."""
    seed = blake2b(gene.ensembl_id.encode(), digest_size=32).digest()
    mitochondrial = gene.symbol.startswith("MT-")
    region = "MT" if mitochondrial else CHROMOSOMES[seed[0] % len(CHROMOSOMES)]
    length = 60 + _number(seed, 4, 7) % (1_000 if mitochondrial else 250_000)
    start = 1 + _number(seed, 8, 12) % (
        (MITOCHONDRION_BP if mitochondrial else CHROMOSOME_BP) - length
    )
    shared = {
        "db_type": "core",
        "species": "homo_sapiens",
        "biotype": BIOTYPES[seed[1] % len(BIOTYPES)],
        "logic_name": "ensembl_havana_gene_homo_sapiens",
        "source": "ensembl_havana",
        "assembly_name": "GRCh38",
        "seq_region_name": region,
        "strand": 1 if seed[2] % 2 else -1,
    }
    canonical_id, canonical_version = _transcript_name(gene, seed, 1)
    described: dict[str, Any] = {
        "object_type": "Gene",
        "id": gene.ensembl_id,
        "version": 1 + seed[3] % 20,
        "display_name": gene.symbol,
        "description": f"{gene.name} [Source:HGNC Symbol;Acc:{gene.hgnc_id}]",
        "start": start,
        "end": start + length - 1,
        "canonical_transcript": f"{canonical_id}.{canonical_version}",
        **shared,
    }
    if expand:
        described["Transcript"] = transcripts = [
            _transcript(gene, shared, seed, number=number, start=start, length=length)
            for number in range(1, 2 + seed[4] % 2)
        ]
        if mane and shared["biotype"] == "protein_coding":
            transcripts[0]["MANE"] = [
                {
                    "object_type": "mane",
                    "id": canonical_id,
                    "version": canonical_version,
                    "type": "MANE_Select",
                    "refseq_match": f"NM_9{gene.ensembl_id[-8:]}.{1 + seed[5] % 9}",
                }
            ]
    return described


def _transcript(
    gene: Gene, shared: Mapping[str, Any], seed: bytes, *, number: int, start: int, length: int
) -> dict[str, Any]:
    identifier, version = _transcript_name(gene, seed, number)
    digits = f"9{gene.ensembl_id[-8:]}"
    exon_count = 1 + seed[10 + number] % 4
    # Each exon takes the first half of its share of the gene, so that they never overlap.
    share = length // exon_count
    exons = [
        {
            "object_type": "Exon",
            "id": f"ENSE{digits}{number}{index}",
            "version": 1,
            "start": start + index * share,
            "end": start + index * share + share // 2,
        }
        for index in range(exon_count)
    ]
    transcript: dict[str, Any] = {
        "object_type": "Transcript",
        "id": identifier,
        "version": version,
        "Parent": gene.ensembl_id,
        "display_name": f"{gene.symbol}-20{number}",
        "is_canonical": int(number == 1),
        "gencode_primary": int(number == 1),
        "length": exon_count * (share // 2 + 1),
        "start": start,
        "end": start + (exon_count - 1) * share + share // 2,
        **shared,
        "Exon": exons,
    }
    if shared["biotype"] == "protein_coding":
        transcript["Translation"] = {
            "object_type": "Translation",
            "id": f"ENSP{digits}0{number}",
            "version": 1,
            "length": max(1, transcript["length"] // 3 - 1),
            "start": transcript["start"],
            "end": transcript["end"],
        }
    return transcript


def _transcript_name(gene: Gene, seed: bytes, number: int) -> tuple[str, int]:
    # Ids that begin with a nine are none that Ensembl has given so far.
    return f"ENST9{gene.ensembl_id[-8:]}0{number}", 1 + seed[20 + number] % 9


def refusal(retry_after_seconds: float, headers: Mapping[str, str]) -> Response:
    """What the service says to who asks too often: plain text, and a float where others say 1."""
    return PlainTextResponse(
        "You have exceeded the limit of requests. See the header Retry-After.",
        status_code=429,
        headers={**headers, **MADE, "Retry-After": f"{retry_after_seconds:.3f}"},
    )


def _answer(content: object, status_code: int = 200) -> Response:
    return Response(orjson.dumps(content), status_code, MADE, "application/json")


def _is_on(options: Mapping[str, object], name: str) -> bool:
    return options.get(name) in (1, "1", True)


def _number(seed: bytes, begin: int, end: int) -> int:
    return int.from_bytes(seed[begin:end])


async def _read_at_most(request: Request, bytes_max: int) -> bytes | None:
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > bytes_max:
            return None
    return bytes(content)
