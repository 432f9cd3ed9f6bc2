"""The mirror's addresses: a base per upstream, what is served, and the controls for tests."""

from collections.abc import Mapping
from typing import Any, Final

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, Router

from infra.mirror import ensembl, faults, gnomad, gnomad_api
from infra.mirror.files import MADE, Offer, ServedFile, answer
from infra.mirror.gate import Gate, RateLimit

ENSEMBL_REQUESTS_PER_SECOND: Final = 15


def build_app(
    offers: Mapping[str, Offer], genes: Mapping[str, ensembl.Gene], *, limits: bool
) -> Starlette:
    """`offers` by the bases of their addresses; `gnomad` and `ensembl` are among them."""
    lookup = ensembl.Lookup(genes)
    routes = {name: _file_routes(offer) for name, offer in offers.items()}
    routes["ensembl"] += [
        Route("/lookup/id", lookup.by_ids, methods=["POST"]),
        Route("/info/data", lookup.data_release),
        Route("/info/ping", lookup.ping),
    ]
    # A service of gnomAD's beside its files, with an address of its own.
    constraint = gnomad_api.Api(offers["gnomad"].files[gnomad.PATH], limits=limits)
    routes["gnomad_api"] = [Route("/api", constraint.ask, methods=["POST"])]
    gates = {name: Gate(Router(served)) for name, served in routes.items()}
    if limits:
        gates["ensembl"] = Gate(
            Router(routes["ensembl"]), RateLimit(ENSEMBL_REQUESTS_PER_SECOND), ensembl.refusal
        )
    controls = Controls(gates)
    served = orjson.dumps({name: _describe(name, offer) for name, offer in offers.items()})

    async def index(_request: Request) -> Response:
        return Response(served, media_type="application/json")

    return Starlette(
        routes=[
            Route("/", index),
            Route("/_control/{upstream}", controls.tell, methods=["POST"]),
            Route("/_control/{upstream}", controls.heal, methods=["DELETE"]),
            Route("/_requests/{upstream}", controls.requests),
            Route("/_arrivals/{upstream}", controls.arrivals),
            *(Mount(f"/{name}", app=gate) for name, gate in gates.items()),
        ]
    )


class Controls:
    """Lets a test make an upstream fail, and see what it was asked."""

    def __init__(self, gates: Mapping[str, Gate]) -> None:
        self._gates = gates

    async def tell(self, request: Request) -> Response:
        gate = self._gates.get(request.path_params["upstream"])
        if gate is None:
            return self._unknown(request)
        try:
            fault = faults.read(await request.body())
        except faults.UnusableFault as error:
            return _json({"error": str(error)}, 400)
        gate.tell(fault)
        return _json(fault.model_dump())

    async def heal(self, request: Request) -> Response:
        gate = self._gates.get(request.path_params["upstream"])
        if gate is None:
            return self._unknown(request)
        gate.tell(None)
        return Response(status_code=204)

    async def requests(self, request: Request) -> Response:
        gate = self._gates.get(request.path_params["upstream"])
        return self._unknown(request) if gate is None else _json(gate.counters.as_json())

    async def arrivals(self, request: Request) -> Response:
        """Of the last requests when they came, in seconds of the wall clock, and their paths."""
        gate = self._gates.get(request.path_params["upstream"])
        return self._unknown(request) if gate is None else _json(list(gate.counters.log))

    def _unknown(self, request: Request) -> Response:
        name, known = request.path_params["upstream"], ", ".join(self._gates)
        return _json({"error": f"no upstream {name!r}; there are {known}"}, 404)


def _file_routes(offer: Offer) -> list[Route]:
    return [_file_route(path, file) for path, file in offer.files.items()]


def _file_route(path: str, file: ServedFile) -> Route:
    async def serve(request: Request) -> Response:
        response = answer(file, request.headers)
        response.headers.update(MADE if file.synthetic else {})
        return response

    return Route(path, serve)


def _describe(name: str, offer: Offer) -> dict[str, Any]:
    return {
        "base": f"/{name}",
        "origin": offer.origin,
        "release": offer.release,
        "synthetic": offer.synthetic,
        "rows": offer.rows,
        "licence": offer.licence,
        "citation": offer.citation,
        "counts": dict(offer.counts),
        "files": {
            path: {
                "bytes": file.size_bytes,
                "gzip_bytes": file.gzip_size_bytes,
                "sha256": file.sha256,
                "last_modified": file.last_modified.isoformat(),
                "synthetic": file.synthetic,
            }
            for path, file in offer.files.items()
        },
    }


def _json(content: object, status_code: int = 200) -> Response:
    return Response(orjson.dumps(content), status_code, media_type="application/json")
