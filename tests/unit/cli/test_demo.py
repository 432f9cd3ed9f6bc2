"""Which run the demo follows: one that was stopped with the system, or one of its own."""

from typing import Any, cast

import pytest

from services.cli.client import Client
from services.cli.demo import _find_running

SOURCES = ["hgnc", "hpo"]


class Gateway:
    def __init__(self, *runs: dict[str, Any]) -> None:
        self.runs = runs

    async def get(self, path: str) -> dict[str, Any]:
        if path == "/api/sources":
            listed = [(name, False) for name in SOURCES] + [("retired", True)]
            return {"data": [{"id": one, "attributes": {"is_retired": is_}} for one, is_ in listed]}
        assert path == "/api/progress/status"
        return {"data": [{"id": str(n), "attributes": run} for n, run in enumerate(self.runs)]}


def run(**others: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "state": "running",
        "gene_count": None,
        "retries": None,
        "dry_run": False,
        "sources": {name: {} for name in SOURCES},
    }
    return whole | others


@pytest.mark.parametrize(
    ("other", "found"),
    [
        ({}, "1"),
        ({"state": "planning"}, "1"),
        ({"state": "paused"}, None),
        ({"gene_count": 3}, None),
        ({"retries": "0"}, None),
        ({"dry_run": True}, None),
        ({"sources": {"hpo": {}}}, None),
    ],
)
async def test_a_run_of_everything_that_goes_on_is_followed(
    other: dict[str, Any], found: str | None
) -> None:
    client = cast("Client", Gateway(run(gene_count=1), run(**other)))
    assert await _find_running(client) == found
