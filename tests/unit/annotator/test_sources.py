"""What holds for every source: how it is declared, and what its module may know."""

import ast
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Literal, get_args

import pytest
from pydantic import BaseModel, Field

from contracts.views import SummaryKind
from services.annotator import domain, sources
from services.annotator.domain import SUMMARY, Expected
from services.annotator.judging import Reading, judge
from services.annotator.sources import SOURCES

FOLDER = Path(sources.__file__).parent
MODULES = sorted(path for path in FOLDER.glob("*.py") if path.name != "__init__.py")
ENGINE_S_WORDS = {"contracts", "services.annotator.domain", "services.annotator.errors"}
LIBRARIES = {"orjson", "pydantic"}
# What each real release has, in genes.
RECORDS = {
    "hgnc": 44_000,  # Without those that were withdrawn.
    "hpo": 5_100,
    "gnomad": 18_600,
    "clingen": 2_426,
    "clinvar": 27_597,
}


def imported(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            # A module may be the name: `from services.annotator import domain`.
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from names if node.module == "services.annotator" else [str(node.module)]


def is_allowed(name: str, source: str) -> bool:
    """One that stands in for another, as gnomad_api does for gnomad, makes the other's values."""
    top, other = name.partition(".")[0], source.rpartition("_")[0]
    if other and name == f"services.annotator.sources.{other}":
        return True
    ours = any(name == one or name.startswith(f"{one}.") for one in ENGINE_S_WORDS)
    return ours or top in LIBRARIES or top in sys.stdlib_module_names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_source_knows_nothing_of_the_engine_nor_of_another_source(path: Path) -> None:
    names = imported(ast.parse(path.read_text()))
    assert [name for name in names if not is_allowed(name, path.stem)] == []


@pytest.mark.parametrize(
    "line",
    [
        "import services.annotator.store",
        "from services.annotator import judging",
        "from services.annotator.upstream import Upstream",
        "from services.annotator.sources.hpo import Hpo",
        "from services.chassis import database",
        "import httpx2",
        "def read():\n    import sqlalchemy",
    ],
)
def test_what_a_source_may_not_know_is_found(line: str) -> None:
    assert [name for name in imported(ast.parse(line)) if not is_allowed(name, "gnomad_api")]


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize(("share", "is_doubted"), [(0.1, True), (1, False), (10, True)])
def test_a_tenth_or_ten_times_the_records_are_doubted(
    name: str, share: float, is_doubted: bool
) -> None:
    expected = SOURCES[name].declaration.expected
    assert expected is not None
    counts = {counted: least for counted, (least, _) in expected.counts.items()}
    doubts = judge(expected, Reading(round(RECORDS[name] * share), counts=counts), {}, None)
    assert [doubt.check for doubt in doubts] == (["records"] if is_doubted else [])


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_a_bulk_source_says_what_its_releases_are_like(source: domain.Source) -> None:
    expected = source.declaration.expected
    if domain.is_api(source):
        assert expected is None
        return
    assert isinstance(expected, Expected)
    assert source.declaration.name in RECORDS
    assert expected.sentinels
    assert set(expected.nulls_share_max) <= set(source.declaration.value.model_fields)


@pytest.mark.parametrize("name", SOURCES)
def test_what_genes_are_filtered_by_is_a_value_or_a_list_of_them(name: str) -> None:
    declared = SOURCES[name].declaration
    fields = domain.summary_fields(declared.value)
    assert bool(fields) != declared.is_catalogue  # Its columns are those of every gene.
    assert set(fields.values()) <= set(get_args(SummaryKind))
    if declared.score is not None:
        assert fields[declared.score] in ("number", "integer")


def test_the_kind_of_a_field_is_read_from_its_type() -> None:
    class Thing(BaseModel):
        id: str
        name: str

    class Value(BaseModel):
        share: float | None = Field(json_schema_extra=SUMMARY)
        count: int = Field(json_schema_extra=SUMMARY)
        is_new: bool | None = Field(None, json_schema_extra=SUMMARY)
        kind: Literal["a", "b"] | None = Field(None, json_schema_extra=SUMMARY)
        day: date | None = Field(None, json_schema_extra=SUMMARY)
        names: list[str] | None = Field(None, json_schema_extra=SUMMARY)
        things: list[Thing] = Field(json_schema_extra=SUMMARY)
        other: str = ""

    assert domain.summary_fields(Value) == {
        "share": "number",
        "count": "integer",
        "is_new": "boolean",
        "kind": "text",
        "day": "date",
        "names": "texts",
        "things": "texts",
    }


def test_a_field_that_is_neither_cannot_be_filtered_by() -> None:
    class Value(BaseModel):
        counts: dict[str, int] = Field(json_schema_extra=SUMMARY)

    with pytest.raises(TypeError, match="counts"):
        domain.summary_fields(Value)
