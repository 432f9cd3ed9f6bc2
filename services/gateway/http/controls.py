"""Controls of runs: pause, resume and cancel, of a whole run or of one source of it."""

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.messages import SOURCE_END_STATES, ControlAction
from services.chassis import outbox
from services.chassis.errors import field_error
from services.gateway import jsonapi
from services.gateway.domain import DESIRED, Run, is_active, parse_run_id
from services.gateway.errors import BodyUnexpected, RunEnded, RunUnknown, SourceUnknown
from services.gateway.http import answers
from services.gateway.http.bodies import NO_BODY, refuse_body
from services.gateway.http.runs import require_source, respond_accepted
from services.gateway.store import runs

_NOTHING = jsonapi.Allowed()


@dataclass(frozen=True)
class ControlRoutes:
    engine: AsyncEngine

    async def pause_run(self, request: Request, run_id: str) -> Response:
        """Begin nothing more of a run until it is resumed. Calls in flight are finished."""
        return await self._control(request, run_id, None, "pause")

    async def resume_run(self, request: Request, run_id: str) -> Response:
        """Go on where a paused run was."""
        return await self._control(request, run_id, None, "resume")

    async def cancel_run(self, request: Request, run_id: str) -> Response:
        """Do nothing more of a run, ever. Calls in flight are given up; what is stored stays."""
        return await self._control(request, run_id, None, "cancel")

    async def pause_source(self, request: Request, run_id: str, source: str) -> Response:
        """Begin nothing more of one source of a run until it is resumed."""
        return await self._control(request, run_id, source, "pause")

    async def resume_source(self, request: Request, run_id: str, source: str) -> Response:
        """Go on with a source that was paused by itself; a paused run stays paused."""
        return await self._control(request, run_id, source, "resume")

    async def cancel_source(self, request: Request, run_id: str, source: str) -> Response:
        """Do nothing more of one source of a run; the others go on."""
        return await self._control(request, run_id, source, "cancel")

    async def _control(
        self, request: Request, run_id: str, source: str | None, action: ControlAction
    ) -> Response:
        """What is wanted and the command are one transaction. What is wanted already is accepted
        again, and not said twice."""
        _NOTHING.parse(request.query_params)
        await refuse_body(request)
        wanted = parse_run_id(run_id)
        async with self.engine.begin() as tx:
            await runs.lock_run(tx, wanted)
            run = await runs.get_run(tx, wanted)
            if await _is_news(tx, run, source, action):
                await outbox.add(tx, await runs.save_control(tx, wanted, source, action))
                run = await runs.get_run(tx, wanted)
        return respond_accepted(run)

    def router(self) -> APIRouter:
        router = APIRouter(tags=["runs"])
        run, its_source = "/api/runs/{run_id}", "/api/runs/{run_id}/sources/{source}"
        accepted = {202: answers.accepted("Run")}
        errors = (RunUnknown, RunEnded, BodyUnexpected)
        of_run = answers.route(accepted, *errors, reads_body=True, extra=NO_BODY)
        of_source = answers.route(accepted, *errors, SourceUnknown, reads_body=True, extra=NO_BODY)
        for path, handler, described in (
            (f"{run}/pause", self.pause_run, of_run),
            (f"{run}/resume", self.resume_run, of_run),
            (f"{run}/cancel", self.cancel_run, of_run),
            (f"{its_source}/pause", self.pause_source, of_source),
            (f"{its_source}/resume", self.resume_source, of_source),
            (f"{its_source}/cancel", self.cancel_source, of_source),
        ):
            router.add_api_route(path, handler, methods=["POST"], **described)
        return router


async def _is_news(
    tx: AsyncConnection, run: Run, source: str | None, action: ControlAction
) -> bool:
    """Whether a control asks for something else than was asked last. Raises RunEnded for what has
    ended, or is to end, otherwise; SourceUnknown for a source that the run does not have."""
    ended = not is_active(run.progress)
    if source is None:
        state: str = run.progress.state
        desired = run.desired_state
    else:
        require_source(run, source)
        state = run.progress.sources[source].state
        desired = await runs.desired_source_state(tx, run.id, source)
        ended = ended or state in SOURCE_END_STATES
    if ended or "cancelled" in (desired, run.desired_state):
        state = state if ended else "cancelled"
        if action != "cancel" or state != "cancelled":
            raise _ended(run, source, state, action)
        return False
    return desired != DESIRED[action]


def _ended(run: Run, source: str | None, state: str, action: ControlAction) -> RunEnded:
    what = f"run {run.id}" if source is None else f"{source} in run {run.id}"
    accepted = "one that has not ended"
    error = (
        field_error("path run_id", str(run.id), accepted)
        if source is None
        else field_error("path source", source, accepted)
    )
    said = state.replace("_", " ")
    return RunEnded(f"{what} is {said}: nobody can {action} it any more", [error])
