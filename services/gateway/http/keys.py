"""`Idempotency-Key`: the same key with the same order is answered as the first time."""

from hashlib import sha256
from typing import Annotated
from uuid import UUID

from fastapi import Header
from pydantic import WithJsonSchema
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import field_error
from services.gateway.domain import PanelVersion
from services.gateway.errors import IdempotencyMismatch, ParameterInvalid
from services.gateway.store import keys

KEY_CHARACTERS_MAX = 255

IdempotencyKey = Annotated[
    str | None,
    Header(),
    # Checked below, which says what would be accepted.
    WithJsonSchema({"type": "string", "pattern": f"^[!-~]{{1,{KEY_CHARACTERS_MAX}}}$"}),
]


async def find(
    tx: AsyncConnection, key: str | None, said: str | bytes
) -> UUID | PanelVersion | None:
    """What this order made when it came before; whoever sends it at the same time waits. `said`
    is what the same key has to say again. Raises ParameterInvalid and IdempotencyMismatch."""
    if key is None:
        return None
    _check(key)
    await keys.lock(tx, key)
    earlier = await keys.find(tx, key)
    if earlier is None:
        return None
    if earlier.body_sha256 != _digest(said):
        raise _mismatch(key)
    return earlier.made


async def save(
    tx: AsyncConnection, key: str | None, said: str | bytes, made: UUID | PanelVersion
) -> None:
    if key is not None:
        await keys.save(tx, key, _digest(said), made)


def _digest(said: str | bytes) -> bytes:
    return sha256(said if isinstance(said, bytes) else said.encode()).digest()


def _check(key: str) -> None:
    if not (1 <= len(key) <= KEY_CHARACTERS_MAX and all("!" <= sign <= "~" for sign in key)):
        accepted = f"1 to {KEY_CHARACTERS_MAX} visible ASCII characters"
        error = field_error("header Idempotency-Key", key, accepted)
        detail = f"Idempotency-Key={error['value']!r} does not fit; accepted: {accepted}"
        raise ParameterInvalid(detail, [error])


def _mismatch(key: str) -> IdempotencyMismatch:
    accepted = "the order this key was first sent with, or another key"
    error = field_error("header Idempotency-Key", key, accepted)
    return IdempotencyMismatch(f"the key {error['value']!r} was used before; {accepted}", [error])
