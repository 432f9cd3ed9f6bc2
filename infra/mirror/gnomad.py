"""gnomAD's constraint metrics in the form of v4.1.1: a real table, or one made up and marked so."""

import gzip
import math
import struct
import zlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import orjson

from infra.mirror.ensembl import Gene, describe
from infra.mirror.files import Offer, UnusableData, publish, write_bytes

RELEASE: Final = "4.1.1"
PATH: Final = f"/release/{RELEASE}/constraint/gnomad.v{RELEASE}.constraint_metrics.tsv.bgz"
# Raised when other values are made, so that an older cache is not taken for these.
MAKING: Final = 1
MADE_AT: Final = datetime(2026, 3, 30, tzinfo=UTC)
BLOCK_BYTES: Final = 0xFF00  # Of a bgzf block, unpacked; packed it may have 64 KiB at most.
BLOCK_START: Final = bytes.fromhex("1f8b0804 00000000 00ff 0600 4243 0200")
LEVEL: Final = 1

# How many of 256 genes are made so.
MISSING_256THS: Final = 12
CANONICAL_256THS: Final = 8
RETIRED_256THS: Final = 1
NO_EXPECTED_256THS: Final = 8

ANCESTRIES: Final = ("global", "afr", "amr", "eas", "nfe", "sas")
COUNTS: Final = ("mu", "possible", "obs", "exp", "oe", "z_raw", "z_score")
BOUNDS: Final = ("oe_ci.lower", "oe_ci.upper")
RANKS: Final = tuple(
    f"oe_ci.upper_{name}" for name in ("rank", "bin_percentile", "bin_decile", "bin_sextile")
)
BY_ANCESTRY: Final = tuple(
    f"gen_anc_{kind}.{ancestry}" for kind in ("obs", "exp") for ancestry in ANCESTRIES
)
PROBABILITIES: Final = ("pLI", "pNull", "pRec")
GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "syn": (*COUNTS, *BOUNDS, *BY_ANCESTRY),
    "mis": (*COUNTS, *BOUNDS, *BY_ANCESTRY),
    "lof_hc_lc": (*COUNTS, *BOUNDS, *BY_ANCESTRY, *PROBABILITIES),
    "lof": (*COUNTS, *BOUNDS, *RANKS, *BY_ANCESTRY, *PROBABILITIES),
}
HEADER: Final = (
    *("gene", "gene_id", "transcript", "canonical", "mane_select", "transcript_version"),
    *("transcript_type", "transcript_level", "chromosome", "start_position", "end_position"),
    *("cds_length", "num_coding_exons"),
    *(
        f"gene_quality_metrics.exome_{name}"
        for name in ("prop_bp_AN90", "mean_AS_MQ", "prop_segdup", "prop_LCR")
    ),
    *("gene_flags", "constraint_flags"),
    *(f"{group}.{name}" for group, names in GROUPS.items() for name in names),
)
RANKED: Final = [len(HEADER) - len(GROUPS["lof"]) + GROUPS["lof"].index(name) for name in RANKS]
NO_ARRAYS: Final = ("[]",) * len(BY_ANCESTRY)
NOT_GIVEN: Final = "NA"
DEVIATIONS: Final = 1.645  # On each side, for an interval that holds 90 %.

Row = list[str]


def from_folder(data: Path, cache: Path) -> Offer | None:
    """A real table in the upstream's own columns; one that somebody took columns from is none."""
    for table in sorted((data / "gnomad").glob(f"gnomad.v{RELEASE}.constraint_metrics*")):
        with gzip.open(table, "rt", encoding="utf-8") as lines:
            try:
                header = next(lines, "").rstrip("\n").split("\t")
                if header != list(HEADER):
                    continue
                rows = sum(1 for _ in lines)
            except (EOFError, gzip.BadGzipFile, UnicodeDecodeError) as error:
                raise UnusableData(f"{table} is no complete gzip file ({error}).") from error
        return Offer(
            origin=f"file {table.name}",
            release=RELEASE,
            synthetic=False,
            rows=rows,
            licence="CC0",
            citation="gnomAD; Karczewski et al. 2020, doi:10.1038/s41586-020-2308-7",
            files={PATH: publish(table, cache, MADE_AT, "application/octet-stream")},
            counts={"rows": rows},
        )
    return None


def offer(genes: Mapping[str, Gene], catalogue: str, cache: Path) -> Offer:
    names = "\n".join(f"{gene.ensembl_id}\t{gene.symbol}" for gene in genes.values())
    key = blake2b(names.encode(), digest_size=8).hexdigest()
    folder = cache / f"gnomad-{key}-{MAKING}"
    table, counts = folder / "constraint_metrics.tsv.bgz", folder / "counts.json"
    if not table.exists():
        chosen, others = make_rows(genes.values())
        rows = [list(HEADER), *chosen, *others]
        count = {"rows": len(rows) - 1, "genes": len(chosen)}
        write_bytes(counts, orjson.dumps(count))
        # Last, because the counts are looked for only when it is there.
        write_bytes(table, pack("".join("\t".join(row) + "\n" for row in rows).encode()))
    count = orjson.loads(counts.read_bytes())
    return Offer(
        origin=f"made up, for the Ensembl ids of {catalogue}",
        release=RELEASE,
        synthetic=True,
        rows=count["rows"],
        licence="none: synthetic",
        citation="none: these values are not gnomAD's and must not be cited",
        files={PATH: publish(table, cache, MADE_AT, "application/octet-stream", synthetic=True)},
        counts=count,
    )


def make_rows(genes: Iterable[Gene]) -> tuple[list[Row], list[Row]]:
    """A row for each gene that gnomAD has, and the rows of transcripts that nobody chooses."""
    chosen, others = [], []
    ranked: list[tuple[float, Row]] = []
    for gene in genes:
        seed = blake2b(b"gnomad" + gene.ensembl_id.encode(), digest_size=32).digest()
        place = describe(gene, expand=False, mane=False)
        coding = place["biotype"] == "protein_coding" and place["seq_region_name"] != "MT"
        if not coding or seed[0] < MISSING_256THS:
            continue
        is_mane = seed[1] >= CANONICAL_256THS
        loeuf, cells = _measure(seed)
        row = [*_names(gene, seed, place, is_mane), *cells]
        chosen.append(row)
        if loeuf is not None:
            ranked.append((loeuf, row))
        if seed[3] < 64:
            others.append(_another(row))
        if seed[4] < 64:
            others.append(_of_refseq(row))
    for rank, (_, row) in enumerate(sorted(ranked)):
        for at, bins in zip(RANKED, (len(ranked), 100, 10, 6), strict=True):
            row[at] = str(rank * bins // len(ranked))
    return chosen, others


def _names(gene: Gene, seed: bytes, place: Mapping[str, Any], is_mane: bool) -> Row:
    transcript, _, version = place["canonical_transcript"].partition(".")
    cds_length = 3 * (80 + seed[5] * 12)
    # An id that Ensembl has not given so far stands for one that it has given up.
    retired = seed[2] < RETIRED_256THS
    return [
        gene.symbol,
        f"ENSG9{gene.ensembl_id[5:]}" if retired else gene.ensembl_id,
        transcript,
        "true",
        "true" if is_mane else "false",
        f"{transcript}.{version}",
        "protein_coding",
        "1",
        f"chr{place['seq_region_name']}",
        str(place["start"]),
        str(place["end"]),
        str(cds_length),
        str(1 + seed[6] % 40),
        f"{1 - seed[7] / 2560:.4e}",
        f"{60 - seed[8] / 256:.4e}",
        "0.0000e+00",
        "0.0000e+00",
        '["low_exome_coverage"]' if seed[7] > 250 else "[]",
    ]


def _measure(seed: bytes) -> tuple[float | None, Row]:
    """The upper end of loss of function's interval, and the cells from the flags on."""
    size = 80 + seed[5] * 12  # Codons.
    flags = []
    if seed[9] < NO_EXPECTED_256THS:
        flags.append("no_exp_lof")
    if seed[10] < 2:
        flags.append("outlier_mis")
    _, syn = _count(0.12 * size, 0.85 + seed[11] / 850)
    _, mis = _count(0.28 * size, 1.9 if "outlier_mis" in flags else 0.5 + seed[12] / 425)
    if "no_exp_lof" in flags:
        nothing = [NOT_GIVEN] * (len(COUNTS) + len(BOUNDS) - 2)
        upper, lof = None, ["1.0000e-07", "4", *nothing]
        probabilities = [NOT_GIVEN] * len(PROBABILITIES)
    else:
        share = (seed[13] / 255) ** 1.5 * 1.3
        upper, lof = _count(0.03 * size, share)
        # A soft step where gnomAD's is: nearly 1 below a third of what is expected, else nearly 0.
        pli = 1 / (1 + math.exp(25 * (share - 0.35)))
        probabilities = [f"{p:.4e}" for p in (pli, (1 - pli) / 4, (1 - pli) * 3 / 4)]
    unranked = [NOT_GIVEN] * len(RANKS)
    return upper, [
        orjson.dumps(flags).decode(),
        *(*syn, *NO_ARRAYS),
        *(*mis, *NO_ARRAYS),
        *(*lof, *NO_ARRAYS, *probabilities),
        *(*lof, *unranked, *NO_ARRAYS, *probabilities),
    ]


def _count(expected: float, share: float) -> tuple[float, Row]:
    """The upper end of the interval, and the cells of COUNTS and BOUNDS."""
    observed = round(expected * share)
    deviation = math.sqrt(max(observed, 1))
    lower = max(0.0, observed - DEVIATIONS * deviation) / expected
    upper = (observed + DEVIATIONS * deviation + 1) / expected
    z_score = (expected - observed) / math.sqrt(expected)
    return upper, [
        f"{expected * 1e-8:.4e}",
        str(math.ceil(expected * 3)),
        str(observed),
        *(f"{n:.4e}" for n in (expected, observed / expected, z_score, z_score, lower, upper)),
    ]


def _another(row: Row) -> Row:
    """A transcript of the same gene that is neither MANE Select nor canonical."""
    transcript = f"{row[2][:-1]}2"
    return [*row[:2], transcript, "false", "false", f"{transcript}.1", *row[6:]]


def _of_refseq(row: Row) -> Row:
    """The same in RefSeq's names: the gene by its number, and of the gene itself nothing."""
    unknown = [NOT_GIVEN] * (HEADER.index("constraint_flags") - 5)
    flags_on = row[HEADER.index("constraint_flags") :]
    return [row[0], row[1][-6:], f"NM_9{row[1][-8:]}.1", row[3], row[4], *unknown, *flags_on]


def pack(content: bytes) -> bytes:
    """As bgzf: gzip files of one block each, with its packed size in a field of its own."""
    blocks = [content[at : at + BLOCK_BYTES] for at in range(0, len(content), BLOCK_BYTES)]
    return b"".join(map(_block, [*blocks, b""]))


def _block(content: bytes) -> bytes:
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(content) + packer.flush()
    size = len(BLOCK_START) + 2 + len(packed) + 8
    return b"".join(
        (
            BLOCK_START,
            struct.pack("<H", size - 1),
            packed,
            struct.pack("<II", zlib.crc32(content), len(content)),
        )
    )
