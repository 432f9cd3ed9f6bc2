"""The command as a person's shell runs it, and a gateway that says what a test wants."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.cli.stub_gateway import Stub, stub_gateway
from tests.system import ROOT

Annobus = Callable[..., "subprocess.CompletedProcess[str]"]
COMMAND = [sys.executable, "-m", "services.cli"]
TIMEOUT_SECONDS = 60
OURS = ("ANNOBUS_URL", "NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS")


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stub_gateway() as stub:
        yield stub


@pytest.fixture
def annobus(tmp_path: Path) -> Annobus:
    """Runs a command in a folder of its own; output is a pipe, so there is no terminal."""

    def run(
        *arguments: str, standard_input: str = "", **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        inherited = {name: value for name, value in os.environ.items() if name not in OURS}
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=tmp_path,
            env=inherited | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"} | environment,
            input=standard_input,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )

    return run
