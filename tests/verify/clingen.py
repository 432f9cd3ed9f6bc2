"""ClinGen's gene-disease validity, read independently."""

import csv
from collections import Counter, defaultdict
from pathlib import Path

from tests.verify.reading import Claim, Genes, Match, Reading, Value, read_lines

# From the strongest that supports a disease; the rest supports none.
SUPPORTING = ("definitive", "strong", "moderate", "limited")
CLASSES = (*SUPPORTING, "disputed", "refuted", "no known disease relationship")
EARLIER_CLASSES = {"no reported evidence": "no known disease relationship"}
CLASSES_VERSION = 1

Row = dict[str, str]


def read(path: Path, genes: Genes) -> Reading:
    reading = Reading()
    table = [[cell.strip() for cell in cells] for cells in csv.reader(read_lines(path))]
    start = next(at for at, cells in enumerate(table) if cells and cells[0] == "GENE SYMBOL")
    rows_by_gene: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    seen = set()
    for cells in table[start + 1 :]:
        if not any(cells) or cells[0].startswith("+"):
            continue
        if tuple(cells) in seen:
            reading.unmapped["the same row again"] += 1
            continue
        seen.add(tuple(cells))
        row = dict(zip(table[start], cells, strict=True))
        hgnc_id = row["GENE ID (HGNC)"]
        rows_by_gene[hgnc_id, "" if hgnc_id else row["GENE SYMBOL"]].append(row)
    said = [(hgnc_id, _newest_symbol(rows), rows) for (hgnc_id, _), rows in rows_by_gene.items()]
    claims = [
        Claim(hgnc_id or symbol, frozenset({symbol}), hgnc_id=hgnc_id)
        for hgnc_id, symbol, _ in said
    ]
    for (_, symbol, rows), match in zip(said, genes.match(claims), strict=True):
        if match is None:
            reading.unmapped["no gene of ours"] += len(rows)
        else:
            reading.values[match.hgnc_id] = _value(symbol, rows, match)
    return reading


def _newest_symbol(rows: list[Row]) -> str:
    return max((row["CLASSIFICATION DATE"][:10], row["GENE SYMBOL"]) for row in rows)[1]


def _class(said: str) -> str:
    word = said.rstrip("*").strip().lower()
    word = EARLIER_CLASSES.get(word, word)
    return word.replace(" ", "_") if word in CLASSES else "unknown"


def _value(symbol: str, rows: list[Row], match: Match) -> Value:
    counts = Counter(_class(row["CLASSIFICATION"]) for row in rows)
    assertions = sorted(map(_assertion, rows), key=_order)
    return {
        "symbol": symbol,
        "matched_by": match.by,
        "strongest": next((one for one in SUPPORTING if one in counts), None),
        "counts_by_classification": dict(counts),
        "assertion_count": len(rows),
        "assertions": assertions,
        "classes_version": CLASSES_VERSION,
    }


def _order(one: Value) -> tuple[str, ...]:
    return one["mondo_id"], one["moi"] or "", one["gcep"], one["date"], one["report_url"]


def _assertion(row: Row) -> Value:
    address = row["ONLINE REPORT"]
    last = address.rsplit("/", 1)[-1]
    return {
        "id": last if "assertion_" in last else None,
        "disease": row["DISEASE LABEL"],
        "mondo_id": row["DISEASE ID (MONDO)"],
        "moi": row["MOI"] or None,
        "classification": _class(row["CLASSIFICATION"]),
        "classification_said": row["CLASSIFICATION"],
        "sop": row["SOP"] or None,
        "gcep": row["GCEP"],
        "date": row["CLASSIFICATION DATE"][:10],
        "report_url": address,
    }
