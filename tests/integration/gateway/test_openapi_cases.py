"""Requests that are made from the OpenAPI document, within what it says and beside it: whatever is
asked is answered, with no 5xx, as the document says.

Which requests are made depends on the document alone, so the test finds the same each time. Who
asks for /api/changes without a header gets a page: that no stream is read here is why this ends."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from services.gateway.store import history
from tests.integration.gateway.desk import PKD1, PKD2, Desk
from tests.integration.gateway.plenty import Plenty, fill

CASES_EACH = 8  # Of each operation and each mode, at most: about 850 requests.
EXPORT_CASES_EACH = 3  # Each starts a process.
SECONDS_MAX = 30.0
CHECKS: Sequence[Any] = (
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
)
# What is accepted in words that no schema has: one parameter with another, and what there is.
BEYOND_SCHEMAS = (
    *("a whole number from 1 to", "it alone, or", "not before", "as_of", "a time at least"),
    *("the cursor of", "it without filters and sort", "a body", "Input should be a valid integer"),
    *("some of ", "a run that has ended", "an HGNC id", "a gene of version", "another name"),
    *("a list of genes", "a form with", "the order this key"),
)


LISTED = {name: [PKD1, PKD2] for name in ("genes", "add", "remove")} | {
    "sources": ["hpo", "gnomad"]
}

NOTHING = "no%thing"
Document = dict[str, Any]


async def test_whatever_is_asked_is_answered_as_the_document_says(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "SETTLED_SECONDS", 0)
    for name, value in desk.database.environment.items():
        monkeypatch.setenv(name, value)  # For the process that writes an export.
    plenty = await fill(desk)
    document = (await desk.client.get("/openapi.json")).json()
    _name_paths(document, plenty)
    documents = {
        GenerationMode.POSITIVE: _name_what_there_is(document, plenty),
        GenerationMode.NEGATIVE: document,
    }
    counts, wrong = await asyncio.to_thread(_ask, documents, f"http://127.0.0.1:{desk.port}")
    assert "\n\n".join(wrong) == ""
    # It is no use to be refused each time.
    assert counts["positive", 2] > 150, counts
    assert counts["negative", 4] > 150, counts


def _parameters(document: Document) -> Iterator[Document]:
    for operations in document["paths"].values():
        for operation in operations.values():
            yield from operation.get("parameters", ())


def _name_paths(document: Document, plenty: Plenty) -> None:
    """No text by chance is the id of anything."""
    for parameter in _parameters(document):
        if parameter["in"] == "path":
            parameter["schema"] = {"enum": [plenty.names[parameter["name"]], NOTHING]}


def _name_what_there_is(document: Document, plenty: Plenty) -> Document:
    """The document with what no schema knows: which genes, sources and panels there are. Beside
    what it says is what is beside the real one."""
    found = deepcopy(document)
    for parameter in _parameters(found):
        if parameter["in"] == "path":
            parameter["schema"]["enum"].remove(NOTHING)
        parameter["schema"] = _known(parameter["name"], plenty) or parameter["schema"]
    for schema in found["components"]["schemas"].values():
        for name, listed in schema.get("properties", {}).items():
            for part in (listed, *listed.get("anyOf", ())):
                if name in LISTED and "maxItems" in part:
                    part |= {"items": {"enum": LISTED[name]}, "maxItems": 3}
    return found


def _known(name: str, plenty: Plenty) -> Mapping[str, Any] | None:
    values = {
        "as_of": [plenty.early],
        "from": ["2026-01-01"],
        "to": [plenty.early, plenty.run_ids["completed"]],
        "since": ["now"],
        "filter[panel]": [plenty.panel_id, "nothing"],
        "filter[gene]": [PKD1, "nothing"],
        "page[after]": ["W10"],  # An empty list, as a cursor: of no place.
    }
    if name in values:
        return {"enum": values[name]}
    several = {
        "columns": ["symbol", "gnomad.loeuf"],
        "facets": ["sources", "gnomad.loeuf"],
        "filter[source]": ["hpo", "ensembl"],
        "filter[topic]": ["pipeline.commands.v1"],
    }
    if name in several:
        return {"type": "array", "items": {"enum": several[name]}, "minItems": 1, "maxItems": 3}
    return None


def _ask(
    documents: Mapping[GenerationMode, Document], url: str
) -> tuple[Counter[tuple[str, int]], list[str]]:
    counts: Counter[tuple[str, int]] = Counter()
    wrong: list[str] = []
    with requests.Session() as session:
        session.trust_env = False
        for mode, document in documents.items():
            for found in schemathesis.openapi.from_dict(document).get_all_operations():
                assert isinstance(found, Ok), found
                operation = found.ok()
                if mode.is_negative and not operation.body and not any(operation.iter_parameters()):
                    continue  # It takes nothing, so there is nothing beside it.
                try:
                    _try(operation, mode, url, session, counts)
                except Exception as error:  # noqa: BLE001 - all of them are told together
                    told = [str(one) for one in getattr(error, "exceptions", [error])]
                    wrong.append(f"{mode.value} {operation.label}: " + "\n".join(told)[:1500])
    return counts, wrong


def _try(
    operation: Any,
    mode: GenerationMode,
    url: str,
    session: requests.Session,
    counts: Counter[tuple[str, int]],
) -> None:
    @settings(
        max_examples=EXPORT_CASES_EACH if operation.path == "/api/export" else CASES_EACH,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Case[Any]) -> None:
        answer = case.call(url, session=session, timeout=SECONDS_MAX)
        counts[mode.value, answer.status_code // 100] += 1
        checks = [*CHECKS, *([negative_data_rejection] if mode.is_negative else [])]
        case.validate_response(answer, checks=checks)
        if mode.is_positive and answer.status_code in (400, 422):
            _require_reason(answer.json())

    ask()


def _require_reason(problem: Mapping[str, Any]) -> None:
    """Of what fits the document and is refused: it is for a reason that no schema tells."""
    errors = problem.get("errors", [])
    assert errors, problem
    for error in errors:
        assert any(words in error["accepted"] for words in BEYOND_SCHEMAS), problem
