"""`annobus statistics`: what it asks for, and what a person sees."""

import json
from typing import Any

from tests.integration.cli.conftest import Annobus
from tests.integration.cli.stub_gateway import Stub

ADDRESS = "/api/statistics"
SOURCE = {
    "annotation_count": 20_139,
    "no_data_count": 24_186,
    "pending_count": 0,
    "error_count": 3,
    "stale_count": 1_000,
    "gene_count": 44_325,
    "newest_checked_at": "2026-11-28T07:00:00+00:00",
    "as_of": "2026-11-28T07:00:00+00:00",
    "score": "loeuf",
    "score_mean": 0.754123,
    "score_median": None,
    "release": "v4.1.1-synthetic",
    "synthetic": True,
}
UNCOUNTED = dict.fromkeys(SOURCE) | {"synthetic": False}


def listed(*items: tuple[str, dict[str, Any]], **meta: Any) -> dict[str, Any]:
    return {"data": [{"id": name, "attributes": said} for name, said in items], "meta": meta}


def test_sources_are_counted(stub: Stub, annobus: Annobus) -> None:
    document = listed(("gnomad", SOURCE), ("new", UNCOUNTED))
    stub.answer(f"{ADDRESS}/sources", document)
    ended = annobus("statistics", "sources", "--url", stub.url)
    assert ended.returncode == 0, ended.stderr
    _, gnomad, new = (line.split() for line in ended.stdout.splitlines())
    assert gnomad[:6] == ["gnomad", "20,139", "24,186", "0", "3", "1,000"]
    assert gnomad[8:] == ["0.7541", "loeuf", "v4.1.1-synthetic", "synthetic"]
    assert new == ["new", *(["?"] * 5), "none", "yet", "real"]
    assert "of 44,325 genes, as of 2026-11-28" in ended.stderr
    whole = annobus("statistics", "sources", "--json", "--url", stub.url)
    assert json.loads(whole.stdout) == document


def test_what_was_never_counted_is_said(stub: Stub, annobus: Annobus) -> None:
    stub.answer(f"{ADDRESS}/sources", listed(("new", UNCOUNTED)))
    stub.answer(f"{ADDRESS}/overlaps", listed())
    stub.answer(f"{ADDRESS}/fields", listed())
    for what in ("sources", "overlaps"):
        ended = annobus("statistics", what, "--url", stub.url)
        assert "nothing has been counted yet" in ended.stderr
    ended = annobus("statistics", "fields", "--source", "hgnc", "--url", stub.url)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "no field of hgnc is a number" in ended.stderr


def test_fields_have_their_mean_and_ends(stub: Stub, annobus: Annobus) -> None:
    numbers = {"mean": 22_985_000.4, "median": 0.5, "least": -26.67, "greatest": 45_999_078}
    start = {"source": "ensembl", "known_count": 42_046, **numbers}
    pli = start | {"source": "gnomad", "least": 4.847e-11}
    stub.answer(f"{ADDRESS}/fields", listed(("ensembl.start", start), ("gnomad.pli", pli)))
    shown = annobus("statistics", "fields", "--url", stub.url).stdout.splitlines()
    cells = ["ensembl.start", "42,046", "22,985,000", "0.5", "-26.67", "45,999,078"]
    assert shown[1].split() == cells
    assert shown[2].split()[4] == "4.847e-11"
    only = annobus("statistics", "fields", "--source", "gnomad", "--url", stub.url)
    assert [line.split()[0] for line in only.stdout.splitlines()] == ["field", "gnomad.pli"]


def test_overlaps_are_sets_of_sources(stub: Stub, annobus: Annobus) -> None:
    both = {"sources": ["hgnc", "hpo"], "gene_count": 4_847}
    none = {"sources": [], "gene_count": 2}
    stub.answer(f"{ADDRESS}/overlaps", listed(("hgnc+hpo", both), ("none", none)))
    ended = annobus("statistics", "overlaps", "--source", "hgnc,hpo", "--url", stub.url)
    assert ended.stdout.splitlines() == ["genes  sources", "4,847  hgnc + hpo", "    2  nothing"]
    assert "filter%5Bsource%5D=hgnc%2Chpo" in stub.asked[0][1]


def test_a_panel_is_covered_by_each_source(stub: Stub, annobus: Annobus) -> None:
    without = [f"HGNC:{number}" for number in range(1, 101)]
    hpo = {"annotation_count": 1_099, "gene_count": 1_300, "without": without}
    document = listed(
        ("hpo", hpo | {"release": "2025-01-16", "synthetic": False}),
        panel={"id": "P@3", "gene_count": 1_300},
    )
    stub.answer(f"{ADDRESS}/panels/P@3", document)
    ended = annobus("statistics", "panel", "P@3", "--url", stub.url)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[1].endswith(
        "1,099  84.5  2025-01-16  real  HGNC:1, HGNC:2, HGNC:3, HGNC:4, HGNC:5 and 196 more"
    )
    assert "panel P@3: 1,300 genes" in ended.stderr
