"""The genes that a person names: as arguments, or in a file."""

import sys
from collections.abc import Sequence
from pathlib import Path

from contracts.messages import GENES_MAX
from services.cli.errors import Refused

FILE_BYTES_MAX = 8 * 1024 * 1024


def named(genes: Sequence[str], file: Path | None) -> list[str]:
    """Those of the file, where there is one. Raises Refused."""
    return list(genes) if file is None else _read(file)


def read(file: Path) -> bytes:
    """What a file, or standard input (-), holds. Raises Refused."""
    try:
        if str(file) == "-":
            content = sys.stdin.buffer.read(FILE_BYTES_MAX + 1)
        else:
            with file.open("rb") as opened:
                content = opened.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise Refused(f"--file {file}: {error.strerror}") from error
    if len(content) > FILE_BYTES_MAX:
        raise Refused(f"--file {file}: it is larger than {FILE_BYTES_MAX} bytes")
    return content


def _read(file: Path) -> list[str]:
    """A gene a line; empty lines, and those that start with #, are none."""
    try:
        text = read(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(f"--file {file}: it is not UTF-8 text ({error.reason})") from error
    lines = [line.strip() for line in text.splitlines()]
    genes = [line for line in lines if line and not line.startswith("#")]
    if not 1 <= len(genes) <= GENES_MAX:
        raise Refused(f"--file {file}: it names {len(genes)} genes; accepted are 1 to {GENES_MAX}")
    return genes
