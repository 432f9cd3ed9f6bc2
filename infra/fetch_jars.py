"""Fetches the jars that `kafka_jars.lock` names into a folder, each checked against its SHA-256.

`python -I fetch_jars.py FOLDER` fetches; `python -I fetch_jars.py --lock FOLDER` resolves KAFKA
anew, fetches what it needs into FOLDER and prints the lock file. Run as a program of its own,
because jgo blocks while it works and reads the certificates from the environment; the variables of
OpenSSL and of pip for them are understood too.
"""

import hashlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jgo.maven import MavenContext
from jgo.parse import Coordinate

KAFKA = "org.apache.kafka:kafka_2.13:4.3.1"
# Kafka logs through slf4j and brings log4j, but leaves the bridge between them to its distribution.
LOGGING_BRIDGE = "org.apache.logging.log4j:log4j-slf4j-impl"
LOGGING_CORE = "org.apache.logging.log4j:log4j-core"
LOCK_FILE = Path(__file__).with_name("kafka_jars.lock")
CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "PIP_CERT")
REQUEST_TIMEOUT_SECONDS = 60
TRIES_MAX = 3
DOWNLOADS_AT_ONCE = 8


def main() -> None:
    found = [os.environ[name] for name in CERTIFICATES if os.environ.get(name)]
    if found:
        os.environ["REQUESTS_CA_BUNDLE"] = found[0]
    if sys.argv[1] == "--lock":
        print_lock(_context(Path(sys.argv[2])))
    else:
        fetch(Path(sys.argv[1]))


def fetch(folder: Path) -> None:
    context = _context(folder / "repository")
    locked = [line.split() for line in LOCK_FILE.read_text().splitlines()]
    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        jars = list(pool.map(lambda line: _fetch_jar(context, *line), locked))
    for jar in jars:
        jar.rename(folder / jar.name)


def print_lock(context: MavenContext) -> None:
    kafka = context.create_dependency(Coordinate.parse(KAFKA))
    roots, needed = context.resolver.resolve([kafka])
    resolved = [*roots, *(jar for jar in needed if jar.scope in ("compile", "runtime"))]
    names = {f"{jar.groupId}:{jar.artifactId}": jar.version for jar in resolved}
    # Not resolved together with Kafka: jgo would apply log4j's own version table to Kafka's jars.
    names[LOGGING_BRIDGE] = names[LOGGING_CORE]
    for name, version in sorted(names.items()):
        jar = context.create_dependency(Coordinate.parse(f"{name}:{version}")).artifact.resolve()
        sys.stdout.write(f"{name}:{version} {_sha256(jar)}\n")


def _context(repository: Path) -> MavenContext:
    return MavenContext(repo_cache=repository, timeout=REQUEST_TIMEOUT_SECONDS)


def _fetch_jar(context: MavenContext, name: str, sha256: str) -> Path:
    artifact = context.create_dependency(Coordinate.parse(name)).artifact
    reason = ""
    for attempt in range(1, TRIES_MAX + 1):
        try:
            jar: Path = artifact.resolve()
        except OSError as error:
            reason = "the download failed"
            sys.stderr.write(f"{name}, attempt {attempt} of {TRIES_MAX}: {error}\n")
        else:
            if _sha256(jar) == sha256:
                return jar
            reason = f"its SHA-256 is not the one that {LOCK_FILE.name} records"
            sys.stderr.write(f"{name}, attempt {attempt} of {TRIES_MAX}: wrong SHA-256\n")
        # What an interrupted download left behind would pass for the jar.
        cached = artifact.cached_path
        if cached is not None:
            cached.unlink(missing_ok=True)
    sys.exit(f"{name}: {reason}")


def _sha256(file: Path) -> str:
    with file.open("rb") as jar:
        return hashlib.file_digest(jar, "sha256").hexdigest()


if __name__ == "__main__":
    main()
