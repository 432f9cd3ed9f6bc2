"""gnomAD's answers for single genes: what is a value, what is none, and what is a failure."""

from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from services.annotator.domain import Answer, Gene, Refusal, Response, Version
from services.annotator.errors import (
    RateLimited,
    SchemaChanged,
    UpstreamRefused,
    UpstreamTruncated,
    UpstreamUnavailable,
)
from services.annotator.sources.gnomad import Assembly, GnomadGene
from services.annotator.sources.gnomad_api import CONSTRAINT, GnomadApi

A1 = Gene("HGNC:900001", "TSTA1", None, "ENSG00000900001")
B1 = Gene("HGNC:900002", "TSTB1", None, "ENSG00000900002")
LOST = Gene("HGNC:900003", "TSTC1", None, None)
SAID: dict[str, Any] = {
    **dict.fromkeys(CONSTRAINT.values()),
    "pli": 0.9999,
    "oe_lof": 0.0997,
    "oe_lof_lower": 0.046,
    "oe_lof_upper": 0.245,
    "obs_lof": 4,
    "exp_lof": 40.125,
    "lof_z": 5.5,
    "obs_syn": 0,
    "flags": ["outlier_mis"],
}
GENE = {"gene_id": "ENSG00000900001", "symbol": "OLD1", "gnomad_constraint": SAID}
LIMIT = "Query rate limit exceeded. Please try again in a few minutes."
NOT_FOUND = {"message": "Gene not found"}


@dataclass
class Recorded:
    """A client with one recorded answer, and what it was asked."""

    answer: object
    synthetic: bool = False
    asked: list[tuple[str, Any]] = field(default_factory=list)

    async def get(self, path: str) -> Response:
        raise AssertionError(f"{path} is asked by GET")

    async def post(self, path: str, body: object, refusal: Refusal | None = None) -> Response:
        self.asked.append((path, body))
        if isinstance(self.answer, Exception):
            raise self.answer
        content = self.answer if isinstance(self.answer, bytes) else orjson.dumps(self.answer)
        if refusal is not None and (said := refusal(content)):
            raise RateLimited(said.detail, said.seconds)
        return Response(f"https://gnomad.example/{path}", content, self.synthetic)


async def answers_to(said: object, *genes: Gene, assembly: Assembly = "GRCh38") -> list[Answer]:
    return list((await GnomadApi(assembly).fetch(Recorded(said), genes)).answers)


def value(answer: Answer) -> GnomadGene:
    assert isinstance(answer.value, GnomadGene)
    return answer.value


async def test_a_gene_is_read_field_by_field_and_what_is_not_said_is_null() -> None:
    (answer,) = await answers_to({"data": {"g0": GENE}}, A1)
    assert (answer.hgnc_id, answer.position) == ("HGNC:900001", 0)
    said = {key: item for key, item in value(answer).model_dump().items() if item is not None}
    assert said == {
        "ensembl_gene_id": "ENSG00000900001",
        "symbol": "OLD1",
        "matched_by": "ensembl_gene_id",
        "assembly": "GRCh38",
        "pli": 0.9999,
        "oe_lof": 0.0997,
        "oe_lof_lower": 0.046,
        "loeuf": 0.245,
        "obs_lof": 4,
        "exp_lof": 40.125,
        "lof_z": 5.5,
        "obs_syn": 0,
        "constraint_flags": ["outlier_mis"],
    }


async def test_every_value_that_the_service_gives_has_its_field() -> None:
    numbers = {name: place for place, name in enumerate(CONSTRAINT.values()) if name != "flags"}
    gene = GENE | {"gnomad_constraint": numbers | {"flags": ["x"]}}
    (answer,) = await answers_to({"data": {"g0": gene}}, A1)
    read = value(answer).model_dump()
    assert {field: read[field] for field in CONSTRAINT} == {
        field: (numbers | {"flags": ["x"]})[name] for field, name in CONSTRAINT.items()
    }


async def test_a_verdict_needs_a_release_that_is_known() -> None:
    """GRCh37 is served from v2.1.1 alone, GRCh38 from one of several releases."""
    (old,) = await answers_to({"data": {"g0": GENE}}, A1, assembly="GRCh37")
    assert (value(old).loeuf_threshold, value(old).is_constrained) == (0.35, True)
    (new,) = await answers_to({"data": {"g0": GENE}}, A1)
    assert (value(new).loeuf_threshold, value(new).is_constrained) == (None, None)


async def test_genes_are_asked_in_one_query_each_under_its_own_name() -> None:
    client = Recorded({"data": {"g0": GENE, "g1": None}, "errors": [NOT_FOUND]})
    page = await GnomadApi().fetch(client, [A1, B1])
    ((path, body),) = client.asked
    assert path == "api"
    assert body["variables"] == {"g0": "ENSG00000900001", "g1": "ENSG00000900002"}
    assert "query($g0: String!, $g1: String!)" in body["query"]
    assert "g1: gene(gene_id: $g1, reference_genome: GRCh38)" in body["query"]
    assert page.content == orjson.dumps(client.answer)
    assert page.answers[1] == Answer("HGNC:900002", None, 1)


async def test_a_gene_without_constraint_has_no_data() -> None:
    gene = GENE | {"gnomad_constraint": None}
    assert await answers_to({"data": {"g0": gene}}, A1) == [Answer("HGNC:900001", None, 0)]


async def test_an_unknown_gene_has_no_data() -> None:
    said = {"errors": [NOT_FOUND], "data": {"g0": None}}
    assert await answers_to(said, A1) == [Answer("HGNC:900001", None, 0)]


@pytest.mark.parametrize(
    "said",
    [
        {"errors": [{"message": LIMIT}], "data": None},
        {"errors": [NOT_FOUND, {"message": LIMIT}], "data": {"g0": None}},
        f'{{"errors": [{{"message": "{LIMIT}'.encode(),  # Of an error, as much as is looked at.
    ],
)
async def test_too_many_queries_wait_for_a_minute_whatever_the_status(said: object) -> None:
    with pytest.raises(RateLimited, match="rate limit exceeded") as raised:
        await answers_to(said, A1)
    assert raised.value.retry_after_seconds == 60


@pytest.mark.parametrize(
    "said",
    [
        {"errors": [{"message": "An unknown error occurred"}], "data": {"g0": None}},
        {"errors": [NOT_FOUND, {"message": "An unknown error occurred"}], "data": {"g0": None}},
        {"errors": ["busy"], "data": None},
        {"data": {"g0": None}},  # No reason is given.
        {"data": {"g0": GENE, "g1": None}},
    ],
)
async def test_a_failure_inside_gnomad_is_never_taken_for_no_data(said: object) -> None:
    with pytest.raises(UpstreamUnavailable):
        await answers_to(said, A1, B1)


@pytest.mark.parametrize("content", [b"", b'{"data": {"g0"', b"busy"])
async def test_an_answer_that_is_no_whole_json_is_tried_again(content: bytes) -> None:
    with pytest.raises(UpstreamTruncated):
        await answers_to(content, A1)


async def test_a_gene_without_an_answer_is_no_unknown_one() -> None:
    with pytest.raises(UpstreamTruncated, match="ENSG00000900002"):
        await answers_to({"data": {"g0": GENE}}, A1, B1)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ([], "object with data"),
        ({}, "object with data"),
        ({"data": {"g0": "gone"}}, "lacks"),
        ({"data": {"g0": {"gene_id": A1.ensembl_gene_id}}}, "lacks 'gnomad_constraint'"),
        ({"data": {"g0": GENE | {"gnomad_constraint": {"pli": 1}}}}, "lacks 'oe_lof_upper'"),
        ({"data": {"g0": GENE | {"gene_id": "ENSG1"}}}, "it answers 'ENSG1'"),
        ({"data": {"g0": GENE | {"gnomad_constraint": SAID | {"pli": "high"}}}}, "pli: "),
        ({"data": {"g0": GENE | {"gnomad_constraint": SAID | {"obs_lof": 4.5}}}}, "obs_lof: "),
    ],
)
async def test_an_answer_of_another_form_is_refused(said: object, message: str) -> None:
    with pytest.raises(SchemaChanged, match=message):
        await answers_to(said, A1)


async def test_a_request_that_is_refused_stays_refused() -> None:
    with pytest.raises(UpstreamRefused):
        await answers_to(UpstreamRefused("answers 400: Cannot query field"), A1)


async def test_a_gene_without_an_ensembl_id_is_answered_without_asking() -> None:
    client = Recorded({"data": {"g0": GENE}})
    page = await GnomadApi().fetch(client, [LOST, A1])
    assert client.asked[0][1]["variables"] == {"g0": "ENSG00000900001"}
    assert page.answers[0] == Answer("HGNC:900003", None, -1)
    assert (await GnomadApi().fetch(client, [LOST])).answers == [page.answers[0]]
    assert len(client.asked) == 1


async def test_the_version_says_what_is_known_of_it() -> None:
    said = {"data": {"__typename": "Query"}}
    assert await GnomadApi().version(Recorded(said)) == Version("v4 by GraphQL", False)
    made = Version("v2.1.1 by GraphQL-synthetic", True)
    assert await GnomadApi("GRCh37").version(Recorded(said, synthetic=True)) == made


def test_ten_queries_in_a_minute_are_not_passed() -> None:
    assert GnomadApi.declaration.requests_per_second * 60 < 10
