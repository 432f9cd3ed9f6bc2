"""The page of sources is what the sources declare."""

from services.annotator.sources import SOURCES
from services.cli import describe
from tests.system import ROOT


def test_the_page_is_up_to_date() -> None:
    written = (ROOT / describe.PAGE).read_text(encoding="utf-8")
    assert written == describe.page(), "make docs writes it"


def test_every_field_that_a_source_has_is_in_it() -> None:
    page = describe.page()
    for source in SOURCES.values():
        for name in source.declaration.value.model_fields:
            assert f"| `{name}` | " in page
