"""gnomAD's constraint metrics of v4, read independently, and converters of what others made of it.

A converter gives back the upstream's columns. What the derived table does not have is NA, or made
up where the source needs it to choose a row; such fields are not compared.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from tests.verify.reading import Claim, Genes, Match, Reading, Value, read_lines, read_rows

# LOEUF below which a gene is constrained, as gnomAD says for each release.
THRESHOLDS = {"v4.0": 0.6, "v4.1": 0.6, "v4.1.1": 0.45}
FLOATS = {
    "pli": "lof.pLI",
    "oe_lof": "lof.oe",
    "oe_lof_lower": "lof.oe_ci.lower",
    "loeuf": "lof.oe_ci.upper",
    "exp_lof": "lof.exp",
    "lof_z": "lof.z_score",
    "oe_mis": "mis.oe",
    "oe_mis_lower": "mis.oe_ci.lower",
    "oe_mis_upper": "mis.oe_ci.upper",
    "exp_mis": "mis.exp",
    "mis_z": "mis.z_score",
    "oe_syn": "syn.oe",
    "oe_syn_lower": "syn.oe_ci.lower",
    "oe_syn_upper": "syn.oe_ci.upper",
    "exp_syn": "syn.exp",
    "syn_z": "syn.z_score",
}
WHOLE = {
    "loeuf_decile": "lof.oe_ci.upper_bin_decile",
    "obs_lof": "lof.obs",
    "obs_mis": "mis.obs",
    "obs_syn": "syn.obs",
}

# What the derived table of v4.0 calls what it has, and the fields that can be compared so.
ANNONARS = {
    **{name: FLOATS[name] for name in FLOATS if name not in ("pli", "loeuf", "lof_z")},
    **{name: WHOLE[name] for name in WHOLE if name != "loeuf_decile"},
    "pLI": "lof.pLI",
    "oe_lof_upper": "lof.oe_ci.upper",
    "ensembl_gene_id": "gene_id",
    "gene_symbol": "gene",
}
ANNONARS_FIELDS = frozenset(
    {*FLOATS, *WHOLE, "ensembl_gene_id", "symbol", "matched_by", "assembly"}
    | {"loeuf_threshold", "is_constrained"}
) - {"lof_z", "loeuf_decile"}


def read(path: Path, release: str, genes: Genes) -> Reading:
    reading = Reading()
    chosen: dict[str, tuple[str, dict[str, str]]] = {}
    others: dict[str, int] = {}
    lines = read_lines(path)
    for row in read_rows(lines, next(lines)):
        if not row["transcript"].startswith("ENST"):
            reading.unmapped["a transcript of RefSeq"] += 1
            continue
        id_ = row["gene_id"].split(".")[0]
        by = next((one for one in ("mane_select", "canonical") if row[one] == "true"), None)
        if by is None:
            others[id_] = others.get(id_, 0) + 1
        elif id_ not in chosen or (chosen[id_][0], by) == ("canonical", "mane_select"):
            chosen[id_] = by, row
        elif chosen[id_][0] == by:
            reading.unmapped["a second transcript that could be chosen"] += 1
    reading.unmapped["no transcript can be chosen"] += sum(
        count for id_, count in others.items() if id_ not in chosen
    )
    claims = [
        Claim(id_, frozenset({row["gene"]}), ensembl_gene_id=id_)
        for id_, (_, row) in chosen.items()
    ]
    for (id_, (by, row)), match in zip(chosen.items(), genes.match(claims), strict=True):
        if match is None:
            reading.unmapped["no gene of ours"] += 1
        else:
            reading.values[match.hgnc_id] = _value(id_, by, row, match, release)
    return reading


def _value(id_: str, by: str, row: dict[str, str], match: Match, release: str) -> Value:
    numbers = {name: _number(row[column]) for name, column in (FLOATS | WHOLE).items()}
    loeuf = numbers["loeuf"]
    return {
        **numbers,
        "ensembl_gene_id": id_,
        "symbol": row["gene"],
        "matched_by": match.by,
        "assembly": "GRCh38",
        "transcript": row["transcript"],
        "transcript_version": _text(row.get("transcript_version", "NA")),
        "transcript_chosen_by": by,
        "loeuf_threshold": THRESHOLDS[release],
        "is_constrained": None if loeuf is None else loeuf < THRESHOLDS[release],
        "constraint_flags": _flags(row["constraint_flags"]),
        "gene_flags": _flags(row.get("gene_flags", "NA")),
    }


def _text(cell: str) -> str | None:
    return None if cell.lower() in ("na", "nan", "") else cell


def _number(cell: str) -> float | None:
    return None if _text(cell) is None else float(cell)


def _flags(cell: str) -> list[str] | None:
    found: list[str] | None = None if _text(cell) is None else json.loads(cell)
    return found


def restore_columns(path: Path, form: Path) -> Iterator[str]:
    """The lines of a table from which columns were removed, in the columns of `form`."""
    columns = next(read_lines(form)).split("\t")
    yield "\t".join(columns)
    lines = read_lines(path)
    for row in read_rows(lines, next(lines)):
        assert row.keys() <= set(columns)
        yield "\t".join(row.get(column, "NA") for column in columns)


def convert_annonars(path: Path) -> Iterator[str]:
    """The lines of annonars' table of v4.0 in the columns of the upstream, as far as it has them.

    It does not say which transcript its values are of: each row is made the MANE Select one.
    """
    columns = dict.fromkeys((*FLOATS.values(), *WHOLE.values(), "constraint_flags"), "NA")
    made = {"transcript": "ENST00000000000", "canonical": "true", "mane_select": "true"}
    names = ("gene", "gene_id", *made, *columns)
    yield "\t".join(names)
    lines = read_lines(path)
    for row in read_rows(lines, next(lines)):
        theirs = {column: row[name] for name, column in ANNONARS.items()}
        cells = {**columns, **made, **theirs}
        yield "\t".join(cells[name] for name in names)
