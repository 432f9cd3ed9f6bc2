"""Which file of a folder is what, whatever its release, and whether it is compared."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKED = r"(\.gz|\.bgz)?"
RELEASE = r"([._-][\w.-]+)?"


@dataclass(frozen=True)
class Kind:
    """Files of one role. `unread` is why such a file is not compared."""

    role: str
    pattern: str
    unread: str | None = None


OTHER_COUNTS = "derived: counts by impact or by frequency, of which ClinVar's files have none"
DOSAGE = "no source reads it: dosage sensitivity is another curation than gene-disease validity"

# By folder, which is called like its source. The first kind that fits counts.
KINDS: Mapping[str, Sequence[Kind]] = {
    "hgnc": (
        Kind("withdrawn", rf"withdrawn{RELEASE}\.txt{PACKED}"),
        Kind("complete set", rf"(hgnc_complete_set|non_alt_loci_set){RELEASE}\.(txt|json){PACKED}"),
        Kind("complete set", rf"hgnc_\d+\.json{PACKED}"),  # Answers in the same form.
    ),
    "hpo": (
        Kind("genes", rf"genes_to_phenotype{RELEASE}\.txt{PACKED}"),
        Kind("annotations", rf"phenotype{RELEASE}\.hpoa{PACKED}"),
        Kind("ontology", rf"hp{RELEASE}\.obo{PACKED}"),
    ),
    "gnomad": (
        Kind(
            "reduced table", rf"gnomad\.v4\.1\.1\.constraint_metrics\S*no_gen_anc\S*\.tsv{PACKED}"
        ),
        Kind("table", rf"gnomad\.v4\.(0|1|1\.1)\.constraint_metrics{RELEASE}\.tsv{PACKED}"),
        Kind("annonars table", rf"annonars_gnomad_constraints_v4\.0\.tsv{PACKED}"),
    ),
    "clingen": (
        Kind("validity", rf"Clingen-Gene-Disease-Summary-\d{{4}}-\d\d-\d\d\.csv{PACKED}"),
        Kind("dosage", rf"ClinGen_gene_curation_list_GRCh3[78]\.tsv{PACKED}", DOSAGE),
    ),
    "clinvar": (
        Kind("summary", rf"gene_specific_summary{RELEASE}\.txt{PACKED}"),
        Kind("variants", rf"variant_summary{RELEASE}\.txt{PACKED}"),
        Kind("annonars records", rf"annonars/clinvar-(seqvars|variants)-\S+\.jsonl{PACKED}"),
        Kind("reports", rf"annonars/gene-(frequency|variant)-report\.jsonl{PACKED}", OTHER_COUNTS),
    ),
}


@dataclass(frozen=True)
class File:
    source: str
    role: str
    path: Path
    unread: str | None = None

    @property
    def name(self) -> str:
        return self.path.name


@dataclass(frozen=True)
class Folder:
    """What lies in the folders of the five sources; `unrecognised` is a failure."""

    files: Sequence[File]
    unrecognised: Sequence[Path]

    def of(self, source: str, role: str) -> list[File]:
        """In the order of their names, so of their days."""
        return [file for file in self.files if (file.source, file.role) == (source, role)]

    def newest(self, source: str, role: str) -> File | None:
        return next(reversed(self.of(source, role)), None)


def recognise(data: Path) -> Folder:
    files, unrecognised = [], []
    for source, kinds in KINDS.items():
        for path in sorted(path for path in (data / source).rglob("*") if path.is_file()):
            name = path.relative_to(data / source).as_posix()
            kind = next((kind for kind in kinds if re.fullmatch(kind.pattern, name)), None)
            if kind is None:
                unrecognised.append(path)
            else:
                files.append(File(source, kind.role, path, kind.unread))
    return Folder(files, unrecognised)
