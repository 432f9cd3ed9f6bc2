"""Files of a folder are recognised whatever their release, and those that nobody knows are told."""

from pathlib import Path

import pytest

from tests.verify import __main__ as program
from tests.verify import system
from tests.verify.comparing import Checked, Tally
from tests.verify.folder import KINDS, Folder, recognise
from tests.verify.report import problems

RECORDS = "hgnc_id\tsymbol\tstatus\n"


def lay(data: Path, *names: str) -> Folder:
    for name in names:
        path = data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(RECORDS, encoding="utf-8")
    return recognise(data)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("hgnc/non_alt_loci_set.txt.gz", "complete set"),
        ("hgnc/hgnc_complete_set_2026-10-02.json", "complete set"),
        ("hgnc/hgnc_20270101.json", "complete set"),
        ("hgnc/withdrawn_2026-10-02.txt", "withdrawn"),
        ("hpo/genes_to_phenotype.txt", "genes"),
        ("hpo/phenotype.2026-06-23.hpoa.gz", "annotations"),
        ("hpo/hp-2026-06-23.obo", "ontology"),
        ("gnomad/gnomad.v4.1.1.constraint_metrics.tsv.bgz", "table"),
        ("gnomad/gnomad.v4.1.constraint_metrics.tsv", "table"),
        ("gnomad/gnomad.v4.1.1.constraint_metrics_reduced.no_gen_anc.tsv.gz", "reduced table"),
        ("clingen/Clingen-Gene-Disease-Summary-2027-02-28.csv", "validity"),
        ("clinvar/gene_specific_summary.txt", "summary"),
        ("clinvar/variant_summary_2026-10.txt.gz", "variants"),
        ("clinvar/annonars/clinvar-variants-grch38-seqvars.jsonl", "annonars records"),
    ],
)
def test_a_file_is_recognised_whatever_its_release(tmp_path: Path, name: str, role: str) -> None:
    folder = lay(tmp_path, name)
    assert [(file.role, file.unread) for file in folder.files] == [(role, None)]
    assert folder.unrecognised == []


@pytest.mark.parametrize("source", KINDS)
def test_a_file_that_nobody_knows_is_a_problem(tmp_path: Path, source: str) -> None:
    folder = lay(tmp_path, f"{source}/notes/else.tsv")
    assert folder.files == []
    checked = [Checked(source, "a release", Tally(), problems=["odd"])]
    assert problems(folder, checked, []) == [
        f"{tmp_path / source / 'notes/else.tsv'} is not recognised",
        "odd",
    ]


def test_a_release_that_no_source_can_read_is_not_recognised(tmp_path: Path) -> None:
    assert lay(tmp_path, "gnomad/gnomad.v5.0.constraint_metrics.tsv").unrecognised


def test_folders_of_other_sources_are_left_alone(tmp_path: Path) -> None:
    assert lay(tmp_path, "gtex/else.csv", "README.md") == Folder([], [])


def test_the_newest_of_several_releases_is_served(tmp_path: Path) -> None:
    folder = lay(
        tmp_path,
        *(
            f"clingen/Clingen-Gene-Disease-Summary-{day}.csv"
            for day in ("2026-01-09", "2025-01-09")
        ),
        "gnomad/gnomad.v4.0.constraint_metrics.tsv",
    )
    chosen = system.choose(folder)
    assert [file.name for file in chosen.values()] == [
        "Clingen-Gene-Disease-Summary-2026-01-09.csv"
    ]


def test_a_part_of_hgnc_is_no_catalogue_and_what_is_missing_is_named(tmp_path: Path) -> None:
    folder = lay(tmp_path, "hgnc/hgnc_complete_set.txt", "hgnc/withdrawn.txt", "hpo/hp.obo")
    assert system.missing(system.choose(folder)) == [
        *("hgnc: complete set", "hpo: genes", "hpo: annotations")
    ]


def test_what_is_served_has_the_name_and_the_packing_that_the_mirror_looks_for(
    tmp_path: Path,
) -> None:
    table = "gnomad/gnomad.v4.1.1.constraint_metrics.tsv"
    folder = lay(tmp_path / "data", table, "hpo/hp-2026-06-23.obo")
    chosen = system.choose(folder)
    system.arrange(chosen, tmp_path / "arranged")
    assert (tmp_path / "arranged/hpo/hp.obo").read_text(encoding="utf-8") == RECORDS
    assert (tmp_path / "arranged" / f"{table}.gz").read_bytes()[:2] == b"\x1f\x8b"


def test_an_absent_folder_is_said_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["verify", "--data", str(tmp_path / "nowhere")])
    assert program.main() == 1
    assert "there is no folder" in capsys.readouterr().err
