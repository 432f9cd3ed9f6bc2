"""Runs: order one, retry what failed of one, read them, see which are active."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import ConfigDict
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.messages import Priority, Strategy
from services.chassis import failpoints
from services.chassis.errors import field_error
from services.gateway import domain, jsonapi
from services.gateway.domain import NewRun, PanelVersion, Run, parse_run_id
from services.gateway.errors import (
    BodyUnexpected,
    CatalogueEmpty,
    GenesRefused,
    OrderInvalid,
    PanelArchived,
    PanelUnknown,
    RetryInvalid,
    RunIdentical,
    RunNotFailed,
    RunUnknown,
    SourcesRefused,
    SourceUnknown,
)
from services.gateway.failpoints import Failpoint
from services.gateway.http import answers, keys, orders
from services.gateway.http.bodies import (
    NO_BODY,
    Body,
    Genes,
    RunName,
    Sources,
    Text,
    given,
    given_true,
    refuse_body,
)
from services.gateway.http.genes import refusal, require_found
from services.gateway.http.keys import IdempotencyKey
from services.gateway.store import catalogue, names, panels, runs

_NOTHING = jsonapi.Allowed()
_PAGED = jsonapi.Allowed(paged=True)
_IN_BODY = "/sources"  # Where a request names its sources, if it is not its path that does.
_IN_PATH = "path source"


class Order(Body):
    """What to annotate: some genes or all of them, from some sources or all of them."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [given("genes"), given("panel"), given_true("all")]}
    )
    invalid = OrderInvalid

    sources: Sources | None = None
    genes: Genes | None = None
    # A panel's id, which is its newest version, or `<id>@<version>`.
    panel: Text | None = None
    all: bool | None = None
    name: RunName | None = None
    # `high` goes before all other runs; `low` has a quarter of the share of a normal one.
    priority: Priority = "normal"
    # `stale` takes what is older than its source's time to live, failed or pending; `missing` what
    # failed or is pending; `force` downloads and matches files anew although they are the same.
    strategy: Strategy = "full"
    # Only say what it would fetch and, of files, what would change: nothing that is read changes.
    dry_run: bool = False


class RetryOfSource(Body):
    """What the run that works one failed source again is called."""

    invalid = RetryInvalid

    name: RunName | None = None


class Retry(Body):
    """Which of a run's failed sources to work again; without any, all of them."""

    invalid = RetryInvalid

    sources: Sources | None = None
    name: RunName | None = None


@dataclass(frozen=True)
class RunRoutes:
    engine: AsyncEngine

    async def start_run(
        self, request: Request, order: Order, idempotency_key: IdempotencyKey = None
    ) -> Response:
        """Accept a run. Its progress is at `/ws/jobs/{run_id}`."""
        _NOTHING.parse(request.query_params)
        return await self._order(order, idempotency_key)

    async def start_all(self, request: Request, idempotency_key: IdempotencyKey = None) -> Response:
        """Accept a run over all genes and all sources."""
        _NOTHING.parse(request.query_params)
        await refuse_body(request)
        return await self._order(Order(all=True), idempotency_key)

    async def start_source(
        self, request: Request, source: str, idempotency_key: IdempotencyKey = None
    ) -> Response:
        """Accept a run of one source over all genes."""
        _NOTHING.parse(request.query_params)
        await refuse_body(request)
        async with self.engine.connect() as connection:
            known = await catalogue.list_source_names(connection)
        if source not in known:
            accepted = ", ".join(["annotation_pipeline", *known])
            error = field_error(_IN_PATH, source, accepted)
            raise SourceUnknown(f"no source {error['value']!r}; known: {accepted}", [error])
        return await self._order(Order(all=True, sources=[source]), idempotency_key)

    async def retry_run(
        self,
        request: Request,
        run_id: str,
        retry: Retry | None = None,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        """Accept a new run over what has failed in this one so far, and nothing else."""
        _NOTHING.parse(request.query_params)
        return await self._retry(parse_run_id(run_id), retry or Retry(), None, idempotency_key)

    async def retry_source(
        self,
        request: Request,
        run_id: str,
        source: str,
        retry: RetryOfSource | None = None,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        """Accept a new run over what has failed of one source in this run so far."""
        _NOTHING.parse(request.query_params)
        chosen = Retry(name=retry.name if retry else None)
        return await self._retry(parse_run_id(run_id), chosen, source, idempotency_key)

    async def list_runs(self, request: Request) -> Response:
        """The runs there were, newest first."""
        query = _PAGED.parse(request.query_params)
        async with self.engine.connect() as connection:
            found = await runs.list_runs(connection, limit=query.size + 1, offset=query.offset)
        links = jsonapi.page_links("/api/runs", query, more=len(found) > query.size)
        return jsonapi.respond([resource(run) for run in found[: query.size]], links)

    async def get_run(self, request: Request, run_id: str) -> Response:
        """A run with where it stands, source by source."""
        _NOTHING.parse(request.query_params)
        wanted = parse_run_id(run_id)
        async with self.engine.connect() as connection:
            run = await runs.get_run(connection, wanted)
        return jsonapi.respond(resource(run), {"self": address(run)})

    async def get_status(self, request: Request) -> Response:
        """The runs that are active, with where they stand."""
        _NOTHING.parse(request.query_params)
        async with self.engine.connect() as connection:
            active = await runs.list_active_runs(connection)
        return jsonapi.respond([resource(run) for run in active], {"self": "/api/progress/status"})

    async def _order(self, order: Order, key: str | None) -> Response:
        async def start(tx: AsyncConnection) -> UUID:
            return await _start(tx, order)

        return await self._accept(order.model_dump_json(), start, key)

    async def _retry(
        self, run_id: UUID, retry: Retry, source: str | None, key: str | None
    ) -> Response:
        said = f"retry {run_id} {source} {retry.model_dump_json()}"

        async def start(tx: AsyncConnection) -> UUID:
            return await _start_again(tx, run_id, retry, source)

        return await self._accept(said, start, key)

    async def _accept(
        self, said: str, start: Callable[[AsyncConnection], Awaitable[UUID]], key: str | None
    ) -> Response:
        """State, key and command are one transaction; the relay sends what was committed. `said`
        is what the same key has to say again."""
        async with self.engine.begin() as tx:
            earlier = await keys.find(tx, key, said)
            if isinstance(earlier, UUID):
                run_id = earlier
            else:
                run_id = await start(tx)
                await keys.save(tx, key, said, run_id)
            run = await runs.get_run(tx, run_id)
            failpoints.hit(Failpoint.ORDER_WRITTEN)
        failpoints.hit(Failpoint.ORDER_COMMITTED)
        return respond_accepted(run, is_replay=earlier is not None)

    def router(self) -> APIRouter:
        router = APIRouter(tags=["runs"])
        run, its_source = "/api/runs/{run_id}", "/api/runs/{run_id}/sources/{source}"
        trigger = "/api/progress/trigger"
        accepted = {202: answers.accepted("Run", is_repeatable=True)}
        ordered = (*answers.OF_KEY, SourcesRefused, RunIdentical)
        retried = (*ordered, RunUnknown, RunNotFailed)
        whole = answers.route(accepted, *ordered, BodyUnexpected, reads_body=True, extra=NO_BODY)
        one_source = answers.route(
            accepted, *ordered, SourceUnknown, BodyUnexpected, reads_body=True, extra=NO_BODY
        )
        for method, path, handler, described in (
            (
                "POST",
                "/api/runs",
                self.start_run,
                answers.route(
                    accepted,
                    *(*ordered, CatalogueEmpty, GenesRefused, PanelUnknown, PanelArchived),
                    body=Order,
                ),
            ),
            (
                "GET",
                "/api/runs",
                self.list_runs,
                answers.route({200: answers.many("Run", answers.PAGES)}, allowed=_PAGED),
            ),
            ("GET", run, self.get_run, answers.route({200: answers.one("Run")}, RunUnknown)),
            (
                "POST",
                f"{run}/retry",
                self.retry_run,
                answers.route(accepted, *retried, body=Retry),
            ),
            (
                "POST",
                f"{its_source}/retry",
                self.retry_source,
                answers.route(accepted, *retried, SourceUnknown, body=RetryOfSource),
            ),
            ("POST", f"{trigger}/annotation_pipeline", self.start_all, whole),
            ("POST", f"{trigger}/{{source}}", self.start_source, one_source),
            (
                "GET",
                "/api/progress/status",
                self.get_status,
                answers.route({200: answers.many("Run")}),
            ),
        ):
            router.add_api_route(path, handler, methods=[method], **described)
        return router


# --------------------------------------------------------------------------- what is ordered


async def _start(tx: AsyncConnection, order: Order) -> UUID:
    """Raises OrderInvalid, SourcesRefused, CatalogueEmpty, GenesRefused, RunIdentical."""
    sources = await _choose_sources(tx, order.sources, _IN_BODY)
    hgnc_ids, panel = await _resolve(tx, order)
    new = NewRun(
        name=order.name,
        sources=sources,
        genes=hgnc_ids,
        gene_count=None if hgnc_ids is None else len(hgnc_ids),
        priority=order.priority,
        strategy=order.strategy,
        dry_run=order.dry_run,
        panel=panel,
    )
    return await orders.start(tx, new, pointer=_IN_BODY)


async def _start_again(
    tx: AsyncConnection, failed_id: UUID, retry: Retry, source: str | None
) -> UUID:
    """A run over what has failed in another. Raises RunUnknown, SourceUnknown, SourcesRefused,
    RunNotFailed, RunIdentical."""
    failed = await runs.get_run(tx, failed_id)
    if failed.dry_run:
        accepted = "a run that was not dry"
        error = field_error("path run_id", str(failed_id), accepted)
        raise RunNotFailed(f"run {failed_id} was a dry run, which nobody retries", [error])
    chosen, pointer = retry.sources, _IN_BODY
    if source is not None:
        require_source(failed, source)
        chosen, pointer = [source], _IN_PATH
    sources = await _choose_failed(tx, failed, chosen, pointer)
    gene_count = failed.gene_count
    if not set(sources) & await catalogue.list_bulk_names(tx):
        # Of an API, the genes that failed; those of two may be the same ones.
        gene_count = sum(failed.progress.sources[name].failed_count for name in sources)
        if failed.gene_count is not None:
            gene_count = min(gene_count, failed.gene_count)
    new = NewRun(
        name=retry.name,
        sources=sources,
        genes=None,
        gene_count=gene_count,
        priority=failed.priority,
        retries=failed_id,
    )
    return await orders.start(tx, new, pointer=pointer)


async def _choose_failed(
    tx: AsyncConnection, run: Run, chosen: list[str] | None, pointer: str
) -> tuple[str, ...]:
    """Those that are to be retried, in the order of the run. Raises SourcesRefused and
    RunNotFailed."""
    failed = domain.failed_sources(run.progress)
    if chosen is None:
        known = set(await catalogue.list_source_names(tx))
        wanted = [name for name in failed if name in known]
    else:
        wanted = list(await _choose_sources(tx, chosen, pointer))
    refused = [name for name in wanted if name not in failed]
    if wanted and not refused:
        return tuple(wanted)
    if not failed:
        accepted, detail = "a run of which something has failed", "nothing of it has failed so far"
    elif refused:
        accepted = f"some of {', '.join(failed)}"
        detail = f"{', '.join(refused)} has not failed so far; accepted: {accepted}"
    else:
        accepted = "a run of which a source has failed that is still asked"
        detail = f"{', '.join(failed)} has failed, and is not asked any more"
    errors = [field_error(pointer, name, accepted) for name in refused]
    raise RunNotFailed(
        f"run {run.id}: {detail}", errors or [field_error("path run_id", str(run.id), accepted)]
    )


async def _choose_sources(
    tx: AsyncConnection, chosen: list[str] | None, pointer: str
) -> tuple[str, ...]:
    """Those that are to be asked, in the order in which they are worked. Raises SourcesRefused."""
    known = await catalogue.list_source_names(tx)
    accepted = f"some of {', '.join(known)}" if known else "none before `annobus migrate` has run"
    wanted = known if chosen is None else chosen
    errors = [
        field_error(f"{pointer}/{place}" if pointer == _IN_BODY else pointer, name, accepted)
        for place, name in enumerate(wanted)
        if name not in known
    ]
    if errors or not wanted:
        unknown = ", ".join(repr(error["value"]) for error in errors) or "no source at all"
        raise SourcesRefused(f"{unknown}: not known; accepted: {accepted}", errors)
    return tuple(name for name in known if name in wanted)


async def _resolve(
    tx: AsyncConnection, order: Order
) -> tuple[tuple[str, ...] | None, PanelVersion | None]:
    """The HGNC ids of an order, None for all genes; and the panel that they are of. Raises
    OrderInvalid, PanelUnknown, PanelArchived, CatalogueEmpty and GenesRefused."""
    if sum((order.genes is not None, order.panel is not None, bool(order.all))) != 1:
        accepted = "either /genes, a list, or /panel, or /all: true"
        errors = [
            field_error("/genes", order.genes and f"{len(order.genes)} genes", accepted),
            field_error("/panel", order.panel, accepted),
            field_error("/all", order.all, accepted),
        ]
        raise OrderInvalid(f"which genes? accepted: {accepted}", errors)
    if order.panel is not None:
        return await _resolve_panel(tx, order.panel)
    if order.genes is None:
        return None, None
    found = await names.resolve(tx, order.genes)
    return tuple(require_found(found, len(order.genes))), None


async def _resolve_panel(tx: AsyncConnection, panel: str) -> tuple[tuple[str, ...], PanelVersion]:
    version, is_archived = await panels.find(tx, panel, "/panel")
    if is_archived:
        accepted = "a panel that is not archived"
        error = field_error("/panel", panel, accepted)
        raise PanelArchived(f"panel {version} is archived; accepted: {accepted}", [error])
    scope = await panels.scope(tx, version)
    if scope.refused:
        asked = f"{len(scope.refused)} genes of panel {version}"
        raise refusal(asked, scope.refused, len(scope.refused), "/panel")
    return tuple(scope.hgnc_ids), version


# ------------------------------------------------------------------------- what is answered


def require_source(run: Run, source: str) -> None:
    """Raises SourceUnknown."""
    if source not in run.progress.sources:
        accepted = ", ".join(run.progress.sources)
        error = field_error(_IN_PATH, source, accepted)
        known = f"the run has no source {error['value']!r}; it has {accepted}"
        raise SourceUnknown(known, [error])


def respond_accepted(run: Run, *, is_replay: bool = False) -> Response:
    """202: the run as it is wanted now, which somebody will see to."""
    replayed = {"Idempotent-Replayed": "true"} if is_replay else {}
    return jsonapi.respond(
        resource(run),
        {"self": address(run)},
        status=202,
        headers={"Location": address(run), **replayed},
    )


def address(run: Run) -> str:
    return f"/api/runs/{run.id}"


def resource(run: Run) -> dict[str, Any]:
    """A run as it is answered; counters are genes × sources, and genes for each source."""
    progress = run.progress
    attributes = {
        "name": run.name,
        "state": progress.state,
        "desired_state": run.desired_state,
        "priority": run.priority,
        "strategy": run.strategy,
        "dry_run": run.dry_run,
        "retries": None if run.retries is None else str(run.retries),
        "panel": None if run.panel is None else str(run.panel),
        "progress": domain.percent(progress),
        "message": domain.sentence(progress),
        "seq": progress.seq,
        "gene_count": run.gene_count,
        "total_count": progress.total_count,
        "done_count": progress.done_count,
        "no_data_count": progress.no_data_count,
        "failed_count": progress.failed_count,
        "cancelled_count": progress.cancelled_count,
        "requested_at": run.requested_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "sources": {
            name: source.model_dump() | run.source_times[name]
            for name, source in progress.sources.items()
        },
    }
    found = jsonapi.resource("runs", str(run.id), attributes, address(run))
    found["links"]["progress"] = f"/ws/jobs/{run.id}"
    if run.panel is not None:
        found["links"]["panel"] = f"/api/panels/{run.panel.panel_id}/versions/{run.panel.version}"
    return found
