"""The annotator's plain types and pure rules."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from pydantic import BaseModel

from services.annotator import domain
from services.annotator.domain import (
    ATTEMPTS_MAX,
    CHANGED_GENES_MAX,
    REFUSALS_MAX,
    Answer,
    Batch,
    Catalogue,
    Gene,
    Offered,
)
from services.annotator.errors import (
    RateLimited,
    SchemaChanged,
    UpstreamBlocked,
    UpstreamOversized,
    UpstreamRefused,
    UpstreamTruncated,
    UpstreamUnavailable,
)
from services.annotator.sources import SOURCES

RELEASE = UUID("0190a5b0-0000-7000-8000-000000000001")


def build_batch(attempt: int = 1, refusals: int = 0) -> Batch:
    return Batch(
        id=UUID(int=1),
        kind="fetch",
        source="ensembl",
        run_id=UUID(int=2),
        release_id=None,
        genes=["HGNC:9008"],
        checkpoint=0,
        attempt=attempt,
        lease_token=1,
        claimed_at=datetime(2026, 11, 25, tzinfo=UTC),
        refusals=refusals,
    )


class Example(BaseModel):
    b: str
    a: float | None


class Reversed(BaseModel):
    a: float | None
    b: str


def test_equal_values_have_equal_bytes_whatever_the_order_of_their_fields() -> None:
    content = domain.canonical(Example(b="µ", a=None))
    assert content == domain.canonical(Reversed(a=None, b="µ"))
    assert content.decode() == '{"a":null,"b":"µ"}'
    assert domain.digest(content) != domain.digest(domain.canonical(Example(b="µ", a=0.5)))


@pytest.mark.parametrize("text", ["\x00", "a\x00b", "\\\x00"])
def test_a_value_that_no_database_can_keep_is_none(text: str) -> None:
    with pytest.raises(SchemaChanged, match="the character NUL"):
        domain.canonical(Example(b=text, a=None))
    with pytest.raises(SchemaChanged, match="the character NUL"):
        domain.require_texts("b", text)


@pytest.mark.parametrize("text", ["\\u0000", "\\\\u0000", "u0000"])
def test_what_only_looks_like_one_is_kept(text: str) -> None:
    assert Example.model_validate_json(domain.canonical(Example(b=text, a=None))).b == text
    domain.require_texts(text)


def test_what_is_offered_stands_column_by_column() -> None:
    offered = Offered()
    offered.add(Answer("HGNC:1", Example(b="x", a=1.0), 0))
    offered.add(Answer("HGNC:2", None, 1))
    assert offered.hgnc_ids == ["HGNC:1", "HGNC:2"]
    assert offered.values == ['{"a":1.0,"b":"x"}', None]
    assert offered.digests == [domain.digest(b'{"a":1.0,"b":"x"}'), b""]
    assert offered.positions == [0, 1]


def test_the_catalogue_finds_genes_by_each_of_their_names() -> None:
    first = Gene("HGNC:1", "TSTA1", "10", "ENSG01")
    second = Gene("HGNC:2", "TSTB1", "10", None)
    third = Gene("HGNC:3", "TSTC1", None, "ENSG01")
    catalogue = Catalogue([first, second, third])
    assert catalogue.by_symbol["TSTC1"] == third
    assert catalogue.by_entrez_id == {"10": [first, second]}
    assert catalogue.by_ensembl_gene_id == {"ENSG01": [first, third]}


@pytest.mark.parametrize(
    "error",
    [SchemaChanged("x"), UpstreamRefused("x"), UpstreamOversized("x"), UpstreamBlocked("x")],
)
def test_what_trying_again_does_not_help_is_not_tried_again(error: Exception) -> None:
    assert domain.retry_after(build_batch(1), error) is None


@pytest.mark.parametrize(
    "error", [UpstreamUnavailable("x"), UpstreamTruncated("x"), OSError("not one of ours")]
)
def test_each_try_waits_about_twice_as_long_and_the_last_one_is_the_last(error: Exception) -> None:
    for attempt in range(1, ATTEMPTS_MAX):
        due = domain.retry_after(build_batch(attempt), error)
        assert due is not None
        assert 0.8 * 2 ** (attempt - 1) <= due.total_seconds() <= 1.2 * 2 ** (attempt - 1)
    assert domain.retry_after(build_batch(ATTEMPTS_MAX), error) is None


def test_who_is_asked_to_slow_down_waits_longer_than_after_a_failure() -> None:
    for _ in range(50):  # Chance is in it, and must not make it shorter than was said.
        due = domain.retry_after(build_batch(1), RateLimited("x", 300.0))
        assert due is not None
        assert timedelta(seconds=300) <= due <= timedelta(seconds=360)
    due = domain.retry_after(build_batch(1), RateLimited("x", None))
    assert due is not None
    assert due <= timedelta(seconds=1.2)


def test_a_429_is_no_attempt_and_still_not_for_ever() -> None:
    error = RateLimited("x", None)
    waits = [
        domain.retry_after(build_batch(ATTEMPTS_MAX, refusals), error)
        for refusals in range(REFUSALS_MAX)
    ]
    assert None not in waits[:-1]
    assert waits[-1] is None
    together = sum((wait for wait in waits if wait is not None), timedelta())
    assert timedelta(minutes=10) < together < timedelta(minutes=20)


@pytest.mark.parametrize("count", [0, 1, CHANGED_GENES_MAX, CHANGED_GENES_MAX + 1, 9_000])
def test_changes_name_each_gene_once_in_messages_of_bounded_size(count: int) -> None:
    genes = [f"HGNC:{number}" for number in range(count)]
    told = domain.changes("hpo", RELEASE, genes)
    assert [gene for message in told for gene in message.genes] == genes
    assert all(0 < len(message.genes) <= CHANGED_GENES_MAX for message in told)
    assert {(message.source, message.release_id) for message in told} <= {("hpo", RELEASE)}


def test_the_sources_are_of_two_kinds_and_one_is_the_catalogue() -> None:
    kinds = {name: domain.kind(source) for name, source in SOURCES.items()}
    assert (kinds["hgnc"], kinds["ensembl"]) == ("bulk", "api")
    assert set(kinds.values()) == {"bulk", "api"}
    declared = [source.declaration for source in SOURCES.values()]
    assert [one.name for one in declared if one.is_catalogue] == ["hgnc"]
