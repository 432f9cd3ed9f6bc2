"""What a list of names, or what is to be added and removed, makes of a panel's genes."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.messages import GENES_MAX
from services.chassis.errors import field_error
from services.gateway import domain
from services.gateway.domain import Member, PanelVersion, Refused, fold
from services.gateway.errors import CatalogueEmpty, PanelInvalid, PanelRefused
from services.gateway.spellings import Damage, damaged
from services.gateway.store import names

CANDIDATES_MAX = 20  # Genes that one name may mean, of those that a report names.
ERRORS_MAX = 100  # Names that one answer refuses; its detail says how many there are.

Unresolved = Literal["refuse", "leave_out"]


class Given(NamedTuple):
    """Names as somebody gave them; `lines` are those of a file."""

    values: Sequence[str]
    pointer: str
    lines: Sequence[int] | None = None
    origin: Mapping[str, Any] = {}

    def where(self, place: int) -> str:
        if self.lines is None:
            return f"{self.pointer}/{place}"
        return f"line {self.lines[place]}"


async def resolve(
    tx: AsyncConnection, given: Given, unresolved: Unresolved
) -> tuple[list[Member], dict[str, Any]]:
    """Genes in the order in which they are first named, and the report. Raises CatalogueEmpty and
    PanelRefused."""
    resolved = await names.resolve_each(tx, given.values)
    if resolved.catalogue_empty:
        raise CatalogueEmpty
    members: dict[str, Member] = {}
    for _, member in resolved.members:
        members.setdefault(member.hgnc_id, member)
    if resolved.refused and unresolved == "refuse":
        raise _refusal(given, resolved.refused)
    if not members:
        accepted = "a list with one gene at least"
        raise PanelRefused(
            f"none of {len(given.values)} names is a gene; accepted: {accepted}",
            [_error(given, one) for one in resolved.refused[:ERRORS_MAX]],
        )
    report = {
        "given_count": len(given.values),
        "duplicate_count": len(resolved.members) - len(members),
        "left_out_count": len(resolved.refused),
        **given.origin,
        "left_out": [_left_out(given, one) for one in resolved.refused],
    }
    return list(members.values()), report


async def edit(
    tx: AsyncConnection,
    before: Sequence[tuple[Member, str]],
    newest: PanelVersion,
    *,
    add: Sequence[str] | None,
    remove: Sequence[str] | None,
    unresolved: Unresolved,
) -> tuple[list[Member], dict[str, Any]]:
    """The genes of a version without some and with others behind them. Raises PanelRefused and
    PanelInvalid."""
    added: list[Member] = []
    report: dict[str, Any] = {"given_count": 0, "duplicate_count": 0, "left_out_count": 0}
    if add is not None:
        added, report = await resolve(tx, Given(add, "/add"), unresolved)
    removed = await _find_members(tx, before, remove or [], newest)
    both = [one for one in added if one.hgnc_id in removed]
    if both:
        accepted = "a gene in one of the two"
        error = field_error("/add", both[0].given, accepted)
        raise PanelInvalid(
            f"{error['value']!r} is to be added and removed; accepted: {accepted}", [error]
        )
    members = {one.hgnc_id: one for one, _ in before if one.hgnc_id not in removed}
    already = [one for one in added if one.hgnc_id in members]
    members |= {one.hgnc_id: one for one in added if one.hgnc_id not in members}
    report |= {"added_count": len(added) - len(already), "already_count": len(already)}
    report["removed_count"] = len(removed)
    if not 1 <= len(members) <= GENES_MAX:
        accepted = f"a panel of 1 to {GENES_MAX} genes"
        error = field_error("/add" if members else "/remove", f"{len(members)} genes", accepted)
        raise PanelInvalid(f"{len(members)} genes would be left; accepted: {accepted}", [error])
    return list(members.values()), report


async def _find_members(
    tx: AsyncConnection,
    before: Sequence[tuple[Member, str]],
    values: Sequence[str],
    newest: PanelVersion,
) -> set[str]:
    """The genes of a version that are named so: by their ids, as they were given or are called
    now, so that withdrawn ones are found too; or as any gene is. Raises PanelRefused."""
    if not values:
        return set()
    ids = {one.hgnc_id for one, _ in before}
    called: dict[str, set[str]] = {}
    for one, now in before:
        for name in filter(None, (one.given, one.symbol, now)):
            called.setdefault(fold(name), set()).add(one.hgnc_id)
    resolved = {
        place: member.hgnc_id for place, member in (await names.resolve_each(tx, values)).members
    }
    found: set[str] = set()
    errors = []
    for place, value in enumerate(values):
        by_name = called.get(fold(value), set())
        if (hgnc_id := domain.hgnc_id(value)) in ids:
            found.add(str(hgnc_id))
        elif resolved.get(place) in ids:
            found.add(resolved[place])
        elif len(by_name) == 1:
            found |= by_name
        else:
            accepted = f"a gene of version {newest.version}"
            errors.append(field_error(f"/remove/{place}", value, accepted))
    if errors:
        raise PanelRefused(
            f"{len(errors)} of {len(values)} names to remove are no gene of {newest}; "
            f"the first: {errors[0]['value']!r}",
            errors[:ERRORS_MAX],
        )
    return found


def _refusal(given: Given, refused: Sequence[Refused]) -> PanelRefused:
    errors = [_error(given, one) for one in refused[:ERRORS_MAX]]
    shown = "" if len(errors) == len(refused) else f"; the first {len(errors)} are named"
    return PanelRefused(
        f"{len(refused)} of {len(given.values)} genes cannot be resolved{shown}; the first: "
        f"{errors[0]['value']!r} is {refused[0].outcome}, accepted: {errors[0]['accepted']}. "
        "With unresolved=leave_out the others make the panel",
        errors,
    )


def _error(given: Given, one: Refused) -> dict[str, Any]:
    error = field_error(given.where(one.place), one.value, one.accepted)
    return error | {"code": _damage(one) or f"gene-{one.outcome}"} | _left_out(given, one)


def _left_out(given: Given, one: Refused) -> dict[str, Any]:
    return {
        "place": one.place,
        "line": None if given.lines is None else given.lines[one.place],
        "value": one.value,
        "outcome": one.outcome,
        "damage": _damage(one),
        "candidates": [
            {"hgnc_id": gene.hgnc_id, "symbol": gene.symbol} for gene in one.genes[:CANDIDATES_MAX]
        ],
    }


def _damage(one: Refused) -> Damage | None:
    """As names are answered: dots are one where another name comes of them."""
    found = damaged(fold(one.value)) if one.outcome == "unknown" else None
    if found is None or (found.damage != "spreadsheet_date" and not one.genes):
        return None
    return found.damage
