"""What the OpenAPI document says of each route: its parameters, and for every status that it may
answer with the media types, the headers and a schema.

A 500 is in it for an export alone: anywhere else it is a mistake of ours."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI
from fastapi.responses import Response

from services.chassis import http
from services.chassis.errors import RequestError
from services.gateway.domain import GENE_CHARACTERS_MAX
from services.gateway.errors import (
    GeneAmbiguous,
    GeneUnknown,
    GeneWithdrawn,
    IdempotencyMismatch,
    ParameterInvalid,
    ParameterUnknown,
)
from services.gateway.http import schemas
from services.gateway.http.bodies import Body
from services.gateway.jsonapi import MEDIA_TYPE, Allowed
from services.gateway.shapes import TEXT, Schema, closed, listed, nullable, ref

Answer = Mapping[str, Any]
Answers = Mapping[int, Answer]
Errors = Sequence[type[RequestError]]

OF_GENE: Final[Errors] = (GeneUnknown, GeneAmbiguous, GeneWithdrawn)  # What no gene is called.
OF_KEY: Final[Errors] = (ParameterInvalid, IdempotencyMismatch)

PAGES: Final[Mapping[str, Schema]] = {
    "self": TEXT,
    "first": TEXT,
    "prev": nullable(TEXT),
    "next": nullable(TEXT),
}
NEXT: Final[Mapping[str, Schema]] = {"self": TEXT, "next": nullable(TEXT)}
FOLLOWING: Final[Mapping[str, Schema]] = {"self": TEXT, "next": TEXT}
SELF: Final[Mapping[str, Schema]] = {"self": TEXT}

_LOCATION: Final = {"Location": {"required": True, "schema": TEXT}}
_REPLAYED: Final = {
    "Idempotent-Replayed": {
        "description": "it was done before, for a request with the same key",
        "schema": {"const": "true"},
    }
}
_TAGGED: Final = {
    "ETag": {"required": True, "schema": TEXT},
    "Cache-Control": {"required": True, "schema": {"const": "no-cache"}},
}
_AGE: Final = {"Age": {"required": True, "schema": {"type": "integer", "minimum": 0}}}
_RETRY_AFTER: Final = {
    "Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 0}}
}
# What a path holds. Whatever else it holds names nothing, which is a 404.
_IN_PATHS: Final[Mapping[str, Mapping[str, Any]]] = {
    "gene": {
        "description": "an HGNC id, a symbol, an Entrez id or an Ensembl gene id",
        "schema": {"type": "string", "minLength": 1, "maxLength": GENE_CHARACTERS_MAX},
        "examples": {"id": {"value": "HGNC:9008"}, "symbol": {"value": "PKD1"}},
    },
    "panel_id": {"description": "the id of a panel"},
    "run_id": {"description": "the id of a run"},
    "release_id": {"description": "the id of a release"},
    "letter_id": {"description": "the id of a dead letter"},
    "source": {"description": "the name of a source"},
    "name": {"description": "the name of a source"},
    "namespace": {"description": "the name of a namespace"},
    "version": {"description": "a version of the panel, from 1"},
    "other": {"description": "another version of it"},
}


# ---------------------------------------------------------------------------- what is right


def one(
    name: str,
    *,
    meta: Schema | None = None,
    optional_meta: Schema | None = None,
    headers: Mapping[str, Any] | None = None,
    or_sparse: bool = False,
    includes: str | None = None,
) -> Answer:
    """A document of one resource, which has this name in the document's components. `or_sparse`:
    of a gene, some fields may have been chosen; `includes`: what may come along."""
    return _document(_item(name, or_sparse), SELF, meta, optional_meta, headers, includes)


def many(
    name: str,
    links: Mapping[str, Schema] = SELF,
    *,
    meta: Schema | None = None,
    optional_meta: Schema | None = None,
    or_sparse: bool = False,
    includes: str | None = None,
) -> Answer:
    items = listed(_item(name, or_sparse))
    return _document(items, links, meta, optional_meta, includes=includes)


def _item(name: str, or_sparse: bool) -> Schema:
    return {"anyOf": [ref(name), ref(f"Sparse{name}")]} if or_sparse else ref(name)


def none(links: Mapping[str, Schema] = SELF, *, meta: Schema) -> Answer:
    """A document that its `meta` says all of."""
    return _document({"type": "array", "maxItems": 0}, links, meta)


def files(media: Sequence[str], headers: Mapping[str, Any]) -> Answer:
    schema = {"type": "string", "format": "binary"}
    return {"content": {one: {"schema": schema} for one in media}, "headers": headers}


def or_events(answer: Answer) -> Answer:
    """The same one by one, as they happen, for who accepts that."""
    return {**answer, "content": {**answer["content"], "text/event-stream": {"schema": TEXT}}}


def accepted(name: str, *, meta: Schema | None = None, is_repeatable: bool = False) -> Answer:
    """One that is made or changed, with where to find it."""
    headers = _LOCATION | (_REPLAYED if is_repeatable else {})
    return one(name, meta=meta, headers=headers)


def tagged(answer: Answer, *, has_age: bool = False, is_always: bool = True) -> Answers:
    """An answer that a client may have already. Some are so at times only."""
    headers: Mapping[str, Any] = _TAGGED | (_AGE if has_age else {})
    if not is_always:
        headers = {name: {"schema": header["schema"]} for name, header in headers.items()}
    same = {"description": "What the client has still holds", "headers": headers}
    return {200: {**answer, "headers": {**answer.get("headers", {}), **headers}}, 304: same}


def _document(
    data: Schema,
    links: Mapping[str, Schema],
    meta: Schema | None,
    optional_meta: Schema | None = None,
    headers: Mapping[str, Any] | None = None,
    includes: str | None = None,
) -> Answer:
    members: dict[str, Schema] = {
        "jsonapi": closed({"version": {"const": "1.1"}}),
        "links": closed(links),
        "data": data,
    }
    if meta is not None:
        members["meta"] = meta
    optional = {} if optional_meta is None else {"meta": optional_meta}
    if includes is not None:
        optional["included"] = listed(ref(includes))
    schema = closed(members, optional)
    answer: dict[str, Any] = {"content": {MEDIA_TYPE: {"schema": schema}}}
    return answer | ({"headers": headers} if headers else {})


# ---------------------------------------------------------------------------- what is wrong


def _problems(errors: Errors, others: Sequence[tuple[int, str]]) -> dict[int, Answer]:
    types: dict[int, dict[str, str]] = defaultdict(dict)
    for error in errors:
        types[error.status][error.urn()] = error.title()
    for status, kind in others:
        types[status].setdefault(kind, http.TITLES[kind])
    return {status: _problem(status, kinds) for status, kinds in types.items()}


def _problem(status: int, titles: Mapping[str, str]) -> Answer:
    members = {
        **schemas.PROBLEM,
        "type": {"type": "string", "enum": sorted(titles)},
        "status": {"const": status},
    }
    schema = {"allOf": [ref("Problem"), {"type": "object", "properties": members}]}
    described = ". ".join(dict.fromkeys(titles.values()))
    answer: dict[str, Any] = {
        "description": described,
        "content": {http.PROBLEM_MEDIA_TYPE: {"schema": schema}},
    }
    return answer | ({"headers": _RETRY_AFTER} if status == 503 else {})


# ------------------------------------------------------------------------------- of a route


def route(
    answers: Answers,
    *errors: type[RequestError],
    allowed: Allowed | None = None,
    body: type[Body] | None = None,
    reads_body: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The arguments that a route is registered with. `body` is what it takes as JSON; one that
    reads another body, if only to refuse it, says `reads_body`."""
    allowed = allowed or Allowed()
    found: list[type[RequestError]] = [ParameterUnknown, *errors]
    if allowed.names:
        found.append(ParameterInvalid)
    others = [(503, http.UNAVAILABLE)]
    if body is not None:
        found.append(body.invalid)
        others += [(400, http.INVALID_REQUEST), (422, http.INVALID_REQUEST)]
    if body is not None or reads_body:
        others.append((413, http.BODY_TOO_LARGE))
    problems = _problems(tuple(dict.fromkeys(found)), others)
    return {
        "status_code": next(iter(answers)),
        # Without a media type, so that none is described but those here.
        "response_class": Response,
        "responses": {**answers, **dict(sorted(problems.items()))},
        "openapi_extra": {**allowed.openapi(), **(extra or {})},
    }


def describe(app: FastAPI) -> None:
    """Complete the application's OpenAPI document when it is asked for first."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(FastAPI.openapi(app))
        return FastAPI.openapi(app)

    app.openapi = openapi  # type: ignore[method-assign]  # The framework's own way.


def _complete(document: dict[str, Any]) -> None:
    kinds = document["components"]["schemas"]
    # The framework's own answer to what does not fit, which none of our routes gives.
    for name in ("HTTPValidationError", "ValidationError"):
        kinds.pop(name, None)
    assert not kinds.keys() & schemas.SCHEMAS.keys(), "a body is called like an answer"
    kinds.update(schemas.SCHEMAS)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            responses = operation["responses"]
            if "application/json" in responses.get("422", {}).get("content", {}):
                del responses["422"]
            if "{" in path:
                _allow_unknown_path(responses)
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    parameter.update(_IN_PATHS[parameter["name"]])


def _allow_unknown_path(responses: dict[str, Any]) -> None:
    """A name with a slash in it makes another path, of which there is none."""
    answer = responses.setdefault("404", _problem(404, {http.BLANK: "Nothing is there"}))
    kinds = answer["content"][http.PROBLEM_MEDIA_TYPE]["schema"]["allOf"][1]["properties"]["type"]
    kinds["enum"] = sorted({*kinds["enum"], http.BLANK})
