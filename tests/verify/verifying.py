"""All of it: what the services store of a folder's files, and what the sources read of its others,
beside what the independent readings say."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.resources import MIB, Usage
from tests.verify import clingen, clinvar, gnomad, hgnc, hpo, itself
from tests.verify.comparing import Checked, compare
from tests.verify.folder import File, Folder
from tests.verify.reading import Genes, Reading
from tests.verify.system import DECISION, SOURCES, Release, Seen

MEGABYTE = 1_000_000
SERVICE_MEGABYTES_MAX = 600


def read(chosen: Mapping[str, File], made: Mapping[str, Path]) -> dict[str, Reading]:
    """What the files say that the mirror served, by source; none where all of them are made up."""
    paths = {(file.source, file.role): file.path for file in chosen.values()}
    readings: dict[str, Reading] = {}
    complete, withdrawn = paths["hgnc", "complete set"], paths["hgnc", "withdrawn"]
    readings["hgnc"] = hgnc.read(complete, withdrawn)
    genes = Genes.of(readings["hgnc"].values)
    readings["hpo"] = hpo.read(
        paths["hpo", "genes"], paths["hpo", "annotations"], paths["hpo", "ontology"], genes
    )
    if table := paths.get(("gnomad", "table")):
        readings["gnomad"] = gnomad.read(table, "v4.1.1", genes)
    if validity := paths.get(("clingen", "validity")):
        readings["clingen"] = clingen.read(validity, genes)
    if len(made) < 2:
        summary = paths.get(("clinvar", "summary"), made.get("summary"))
        variants = paths.get(("clinvar", "variants"), made.get("variants"))
        assert summary is not None
        assert variants is not None
        readings["clinvar"] = clinvar.read(summary, variants, genes)
    return readings


def check_stored(
    release: Release, source: str, chosen: Mapping[str, File], seen: Seen, reading: Reading | None
) -> Checked:
    """What readers see of a source, beside what its files say."""
    names = [file.name for file in chosen.values() if file.source == source]
    label = f"release {release.version} of {' + '.join(names)}, stored by the services"
    if release.is_accepted_by_hand:
        label += f" as {DECISION['by']} accepted it"
    if reading is None:
        return Checked(
            source, "every file of it was made up: nothing is compared", *compare({}, {})
        )
    # Of the two files only the summary may be real, or only the variants.
    made = set(seen.made) if source == "clinvar" else set()
    real = "summary" if "variants" in made else None
    tally, apart = compare(release.values, reading.values, real)
    if made == {"summary"}:
        apart, tally = compare(release.values, reading.values, "summary")
    problems = []
    if release.synthetic != bool(made):
        said = "is marked as synthetic" if release.synthetic else "is not marked as synthetic"
        problems.append(f"{label}: it {said}; made up are {sorted(made) or 'no files of it'}")
    if release.kept_unmapped_count == release.unmapped_count:
        problems += itself.account(label, release.reasons.total(), reading)
    return Checked(
        source,
        label,
        tally,
        apart,
        genes=len(reading.values),
        reasons=release.reasons,
        valueless=reading.valueless,
        problems=problems,
    )


def check_catalogue(seen: Seen, reading: Reading) -> Checked:
    """The genes as other services see them: withdrawn ones, too, which have no annotations."""
    columns = frozenset().union(*seen.genes.values())
    theirs = itself.pick(reading.values, columns)
    tally, _ = compare(seen.genes, theirs)
    return Checked("hgnc", "the same in the catalogue of genes", tally, genes=len(theirs))


def check_all(folder: Folder, chosen: Mapping[str, File], seen: Seen, work: Path) -> list[Checked]:
    readings = read(chosen, seen.made)
    genes = Genes.of(readings["hgnc"].values)
    catalogue = check_catalogue(seen, readings["hgnc"])
    approved = {id_: readings["hgnc"].values[id_] for id_ in genes.symbols}
    readings["hgnc"] = replace(readings["hgnc"], values=approved)
    served = {file.path for file in chosen.values()}
    stored = [
        check_stored(seen.releases[source], source, chosen, seen, readings.get(source))
        for source in SOURCES
    ]
    ours = itself.catalogue_of(seen.genes)
    return [*stored, catalogue, *itself.check(folder, ours, genes, served, work)]


def memory(usage: Mapping[str, Usage], services: Sequence[str]) -> Iterator[str]:
    """Problems: services that took too much."""
    for name in services:
        megabytes = usage[name].peak_mib * MIB / MEGABYTE
        if megabytes > SERVICE_MEGABYTES_MAX:
            yield f"{name} took {megabytes:.0f} MB; accepted are {SERVICE_MEGABYTES_MAX} MB"
