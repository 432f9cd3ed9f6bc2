"""The OpenAPI document: it is one, every answer is as it says, and whatever is asked within it or
beside it is answered as it says."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import validate

from services.gateway.export_order import MEDIA_TYPES
from services.gateway.store import history
from tests.integration.gateway.desk import PKD1, PKD2, Desk
from tests.integration.gateway.plenty import Plenty, fill

Document = dict[str, Any]


@pytest_asyncio.fixture
async def plenty(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Plenty:
    monkeypatch.setattr(history, "SETTLED_SECONDS", 0)  # What was stored just now may be asked for.
    for name, value in desk.database.environment.items():
        monkeypatch.setenv(name, value)  # For the process that writes an export.
    return await fill(desk)


@pytest_asyncio.fixture
async def document(desk: Desk) -> Document:
    found: Document = (await desk.client.get("/openapi.json")).json()
    return found


async def test_it_is_a_document_of_openapi(document: Document) -> None:
    validate(document)
    assert document["openapi"].startswith("3.1")
    refs = {part.partition('"')[0] for part in json.dumps(document).split('"#/components/schemas/')}
    unused = document["components"]["schemas"].keys() - refs
    assert unused == set()


async def test_every_operation_says_how_it_ends(document: Document) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            answers = operation["responses"]
            assert any(status.startswith("2") for status in answers), where
            assert {"400", "503"} <= answers.keys(), where
            for status, answer in answers.items():
                kinds = answer.get("content", {})
                assert bool(kinds) is (status != "304"), (where, status)
                if status[0] in "45":
                    assert list(kinds) == ["application/problem+json"], (where, status)
                for kind, content in kinds.items():
                    assert content["schema"], (where, status, kind)


@dataclass
class Walk:
    """Asks, and holds each answer against the document."""

    desk: Desk
    document: Document
    names: Mapping[str, str]
    seen: set[tuple[str, str, int]] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    async def ask(
        self,
        asked: str,
        *,
        status: int = 200,
        like: str | None = None,
        headers: Mapping[str, str] | None = None,
        **names: Any,
    ) -> Any:
        """`asked` is as in `GET /api/genes/{gene} ?as_of=…`; `like` is the component that the
        resources are, where the document says that they may be another as well."""
        method, path, *rest = asked.split(" ", 2)
        query = rest[0] if rest else ""
        body = {name: names.pop(name) for name in ("json", "content", "files") if name in names}
        operation = self.document["paths"][path][method.lower()]
        answer = await self.desk.client.request(
            method, path.format(**{**self.names, **names}) + query, headers=headers, **body
        )
        if answer.status_code != status:
            self.wrong.append(f"{asked}: {answer.status_code}, not {status}: {answer.text[:500]}")
            return {"data": None}
        described = operation["responses"][str(status)]
        for name, header in described.get("headers", {}).items():
            assert name in answer.headers or not header.get("required"), (asked, name)
            if name in answer.headers and header["schema"].get("type") != "integer":
                self.check(header["schema"], answer.headers[name], asked)
        self.seen.add((method.lower(), path, status))
        if "content" not in described:
            assert answer.content == b"", asked
            return None
        kind = answer.headers["content-type"].partition(";")[0]
        schema = described["content"][kind]["schema"]
        if not kind.endswith("+json"):
            return answer
        found = answer.json()
        self.check(schema, found, asked)
        if like is not None:
            data = found["data"]
            for one in data if isinstance(data, list) else [data]:
                self.check({"$ref": f"#/components/schemas/{like}"}, one, asked)
        return found

    def check(self, schema: Mapping[str, Any], value: Any, asked: str) -> None:
        whole = {**schema, "components": self.document["components"]}
        errors = Draft202012Validator(whole, format_checker=FormatChecker()).iter_errors(value)
        told = [f"{error.json_path}: {error.message[:300]}" for error in _leaves(errors)]
        self.wrong += [f"{asked}: {one}" for one in told]


def _leaves(errors: Any) -> list[Any]:
    """Of what fits none of several, why it does not fit each."""
    found = []
    for error in errors:
        found += _leaves(error.context) if error.context else [error]
    return found


@pytest_asyncio.fixture
async def walk(desk: Desk, document: Document, plenty: Plenty) -> AsyncIterator[Walk]:
    yield Walk(desk, document, plenty.names)


async def test_every_answer_is_as_the_document_says(walk: Walk, plenty: Plenty) -> None:
    await _read_genes(walk, plenty)
    await _read_others(walk, plenty)
    await _write(walk, plenty)
    assert "\n".join(walk.wrong) == ""
    succeeded = {(method, path) for method, path, status in walk.seen if status < 300}
    described = {
        (method, path)
        for path, operations in walk.document["paths"].items()
        for method in operations
    }
    assert described - succeeded == set()


async def _read_genes(walk: Walk, plenty: Plenty) -> None:
    as_of = f"as_of={plenty.early.replace('+', '%2B')}"
    gene = "GET /api/genes/{gene}"
    found = await walk.ask(gene, like="Gene")
    assert {one["status"] for one in found["data"]["attributes"]["annotations"].values()} >= {
        "ok",
        "pending",
    }
    await walk.ask(f"{gene} ?{as_of}", like="Gene")
    await walk.ask(f"{gene} ?fields[genes]=symbol,annotations", like="SparseGene")
    tag = (await walk.desk.client.get(f"/api/genes/{PKD1}")).headers["etag"]
    await walk.ask(gene, status=304, headers={"If-None-Match": tag})
    await walk.ask(gene, status=404, gene="nothing")
    await walk.ask(gene, status=404, gene="a/b")
    await walk.ask(gene, status=409, gene="SHARED")
    await walk.ask(gene, status=410, gene="GONE1")
    await walk.ask(f"{gene} ?colour=red", status=400)
    await walk.ask(f"{gene}/events")
    await walk.ask(f"{gene}/annotations")
    await walk.ask(f"{gene}/annotations ?{as_of}")
    await walk.ask(f"{gene}/annotations/{{source}} ?provenance=true")
    await walk.ask(f"{gene}/annotations/{{source}}", status=404, source="nowhere")
    changes = await walk.ask(f"{gene}/changes ?page[size]=1")
    assert changes["links"]["next"]
    listed = "GET /api/genes"
    panel = f"filter[panel]={plenty.panel_id}"
    for query in ("", f"?{panel}&page[total]=true", "?filter[gnomad.loeuf][lt]=1", f"?{as_of}"):
        assert (await walk.ask(f"{listed} {query}", like="Gene"))["data"], query
    await walk.ask(f"{listed} ?fields[genes]=symbol&sort=-symbol", like="SparseGene")
    await walk.ask(f"{listed} ?filter[panel]=nothing", status=404)
    for asked in (f"{gene} ?include=sources", f"{listed} ?include=sources"):
        found = await walk.ask(asked, like="Gene")
        assert found["included"], asked
    await walk.ask(f"{listed} ?include=sources&fields[genes]=symbol,sources", like="SparseGene")
    await walk.ask(f"{listed} ?include=runs", status=400)
    facets = "sources,annotation_count,locus_group"
    assert len((await walk.ask(f"GET /api/genes/facets ?facets={facets}&{panel}"))["data"]) == 3
    wanted = {"genes": [PKD1, "SHARED", "nothing", "GONE1", "TAZ", "2-Mar", "pkd1", "OLD1"]}
    await walk.ask("POST /api/genes/query", json=wanted, like="Gene")
    await walk.ask("POST /api/genes/query ?include=sources", json=wanted, like="Gene")
    await walk.ask("POST /api/genes/query ?as_of=2026-06-01", json=wanted, status=400)
    await walk.ask("POST /api/genes/resolve", json=wanted)
    await walk.ask("POST /api/genes/resolve", json={"names": []}, status=422)
    as_json = {"content-type": "application/json"}
    await walk.ask("POST /api/genes/resolve", content=b"{", headers=as_json, status=400)
    for form in MEDIA_TYPES:
        await walk.ask(f"GET /api/export ?format={form}")
    await walk.ask("GET /api/export ?format=pdf", status=400)


async def _read_others(walk: Walk, plenty: Plenty) -> None:
    await walk.ask("GET /")
    await walk.ask("GET /api/sources")
    await walk.ask("GET /api/sources/{name}")
    releases = "GET /api/sources/{name}/releases"
    assert len((await walk.ask(releases))["data"]) == 3
    for release_id in plenty.releases.values():
        await walk.ask(f"{releases}/{{release_id}}", release_id=release_id)
        await walk.ask(f"{releases}/{{release_id}}/unmapped", release_id=release_id)
    await walk.ask(f"{releases}/{{release_id}}", release_id="seven", status=404)
    await walk.ask("GET /api/runs")
    await walk.ask("GET /api/progress/status")
    for run_id in plenty.run_ids.values():
        await walk.ask("GET /api/runs/{run_id}", run_id=run_id)
    await walk.ask("GET /api/runs/{run_id}", run_id="seven", status=404)
    assert (await walk.ask("GET /api/changes"))["data"]
    early = plenty.early.replace("+", "%2B")
    assert (await walk.ask(f"GET /api/diff ?from=2026-01-01&to={early}"))["data"]
    await walk.ask("GET /api/diff", status=400)
    for name in ("namespaces", "namespaces/{namespace}", "statistics"):
        await walk.ask(f"GET /api/cache/{name}")
    await walk.ask("GET /api/cache/namespaces/{namespace}", namespace="nothing", status=404)
    for name in ("sources", "fields", "overlaps", "panels/{panel_id}"):
        assert (await walk.ask(f"GET /api/statistics/{name}"))["data"], name
    assert (await walk.ask("GET /api/dead-letters"))["data"]
    for letter_id in plenty.letters.values():
        await walk.ask("GET /api/dead-letters/{letter_id}", letter_id=letter_id)
    panel = "GET /api/panels/{panel_id}"
    await walk.ask("GET /api/panels")
    for more in ("", "/versions", "/versions/{version}", "/versions/{version}/report"):
        await walk.ask(f"{panel}{more}")
    assert (await walk.ask(f"{panel}/versions/{{version}}/genes", version="3"))["data"]
    compared = await walk.ask(f"{panel}/versions/{{version}}/diff/{{other}}")
    assert compared["data"]["attributes"]["added"]


async def _write(walk: Walk, plenty: Plenty) -> None:
    key = {"Idempotency-Key": "one"}
    order = {"all": True, "sources": ["hpo"]}
    for _ in range(2):  # The second time it is a replay.
        await walk.ask("POST /api/runs", json=order, status=202, headers=key)
    await walk.ask("POST /api/runs", json={"genes": ["SHARED", "2-Mar"]}, status=422)
    await walk.ask("POST /api/runs", json={**order, "all": False}, status=422)
    await walk.ask("POST /api/runs", content=b"x" * 9_000_000, status=413)
    run, source = "POST /api/runs/{run_id}", "POST /api/runs/{run_id}/sources/{source}"
    again = {"sources": ["hpo"]}
    await walk.ask(f"{run}/retry", json=again, run_id=plenty.run_ids["failed"], status=202)
    await walk.ask(f"{source}/retry", source="hpo", run_id=plenty.run_ids["failed"], status=202)
    await walk.ask(f"{run}/retry", run_id=plenty.run_ids["completed"], status=409)
    for action in ("pause", "resume", "cancel"):
        active = plenty.run_ids["active"]
        await walk.ask(f"{source}/{action}", source="gnomad", run_id=active, status=202)
    for action in ("pause", "resume", "cancel"):
        await walk.ask(f"{run}/{action}", run_id=plenty.run_ids["active"], status=202)
    await walk.ask(f"{run}/pause", run_id=plenty.run_ids["active"], status=409)
    await walk.ask(f"{run}/pause", json={"source": "hpo"}, status=422)
    trigger = "POST /api/progress/trigger"
    await walk.ask(f"{trigger}/{{source}}", source="hpo", status=202)
    await walk.ask(f"{trigger}/annotation_pipeline", status=202)
    namespace = "POST /api/cache/namespaces/{namespace}"
    await walk.ask(f"{namespace}/invalidate", json={"genes": [PKD1]}, status=202)
    await walk.ask(f"{namespace}/warm", json={"count": 2})
    await walk.ask(f"{namespace}/warm", namespace="lists", status=409)
    quarantined = plenty.releases["quarantined"]
    reasons = {"by": "me", "note": "it is well"}
    decided = "POST /api/sources/{name}/releases/{release_id}"
    await walk.ask(f"{decided}/accept", json=reasons, release_id=quarantined, status=202)
    await walk.ask(f"{decided}/reject", json=reasons, release_id=quarantined, status=202)
    await walk.ask(f"{decided}/reject", json=reasons, status=409)
    await _write_panels(walk)
    letters = "POST /api/dead-letters"
    await walk.ask(f"{letters}/{{letter_id}}/retry", json={"by": "me"}, status=202)
    await walk.ask(f"{letters}/{{letter_id}}/discard", json=reasons, status=409)
    batch = plenty.letters["batch"]
    await walk.ask(f"{letters}/{{letter_id}}/discard", json=reasons, letter_id=batch, status=202)
    await walk.ask("GET /api/dead-letters/{letter_id}", letter_id=batch)
    many = {"by": "me", "max": 1, "all": True}
    await walk.ask(f"{letters}/retry", json=many, status=202)
    await walk.ask(f"{letters}/discard", json={**many, "note": "old"}, status=202)


async def _write_panels(walk: Walk) -> None:
    panels, one = "/api/panels", "/api/panels/{panel_id}"
    new = {"name": "heart", "genes": [PKD1]}
    made = await walk.ask(f"POST {panels}", json=new, status=201)
    await walk.ask(f"POST {panels}", json=new, status=409)
    await walk.ask(f"POST {panels}", json={"name": "x", "genes": ["2-Mar"]}, status=422)
    plain = {"content-type": "text/plain"}
    content = f"{PKD1}\n{PKD2}\n".encode()
    await walk.ask(f"POST {panels}/upload ?name=a", content=content, headers=plain, status=201)
    files = {"file": ("list.csv", b"gene\nPKD1\n", "text/csv")}
    await walk.ask(f"POST {panels}/upload ?name=b", files=files, status=201)
    pdf = {"content-type": "application/pdf"}
    await walk.ask(f"POST {panels}/upload ?name=c", content=b"x", headers=pdf, status=415)
    revised = f"POST {one}/versions"
    await walk.ask(revised, json={"base_version": 3, "add": [PKD2]}, status=200)
    await walk.ask(revised, json={"base_version": 1, "add": [PKD2]}, status=409)
    await walk.ask(f"{revised}/upload ?base_version=3", content=PKD2, headers=plain, status=201)
    await walk.ask(f"GET {one}/versions/{{version}}/report", version="4")
    heart = made["data"]["id"]
    await walk.ask(f"PATCH {one}", json={"description": "of the heart"}, panel_id=heart)
    await walk.ask(f"PATCH {one}", json={}, status=422)
    await walk.ask(f"DELETE {one}", panel_id=heart)
    await walk.ask(f"PATCH {one}", json={"name": "y"}, panel_id=heart, status=409)
    await walk.ask(f"GET {panels} ?filter[archived]=true")
