"""The public routes: parse, transaction, answer; one file per family."""

from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.middleware import Middleware

from services.gateway.active import ActiveRuns
from services.gateway.changes import Changes
from services.gateway.documents import Documents
from services.gateway.entries import Entries
from services.gateway.exports import Exports
from services.gateway.gene_queries import Summaries
from services.gateway.http.cache import CacheRoutes
from services.gateway.http.catalogue import CatalogueRoutes
from services.gateway.http.changes import ChangeRoutes
from services.gateway.http.controls import ControlRoutes
from services.gateway.http.dead_letters import DeadLetterRoutes
from services.gateway.http.exports import ExportRoutes
from services.gateway.http.gene_lists import GeneListRoutes
from services.gateway.http.genes import GeneRoutes
from services.gateway.http.history import HistoryRoutes
from services.gateway.http.panels import PanelRoutes
from services.gateway.http.releases import ReleaseRoutes
from services.gateway.http.runs import RunRoutes
from services.gateway.http.statistics import StatisticsRoutes
from services.gateway.live import Live
from services.gateway.ready_answers import ReadyAnswers, ReadyFirst
from services.gateway.sockets import Sockets


def include_routes(
    app: FastAPI,
    engine: AsyncEngine,
    documents: Documents,
    entries: Entries,
    live: Live,
    active: ActiveRuns,
    changes: Changes,
) -> None:
    summaries, ready = Summaries(engine), ReadyAnswers()
    # The innermost: what is counted and limited for all is so for these, too.
    app.user_middleware.append(Middleware(ReadyFirst, ready))
    for routes in (
        RunRoutes(engine),
        ControlRoutes(engine),
        GeneListRoutes(engine, summaries, documents, entries, ready),
        ExportRoutes(engine, summaries, Exports()),
        GeneRoutes(engine, documents, entries, ready),
        CatalogueRoutes(engine),
        CacheRoutes(engine, documents, entries),
        StatisticsRoutes(engine, entries),
        HistoryRoutes(engine),
        ChangeRoutes(engine, changes),
        PanelRoutes(engine),
        ReleaseRoutes(engine),
        DeadLetterRoutes(engine),
        Sockets(live, active),
    ):
        app.include_router(routes.router())
