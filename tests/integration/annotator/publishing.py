"""An upstream whose files a test writes."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from sqlalchemy import text

from services.annotator.domain import RemoteFile
from services.annotator.upstream import Downloaded, Upstream
from tests.integration.annotator.desk import Desk


@dataclass
class Publisher(Upstream):
    """Stands for the upstream of a bulk source; who knows a file's ETag is told that it is so."""

    contents: dict[str, bytes]
    media_types: dict[str, str] = field(default_factory=dict)
    sent: int = 0
    synthetic: bool = False

    async def download(
        self,
        file: RemoteFile,
        into: Path,
        etag: str | None,
        last_modified: str | None,  # noqa: ARG002 - its ETags suffice
    ) -> Downloaded | None:
        content = self.contents[file.name]
        sha256 = hashlib.sha256(content).digest()
        if etag == sha256.hex():
            return None
        self.sent += 1
        target = into / file.name
        target.write_bytes(content)
        return Downloaded(
            path=target,
            url=f"http://made.up/{file.path}",
            sha256=sha256,
            bytes=len(content),
            etag=sha256.hex(),
            last_modified=None,
            media_type=self.media_types.get(file.name, "text/plain"),
            synthetic=self.synthetic,
        )


async def publish(desk: Desk, source: str) -> Publisher:
    """From now on this source publishes what a test writes; at first what it published last."""
    rows = await desk.rows(
        """SELECT DISTINCT ON (f.name) f.name, f.sha256 FROM release_file f
           JOIN release r ON r.id = f.release_id WHERE r.source = :source
           ORDER BY f.name, f.id DESC""",
        source=source,
    )
    async with desk.engine.begin() as tx:
        await tx.execute(text("UPDATE release_file SET etag = encode(sha256, 'hex')"))
    store = desk.releases.raw_store
    publisher = Publisher({row.name: store.open(row.sha256).read() for row in rows})
    desk.use(upstreams={source: publisher})
    return publisher


def edit(table: bytes, seed: int, shares: Mapping[str, float], key: int = 0) -> bytes:
    """The lines of a table by one who knows what is in them: of the entities that a column names,
    some are dropped whole (`drop`), of some a line (`trim`). The first line stays."""
    random = Random(seed)  # noqa: S311
    header, *lines = table.splitlines(keepends=True)
    names = sorted({line.split(b"\t")[key] for line in lines})
    dropped = set(random.sample(names, round(len(names) * shares.get("drop", 0.0))))
    trimmed = set(random.sample(names, round(len(names) * shares.get("trim", 0.0))))
    return header + b"".join(_kept(lines, key, dropped, trimmed))


def _kept(
    lines: Iterable[bytes], key: int, dropped: set[bytes], trimmed: set[bytes]
) -> Iterable[bytes]:
    for line in lines:
        name = line.split(b"\t")[key]
        if name in dropped:
            continue
        if name in trimmed:
            trimmed.discard(name)
            continue
        yield line
