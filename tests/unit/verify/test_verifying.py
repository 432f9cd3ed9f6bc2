"""The verification itself can fail: each thing that may be wrong is found, and said."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.resources import Usage
from services.annotator.sources import clingen
from tests.verify import itself, verifying
from tests.verify.comparing import ABSENT, Checked, Difference, Tally, compare
from tests.verify.folder import Folder, recognise
from tests.verify.reading import Claim, Genes, Reading, Value
from tests.verify.report import lines, problems, verdict
from tests.verify.system import Release, Seen

GENES = {
    f"HGNC:{id_}": {
        "hgnc_id": f"HGNC:{id_}",
        "status": "approved",
        "symbol": symbol,
        "entrez_id": f"99900{id_}",
        "ensembl_gene_id": f"ENSG9000000000{id_}",
    }
    for id_, symbol in ((1, "TSTA1"), (2, "TSTB1"), (3, "TSTC1"))
}
CLINGEN = """\
"CLINGEN GENE DISEASE VALIDITY CURATIONS","","","","","","","","",""
"GENE SYMBOL","GENE ID (HGNC)","DISEASE LABEL","DISEASE ID (MONDO)","MOI","SOP",\
"CLASSIFICATION","ONLINE REPORT","CLASSIFICATION DATE","GCEP"
"+++","+++","+++","+++","+++","+++","+++","+++","+++","+++"
"TSTA1","HGNC:1","one, syndrome","MONDO:9000001","AD","SOP10",\
"Definitive","https://example.org/CGGV:assertion_1","2024-01-12T16:00:00.000Z","A Panel"
"TSTA1","HGNC:1","other","MONDO:9000000","","SOP5",\
"Refuted","https://example.org/2","2025-01-12T16:00:00.000Z","B Panel"
"TSTA1","HGNC:1","other","MONDO:9000000","","SOP5",\
"Refuted","https://example.org/2","2025-01-12T16:00:00.000Z","B Panel"
"NOGENE","HGNC:999","other","MONDO:9000000","AR","SOP5",\
"Limited","https://example.org/3","2025-01-12T16:00:00.000Z","B Panel"
"""
HGNC = (
    "hgnc_id\tsymbol\tname\tstatus\talias_symbol\tgene_group\tgene_group_id\tmane_select\n"
    'HGNC:1\tTSTA1\ta name\tApproved\t"A|B"\t"x|y"\t"7|8"\t"ENST1.2|NM_3.4"\n'
    "HGNC:2\tTSTB1\tanother\tApproved\t\t\t\t\n"
    "HGNC:2\tTSTB2\tthe same id\tApproved\t\t\t\t\n"
)
WITHDRAWN = (
    "HGNC_ID\tSTATUS\tWITHDRAWN_SYMBOL\tMERGED_INTO_REPORT(S) (i.e HGNC_ID|SYMBOL|STATUS)\n"
    "HGNC:8\tEntry Withdrawn\tOLD1\t\n"
    "HGNC:9\tMerged/Split\tOLD2\tHGNC:1|TSTA1|Approved, HGNC:2|TSTB1|Approved\n"
)
SERVICES = ("gateway",)

Lay = Callable[..., Folder]


@pytest.fixture
def lay(tmp_path: Path) -> Lay:
    def lay(**contents: str) -> Folder:
        names = {
            "clingen": "clingen/Clingen-Gene-Disease-Summary-2025-01-09.csv",
            "hgnc": "hgnc/hgnc_complete_set.txt",
            "withdrawn": "hgnc/withdrawn.txt",
        }
        for name, content in contents.items():
            path = tmp_path / "data" / names[name]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        return recognise(tmp_path / "data")

    return lay


def check(folder: Folder, work: Path) -> list[Checked]:
    catalogue = itself.catalogue_of(GENES)
    return list(itself.check(folder, catalogue, Genes.of(GENES), set(), work))


def test_what_source_and_file_say_alike_is_counted_and_equal(lay: Lay, tmp_path: Path) -> None:
    folder = lay(clingen=CLINGEN, hgnc=HGNC, withdrawn=WITHDRAWN)
    checked = check(folder, tmp_path)
    assert [(one.source, one.genes, one.tally.differences) for one in checked] == [
        ("hgnc", 4, []),
        ("clingen", 1, []),
    ]
    assert checked[1].tally.compared == 27
    assert checked[1].reasons.total() == 2
    assert problems(folder, checked, ["hgnc", "clingen"]) == []
    assert verdict(checked).endswith(" values, 0 differ")


def test_one_changed_value_is_found_with_its_gene_and_field(
    lay: Lay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the source took one class for another.

    monkeypatch.setattr(clingen, "CLASSES", {**clingen.CLASSES, "refuted": "disputed"})
    folder = lay(clingen=CLINGEN)
    checked = check(folder, tmp_path)
    assert checked[0].differences == [
        Difference("HGNC:1", "assertions.0.classification", "disputed", "refuted"),
        Difference("HGNC:1", "counts_by_classification.disputed", 1, ABSENT),
        Difference("HGNC:1", "counts_by_classification.refuted", ABSENT, 1),
    ]
    assert verdict(checked) == "verified 28 values, 3 differ"
    said = "\n".join(lines(folder, checked, ["clingen"]))
    assert "DIFFERS HGNC:1 assertions.0.classification: 'disputed', the file says" in said


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_a_gene_that_one_side_lacks_differs_in_each_of_its_fields(side: str) -> None:
    some: dict[str, Value] = {"HGNC:1": {"a": 1}}
    more: dict[str, Value] = some | {"HGNC:2": {"a": None, "b": {"c": [], "d": [1, 2]}}}
    tally, _ = compare(more, some) if side == "theirs" else compare(some, more)
    assert (tally.compared, tally.equal) == (5, 1)
    assert [one.field for one in tally.differences] == ["a", "b.c", "b.d.0", "b.d.1"]


@pytest.mark.parametrize(
    ("one", "another"), [(True, 1), (0, False), (None, 0), ("1", 1), ([], None), ({}, [])]
)
def test_values_of_other_types_differ(one: object, another: object) -> None:
    tally, _ = compare({"HGNC:1": {"a": one}}, {"HGNC:1": {"a": another}})
    assert len(tally.differences) == 1


def test_synthetic_fields_are_counted_apart_and_still_compared() -> None:
    ours: dict[str, Value] = {"HGNC:1": {"summary": {"alleles": 3}, "variants_total": 2}}
    theirs: dict[str, Value] = {"HGNC:1": {"summary": {"alleles": 3}, "variants_total": 1}}
    tally, synthetic = compare(ours, theirs, "summary")
    assert (tally.compared, tally.equal, synthetic.compared, synthetic.equal) == (1, 1, 1, 0)
    checked = Checked("clinvar", "a release", tally, synthetic)
    assert verdict([checked]) == "verified 1 values, 1 differ"
    assert any("SYNTHETIC" in line for line in lines(Folder([], []), [checked], ["clinvar"]))


def test_a_source_without_values_is_a_problem() -> None:
    checked = [Checked("hpo", "a release", Tally(compared=1)), Checked("hgnc", "none", Tally())]
    assert problems(Folder([], []), checked, ["hpo", "hgnc", "gnomad"]) == [
        "hgnc: no value was compared",
        "gnomad: no value was compared",
    ]


def test_rows_that_are_neither_values_nor_reported_are_a_problem(
    lay: Lay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def entries(*_: object) -> list[object]:
        return []

    folder = lay(clingen=CLINGEN)
    monkeypatch.setattr(clingen, "_entries", entries)
    (problem,) = problems(folder, check(folder, tmp_path), ["clingen"])
    assert "1 rows are reported as unmapped, 2 are" in problem


def test_a_service_that_takes_too_much_memory_is_a_problem() -> None:
    usage = {"gateway": Usage(573, 1, None, None), "mirror": Usage(900, 1, None, None)}
    assert list(verifying.memory(usage, SERVICES)) == ["gateway took 601 MB; accepted are 600 MB"]
    assert list(verifying.memory(usage | {"gateway": Usage(570, 1, None, None)}, SERVICES)) == []


@pytest.mark.parametrize(
    ("synthetic", "made", "found"),
    [(False, [], []), (True, ["variants"], []), (True, [], ["is"]), (False, ["variants"], ["is"])],
)
def test_what_is_made_up_is_marked_so_and_what_is_not_is_not(
    synthetic: bool, made: list[str], found: list[str]
) -> None:
    value: Value = {"summary": {"alleles": 3}, "variants_total": 1}
    release = Release("1", synthetic, is_accepted_by_hand=False, values={"HGNC:1": value})
    seen = Seen({}, {}, {}, SERVICES, 1.0, dict.fromkeys(made, Path()))
    checked = verifying.check_stored(release, "clinvar", {}, seen, Reading({"HGNC:1": value}))
    assert [said.partition(": it ")[2].split()[0] for said in checked.problems] == found
    assert (checked.tally.compared, checked.synthetic.compared) == ((1, 1) if made else (2, 0))


def test_a_reduced_table_without_its_columns_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "gnomad/gnomad.v4.1.1.constraint_metrics_reduced.no_gen_anc.tsv"
    path.parent.mkdir()
    path.write_text("gene\n", encoding="utf-8")
    folder = recognise(tmp_path)
    assert "no table beside it" in problems(folder, check(folder, tmp_path), [])[0]


def test_reasons_are_one_kind_whatever_they_name() -> None:
    reasons = Counter(
        {
            "no gene has this Entrez id, nor just one the symbol A1 or B-2": 2,
            "no gene has this Entrez id, nor just one the symbol C": 1,
            "ambiguous: this Entrez id is that of HGNC:1, HGNC:23": 1,
            "ambiguous: this Entrez id is that of HGNC:4, HGNC:5, HGNC:6": 4,
        }
    )
    checked = [Checked("hpo", "a release", Tally(compared=1), reasons=reasons)]
    said = list(lines(Folder([], []), checked, ["hpo"]))
    assert said[3:] == [
        "      5 rows: ambiguous: this Entrez id is that of <id>",
        "      3 rows: no gene has this Entrez id, nor just one the symbol <symbol>",
    ]


def test_no_gene_is_matched_by_a_symbol_that_two_claim_or_that_has_its_id_elsewhere() -> None:
    genes = Genes.of(GENES)

    claims = [
        Claim("1", frozenset({"OLD"}), entrez_id="999001"),
        Claim("7", frozenset({"TSTA1"}), entrez_id="999007"),
        Claim("8", frozenset({"TSTB1"}), entrez_id="999008"),
        Claim("9", frozenset({"TSTB1"}), entrez_id="999009"),
        Claim("5", frozenset({"TSTC1"}), entrez_id="999005"),
    ]
    found = [match and (match.hgnc_id, match.by) for match in genes.match(claims)]
    assert found == [("HGNC:1", "entrez_id"), None, None, None, ("HGNC:3", "symbol")]


def test_an_account_of_rows_names_both_counts() -> None:
    reading = Reading(unmapped=Counter({"no gene of ours": 3}))
    assert itself.account("x", 3, reading) == []
    assert "2 rows are reported as unmapped, 3 are" in itself.account("x", 2, reading)[0]
