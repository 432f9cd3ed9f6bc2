"""HGNC, read independently: the complete set in its two forms, and the withdrawn entries."""

import json
from collections.abc import Iterator
from pathlib import Path

from tests.verify.reading import Reading, Value, read_lines

COMPLETE_RECORDS_MIN = 40_000
PLAIN = {
    name: name
    for name in (
        *("hgnc_id", "symbol", "name", "locus_group", "locus_type", "location"),
        *("entrez_id", "ensembl_gene_id"),
    )
}
LISTS = {
    "aliases": "alias_symbol",
    "previous_symbols": "prev_symbol",
    "previous_names": "prev_name",
    "uniprot_ids": "uniprot_ids",
    "refseq_accessions": "refseq_accession",
    "ccds_ids": "ccds_id",
    "omim_ids": "omim_id",
    "mgd_ids": "mgd_id",
    "rgd_ids": "rgd_id",
}
DAYS = {"approved_at": "date_approved_reserved", "modified_at": "date_modified"}
STATUSES = {"Approved": "approved", "Entry Withdrawn": "withdrawn", "Merged/Split": "merged"}


def is_json(path: Path) -> bool:
    return next(read_lines(path), "").startswith("{")


def is_complete(path: Path) -> bool:
    return sum(1 for _ in read_records(path)) >= COMPLETE_RECORDS_MIN


def read(complete_set: Path, withdrawn: Path | None) -> Reading:
    """Approved genes first; of two entries with one id the first counts."""
    reading = Reading()
    entries = [_value(record) for record in read_records(complete_set)]
    entries += _read_withdrawn(withdrawn) if withdrawn is not None else []
    for value in entries:
        if value["hgnc_id"] in reading.values:
            reading.unmapped["the id is that of another entry"] += 1
        else:
            reading.values[value["hgnc_id"]] = value
    return reading


def read_records(path: Path) -> Iterator[dict[str, list[str]]]:
    """Each record by HGNC's keys, whose values are lists of text, one long where they are none."""
    if is_json(path):
        for record in json.loads("\n".join(read_lines(path)))["response"]["docs"]:
            yield {
                key: [str(part).strip() for part in (said if isinstance(said, list) else [said])]
                for key, said in record.items()
            }
        return
    lines = read_lines(path)
    names = next(lines).split("\t")
    for line in lines:
        if line.strip():
            cells = [_unquoted(cell) for cell in line.split("\t")]
            yield {
                name: [part.strip() for part in cell.split("|") if part.strip()]
                for name, cell in zip(names, cells, strict=True)
            }


def _unquoted(cell: str) -> str:
    if len(cell) > 1 and cell.startswith('"') and cell.endswith('"'):
        return cell[1:-1].replace('""', '"')
    return cell


def _value(record: dict[str, list[str]]) -> Value:
    def first(key: str) -> str | None:
        return "|".join(record.get(key, [])).strip() or None

    days = {field: first(key) for field, key in DAYS.items()}
    groups = zip(record.get("gene_group_id", []), record.get("gene_group", []), strict=True)
    transcripts = record.get("mane_select", [])
    return {
        **{field: first(key) for field, key in PLAIN.items()},
        **{field: record.get(key, []) for field, key in LISTS.items()},
        **{field: day and day[:10] for field, day in days.items()},
        "status": STATUSES[record["status"][0]],
        "successors": [],
        "gene_groups": [{"id": int(id_), "name": name} for id_, name in groups],
        "mane_select_enst": _starting(transcripts, "ENST"),
        "mane_select_nm": _starting(transcripts, "NM_"),
    }


def _starting(transcripts: list[str], prefix: str) -> str | None:
    return next((one for one in transcripts if one.startswith(prefix)), None)


def _read_withdrawn(path: Path) -> Iterator[Value]:
    lines = read_lines(path)
    next(
        lines
    )  # HGNC id, status, symbol, and HGNC_ID|SYMBOL|STATUS of what it became, commas between.
    for line in lines:
        if line.strip():
            hgnc_id, status, symbol, became, *_ = [*line.split("\t"), ""]
            yield {
                **_value({"hgnc_id": [hgnc_id], "symbol": [symbol], "status": [status]}),
                "successors": [
                    one.split("|")[0].strip() for one in became.strip('" ').split(",") if one
                ],
            }
