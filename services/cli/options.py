"""The options that several commands share, each defined once."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from services.cli.errors import Refused

DEFAULT_STATE = Path(".annobus")
GATEWAY_PORT = 8377
ANNOTATORS_MAX = 32
PAGE_SIZE = 20
PAGE_SIZE_MAX = 200

State = Annotated[
    Path,
    Option("--state", metavar="DIR", help="The folder that holds the system's data and addresses."),
]
Url = Annotated[
    str | None,
    Option(
        "--url",
        metavar="URL",
        envvar="ANNOBUS_URL",
        help="The gateway's address; without it, that of the system in the state folder.",
    ),
]
GeneNames = Annotated[
    list[str] | None, Argument(metavar="GENES", help="HGNC ids, symbols, Entrez or Ensembl ids.")
]
GeneFile = Annotated[
    Path | None,
    Option("--file", metavar="F", help="A gene a line; - reads standard input.", allow_dash=True),
]
Filters = Annotated[
    list[str] | None,
    Option(
        "--filter",
        metavar="FIELD=A,B",
        help=r"symbol=PKD1,PKD2 or 'gnomad.loeuf\[lt]=0.6'; may be given again.",
    ),
]
Sort = Annotated[
    str | None,
    Option("--sort", metavar="FIELD", help="symbol, gnomad.loeuf, …; -symbol descends."),
]
OfPanel = Annotated[
    str | None, Option("--panel", metavar="ID[@N]", help="Only the genes of a panel's version.")
]
AsOf = Annotated[
    str | None,
    Option("--as-of", metavar="TIME", help="As it was then: 2026-06-01, or 2026-06-01T08:00:00Z."),
]
IdempotencyKey = Annotated[
    str | None,
    Option("--idempotency-key", metavar="KEY", help="The same key and order: nothing new."),
]
OptionalBy = Annotated[str | None, Option("--by", help="Who does it; kept with it.")]
Json = Annotated[bool, Option("--json", help="One JSON object on stdout, and nothing else there.")]

PageSize = Annotated[int, Option("--page-size", min=1, max=PAGE_SIZE_MAX)]
Page = Annotated[int, Option("--page", min=1, help="1 is the newest.")]
After = Annotated[str | None, Option("--after", metavar="CURSOR", help="Go on where a page ended.")]
By = Annotated[str, Option("--by", help="Who decides; kept with the decision.")]
Note = Annotated[str, Option("--note", help="Why; kept with the decision.")]
OptionalNote = Annotated[str | None, Option("--note", help="Why; kept with the decision.")]

Annotators = Annotated[
    int,
    Option(
        "--annotators", min=1, max=ANNOTATORS_MAX, help="How many annotators work side by side."
    ),
]
Mirror = Annotated[
    bool,
    Option(
        "--mirror/--no-mirror",
        help="Annotate from a local mirror, or from the real upstreams over the internet.",
    ),
]
Data = Annotated[
    Path | None,
    Option(
        "--data",
        metavar="DIR",
        exists=True,
        file_okay=False,
        help="Files the mirror serves instead of its packages: DIR/hgnc and DIR/hpo; and of what"
        " it makes up: DIR/clingen, DIR/clinvar and DIR/gnomad.",
    ),
]
NoLimits = Annotated[
    bool, Option("--no-limits", help="The mirror answers, and is asked, as fast as it can be.")
]
Port = Annotated[
    int | None,
    Option(
        "--port",
        min=1,
        max=65_535,
        help=f"The gateway's port; without it {GATEWAY_PORT}, or a free one where that is taken.",
    ),
]


_FILTER = re.compile(r"([^][=]+)(\[[a-z]+\])?=(.+)", re.DOTALL)


def gene_parameters(
    filters: Sequence[str] | None, sort: str | None, panel: str | None, as_of: str | None
) -> list[tuple[str, str]]:
    """What a list of genes is asked for with. Raises Refused."""
    parameters = [_filter(text) for text in filters or []]
    others = {"filter[panel]": panel, "sort": sort, "as_of": as_of}
    return parameters + [(name, value) for name, value in others.items() if value is not None]


def _filter(text: str) -> tuple[str, str]:
    found = _FILTER.fullmatch(text)
    if found is None:
        raise Refused(
            f"--filter {text!r} is not accepted: write FIELD=VALUE, FIELD=A,B "
            "or FIELD[OPERATOR]=VALUE"
        )
    return f"filter[{found[1]}]{found[2] or ''}", found[3]


def given(**options: str | None) -> dict[str, str]:
    """Those options that were given."""
    return {name: value for name, value in options.items() if value is not None}
