"""The outbox: messages are rows of the transaction that they tell about, then Kafka's."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.messages import Message
from services.chassis import database, failpoints, telemetry
from services.chassis.errors import MessageTooLarge
from services.chassis.failpoints import Failpoint
from services.chassis.settings import ServiceSettings

log = structlog.get_logger()

ROWS_MAX = 500  # Rows in one pass of the relay.
PAYLOAD_BYTES_MAX = 900 * 1024  # The broker takes 1 MiB, headers and framing included.
PUBLISH_TIMEOUT_SECONDS = 30
POLL_SECONDS = 0.25  # What a lost notification costs.

# Hands one row to the producer and returns the future of its arrival.
Publish = Callable[[str, str, dict[str, str], bytes], Awaitable["asyncio.Future[Any]"]]


async def add(tx: AsyncConnection, *messages: Message) -> None:
    """Record messages inside the caller's transaction. Never commits."""
    if not messages:
        return
    payloads = [message.model_dump_json().encode() for message in messages]
    for message, payload in zip(messages, payloads, strict=True):
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise MessageTooLarge(
                f"{message.type} of {len(payload)} bytes; at most {PAYLOAD_BYTES_MAX} are accepted"
            )
    await tx.execute(
        text("""
            INSERT INTO outbox (topic, key, headers, payload)
            SELECT * FROM unnest(CAST(:topics AS text[]), CAST(:keys AS text[]),
                                 CAST(:headers AS jsonb[]), CAST(:payloads AS bytea[]))
        """),
        {
            "topics": [message.destination() for message in messages],
            "keys": [message.key() for message in messages],
            "headers": [orjson.dumps(envelope(message)).decode() for message in messages],
            "payloads": payloads,
        },
    )


def envelope(message: Message) -> dict[str, str]:
    """The CloudEvents attributes that are known when the message is written."""
    return {
        "ce_specversion": "1.0",
        "ce_type": message.type,
        "ce_subject": message.subject(),
        "ce_time": datetime.now(UTC).isoformat(),
        "ce_dataschema": f"urn:annobus:schema:{type(message).__name__}.v1",
        "content-type": "application/json",
    }


async def relay(settings: ServiceSettings, service: str, publish: Publish) -> None:
    """Relay this service's outbox for ever, in one process at a time; never give a row up."""

    async def work(connection: AsyncConnection) -> bool:
        return await relay_once(connection, publish) == ROWS_MAX

    await database.alone(settings, f"relay-{service}", work, period_seconds=POLL_SECONDS)


async def relay_once(connection: AsyncConnection, publish: Publish) -> int:
    """Publish the oldest messages, then forget those that arrived. Returns how many.

    `connection` holds the relay's session lock, so nobody overtakes; it is in autocommit,
    so no transaction is open while Kafka answers. A crash before the delete publishes the
    rows again, with the same `ce_id`: consumers must tolerate duplicates.
    """
    oldest = text("""
        SELECT id, event_id, topic, key, headers::text AS headers, payload
        FROM outbox ORDER BY id LIMIT :rows_max
    """)
    rows = (await connection.execute(oldest, {"rows_max": ROWS_MAX})).all()
    telemetry.OUTBOX_ROWS.set(len(rows))
    if not rows:
        return 0
    failpoints.hit(Failpoint.RELAY_READ)
    try:
        async with asyncio.timeout(PUBLISH_TIMEOUT_SECONDS):
            futures = [await _queue(row, publish) for row in rows]  # One by one: the order.
            outcomes = await asyncio.gather(*futures, return_exceptions=True)
    except TimeoutError:
        # Unknown, not lost: the rows stay, and are sent again with the same ids.
        log.warning("relay_timeout", rows=len(rows))
        return 0
    arrived = in_order(rows, outcomes)
    failpoints.hit(Failpoint.RELAY_SENT)
    await connection.execute(
        text("DELETE FROM outbox WHERE id = ANY(CAST(:ids AS bigint[]))"), {"ids": arrived}
    )
    return len(arrived)


async def _queue(row: Row[Any], publish: Publish) -> "asyncio.Future[Any]":
    headers = orjson.loads(row.headers) | {"ce_id": str(row.event_id)}
    return await publish(row.topic, row.key, headers, bytes(row.payload))


def in_order(rows: Sequence[Row[Any]], outcomes: Sequence[object]) -> list[int]:
    """The ids that arrived and are not behind a failed message of the same key."""
    stuck: set[tuple[str, str]] = set()
    arrived: list[int] = []
    for row, outcome in zip(rows, outcomes, strict=True):
        if isinstance(outcome, BaseException):
            log.warning("relay_failed", topic=row.topic, key=row.key, error=repr(outcome))
            stuck.add((row.topic, row.key))
        elif (row.topic, row.key) not in stuck:
            telemetry.MESSAGES_RELAYED.labels(row.topic).inc()
            arrived.append(row.id)
    return arrived
