"""ClinGen's gene-disease validity: a real file of a folder, or one made up and marked so."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, Final

from infra.mirror.files import Offer, UnusableData, publish, unpacked, write_bytes

PATH: Final = "/gene-validity/download"
NAME: Final = "Clingen-Gene-Disease-Summary-"
SYMBOL: Final = "GENE SYMBOL"
HEADER: Final = (
    *(SYMBOL, "GENE ID (HGNC)", "DISEASE LABEL", "DISEASE ID (MONDO)", "MOI", "SOP"),
    *("CLASSIFICATION", "ONLINE REPORT", "CLASSIFICATION DATE", "GCEP"),
)
BANNER_LINES_MAX: Final = 20
# Raised when other values are made, so that an older cache is not taken for these.
MAKING: Final = 1
MADE_AT: Final = datetime(2026, 3, 6, tzinfo=UTC)
FIRST_DAY: Final = date(2017, 1, 1)
DAYS: Final = 3_300

# How many of 256 genes are made so.
CURATED_256THS: Final = 14
RETIRED_256THS: Final = 1
REPEATED_256THS: Final = 1
# Every release has these genes: PKD1, BRCA1 and TP53.
ALWAYS: Final = frozenset({"HGNC:9008", "HGNC:1100", "HGNC:11998"})
# Sixteen equally likely ones.
CLASSIFICATIONS: Final = (
    *["Definitive"] * 9,
    *["Limited"] * 2,
    *["Moderate"] * 2,
    *("Strong", "Disputed", "No Known Disease Relationship"),
)
MODES: Final = ("AR", "AD", "AR", "AD", "XL", "MT", "SD", "UD")

Row = tuple[str, ...]


def offer(
    records: Iterable[Mapping[str, Any]], catalogue: str, cache: Path, data: Path | None
) -> Offer:
    """The newest file of `data` if there is one. Raises UnusableData."""
    found = sorted((data / "clingen").glob(f"{NAME}*.csv*")) if data is not None else []
    return _real(found[-1], cache) if found else _made(records, catalogue, cache)


def _real(source: Path, cache: Path) -> Offer:
    path = unpacked(source, cache) if source.suffix == ".gz" else source
    with path.open(encoding="utf-8-sig", newline="") as text:
        rows = csv.reader(text)
        if not any(cells[:1] == [SYMBOL] for cells in islice(rows, BANNER_LINES_MAX)):
            raise UnusableData(f"{source} has no row that begins with {SYMBOL}.")
        count = sum(1 for cells in rows if cells and not cells[0].startswith("+"))
    created = source.name.removeprefix(NAME)[:10]
    try:
        modified = datetime.fromisoformat(created).replace(tzinfo=UTC)
    except ValueError as error:
        raise UnusableData(f"{source} names no day; accepted is {NAME}YYYY-MM-DD.csv.") from error
    return Offer(
        origin=f"file {source.name}",
        release=created,
        synthetic=False,
        rows=count,
        licence="CC0",
        citation="Clinical Genome Resource (ClinGen), search.clinicalgenome.org",
        files={PATH: publish(path, cache, modified, "text/csv")},
        counts={"assertions": count},
    )


def _made(records: Iterable[Mapping[str, Any]], catalogue: str, cache: Path) -> Offer:
    rows = list(make_rows(records))
    content = build_file(rows)
    key = blake2b(content, digest_size=8).hexdigest()
    path = cache / f"clingen-{key}-{MAKING}.csv"
    if not path.exists():
        write_bytes(path, content)
    return Offer(
        origin=f"made up, for the genes of {catalogue}",
        release=f"{MADE_AT:%Y-%m-%d}",
        synthetic=True,
        rows=len(rows),
        licence="none: synthetic",
        citation="none: these values are not ClinGen's and must not be cited",
        files={PATH: publish(path, cache, MADE_AT, "text/csv", synthetic=True)},
        counts={"assertions": len(rows)},
    )


def make_rows(records: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    """One row or two for some of the genes; each number comes from the digits of the id's hash."""
    for record in records:
        hgnc_id, symbol = record["hgnc_id"], record["symbol"]
        seed = blake2b(b"clingen" + hgnc_id.encode(), digest_size=32).digest()
        if seed[0] >= CURATED_256THS and hgnc_id not in ALWAYS:
            continue
        # An id that HGNC has not given so far stands for one that it has given up.
        retired = seed[1] < RETIRED_256THS and hgnc_id not in ALWAYS
        named = f"HGNC:9{hgnc_id.removeprefix('HGNC:').zfill(6)}" if retired else hgnc_id
        for part in range(1 + (seed[2] < 50)):
            row = _row(symbol, named, seed[8 * part + 4 : 8 * part + 12], part)
            yield row
            if seed[3] < REPEATED_256THS:
                yield row


def _row(symbol: str, hgnc_id: str, seed: bytes, part: int) -> Row:
    day = FIRST_DAY + timedelta(int.from_bytes(seed[:2]) % DAYS)
    moment = f"{day}T16:00:00.000Z"
    number = int.from_bytes(seed[2:6]) % 100_000
    report = f"CGGV:assertion_{seed.hex()}-{moment.replace(':', '')}"
    return (
        symbol,
        hgnc_id,
        f"synthetic disease {part + 1} of {symbol}",
        f"MONDO:99{number:05d}",  # An id that MONDO has not given so far.
        MODES[seed[6] % len(MODES)],
        f"SOP{5 + seed[5] % 7}",
        CLASSIFICATIONS[seed[7] % len(CLASSIFICATIONS)],
        f"https://synthetic.invalid/kb/gene-validity/{report}",
        moment,
        f"Synthetic Gene Curation Expert Panel {seed[4] % 40}",
    )


def build_file(rows: Iterable[Row]) -> bytes:
    """As ClinGen's: a banner, the header between rows of signs, every cell in quotes."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    empty = [""] * (len(HEADER) - 1)
    signs = ["+" * len(column) for column in HEADER]
    for line in (
        ["CLINGEN GENE DISEASE VALIDITY CURATIONS", *empty],
        [f"FILE CREATED: {MADE_AT:%Y-%m-%d}", *empty],
        ["WEBPAGE: https://synthetic.invalid/kb/gene-validity", *empty],
        *(signs, HEADER, signs),
    ):
        writer.writerow(line)
    writer.writerows(rows)
    return text.getvalue().encode()
