"""A catalogue of a few real genes, for tests that do not need all of them."""

from uuid import UUID

from services.annotator import domain
from services.annotator.sources import SOURCES
from tests.builders import build_catalogue, build_file
from tests.integration.annotator.desk import Desk

FILE = b"the catalogue"


async def write_catalogue(desk: Desk) -> UUID:
    """The genes, and the release that they are said to come from. Returns its id."""
    source = SOURCES["hgnc"]
    assert not domain.is_api(source)
    sha256 = domain.digest(FILE)
    await desk.handlers.raw_store.keep_bytes(FILE, sha256)
    async with desk.engine.begin() as tx:
        release_id = await build_catalogue(tx)
        for file in source.files:
            await build_file(tx, release_id, file.name, sha256, len(FILE))
    return release_id
