"""Documents in memory: nothing older than what was heard of is kept (D20)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway import documents, wanted
from services.gateway.documents import Documents, Held

GENE = "HGNC:9008"


def held(version: int, size: int = 10) -> Held:
    return Held(version, f'"{version}"', b"x" * size)


def build_documents() -> Documents:
    found = Documents()
    found.trust(True)
    return found


def version_of(found: Documents) -> int | None:
    kept = found.get(GENE)
    return kept.version if kept else None


def test_what_was_read_before_an_invalidation_is_not_kept_after_it() -> None:
    found = build_documents()
    generation = found.generation
    found.hear({GENE: 2})
    found.keep(GENE, held(1), generation)
    assert version_of(found) is None
    found.keep(GENE, held(2), generation)
    assert version_of(found) == 2


def test_an_invalidated_namespace_refuses_reads_that_began_before() -> None:
    found = build_documents()
    generation = found.generation
    found.invalidate("genes", 3)
    found.keep(GENE, held(9), generation)
    assert version_of(found) is None
    generation = found.generation
    found.invalidate("genes", 3)  # Heard of twice.
    found.invalidate("panels", 8)
    found.keep(GENE, held(9), generation)
    assert version_of(found) == 9


def test_a_gene_that_is_forgotten_alone_is_not_kept_by_who_was_reading_it() -> None:
    found = build_documents()
    generation = found.generation
    found.invalidate("genes", 1, [f"gene={GENE}"])
    assert not found.keep(GENE, held(9), generation)
    assert version_of(found) is None
    assert found.keep(GENE, held(9), found.generation)
    found.invalidate("panels", 2, [f"gene={GENE}"])
    assert version_of(found) == 9


def test_nothing_is_kept_or_served_across_a_lost_consumer() -> None:
    found = build_documents()
    generation = found.generation
    found.keep(GENE, held(1), generation)
    found.trust(False)
    assert version_of(found) is None
    found.keep(GENE, held(1), found.generation)
    assert version_of(found) is None
    found.trust(True)
    found.keep(GENE, held(1), generation)  # Read while nobody listened.
    assert version_of(found) is None


def test_memory_is_bounded_by_bytes() -> None:
    found = build_documents()
    size = documents.BYTES_MAX // 10
    for number in range(50):
        found.keep(f"HGNC:{number}", held(1, size), found.generation)
    kept = [number for number in range(50) if found.get(f"HGNC:{number}")]
    assert 1 <= len(kept) <= 10
    assert kept[-1] == 49
    found.keep(GENE, held(1, documents.BYTES_MAX), found.generation)  # Larger than all.
    assert version_of(found) is None


@given(
    st.lists(
        st.tuples(st.sampled_from(["hear", "read", "keep", "forget"]), st.integers(1, 5)),
        max_size=30,
    )
)
def test_a_document_older_than_one_heard_of_is_never_served(steps: list[tuple[str, int]]) -> None:
    found = build_documents()
    heard = 0
    generation = found.generation
    for step, version in steps:
        match step:
            case "hear":
                found.hear({GENE: version})
                heard = max(heard, version)
            case "read":
                generation = found.generation
            case "keep":
                found.keep(GENE, held(version), generation)
            case "forget":
                found.invalidate("genes", version)
        served = version_of(found)
        assert served is None or served >= heard


OTHER = "HGNC:9009"


def test_what_is_in_use_is_wanted_again_when_it_was_forgotten() -> None:
    found = build_documents()
    for gene in (GENE, OTHER):
        found.keep(gene, held(1), found.generation)
    found.hear({GENE: 2, "HGNC:1": 7})
    assert list(found.wanted.take(10)) == [GENE]
    assert not found.wanted.take(10)
    found.invalidate("genes", 1, [f"gene={OTHER}"])
    assert list(found.wanted.take(10)) == [OTHER]


def test_all_that_is_in_use_is_wanted_when_all_were_forgotten_what_was_read_last_first() -> None:
    found = build_documents()
    for gene in (GENE, OTHER):
        found.keep(gene, held(1), found.generation)
    found.get(GENE)
    found.invalidate("genes", 1)
    assert list(found.wanted.take(1)) == [GENE]
    assert list(found.wanted.take(1)) == [OTHER]


def test_what_nobody_read_lately_is_not_wanted() -> None:
    found = build_documents()
    old = held(1)
    found.keep(GENE, old, found.generation)
    old.read_at -= wanted.IN_USE_SECONDS
    found.hear({GENE: 2})
    assert not found.wanted.take(10)


@pytest.mark.parametrize("is_listed", [False, True])
def test_who_reads_or_lists_a_document_uses_it(is_listed: bool) -> None:
    found = build_documents()
    old = held(1)
    found.keep(GENE, old, found.generation)
    old.read_at -= wanted.IN_USE_SECONDS
    assert found.hold({GENE: old}) if is_listed else found.get(GENE)
    found.invalidate("genes", 1, [f"gene={GENE}"])
    assert list(found.wanted.take(10)) == [GENE]


def test_what_somebody_has_read_meanwhile_is_not_wanted_any_more() -> None:
    found = build_documents()
    found.keep(GENE, held(1), found.generation)
    found.hear({GENE: 2})
    found.keep(GENE, held(2), found.generation)
    assert not found.wanted.take(10)


def test_nothing_is_wanted_while_changes_would_not_be_heard_of() -> None:
    found = build_documents()
    found.keep(GENE, held(1), found.generation)
    found.keep(OTHER, held(1), found.generation)
    found.hear({GENE: 2})
    found.trust(False)
    assert not found.wanted.take(10)


def test_only_so_many_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wanted, "WANTED_MAX", 2)
    found = build_documents()
    for number in range(5):
        found.keep(f"HGNC:{number}", held(1), found.generation)
    found.get("HGNC:1")
    found.forget()
    assert list(found.wanted.take(10)) == ["HGNC:1", "HGNC:4"]
