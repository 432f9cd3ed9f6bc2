"""What idempotency keys were used for: an order that comes again is not carried out again."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.gateway.domain import PanelVersion


@dataclass(frozen=True)
class Earlier:
    """What an idempotency key was used for: a run, or a version of a panel."""

    made: UUID | PanelVersion
    body_sha256: bytes


async def lock(tx: AsyncConnection, key: str) -> None:
    """Let two orders with the same key pass one after the other, until the commit."""
    await tx.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended('idempotency:' || :key, 0))"),
        {"key": key},
    )


async def find(tx: AsyncConnection, key: str) -> Earlier | None:
    row = (
        await tx.execute(
            text("""
                SELECT run_id, panel_id, panel_version, body_sha256
                FROM idempotency_key WHERE key = :key
            """),
            {"key": key},
        )
    ).one_or_none()
    if row is None:
        return None
    made: UUID | PanelVersion
    if row.run_id is None:
        made = PanelVersion(UUID(bytes=row.panel_id.bytes), row.panel_version)
    else:
        made = UUID(bytes=row.run_id.bytes)
    return Earlier(made, bytes(row.body_sha256))


async def save(
    tx: AsyncConnection, key: str, body_sha256: bytes, made: UUID | PanelVersion
) -> None:
    panel = made if isinstance(made, PanelVersion) else None
    await tx.execute(
        text("""
            INSERT INTO idempotency_key (key, body_sha256, run_id, panel_id, panel_version)
            VALUES (:key, :body_sha256, :run_id, :panel_id, :panel_version)
        """),
        {
            "key": key,
            "body_sha256": body_sha256,
            "run_id": made if panel is None else None,
            "panel_id": panel and panel.panel_id,
            "panel_version": panel and panel.version,
        },
    )
