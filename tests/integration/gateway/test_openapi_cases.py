"""Requests that are made from the OpenAPI document, within what it says and beside it: whatever is
asked is answered, with no 5xx, as the document says.

Which requests are made depends on the document alone, so the test finds the same each time."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.config import GenerationConfig, ProjectConfig, SchemathesisConfig
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from services.gateway.store import history
from tests.integration.gateway.desk import Desk
from tests.integration.gateway.plenty import fill

CASES_EACH = 12  # Of each operation and each mode.
SECONDS_MAX = 10.0
CHECKS: Sequence[Any] = (
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
)


async def test_whatever_is_asked_is_answered_as_the_document_says(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "SETTLED_SECONDS", 0)
    for name, value in desk.database.environment.items():
        monkeypatch.setenv(name, value)
    plenty = await fill(desk)
    document = (await desk.client.get("/openapi.json")).json()
    _name_what_there_is(document, plenty.names)
    counts, wrong = await asyncio.to_thread(_ask, document, f"http://127.0.0.1:{desk.port}")
    print(dict(counts))
    assert "\n\n".join(wrong) == ""


def _name_what_there_is(document: dict[str, Any], names: dict[str, str]) -> None:
    """No text by chance is the id of anything."""
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    parameter["schema"] = {"enum": [names[parameter["name"]], "no%thing"]}


def _ask(document: dict[str, Any], url: str) -> tuple[Counter[str], list[str]]:
    generation = GenerationConfig(deterministic=True)
    config = SchemathesisConfig()
    config.projects.default.generation = generation
    schema = schemathesis.openapi.from_dict(document, config=config)
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    with httpx2.Client(base_url=url, timeout=SECONDS_MAX, trust_env=False) as client:
        for found in schema.get_all_operations():
            operation = found.ok()
            for mode in GenerationMode:
                try:
                    _try(operation, mode, client, counts)
                except Exception as error:
                    told = [str(one) for one in getattr(error, "exceptions", [error])]
                    wrong.append(f"{mode.value} {operation.label}: " + "\n".join(told)[:1500])
    return counts, wrong


def _try(operation: Any, mode: GenerationMode, client: httpx2.Client, counts: Counter[str]) -> None:
    @settings(
        max_examples=CASES_EACH,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Case) -> None:
        arguments = case.as_transport_kwargs(base_url=str(client.base_url))
        arguments.pop("cookies", None)
        answer = client.request(**arguments)
        counts[f"{mode.value} {answer.status_code}"] += 1
        checks = [*CHECKS, *([negative_data_rejection] if mode.is_negative else [])]
        case.validate_response(answer, checks=checks)

    ask()
