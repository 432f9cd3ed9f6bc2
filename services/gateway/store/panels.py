"""Panels: lists of genes with versions that never change, and what became of their genes."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import database
from services.chassis.errors import field_error
from services.gateway.domain import Member, PanelVersion, Scope, parse_panel
from services.gateway.errors import CatalogueEmpty, PanelNameTaken, PanelUnknown
from services.gateway.store import names

_ORDERS = {
    "name": "lower(p.name), p.id",
    "-name": "lower(p.name) DESC, p.id DESC",
    "created_at": "p.created_at, p.id",
    "-created_at": "p.created_at DESC, p.id DESC",
}
SORTS = tuple(_ORDERS)
STATES = ("current", "renamed", "withdrawn")  # Of a gene of a version, by what became of it.

# Of a report; what was left out may be long.
_COUNTS = """
    json_build_object('given_count', report->'given_count', 'duplicate_count',
        report->'duplicate_count', 'left_out_count', report->'left_out_count')::text AS report
"""

# A panel with its newest version.
_PANELS = f"""
    SELECT p.id, p.name, p.description, p.created_at, p.created_by, p.archived_at, v.*
    FROM panel p CROSS JOIN LATERAL (
        SELECT version, gene_count, note, made_at, made_by, {_COUNTS}
        FROM panel_version WHERE panel_id = p.id ORDER BY version DESC LIMIT 1) v
"""

# The genes of a version with what they are now. A gene that is no longer in the catalogue counts
# as withdrawn. A withdrawn one has `successors`, those that are approved: through any number of
# steps, as names are resolved.
_MEMBERS = """
    SELECT m.place, m.hgnc_id, m.given, m.symbol AS symbol_then, g.symbol,
           coalesce(g.status, 'withdrawn') AS status,
           CASE WHEN g.status IS DISTINCT FROM 'approved' THEN 'withdrawn'
                WHEN g.symbol IS DISTINCT FROM m.symbol THEN 'renamed'
                ELSE 'current' END AS state
    FROM panel_gene m LEFT JOIN annotator.gene_v1 g ON g.hgnc_id = m.hgnc_id
    WHERE m.panel_id = :panel_id AND m.version = :version
"""
_SUCCESSORS = """
    (WITH RECURSIVE line AS (  -- UNION, so that a circle of successors ends.
        SELECT hgnc_id, status, successors, symbol FROM annotator.gene_v1
        WHERE hgnc_id = member.hgnc_id AND member.state = 'withdrawn'
        UNION
        SELECT g.hgnc_id, g.status, g.successors, g.symbol
        FROM line JOIN annotator.gene_v1 g ON g.hgnc_id = ANY (line.successors)
        WHERE line.status <> 'approved'
     )
     SELECT coalesce(json_agg(json_build_object('hgnc_id', hgnc_id, 'symbol', symbol)
                     ORDER BY length(hgnc_id), hgnc_id), '[]')
     FROM line WHERE status = 'approved')::text AS successors
"""


@dataclass(frozen=True)
class NewVersion:
    """The genes of a version in their order, each once, and what else is kept of its making."""

    members: Sequence[Member]
    note: str | None
    by: str | None
    report: Mapping[str, Any]


# ---------------------------------------------------------------------------------- writing


async def claim_name(tx: AsyncConnection, name: str, *, but: UUID | None = None) -> None:
    """Let nobody else take this name until the commit. Raises PanelNameTaken."""
    await tx.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('panel-name', 0))"))
    other = await tx.scalar(
        text("""
            SELECT id FROM panel WHERE lower(name) = lower(:name) AND archived_at IS NULL
                AND id IS DISTINCT FROM CAST(:but AS uuid)
        """),
        {"name": name, "but": but},
    )
    if other is not None:
        accepted = f"another name, or a new version of /api/panels/{other}"
        error = field_error("/name", name, accepted) | {"panel": f"/api/panels/{other}"}
        raise PanelNameTaken(
            f"panel {other} is called {error['value']!r}; accepted: {accepted}", [error]
        )


async def insert_panel(
    tx: AsyncConnection, name: str, description: str | None, by: str | None
) -> UUID:
    panel_id = await tx.scalar(
        text("""
            INSERT INTO panel (name, description, created_by) VALUES (:name, :description, :by)
            RETURNING id
        """),
        {"name": name, "description": description, "by": by},
    )
    return UUID(str(panel_id))


async def insert_version(tx: AsyncConnection, made: PanelVersion, new: NewVersion) -> None:
    """A whole version: nothing can be added to it later."""
    of = {"panel_id": made.panel_id, "version": made.version}
    if len(new.members) > names.SHORT_LIST_MAX:
        await database.allow_long_transaction(tx)
    await tx.execute(
        text("""
            INSERT INTO panel_version (panel_id, version, gene_count, note, made_by, report)
            VALUES (:panel_id, :version, :gene_count, :note, :by, CAST(:report AS json))
        """),
        of
        | {
            "gene_count": len(new.members),
            "note": new.note,
            "by": new.by,
            "report": orjson.dumps(new.report).decode(),
        },
    )
    await tx.execute(
        text("""
            INSERT INTO panel_gene (panel_id, version, hgnc_id, given, symbol, place)
            SELECT :panel_id, :version, hgnc_id, given, symbol, place - 1
            FROM unnest(CAST(:hgnc_ids AS text[]), CAST(:given AS text[]),
                        CAST(:symbols AS text[]))
                WITH ORDINALITY AS member (hgnc_id, given, symbol, place)
        """),
        of
        | {
            "hgnc_ids": [member.hgnc_id for member in new.members],
            "given": [member.given for member in new.members],
            "symbols": [member.symbol for member in new.members],
        },
    )


async def change(tx: AsyncConnection, panel_id: UUID, changes: Mapping[str, str | None]) -> None:
    """Its name and description; those that `changes` has."""
    await tx.execute(
        text("""
            UPDATE panel SET
                name = CASE WHEN :has_name THEN :name ELSE name END,
                description = CASE WHEN :has_description THEN :description ELSE description END
            WHERE id = :panel_id
        """),
        {
            "panel_id": panel_id,
            "has_name": "name" in changes,
            "name": changes.get("name"),
            "has_description": "description" in changes,
            "description": changes.get("description"),
        },
    )


async def archive(tx: AsyncConnection, panel_id: UUID) -> None:
    """Its name is free again; its versions stay."""
    await tx.execute(
        text("UPDATE panel SET archived_at = now() WHERE id = :panel_id AND archived_at IS NULL"),
        {"panel_id": panel_id},
    )


# ---------------------------------------------------------------------------------- reading


async def get_panel(
    connection: AsyncConnection, panel: str, *, lock: bool = False
) -> dict[str, Any]:
    """With its newest version; `lock` lets changes of it pass one after the other. Raises
    PanelUnknown."""
    try:
        panel_id = UUID(panel)
    except ValueError:
        raise PanelUnknown(panel) from None
    if lock:
        await connection.execute(
            text("SELECT FROM panel WHERE id = :panel_id FOR UPDATE"), {"panel_id": panel_id}
        )
    rows = await connection.execute(
        text(f"{_PANELS} WHERE p.id = :panel_id"), {"panel_id": panel_id}
    )
    row = rows.mappings().one_or_none()
    if row is None:
        raise PanelUnknown(panel)
    return _panel(row)


async def list_panels(
    connection: AsyncConnection,
    *,
    part: str | None,
    archived: bool,
    sort: str,
    limit: int,
    offset: int,
) -> list[dict[str, Any]]:
    """Those whose name has this part, a pattern of LIKE."""
    rows = await connection.execute(
        text(f"""
            {_PANELS} WHERE (p.archived_at IS NOT NULL) = :archived
                AND (CAST(:part AS text) IS NULL OR lower(p.name) LIKE :part)
            ORDER BY {_ORDERS[sort]} LIMIT :limit OFFSET :offset
        """),
        {"part": part, "archived": archived, "limit": limit, "offset": offset},
    )
    return [_panel(row) for row in rows.mappings()]


async def list_versions(
    connection: AsyncConnection, panel_id: UUID, limit: int, offset: int
) -> list[dict[str, Any]]:
    """The newest first, without their reports."""
    rows = await connection.execute(
        text(f"""
            SELECT panel_id, version, gene_count, note, made_at, made_by, {_COUNTS}
            FROM panel_version WHERE panel_id = :panel_id
            ORDER BY version DESC LIMIT :limit OFFSET :offset
        """),
        {"panel_id": panel_id, "limit": limit, "offset": offset},
    )
    return [_version(row) for row in rows.mappings()]


async def get_version(connection: AsyncConnection, panel: str, version: str) -> dict[str, Any]:
    """Raises PanelUnknown."""
    named = f"{panel}@{version}"
    try:
        panel_id, number = parse_panel(named)
    except ValueError:
        raise PanelUnknown(named) from None
    rows = await connection.execute(
        text("""
            SELECT panel_id, version, gene_count, note, made_at, made_by, report::text AS report
            FROM panel_version WHERE panel_id = :panel_id AND version = :version
        """),
        {"panel_id": panel_id, "version": number},
    )
    row = rows.mappings().one_or_none()
    if row is None:
        raise PanelUnknown(named)
    return _version(row)


async def list_genes(
    connection: AsyncConnection,
    of: PanelVersion,
    states: Sequence[str] | None,
    limit: int,
    offset: int,
) -> list[dict[str, Any]]:
    """The genes of a version in its order, with what became of them since."""
    rows = await connection.execute(
        text(f"""
            SELECT *, {_SUCCESSORS} FROM (
                {_MEMBERS}
            ) member
            WHERE CAST(:states AS text[]) IS NULL OR state = ANY (CAST(:states AS text[]))
            ORDER BY place LIMIT :limit OFFSET :offset
        """),
        {
            "panel_id": of.panel_id,
            "version": of.version,
            "states": None if states is None else list(states),
            "limit": limit,
            "offset": offset,
        },
    )
    return [dict(row) | {"successors": orjson.loads(row["successors"])} for row in rows.mappings()]


async def count_states(connection: AsyncConnection, of: PanelVersion) -> dict[str, int]:
    """How many genes of a version are current, renamed and withdrawn."""
    rows = await connection.execute(
        text(f"SELECT state, count(*) AS gene_count FROM ({_MEMBERS}) member GROUP BY state"),
        {"panel_id": of.panel_id, "version": of.version},
    )
    found = {row.state: row.gene_count for row in rows}
    return {state: found.get(state, 0) for state in STATES}


async def list_members(connection: AsyncConnection, of: PanelVersion) -> list[tuple[Member, str]]:
    """All genes of a version in its order, each with what it is called now."""
    rows = await connection.scalars(
        text(f"""
            SELECT json_agg(json_build_array(hgnc_id, given, symbol_then, coalesce(symbol, ''))
                            ORDER BY place)::text
            FROM ({_MEMBERS}) member GROUP BY place / {names.VALUES_PER_SLICE} ORDER BY min(place)
        """),
        {"panel_id": of.panel_id, "version": of.version},
    )
    found: list[tuple[Member, str]] = []
    for part in rows:
        found += [(Member(*member), now) for *member, now in orjson.loads(part)]
        await asyncio.sleep(0)
    return found


async def compare(
    connection: AsyncConnection, before: PanelVersion, after: PanelVersion
) -> tuple[orjson.Fragment, orjson.Fragment, int]:
    """The genes that a version has and another one has not, as JSON in the order of their ids:
    the added ones, the removed ones; and how many both have."""
    row = (
        await connection.execute(
            text("""
                WITH compared AS (
                    SELECT hgnc_id, a.place AS before, b.place AS after,
                           coalesce(b.given, a.given) AS given
                    FROM (SELECT * FROM panel_gene
                          WHERE panel_id = :panel_id AND version = :before) a
                    FULL JOIN (SELECT * FROM panel_gene
                          WHERE panel_id = :panel_id AND version = :after) b USING (hgnc_id)
                ), told AS (
                    SELECT before, after,
                           length(c.hgnc_id) AS digits, c.hgnc_id,
                           json_build_object('hgnc_id', c.hgnc_id, 'symbol', g.symbol,
                               'status', coalesce(g.status, 'withdrawn'), 'given', c.given) AS gene
                    FROM compared c LEFT JOIN annotator.gene_v1 g ON g.hgnc_id = c.hgnc_id
                    WHERE before IS NULL OR after IS NULL
                )
                SELECT (SELECT coalesce(json_agg(gene ORDER BY digits, hgnc_id), '[]')
                        FROM told WHERE before IS NULL)::text AS added,
                       (SELECT coalesce(json_agg(gene ORDER BY digits, hgnc_id), '[]')
                        FROM told WHERE after IS NULL)::text AS removed,
                       (SELECT count(*) FROM compared
                        WHERE before IS NOT NULL AND after IS NOT NULL) AS kept_count
            """),
            {"panel_id": before.panel_id, "before": before.version, "after": after.version},
        )
    ).one()
    return orjson.Fragment(row.added), orjson.Fragment(row.removed), row.kept_count


async def find(connection: AsyncConnection, panel: str, pointer: str) -> tuple[PanelVersion, bool]:
    """The version that `<id>` or `<id>@<version>` names, and whether its panel is archived.
    Raises PanelUnknown, which names the place in the request."""
    try:
        panel_id, version = parse_panel(panel)
    except ValueError:
        raise PanelUnknown(panel, pointer) from None
    row = (
        await connection.execute(
            text("""
                SELECT v.version, p.archived_at IS NOT NULL AS is_archived
                FROM panel p JOIN panel_version v ON v.panel_id = p.id
                WHERE p.id = :panel_id
                  AND (CAST(:version AS integer) IS NULL OR v.version = :version)
                ORDER BY v.version DESC LIMIT 1
            """),
            {"panel_id": panel_id, "version": version},
        )
    ).one_or_none()
    if row is None:
        raise PanelUnknown(panel, pointer)
    return PanelVersion(panel_id, row.version), row.is_archived


async def scope(connection: AsyncConnection, of: PanelVersion) -> Scope:
    """The approved genes of a version. What was withdrawn since stands for its one successor, as
    every name does; what has none, or several, is refused. Raises CatalogueEmpty."""
    row = (
        await connection.execute(
            text(f"""
                SELECT coalesce(array_agg(hgnc_id ORDER BY place)
                           FILTER (WHERE state <> 'withdrawn'), '{{}}') AS approved,
                       coalesce(array_agg(hgnc_id ORDER BY place)
                           FILTER (WHERE state = 'withdrawn'), '{{}}') AS withdrawn
                FROM ({_MEMBERS}) member
            """),
            {"panel_id": of.panel_id, "version": of.version},
        )
    ).one()
    if not row.withdrawn:
        return Scope(of, row.approved, [])
    resolved = await names.resolve(connection, row.withdrawn, refused_max=len(row.withdrawn))
    if resolved.catalogue_empty:
        raise CatalogueEmpty
    return Scope(of, list(dict.fromkeys([*row.approved, *resolved.hgnc_ids])), resolved.refused)


def _panel(row: RowMapping) -> dict[str, Any]:
    return dict(row) | {"id": UUID(bytes=row["id"].bytes), "report": orjson.loads(row["report"])}


def _version(row: RowMapping) -> dict[str, Any]:
    panel_id = UUID(bytes=row["panel_id"].bytes)
    return dict(row) | {"panel_id": panel_id, "report": orjson.loads(row["report"])}
