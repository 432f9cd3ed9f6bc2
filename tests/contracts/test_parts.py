"""Parts of a namespace: how they are written, and which concern what an entry depends on."""

from itertools import product

import pytest

from contracts.messages import InvalidateNamespace, NamespaceInvalidated
from contracts.parts import KEY_CHARACTERS_MAX, Part

GENES = (None, "HGNC:1", "HGNC:2")
SOURCES = (None, "hpo", "gnomad")
PARTS = [Part(gene=gene, source=source) for gene, source in product(GENES, SOURCES)]


@pytest.mark.parametrize(
    "text",
    ["key=a b=c", "gene=HGNC:9008", "source=gnomad_api", "gene=HGNC:9008 source=hpo"],
)
def test_a_part_is_read_as_it_is_written(text: str) -> None:
    assert str(Part.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "key=", "key=\0", "gene=PKD1", "gene=HGNC:9008 source=", "source=*", "gene=*"),
        *("source=hpo gene=HGNC:9008", "source=HPO", "gene=HGNC:9008\n", "colour=red"),
        "key=" + "x" * 300,
    ],
)
@pytest.mark.parametrize("message", [InvalidateNamespace, NamespaceInvalidated])
def test_what_is_no_part_is_refused(
    text: str, message: type[InvalidateNamespace] | type[NamespaceInvalidated]
) -> None:
    with pytest.raises(ValueError, match=r"accepted: key=…|at most 300"):
        message.model_validate({"namespace": "lists", "epoch": 1, "parts": [text]})


def test_the_longest_key_is_a_part() -> None:
    part = Part(key="x" * KEY_CHARACTERS_MAX)
    assert Part.parse(str(part)) == part


def overlap(one: str | None, other: str | None) -> bool:
    return one is None or other is None or one == other


@pytest.mark.parametrize("forgotten", PARTS[1:])
@pytest.mark.parametrize("depended_on", PARTS)
def test_what_is_forgotten_concerns_what_depends_on_some_of_it(
    forgotten: Part, depended_on: Part
) -> None:
    concerns = not set(forgotten.forgets()).isdisjoint(depended_on.depends_on())
    assert concerns == (
        overlap(forgotten.gene, depended_on.gene) and overlap(forgotten.source, depended_on.source)
    )


def test_a_key_concerns_itself_alone() -> None:
    key = Part(key="gene=HGNC:1")
    assert key.forgets() == key.depends_on() == ("key=gene=HGNC:1",)
