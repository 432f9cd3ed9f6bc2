"""What `docker compose` makes of the compose file, where it is installed; no engine is asked."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from infra.roles import ROLES
from tests.system import ROOT

DOCKER = shutil.which("docker")
PASSWORDS = {f"{role.upper()}_PASSWORD": f"of-{role}" for role in ("postgres", *ROLES)}


@pytest.fixture(autouse=True)
def compose_is_here() -> None:
    if DOCKER is None or _run(["version"], Path.cwd()).returncode != 0:
        pytest.skip("docker compose is not installed")


def _run(arguments: list[str], folder: Path, **given: str) -> "subprocess.CompletedProcess[str]":
    # A folder of the test's own and few variables: neither holds a person's passwords.
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [str(DOCKER), "compose", "-f", str(ROOT / "infra" / "compose.yaml"), *arguments],
        cwd=folder,
        env=environment | given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("missing", PASSWORDS)
def test_a_password_that_is_missing_is_named_with_the_way_out(missing: str, tmp_path: Path) -> None:
    given = {name: password for name, password in PASSWORDS.items() if name != missing}
    ended = _run(["config", "--quiet"], tmp_path, **given)
    assert ended.returncode != 0
    assert re.search(rf"\b{missing} is missing a value: make the file \.env first", ended.stderr)
    assert 'see "With containers" in README.md' in ended.stderr


@pytest.mark.parametrize("profile", [[], ["--profile", "mirror"]])
def test_with_all_passwords_the_file_is_whole(profile: list[str], tmp_path: Path) -> None:
    ended = _run([*profile, "config", "--services"], tmp_path, **PASSWORDS)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    expected = {"postgres", "kafka", "roles", "migrate", "annotator", "cache", "gateway"}
    assert set(ended.stdout.split()) == expected | ({"mirror"} if profile else set())
