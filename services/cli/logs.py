"""`annobus logs`: what the processes of a local system wrote, and what they write now."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated, BinaryIO

from typer import Argument, Option

from services.cli import output
from services.cli.errors import NotReachable, Refused
from services.cli.options import DEFAULT_STATE, Json, State
from services.cli.state import LOG_FOLDER

LINES = 50
LINES_MAX = 100_000
POLL_SECONDS = 0.2
SUFFIX = ".log"


class Tail:
    """The lines that are added to a file, also when it is replaced by a new one."""

    def __init__(self, path: Path, *, at_end: bool) -> None:
        self._path = path
        self._partial = b""
        self._file: BinaryIO | None = None
        self._inode = 0
        self._open()
        if at_end and self._file is not None:
            self._file.seek(0, 2)

    def new_lines(self) -> Iterator[str]:
        yield from self._read()
        if self._is_replaced():
            self.close()
            self._open()
            yield from self._read()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _open(self) -> None:
        self._file = None
        if self._path.exists():
            self._file = self._path.open("rb")
            self._inode = self._path.stat().st_ino

    def _read(self) -> Iterator[str]:
        if self._file is None:
            return
        *lines, self._partial = (self._partial + self._file.read()).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)

    def _is_replaced(self) -> bool:
        return self._path.exists() and (
            self._file is None or self._path.stat().st_ino != self._inode
        )


def logs(
    name: Annotated[
        str | None, Argument(help="A process as `annobus status` names it; without it, all.")
    ] = None,
    follow: Annotated[
        bool, Option("-f", "--follow", help="Go on with what is written now.")
    ] = False,
    lines: Annotated[int, Option("--lines", "-n", min=0, max=LINES_MAX)] = LINES,
    folder: State = DEFAULT_STATE,
    json: Json = False,
) -> None:
    """The last lines of the processes' logs."""
    if follow and json:
        raise Refused("--json is one object, and -f has no end: leave one of them out")
    files = {path.stem: path for path in sorted((folder / LOG_FOLDER).glob(f"*{SUFFIX}"))}
    if not files:
        raise NotReachable(f"there are no logs in {folder}", advice="Start a system: annobus up")
    if name is not None:
        if name not in files:
            raise Refused(f"there is no log {name!r}; accepted: {', '.join(files)}")
        files = {name: files[name]}
    if json:
        output.print_json({"logs": {key: _last(path, lines) for key, path in files.items()}})
        return
    width = max(map(len, files)) if len(files) > 1 else 0
    with ExitStack() as stack:
        tails = {
            key: stack.enter_context(closing(Tail(path, at_end=True)))
            for key, path in files.items()
        }
        for key, path in files.items():
            _print(key, _last(path, lines), width)
        while follow:
            for key, tail in tails.items():
                _print(key, list(tail.new_lines()), width)
            time.sleep(POLL_SECONDS)


def _print(name: str, lines: Sequence[str], width: int) -> None:
    for line in lines:
        output.print_line(f"{name.ljust(width)} | {line}" if width else line)


def _last(path: Path, lines: int) -> list[str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        return [line.rstrip("\n") for line in deque(file, maxlen=lines)]
