"""A gene as the interface has it: a resource, and an answer of its own."""

from collections.abc import Sequence
from hashlib import sha256

import orjson

from services.gateway import jsonapi
from services.gateway.documents import Held
from services.gateway.gene_queries import SOURCES
from services.gateway.jsonapi import Query
from services.gateway.store.genes import Document


def resource(document: Document, *, related: bool = False) -> dict[str, object]:
    """With the version of the document, by which a reader tells which of two answers is newer;
    `related` tells of its sources."""
    found = jsonapi.resource(
        "genes", document.hgnc_id, orjson.Fragment(document.text), address(document)
    )
    if related:
        data = [{"type": "sources", "id": name} for name in document.sources]
        found["relationships"] = {SOURCES: {"data": data}}
    return found | {"meta": {"version": document.version}} if document.version else found


def address(document: Document) -> str:
    return f"/api/genes/{document.hgnc_id}"


def answer(
    document: Document,
    query: Query | None = None,
    included: Sequence[jsonapi.Resource] | None = None,
) -> Held:
    """A gene as it is sent; with what `query` asks for besides it."""
    where = address(document)
    if query is None:
        body = jsonapi.encode(resource(document), {"self": where})
    else:
        related = resource(document, related=query.relates(SOURCES))
        links = {"self": jsonapi.self_link(where, query)}
        body = jsonapi.encode(related, links, included=included)
    # Not the version: a status may change without it.
    return Held(version=document.version, etag=f'"{sha256(body).hexdigest()}"', body=body)
