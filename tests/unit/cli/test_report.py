"""The arithmetic of a run's report."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.cli.report import build


def run(gene_count: int | None = None, **sources: dict[str, Any]) -> dict[str, Any]:
    attributes = {"state": "completed", "gene_count": gene_count, "sources": sources}
    return {"data": {"id": "1", "attributes": attributes}}


def source(done: int, no_data: int, failed: int, **others: Any) -> dict[str, Any]:
    return {
        "state": "completed",
        "total_count": done + no_data + failed,
        "done_count": done,
        "no_data_count": no_data,
        "failed_count": failed,
        "started_at": "2026-01-01T00:00:00+00:00",
        "finished_at": "2026-01-01T00:00:04+00:00",
        **others,
    }


def test_annotations_are_values_and_failures_are_summed() -> None:
    document = run(
        hgnc=source(10, 0, 0, release="2025-01-01"),
        ensembl=source(6, 3, 1, release="115-synthetic", synthetic=True),
    )
    report = build(document, 5.0)
    assert (report.genes, report.annotations, report.failed) == (10, 16, 1)
    assert report.sources["ensembl"].synthetic
    assert report.sources["ensembl"].seconds == 4.0
    assert report.sources["ensembl"].genes_per_second == pytest.approx(9 / 4)
    assert report.problems() == ["1 annotations failed"]


def test_a_source_whose_genes_do_not_add_up_is_named() -> None:
    report = build(run(hgnc=source(10, 0, 0), hpo=source(5, 4, 0)), 5.0)
    assert report.problems() == ["hpo: 5 done + 4 no data + 0 failed = 9, not the run's 10 genes"]


def test_the_genes_that_were_named_are_what_sources_are_compared_with() -> None:
    report = build(run(gene_count=3, hgnc=source(2, 0, 0)), 1.0)
    assert report.problems() == ["hgnc: 2 done + 0 no data + 0 failed = 2, not the run's 3 genes"]


def test_a_run_without_genes_is_not_as_it_should_be() -> None:
    report = build(run(hgnc=source(0, 0, 0)), 1.0)
    assert report.problems() == ["the run had no genes"]


def test_a_source_that_took_no_time_has_no_rate() -> None:
    document = run(hgnc=source(1, 0, 0, started_at=None, finished_at=None))
    assert build(document, 1.0).sources["hgnc"].genes_per_second is None


def test_the_file_has_the_fields_that_were_promised(tmp_path: Path) -> None:
    path = build(run(hgnc=source(1, 0, 0, release="r")), 2.0).write(tmp_path)
    assert path == tmp_path / "demo-report.json"
    assert json.loads(path.read_text()) == {
        "genes": 1,
        "annotations": 1,
        "seconds": 2.0,
        "failed": 0,
        "sources": {
            "hgnc": {
                "done": 1,
                "no_data": 0,
                "failed": 0,
                "release": "r",
                "synthetic": False,
                "seconds": 4.0,
            }
        },
    }
