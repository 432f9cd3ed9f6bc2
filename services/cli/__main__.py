"""The `annobus` command: the list of what can be typed."""

import sys

import typer

from services.cli import (
    cache,
    changes,
    dead_letters,
    demo,
    genes,
    local,
    logs,
    output,
    panels,
    runs,
    sources,
    statistics,
)
from services.cli.errors import EXIT_CODES, CommandFailed

app = typer.Typer(
    name="annobus",
    help="Keep gene annotations current: run the system, order runs, read what they found.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(local.up)
app.command()(local.down)
app.command()(local.status)
app.command()(local.migrate)
app.command()(local.doctor)
app.command()(logs.logs)
app.command()(demo.demo)
app.add_typer(runs.app, name="runs")
app.add_typer(genes.app, name="genes")
app.add_typer(panels.app, name="panels")
app.add_typer(sources.app, name="sources")
app.command()(changes.changes)
app.add_typer(statistics.app, name="statistics")
app.add_typer(cache.app, name="cache")
app.add_typer(dead_letters.app, name="dead-letters")


def main() -> None:
    output.accept_any_text()
    try:
        app(prog_name="annobus")
    except CommandFailed as error:
        output.show_failure(error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
