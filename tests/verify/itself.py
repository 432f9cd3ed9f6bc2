"""Files that are no release by themselves, read by the source's own class in this process."""

import gzip
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import orjson

from services.annotator import domain
from services.annotator.domain import BulkSource, Record, StoredFile, Unmapped, open_raw
from services.annotator.sources import clingen as clingen_source
from services.annotator.sources import clinvar as clinvar_source
from services.annotator.sources import gnomad as gnomad_source
from services.annotator.sources import hgnc as hgnc_source
from tests.verify import clingen, clinvar, gnomad, hgnc
from tests.verify.comparing import Checked, Tally, compare
from tests.verify.folder import File, Folder
from tests.verify.reading import Genes, Reading, Value

RELEASE = re.compile(r"gnomad\.(v[\d.]*\d)\.")
WITHDRAWN_HEADER = "HGNC_ID\tSTATUS\tWITHDRAWN_SYMBOL\tMERGED_INTO_REPORT(S)"


def check(
    folder: Folder, catalogue: domain.Catalogue, genes: Genes, served: set[Path], work: Path
) -> Iterator[Checked]:
    """What the services did not read (`served` is what they did), and HGNC's every form besides."""
    yield from _check_hgnc(folder, catalogue, work)
    yield from _check_gnomad(folder, catalogue, genes, served, work)
    for file in folder.of("clingen", "validity"):
        if file.path not in served:
            files = {clingen_source.FILE: _plain(file.path, work)}
            read = _read(clingen_source.Clingen(), files, catalogue)
            yield _compare("clingen", file.name, read, clingen.read(file.path, genes))
    for file in folder.of("clinvar", "annonars records"):
        yield _check_clinvar(file, catalogue, genes, work)


_Read = tuple[dict[str, Value], Counter[str]]


def _read(source: BulkSource, files: Mapping[str, Path], catalogue: domain.Catalogue) -> _Read:
    """The values, and the reasons of unmapped rows."""
    values: dict[str, Value] = {}
    reasons: Counter[str] = Counter()
    stored = {
        name: StoredFile(partial(open_raw, path), b"", None, None) for name, path in files.items()
    }
    for entry in source.read(stored, catalogue):
        if isinstance(entry, Record):
            values[entry.hgnc_id] = orjson.loads(domain.canonical(entry.value))
        elif isinstance(entry, Unmapped):
            reasons[entry.reason] += entry.row_count
    return values, reasons


def _compare(
    source: str, name: str, read: _Read, reading: Reading, fields: frozenset[str] | None = None
) -> Checked:
    values, reasons = read
    theirs = reading.values
    if fields is not None:
        values, theirs = pick(values, fields), pick(theirs, fields)
    tally, _ = compare(values, theirs)
    label = f"{name}, read by the source itself"
    problems = account(label, reasons.total(), reading)
    return Checked(
        source,
        label,
        tally,
        genes=len(reading.values),
        reasons=reasons,
        valueless=reading.valueless,
        problems=problems,
    )


def account(label: str, row_count: int, reading: Reading) -> list[str]:
    """Rows that are of no gene, as both count them."""
    expected = reading.unmapped.total()
    if row_count == expected:
        return []
    return [
        f"{label}: {row_count} rows are reported as unmapped, {expected} are: {reading.unmapped}"
    ]


def pick(values: Mapping[str, Value], fields: frozenset[str]) -> dict[str, Value]:
    return {gene: {name: one[name] for name in fields} for gene, one in values.items()}


def catalogue_of(genes: Mapping[str, Value]) -> domain.Catalogue:
    """As the services know them: rows of their published view, by HGNC id."""
    return domain.Catalogue(
        [
            domain.Gene(hgnc_id, row["symbol"], row["entrez_id"], row["ensembl_gene_id"])
            for hgnc_id, row in genes.items()
            if row["status"] == "approved"
        ]
    )


def _check_hgnc(folder: Folder, catalogue: domain.Catalogue, work: Path) -> Iterator[Checked]:
    newest = folder.newest("hgnc", "withdrawn")
    for file in folder.of("hgnc", "complete set"):
        withdrawn = newest.path if newest else _write(work / "withdrawn.txt", [WITHDRAWN_HEADER])
        files = {
            hgnc_source.COMPLETE_SET: _plain(file.path, work),
            hgnc_source.WITHDRAWN: _plain(withdrawn, work),
        }
        read = _read(hgnc_source.Hgnc(), files, catalogue)
        yield _compare("hgnc", file.name, read, hgnc.read(file.path, withdrawn))


def _check_gnomad(
    folder: Folder, catalogue: domain.Catalogue, genes: Genes, served: set[Path], work: Path
) -> Iterator[Checked]:
    def checked(
        name: str, table: Path, release: str, fields: frozenset[str] | None = None
    ) -> Checked:
        source = gnomad_source.Gnomad(release)
        read = _read(source, {gnomad_source.FILE: table}, catalogue)
        return _compare("gnomad", name, read, gnomad.read(table, release, genes), fields)

    for file in folder.of("gnomad", "table"):
        found = RELEASE.match(file.name)
        if file.path not in served and found:
            yield checked(file.name, file.path, found[1])
    form = folder.newest("gnomad", "table")
    for file in folder.of("gnomad", "reduced table"):
        if form is None:
            problem = f"{file.path}: no table beside it tells which columns it once had"
            yield Checked("gnomad", file.name, Tally(), problems=[problem])
            continue
        table = _write(work / "reduced.tsv", gnomad.restore_columns(file.path, form.path))
        yield checked(f"{file.name}, its columns restored", table, "v4.1.1")
    for file in folder.of("gnomad", "annonars table"):
        table = _write(work / "annonars.tsv", gnomad.convert_annonars(file.path))
        name = f"{file.name}, converted, without the fields that it has not"
        yield checked(name, table, "v4.0", gnomad.ANNONARS_FIELDS)


def _check_clinvar(file: File, catalogue: domain.Catalogue, genes: Genes, work: Path) -> Checked:
    variants = _write(work / "variants.txt", clinvar.convert_records(file.path, genes))
    summary = _write(work / "summary.txt", clinvar.empty_summary())
    files = {clinvar_source.GENE_SUMMARY: summary, clinvar_source.VARIANTS: variants}
    read = _read(clinvar_source.Clinvar(), files, catalogue)
    reading = clinvar.read(summary, variants, genes)
    return _compare("clinvar", f"{file.name}, converted", read, reading)


def _write(path: Path, lines: Iterable[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def _plain(path: Path, work: Path) -> Path:
    """As the upstream publishes it: people pack what they keep."""
    if path.suffix != ".gz":
        return path
    target = work / path.stem
    with gzip.open(path) as packed:
        target.write_bytes(packed.read())
    return target
