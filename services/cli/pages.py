"""A page of a list: asked for, printed as a table, and how to see the next one."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.cli import output
from services.cli.client import Document, fetch


@dataclass(frozen=True)
class Listing:
    """A list of the gateway: where it is, and what of an item is shown in which column."""

    address: str
    columns: Sequence[str]
    row: Callable[[Document], Sequence[str]]
    numbers: Collection[str] = ()
    styles: Mapping[str, str] = field(default_factory=dict)


def show(
    listing: Listing,
    page: int,
    page_size: int,
    url: str | None,
    folder: Path,
    *,
    json: bool,
    filters: Mapping[str, str] | None = None,
) -> None:
    parameters = {"page[number]": str(page), "page[size]": str(page_size)}
    parameters |= {f"filter[{name}]": value for name, value in (filters or {}).items()}
    document = fetch(url, folder, listing.address, parameters)
    if json:
        output.print_json(document)
        return
    rows = [listing.row(item) for item in document["data"]]
    output.print_table(listing.columns, rows, numbers=listing.numbers, styles=listing.styles)
    if document.get("links", {}).get("next"):
        output.say(f"more: the same command with --page {page + 1}")
