"""Documents in use are in memory again soon after they were forgotten."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from contracts.messages import DocumentsRebuilt, NamespaceInvalidated
from services.gateway.refresher import keep_fresh
from services.gateway.store import genes
from tests.integration.gateway.desk import PKD1, PKD2, Desk
from tests.waiting import until


@pytest_asyncio.fixture
async def refreshed(stocked: Desk) -> AsyncIterator[Desk]:
    task = asyncio.create_task(keep_fresh(stocked.engine, stocked.documents))
    yield stocked
    assert not task.done()
    task.cancel()
    await asyncio.wait({task})


def version(desk: Desk, hgnc_id: str) -> int | None:
    held = desk.documents.get(hgnc_id)
    return None if held is None else held.version


async def test_a_changed_document_that_is_in_use_is_read_before_it_is_asked_for(
    refreshed: Desk,
) -> None:
    await refreshed.client.get(f"/api/genes/{PKD1}")
    await refreshed.put_document(PKD1, "PKD1x", version=2)
    await refreshed.put_document(PKD2, "PKD2x", version=2)
    await refreshed.handlers.on_documents_rebuilt(DocumentsRebuilt(versions={PKD1: 2, PKD2: 2}))
    await until(lambda: version(refreshed, PKD1) == 2, "what is in use is read again")
    assert version(refreshed, PKD2) is None


async def test_all_that_are_in_use_are_read_again_when_all_were_forgotten(
    refreshed: Desk,
) -> None:
    await refreshed.client.get("/api/genes?page[size]=2")
    await refreshed.handlers.on_namespace_invalidated(
        NamespaceInvalidated(namespace="genes", epoch=1)
    )
    await until(lambda: refreshed.documents.count == 2, "both are in memory again")


async def test_what_is_only_read_again_falls_out_of_use(refreshed: Desk) -> None:
    await refreshed.client.get(f"/api/genes/{PKD1}")
    first = refreshed.documents.get(PKD1)
    assert first is not None
    asked_at = first.read_at
    await refreshed.put_document(PKD1, "PKD1x", version=2)
    await refreshed.handlers.on_documents_rebuilt(DocumentsRebuilt(versions={PKD1: 2}))
    assert refreshed.documents.count == 0
    await until(lambda: refreshed.documents.count == 1, "it is read again")
    refreshed.documents.forget()
    assert refreshed.documents.wanted.take(10) == {PKD1: asked_at}


@pytest.mark.parametrize("error", [ConnectionResetError, ValueError])
async def test_it_goes_on_when_documents_cannot_be_read(
    refreshed: Desk, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    await refreshed.client.get(f"/api/genes/{PKD1}")
    read, failures = genes.get_documents, []

    async def fail(*arguments: object) -> object:
        failures.append(arguments)
        raise error

    monkeypatch.setattr(genes, "get_documents", fail)
    await refreshed.handlers.on_documents_rebuilt(DocumentsRebuilt(versions={PKD1: 2}))
    await until(lambda: bool(failures), "it tried")
    monkeypatch.setattr(genes, "get_documents", read)
    await refreshed.put_document(PKD1, "PKD1x", version=2)
    await refreshed.client.get(f"/api/genes/{PKD1}")
    await refreshed.put_document(PKD1, "PKD1y", version=3)
    await refreshed.handlers.on_documents_rebuilt(DocumentsRebuilt(versions={PKD1: 3}))
    await until(lambda: version(refreshed, PKD1) == 3, "what is in use is read again")
