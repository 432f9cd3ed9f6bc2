"""gnomAD, gene by gene: answers GraphQL queries for constraint from the table that is served."""

import gzip
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from infra.mirror.files import MADE, ServedFile

QUERIES_MAX: Final = 10  # In a window.
WINDOW_SECONDS: Final = 60.0
GENES_MAX: Final = 25  # Each costs one, and a query may not cost more.
GENE: Final = re.compile(r"(\w+): gene\(gene_id: \$(\w+), reference_genome: GRCh38\)")
KINDS: Final = ("lof", "mis", "syn")


class Api:
    """Understands queries of the one form that the annotator sends.

    Failures come with status 200, and an error does not say which gene it is of.
    """

    def __init__(
        self, table: ServedFile, *, limits: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._table = table
        self._limits = limits
        self._clock = clock
        self._admitted: deque[float] = deque(maxlen=QUERIES_MAX)

    async def ask(self, request: Request) -> Response:
        said = orjson.loads(await request.body())
        if not self._admit():
            return self._answer(
                None, ["Query rate limit exceeded. Please try again in a few minutes."]
            )
        if said["query"] == "{__typename}":
            return self._answer({"__typename": "Query"}, [])
        asked = dict(GENE.findall(said["query"]))
        if len(asked) > GENES_MAX:
            return self._answer(None, [f"Query exceeds maximum cost of {GENES_MAX}"])
        found = {name: self._gene(said["variables"][of]) for name, of in asked.items()}
        return self._answer(found, ["Gene not found" for gene in found.values() if gene is None])

    def _answer(self, data: Mapping[str, Any] | None, messages: list[str]) -> Response:
        said: dict[str, Any] = {"data": data}
        if messages:
            said = {"errors": [{"message": message} for message in messages], **said}
        made = MADE if self._table.synthetic else {}
        return Response(orjson.dumps(said), headers=made, media_type="application/json")

    def _admit(self) -> bool:
        now = self._clock()
        full = len(self._admitted) == QUERIES_MAX and now - self._admitted[0] < WINDOW_SECONDS
        if self._limits and full:
            return False
        self._admitted.append(now)
        return True

    @cached_property
    def _rows(self) -> Mapping[str, Mapping[str, str]]:
        """By Ensembl gene id, the row that counts; read when somebody asks for the first time."""
        with gzip.open(self._table.path, "rt", encoding="utf-8") as table:
            header = next(table).rstrip("\n").split("\t")
            rows = (dict(zip(header, line.rstrip("\n").split("\t"), strict=True)) for line in table)
            return {
                row["gene_id"]: row
                for row in rows
                if row["canonical"] == "true" and row["transcript"].startswith("ENST")
            }

    def _gene(self, id_: str) -> Mapping[str, Any] | None:
        """A gene that has no row is one without constraint; what is no gene id is unknown."""
        if not re.fullmatch(r"ENSG\d{11}", id_):
            return None
        row = self._rows.get(id_)
        about = {"gene_id": id_, "symbol": row["gene"] if row else id_}
        return about | {"gnomad_constraint": _constraint(row) if row else None}


def _constraint(row: Mapping[str, str]) -> Mapping[str, Any]:
    said: dict[str, Any] = {"pli": _number(row["lof.pLI"])}
    for kind in KINDS:
        said |= {
            f"obs_{kind}": _count(row[f"{kind}.obs"]),
            f"exp_{kind}": _number(row[f"{kind}.exp"]),
            f"oe_{kind}": _number(row[f"{kind}.oe"]),
            f"oe_{kind}_lower": _number(row[f"{kind}.oe_ci.lower"]),
            f"oe_{kind}_upper": _number(row[f"{kind}.oe_ci.upper"]),
            f"{kind}_z": _number(row[f"{kind}.z_score"]),
        }
    return said | {"flags": orjson.loads(row["constraint_flags"])}


def _number(cell: str) -> float | None:
    return None if cell == "NA" else float(cell)


def _count(cell: str) -> int | None:
    return None if cell == "NA" else int(cell)
