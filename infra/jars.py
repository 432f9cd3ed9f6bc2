"""Finds the jars of Kafka, and fetches them once per person and machine."""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from infra.errors import ClusterError, SupervisorError
from infra.processes import Process, run_to_end
from infra.state import StateFolder, make_private_folder, try_lock

PROGRAM = Path(__file__).with_name("fetch_jars.py")
LOCK_FILE = Path(__file__).with_name("kafka_jars.lock")
VERSION = "4.3.1"
FETCH_TIMEOUT_SECONDS = 600.0
LOCK_POLL_SECONDS = 0.1


async def class_path(state: StateFolder) -> list[Path]:
    """The jars of the lock file, in its order, fetched unless every one is there already."""
    cache = _cache_folder(state)
    folder = cache / f"kafka-{VERSION}"
    jars = [folder / name for name in _locked_names()]
    if not _complete(jars):
        async with _locked(cache):
            # Somebody else may have fetched them while we waited.
            if not _complete(jars):
                await _fetch(folder, state)
    return jars


def wrong_jars(state: StateFolder) -> tuple[Path, list[str]] | None:
    """The folder of fetched jars and those that are missing there or have another SHA-256; None
    where nothing was fetched yet. Makes nothing."""
    for cache in (_own_cache_folder(), state.path / "cache"):
        folder = cache / f"kafka-{VERSION}" if cache is not None else None
        if folder is not None and folder.is_dir():
            return folder, [
                name
                for name, sha256 in zip(_locked_names(), _locked_hashes(), strict=True)
                if _sha256(folder / name) != sha256
            ]
    return None


def _sha256(file: Path) -> str | None:
    try:
        with file.open("rb") as jar:
            return hashlib.file_digest(jar, "sha256").hexdigest()
    except FileNotFoundError:
        return None


async def _fetch(folder: Path, state: StateFolder) -> None:
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    for old in (unfinished, folder):
        await asyncio.to_thread(shutil.rmtree, old, ignore_errors=True)
    unfinished.mkdir()
    log_file = state.logs / "kafka-jars.log"
    try:
        await run_to_end(
            Process(
                name="kafka-jars",
                command=(sys.executable, "-I", str(PROGRAM), str(unfinished)),
                cwd=state.path,
                log_file=log_file,
                start_timeout_seconds=FETCH_TIMEOUT_SECONDS,
            )
        )
    except SupervisorError as error:
        # Its last line names the jar and the reason; the attempts before it fill a screen.
        reason = str(error).splitlines()[-1]
        raise ClusterError(
            f"Kafka's jars could not be fetched ({reason}): a first start needs the internet, or a "
            f"proxy named by HTTPS_PROXY; each attempt is in {log_file}"
        ) from error
    await asyncio.to_thread(shutil.rmtree, unfinished / "repository")
    unfinished.rename(folder)


def _locked_names() -> list[str]:
    """The file names of the jars: the lock file's lines are `group:artifact:version sha256`."""
    coordinates = (line.split()[0].split(":") for line in LOCK_FILE.read_text().splitlines())
    return [f"{artifact}-{version}.jar" for _, artifact, version in coordinates]


def _locked_hashes() -> list[str]:
    return [line.split()[1] for line in LOCK_FILE.read_text().splitlines()]


def _complete(jars: list[Path]) -> bool:
    return all(jar.is_file() for jar in jars)


def _cache_folder(state: StateFolder) -> Path:
    """The person's, so that clusters share the jars; in the state folder when it cannot be used."""
    folder = _own_cache_folder()
    if folder is not None:
        with contextlib.suppress(OSError):
            folder.parent.mkdir(parents=True, exist_ok=True)
            make_private_folder(folder)
            if os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                return folder
    folder = state.path / "cache"
    make_private_folder(folder)
    return folder


def _own_cache_folder() -> Path | None:
    """The person's; None for an account that has no home."""
    with contextlib.suppress(RuntimeError):
        parent = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return parent.absolute() / "annobus"
    return None


@contextlib.asynccontextmanager
async def _locked(folder: Path) -> AsyncIterator[None]:
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        async with asyncio.timeout(FETCH_TIMEOUT_SECONDS):
            while not try_lock(lock, fcntl.LOCK_EX):
                await asyncio.sleep(LOCK_POLL_SECONDS)
        yield
    except TimeoutError:
        raise ClusterError(
            f"another process has held {folder / 'lock'} for {FETCH_TIMEOUT_SECONDS:g} s"
        ) from None
    finally:
        os.close(lock)
