"""What `make verify-data` says, line by line, and whether all is well."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from tests.verify.comparing import Checked
from tests.verify.folder import Folder

DIFFERENCES_SHOWN = 20
REASONS_SHOWN = 12
CHARACTERS_MAX = 120
# What differs between reasons of one kind.
PLACEHOLDERS = (
    (re.compile(r"\b(HGNC:\d+|ENSG\d+|HP:\d+|MONDO:\d+)(, (?:HGNC:\d+))*"), "<id>"),
    (re.compile(r"(\bthe symbol) \S+( or \S+)*"), r"\1 <symbol>"),
    (re.compile(r"'[^']*'"), "<text>"),
    (re.compile(r"\b\d+\b"), "<n>"),
)


def group(reasons: Mapping[str, int]) -> Counter[str]:
    """Rows by kind of reason: what names a gene, a term or a line is replaced."""
    kinds: Counter[str] = Counter()
    for reason, row_count in reasons.items():
        kind = reason
        for pattern, placeholder in PLACEHOLDERS:
            kind = pattern.sub(placeholder, kind)
        kinds[kind] += row_count
    return kinds


def problems(folder: Folder, checked: Sequence[Checked], sources: Sequence[str]) -> list[str]:
    """Why it fails though what was compared is equal."""
    found = [f"{path} is not recognised" for path in folder.unrecognised]
    compared = {one.source for one in checked if one.tally.compared}
    found += [f"{source}: no value was compared" for source in sources if source not in compared]
    return found + [problem for one in checked for problem in one.problems]


def lines(folder: Folder, checked: Sequence[Checked], sources: Sequence[str]) -> Iterator[str]:
    """By source: what was compared, what differs, what is no gene of ours, what was not read."""
    for source in sources:
        mine = [one for one in checked if one.source == source]
        compared = sum(one.tally.compared for one in mine)
        equal = sum(one.tally.equal for one in mine)
        yield f"{source}: {compared:,} values compared, {equal:,} equal"
        for one in mine:
            yield from _lines_of(one)
        differences = [found for one in mine for found in one.differences]
        for found in differences[:DIFFERENCES_SHOWN]:
            ours, theirs = (repr(said)[:CHARACTERS_MAX] for said in (found.ours, found.theirs))
            yield f"  DIFFERS {found.hgnc_id} {found.field}: {ours}, the file says {theirs}"
        if len(differences) > DIFFERENCES_SHOWN:
            yield f"  … and {len(differences) - DIFFERENCES_SHOWN:,} more differences"
        for file in folder.files:
            if file.source == source and file.unread is not None:
                yield f"  not compared: {file.name}: {file.unread}"


def _lines_of(one: Checked) -> Iterator[str]:
    compared, equal = one.tally.compared, one.tally.equal
    yield f"  {one.label}: {one.genes:,} genes, {compared:,} values, {equal:,} equal"
    if one.synthetic.compared:
        yield (
            f"    SYNTHETIC beside it, made up by the mirror and not counted:"
            f" {one.synthetic.compared:,} values, {one.synthetic.equal:,} equal"
        )
    kinds = group(one.reasons)
    if kinds and not one.problems:
        yield f"    unmapped: {kinds.total():,} rows, as many as counted independently; of them"
    for kind, row_count in kinds.most_common(REASONS_SHOWN):
        yield f"      {row_count:,} rows: {kind}"
    if len(kinds) > REASONS_SHOWN:
        yield f"      … and {len(kinds) - REASONS_SHOWN} more kinds of reasons"
    for reason, gene_count in one.valueless.items():
        yield f"    no value, and none to be: {gene_count:,} genes: {reason}"


def verdict(checked: Sequence[Checked]) -> str:
    compared = sum(one.tally.compared for one in checked)
    differ = sum(len(one.differences) for one in checked)
    return f"verified {compared:,} values, {differ:,} differ"
