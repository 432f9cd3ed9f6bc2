"""Ensembl's answers, read into one answer for each gene."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from services.annotator.domain import Answer, Gene, Response, Version
from services.annotator.errors import (
    SchemaChanged,
    UpstreamRefused,
    UpstreamTruncated,
    UpstreamUnavailable,
)
from services.annotator.sources.ensembl import UNKNOWN_MAX, Ensembl, EnsemblGene

UPSTREAM_DATA = Path(__file__).parents[5] / "shared" / "data" / "api_recorded" / "ensembl"
ENTRY: dict[str, Any] = {
    "object_type": "Gene",
    "db_type": "core",
    "species": "homo_sapiens",
    "id": "ENSG00000900001",
    "version": 15,
    "display_name": "TSTA1",
    "description": "test alpha 1 [Source:HGNC Symbol;Acc:HGNC:900001]",
    "biotype": "protein_coding",
    "logic_name": "ensembl_havana_gene_homo_sapiens",
    "source": "ensembl_havana",
    "assembly_name": "GRCh38",
    "seq_region_name": "7",
    "start": 1001,
    "end": 3000,
    "strand": -1,
    "canonical_transcript": "ENST00000900001.2",
}
A1 = Gene("HGNC:900001", "TSTA1", None, "ENSG00000900001")
B1 = Gene("HGNC:900002", "TSTB1", None, "ENSG00000900002")


@dataclass
class Recorded:
    """A client with one recorded answer, and what it was asked."""

    answer: object
    synthetic: bool = False
    asked: list[tuple[str, object]] = field(default_factory=list)

    async def get(self, path: str) -> Response:
        return await self.post(path, None)

    async def post(self, path: str, body: object, refusal: object = None) -> Response:
        assert refusal is None
        self.asked.append((path, body))
        if isinstance(self.answer, Exception):
            raise self.answer
        content = self.answer if isinstance(self.answer, bytes) else orjson.dumps(self.answer)
        return Response(f"https://ensembl.example/{path}", content, self.synthetic)


async def answers_to(found: object, *genes: Gene) -> list[Answer]:
    return list((await Ensembl().fetch(Recorded(found), genes)).answers)


def value(answer: Answer) -> EnsemblGene:
    assert isinstance(answer.value, EnsemblGene)
    return answer.value


async def test_a_gene_is_read_field_by_field() -> None:
    (answer,) = await answers_to({"ENSG00000900001": ENTRY}, A1)
    assert (answer.hgnc_id, answer.position) == ("HGNC:900001", 0)
    assert value(answer).model_dump() == {
        "ensembl_gene_id": "ENSG00000900001",
        "version": 15,
        "display_name": "TSTA1",
        "biotype": "protein_coding",
        "assembly": "GRCh38",
        "chromosome": "7",
        "start": 1001,
        "end": 3000,
        "strand": -1,
        "length_bp": 2000,
        "is_primary_assembly": True,
        "canonical_transcript": "ENST00000900001.2",
        "hgnc_id_in_description": "HGNC:900001",
        "hgnc_id_matches": True,
    }


async def test_the_page_keeps_what_was_asked_and_answered_byte_for_byte() -> None:
    client = Recorded({"ENSG00000900002": None, "ENSG00000900001": ENTRY})
    page = await Ensembl().fetch(client, [A1, B1])
    ids = ["ENSG00000900001", "ENSG00000900002"]
    assert client.asked == [("lookup/id", {"ids": ids})]
    assert page.url == "https://ensembl.example/lookup/id"
    assert page.content == orjson.dumps(client.answer)


async def test_an_unknown_id_is_answered_with_no_value_at_its_place_in_the_request() -> None:
    found = {"ENSG00000900002": None, "ENSG00000900001": ENTRY}
    known, unknown = await answers_to(found, A1, B1)
    assert (known.position, known.value is None) == (0, False)
    assert unknown == Answer("HGNC:900002", None, 1)


async def test_an_id_without_an_answer_is_no_unknown_one() -> None:
    with pytest.raises(UpstreamTruncated, match=r"1 of 2 ids.*ENSG00000900002"):
        await answers_to({"ENSG00000900001": ENTRY}, A1, B1)


async def test_genes_that_share_an_id_have_the_same_place_and_only_one_of_them_matches() -> None:
    twin = Gene("HGNC:900009", "TSTA9", None, "ENSG00000900001")
    client = Recorded({"ENSG00000900001": ENTRY})
    page = await Ensembl().fetch(client, [A1, twin])
    assert client.asked == [("lookup/id", {"ids": ["ENSG00000900001"]})]
    assert [answer.hgnc_id for answer in page.answers] == ["HGNC:900001", "HGNC:900009"]
    assert [answer.position for answer in page.answers] == [0, 0]
    assert [value(answer).hgnc_id_matches for answer in page.answers] == [True, False]
    assert value(page.answers[1]).hgnc_id_in_description == "HGNC:900001"


@pytest.mark.parametrize("description", [None, "novel transcript", "x [Source:NCBI gene;Acc:1]"])
async def test_a_description_without_an_hgnc_id_says_nothing_of_it(description: str | None) -> None:
    (answer,) = await answers_to({A1.ensembl_gene_id: ENTRY | {"description": description}}, A1)
    assert value(answer).hgnc_id_in_description is None
    assert value(answer).hgnc_id_matches is None


@pytest.mark.parametrize(
    ("region", "primary"),
    [("22", True), ("X", True), ("MT", True), ("CHR_HSCHR6_MHC_COX_CTG1", False), ("23", False)],
)
async def test_a_gene_on_an_alternative_sequence_is_kept_and_marked(
    region: str, primary: bool
) -> None:
    (answer,) = await answers_to({A1.ensembl_gene_id: ENTRY | {"seq_region_name": region}}, A1)
    assert value(answer).chromosome == region
    assert value(answer).is_primary_assembly is primary


async def test_a_gene_without_a_name_and_canonical_transcript_is_read() -> None:
    spare = {
        key: item
        for key, item in ENTRY.items()
        if key not in ("display_name", "description", "canonical_transcript")
    }
    (answer,) = await answers_to({A1.ensembl_gene_id: spare}, A1)
    assert value(answer).display_name is value(answer).canonical_transcript is None


async def test_keys_that_we_do_not_know_make_no_difference() -> None:
    (answer,) = await answers_to({A1.ensembl_gene_id: ENTRY | {"new": [1]}, "other": None}, A1)
    assert value(answer).start == 1001


@pytest.mark.parametrize(
    "key",
    ["id", "version", "biotype", "assembly_name", "seq_region_name", "start", "end", "strand"],
)
async def test_a_missing_key_is_named(key: str) -> None:
    spare = {name: item for name, item in ENTRY.items() if name != key}
    with pytest.raises(SchemaChanged, match=f"ENSG00000900001: {key}: "):
        await answers_to({A1.ensembl_gene_id: spare}, A1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": 3001}, "start 3001 is after end 3000"),
        ({"start": 0}, "start: "),
        ({"strand": 0}, "strand: "),
    ],
)
async def test_a_place_that_cannot_be_is_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(SchemaChanged, match=message):
        await answers_to({A1.ensembl_gene_id: ENTRY | change}, A1)


@pytest.mark.parametrize("found", [[ENTRY], "busy"])
async def test_an_answer_of_another_form_is_refused(found: object) -> None:
    with pytest.raises(SchemaChanged, match="accepted is an object"):
        await answers_to(found, A1)


async def test_an_entry_of_another_form_is_refused() -> None:
    with pytest.raises(SchemaChanged, match="accepted is an object or null"):
        await answers_to({A1.ensembl_gene_id: "gone"}, A1)


@pytest.mark.parametrize("content", [b"", b'{"ENSG00000900001": {"id"', b"busy"])
async def test_an_answer_that_is_no_whole_json_is_tried_again(content: bytes) -> None:
    with pytest.raises(UpstreamTruncated):
        await answers_to(content, A1)


async def test_a_page_of_nothing_but_unknown_ids_is_a_failure_inside_ensembl() -> None:
    genes = [Gene(f"HGNC:{n}", f"T{n}", None, f"ENSG{n:011}") for n in range(UNKNOWN_MAX + 1)]
    found = {gene.ensembl_gene_id: None for gene in genes}
    with pytest.raises(UpstreamUnavailable, match="knows none of 51 ids"):
        await answers_to(found, *genes)
    assert all(answer.value is None for answer in await answers_to(found, *genes[1:]))


async def test_a_gene_that_lost_its_id_is_answered_without_asking() -> None:
    lost = Gene("HGNC:900003", "TSTC1", None, None)
    client = Recorded({"ENSG00000900001": ENTRY})
    page = await Ensembl().fetch(client, [lost, A1])
    assert client.asked == [("lookup/id", {"ids": ["ENSG00000900001"]})]
    assert page.answers[0] == Answer("HGNC:900003", None, -1)
    assert page.answers[1].position == 0
    assert (await Ensembl().fetch(client, [lost])).answers == [page.answers[0]]
    assert len(client.asked) == 1


async def test_a_failure_that_ensembl_calls_a_bad_request_is_tried_again() -> None:
    said = '{"error":"something bad has happened"}'
    with pytest.raises(UpstreamUnavailable, match="something bad has happened"):
        await answers_to(UpstreamRefused(f"lookup/id answers 400: {said}"), A1)
    with pytest.raises(UpstreamRefused, match="too large"):
        await answers_to(UpstreamRefused("lookup/id answers 400: POST message too large"), A1)


async def test_the_version_is_the_data_release() -> None:
    client = Recorded({"releases": [115]})
    assert await Ensembl().version(client) == Version("115", False)
    assert client.asked == [("info/data", None)]


@pytest.mark.parametrize(
    "client",
    [Recorded({"releases": [115], "synthetic": True}), Recorded({"releases": [115]}, True)],
)
async def test_a_synthetic_release_bears_that_in_its_name(client: Recorded) -> None:
    assert await Ensembl().version(client) == Version("115-synthetic", True)


@pytest.mark.parametrize("said", [{}, {"releases": []}, {"releases": 115}])
async def test_an_answer_without_a_release_is_refused(said: object) -> None:
    with pytest.raises(SchemaChanged, match=r"info/data: releases is .*; accepted is \[number\]"):
        await Ensembl().version(Recorded(said))


async def test_ensembl_s_own_answer_is_read() -> None:
    path = UPSTREAM_DATA / "lookup_symbol_homo_sapiens_BRCA2.json"
    if not path.exists():
        pytest.skip("shared/data/api_recorded/ensembl is not beside the project")
    entry = orjson.loads(path.read_bytes())
    gene = Gene("HGNC:1101", "BRCA2", None, entry["id"])
    (answer,) = await answers_to({entry["id"]: entry}, gene)
    found = value(answer)
    assert (found.chromosome, found.start, found.end) == ("13", entry["start"], entry["end"])
    assert found.length_bp == entry["end"] - entry["start"] + 1
    assert found.hgnc_id_matches is True
