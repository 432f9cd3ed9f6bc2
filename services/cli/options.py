"""The options that several commands share, each defined once."""

from pathlib import Path
from typing import Annotated

from typer import Option

DEFAULT_STATE = Path(".annobus")
GATEWAY_PORT = 8377
ANNOTATORS_MAX = 32

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
Json = Annotated[bool, Option("--json", help="One JSON object on stdout, and nothing else there.")]

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
