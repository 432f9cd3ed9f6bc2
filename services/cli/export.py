"""`annobus genes export`: the genes of a list as a file, whole or not at all."""

import asyncio
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, BinaryIO

from typer import Argument, Option

from services.cli import exported, output
from services.cli.client import connect, find_url
from services.cli.errors import CommandFailed, Refused
from services.cli.exported import Told
from services.cli.options import (
    DEFAULT_STATE,
    AsOf,
    Filters,
    Json,
    OfPanel,
    Sort,
    State,
    Url,
    gene_parameters,
)

ADDRESS = "/api/export"
STANDARD_OUTPUT = Path("-")
# Of a workbook nothing comes before its end, and the gateway gives it five minutes.
SILENCE_SECONDS_MAX = 330.0
SOURCE = "source "  # Begins what is said of a source.


class Format(StrEnum):
    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    XLSX = "xlsx"

    @property
    def is_text(self) -> bool:
        return self not in (Format.PARQUET, Format.XLSX)


def export(
    file: Annotated[
        Path,
        Argument(metavar="FILE", help="Where to; - is standard output.", allow_dash=True),
    ] = STANDARD_OUTPUT,
    *,
    form: Annotated[
        Format | None,
        Option("--format", help="Without it, what the file's name ends with; else csv."),
    ] = None,
    columns: Annotated[
        str | None,
        Option("--columns", metavar="A,B", help="symbol,gnomad.loeuf; without it, all there are."),
    ] = None,
    filters: Filters = None,
    sort: Sort = None,
    panel: OfPanel = None,
    as_of: AsOf = None,
    force: Annotated[bool, Option("--force", help="Replace a file that there is.")] = False,
    url: Url = None,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """Genes as a file: the same filters and sorts as `genes list`, all of its pages. The file is
    there when it is whole and was checked, and not before."""
    chosen = _format(file, form)
    parameters = [("format", str(chosen)), *gene_parameters(filters, sort, panel, as_of)]
    if columns is not None:
        parameters.append(("columns", columns))
    if file == STANDARD_OUTPUT:
        if not chosen.is_text:
            raise Refused(f"{chosen} is no text: name a file, genes.{chosen}")
        if json:
            raise Refused("--json is on standard output, and so is the export: name a file")
        with _refused_as_a_whole("what was printed"):
            received = asyncio.run(_receive(url, folder, parameters, sys.stdout.buffer, chosen))
            told = received.told(None)
            told.check()
        _show(told, received)
        return
    with (
        _whole_or_not_at_all(file, force=force) as (out, partial),
        _refused_as_a_whole("the file"),
    ):
        received = asyncio.run(_receive(url, folder, parameters, out, chosen))
        told = received.told(partial)
        told.check()
    if json:
        output.print_json(
            {
                "file": str(file),
                "format": str(chosen),
                "bytes": received.byte_count,
                "sha256": received.sha256,
                "genes": told.row_count,
                "rows_sha256": told.facts["sha256"],
                "is_checked": told.sha256 is not None,
                "told": told.facts,
            }
        )
        return
    _show(told, received)
    output.say(f"{file} is written")


def _format(file: Path, form: Format | None) -> Format:
    if form is not None:
        return form
    if file == STANDARD_OUTPUT:
        return Format.CSV
    ending = file.suffix.lower().removeprefix(".")
    if ending not in list(Format):
        accepted = ", ".join(f".{one}" for one in Format)
        raise Refused(f"{str(file)!r} ends with none of {accepted}: say which with --format")
    return Format(ending)


# ------------------------------------------------------------------------------ what comes


class _Received:
    """What has come of an export, of which texts are read as they come."""

    def __init__(self, form: Format) -> None:
        self._form = form
        self._hash = hashlib.sha256()
        self._stream: exported.Stream | None = None
        if form.is_text:
            is_json = form == Format.JSONL
            self._stream = exported.JsonLines() if is_json else exported.Delimited()
        self.byte_count = 0

    def note(self, part: bytes) -> None:
        self.byte_count += len(part)
        self._hash.update(part)
        if self._stream is not None:
            self._stream.feed(part)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def told(self, path: Path | None) -> Told:
        if self._stream is not None:
            return self._stream.told()
        assert path is not None  # What is no text goes into a file.
        read = exported.read_parquet if self._form == Format.PARQUET else exported.read_workbook
        return read(path)


async def _receive(
    url: str | None,
    folder: Path,
    parameters: list[tuple[str, str]],
    out: BinaryIO,
    form: Format,
) -> _Received:
    """Raises Refused and NotReachable, also when what comes breaks off."""
    received = _Received(form)
    async with connect(find_url(url, folder)) as client:
        with _moving(shown=out is not sys.stdout.buffer) as say:
            async with client.stream(ADDRESS, parameters, {}, SILENCE_SECONDS_MAX) as response:
                async for part in response.aiter_bytes():
                    received.note(part)
                    out.write(part)
                    say(f"{received.byte_count / 1e6:,.1f} MB")
    out.flush()
    return received


@contextmanager
def _moving(*, shown: bool) -> Iterator[Callable[[str], None]]:
    """On a terminal a line that is drawn again; none where the export itself is printed."""
    if not shown or not output.has_live_display(output.talk):
        yield lambda _: None
        return
    with output.talk.status("waiting for the gateway") as status:
        yield status.update


# --------------------------------------------------------------------------- what is written


@contextmanager
def _whole_or_not_at_all(file: Path, *, force: bool) -> Iterator[tuple[BinaryIO, Path]]:
    """A file beside the one that is wanted, which takes its name when all went well."""
    if file.is_dir():
        raise Refused(f"{str(file)!r} is a folder: name a file in it")
    _refuse_to_replace(file, force=force)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        with partial.open("xb") as out:
            yield out, partial
            out.flush()
            os.fsync(out.fileno())
        _refuse_to_replace(file, force=force)  # Somebody else may have written it meanwhile.
        partial.replace(file)
    except OSError as error:
        raise CommandFailed(f"{str(file)!r} cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _refuse_to_replace(file: Path, *, force: bool) -> None:
    if file.exists() and not force:
        raise Refused(f"{str(file)!r} is there already: name another file, or add --force")


@contextmanager
def _refused_as_a_whole(what: str) -> Iterator[None]:
    try:
        yield
    except (exported.Wrong, *exported.UNREADABLE) as error:
        raise CommandFailed(
            f"{what} is not to be used: {error}",
            advice="Try again; and see that the address is that of an annobus gateway",
        ) from error


def _show(told: Told, received: _Received) -> None:
    facts = told.facts
    output.say(f"{output.many(told.row_count, 'gene')}, {output.many(received.byte_count, 'byte')}")
    output.say(f"as of {output.moment(facts.get('as_of'))}")
    how = "made again, the same" if told.sha256 else "as the gateway tells; the rows were counted"
    output.say(f"SHA-256 of the rows: {facts['sha256']} ({how})")
    output.say(f"SHA-256 of the bytes: {received.sha256}")
    for name, said in sorted(facts.items()):
        if name.startswith(SOURCE):
            output.say(f"{name.removeprefix(SOURCE)}: {said}")
    if "cut" in facts:
        output.say(f"cut: {facts['cut']}", style="yellow")
