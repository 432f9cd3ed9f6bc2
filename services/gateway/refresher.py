"""Reads documents that are in use as soon as they were forgotten, before they are asked for."""

import asyncio

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.database import CONNECTION_ERRORS
from services.gateway.documents import Documents
from services.gateway.gene_resources import answer
from services.gateway.store import genes

READ_AT_ONCE = 40  # About two milliseconds of the loop.
PAUSE_SECONDS = 0.005  # In which others are answered, and a burst becomes one query.

log = structlog.get_logger()


async def keep_fresh(engine: AsyncEngine, documents: Documents) -> None:
    """What cannot be read now is read when it is asked for."""
    while True:
        await documents.wanted.until_some()
        await asyncio.sleep(PAUSE_SECONDS)
        wanted = documents.wanted.take(READ_AT_ONCE)
        generation = documents.generation
        try:
            async with engine.connect() as connection:
                found = await genes.get_documents(connection, list(wanted))
        except CONNECTION_ERRORS as error:
            log.warning("documents_not_refreshed", number=len(wanted), error=repr(error))
            continue
        except Exception:  # A document that cannot be shown is an error to who asks for it alone.
            log.exception("documents_not_refreshed", number=len(wanted))
            continue
        for document in found:
            held = answer(document)
            held.read_at = wanted[document.hgnc_id]  # Nobody has asked for it since.
            documents.keep(document.hgnc_id, held, generation)
