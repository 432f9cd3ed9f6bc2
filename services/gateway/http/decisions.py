"""A person decides about a quarantined release."""

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.messages import DecideRelease, Decision
from services.chassis import outbox
from services.chassis.http import field_error
from services.gateway import jsonapi
from services.gateway.errors import ReleaseNotQuarantined, ReleaseUnknown
from services.gateway.store import catalogue

PERSON_CHARACTERS_MAX = 200
NOTE_CHARACTERS_MAX = 2_000
TEXT = r"^[^\x00]*\S[^\x00]*$"

_NOTHING = jsonapi.Allowed()


class Reasons(BaseModel):
    """Who decides, and why: both are kept with the release."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    by: Annotated[str, Field(max_length=PERSON_CHARACTERS_MAX, pattern=TEXT)]
    note: Annotated[str, Field(max_length=NOTE_CHARACTERS_MAX, pattern=TEXT)]


@dataclass(frozen=True)
class DecisionRoutes:
    engine: AsyncEngine

    async def accept(self, request: Request, name: str, release: str, reasons: Reasons) -> Response:
        """Believe a quarantined release after all: it is stored next."""
        return await self._decide(request, name, release, reasons, "accept")

    async def reject(self, request: Request, name: str, release: str, reasons: Reasons) -> Response:
        """Never believe it: readers keep what they have until the source publishes another."""
        return await self._decide(request, name, release, reasons, "reject")

    async def _decide(
        self, request: Request, name: str, release: str, reasons: Reasons, decision: Decision
    ) -> Response:
        _NOTHING.parse(request.query_params)
        address = f"/api/sources/{name}/releases/{release}"
        async with self.engine.begin() as tx:
            found = await catalogue.get_release_state(tx, name, _release_id(name, release))
            if found is None:
                raise _unknown(name, release)
            if found != "quarantined":
                error = field_error("path release", release, "a release that is quarantined")
                raise ReleaseNotQuarantined(f"release {release} of {name} is {found}", [error])
            await outbox.add(
                tx,
                DecideRelease(
                    source=name,
                    release_id=UUID(release),
                    decision=decision,
                    decided_by=reasons.by,
                    note=reasons.note,
                ),
            )
        attributes = {"source": name, "state": found, "decision": decision, "by": reasons.by}
        return jsonapi.respond(
            jsonapi.resource("releases", release, attributes, address),
            {"self": address},
            status=202,
            headers={"Location": address},
        )

    def router(self) -> APIRouter:
        router = APIRouter(tags=["releases"])
        for decision, handler in (("accept", self.accept), ("reject", self.reject)):
            router.add_api_route(
                f"/api/sources/{{name}}/releases/{{release}}/{decision}",
                handler,
                methods=["POST"],
                status_code=202,
            )
        return router


def _release_id(name: str, release: str) -> UUID:
    try:
        return UUID(release)
    except ValueError:
        raise _unknown(name, release) from None


def _unknown(name: str, release: str) -> ReleaseUnknown:
    error = field_error("path release", release, f"the id of a release of {name}")
    return ReleaseUnknown(f"{name} has no release {error['value']!r}", [error])
