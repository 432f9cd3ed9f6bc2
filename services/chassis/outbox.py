"""The outbox: messages are rows of the transaction that they tell about, then Kafka's."""

import asyncio
import time
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.messages import Message
from services.chassis import database, failpoints, telemetry
from services.chassis.errors import MessageTooLarge, TopicShut
from services.chassis.failpoints import Failpoint
from services.chassis.settings import ServiceSettings

log = structlog.get_logger()

ROWS_MAX = 500  # Rows in one pass of the relay.
PAYLOAD_BYTES_MAX = 900 * 1024  # The broker takes 1 MiB, headers and framing included.
PUBLISH_TIMEOUT_SECONDS = 30
REST_SECONDS = 5.0  # What Kafka refused waits so long: what is behind it has its turn.
POLL_SECONDS = 0.25  # What a lost notification costs.

# Hands one row to the producer and returns the future of its arrival.
Publish = Callable[[str, str, dict[str, str], bytes], Awaitable["asyncio.Future[Any]"]]
# The same for a record that is sent again as it came: key, headers and body of any bytes, or none.
PublishAgain = Callable[
    [str, bytes | None, Sequence[tuple[str, bytes | None]], bytes | None],
    Awaitable["asyncio.Future[Any]"],
]
# Topic and key, or a topic that takes nothing and None → when it is tried again.
Resting = dict[tuple[str, str | None], float]
Sent = tuple[Row[Any], BaseException | None]  # With an error, it did not arrive.


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


async def relay(
    settings: ServiceSettings,
    service: str,
    publish: Publish,
    publish_again: PublishAgain | None = None,
) -> None:
    """Relay this service's outbox for ever, in one process at a time; never give a row up."""
    resting: Resting = {}

    async def work(connection: AsyncConnection) -> bool:
        return await relay_once(connection, publish, resting, publish_again) == ROWS_MAX

    await database.alone(settings, f"relay-{service}", work, period_seconds=POLL_SECONDS)


async def relay_once(
    connection: AsyncConnection,
    publish: Publish,
    resting: Resting | None = None,
    publish_again: PublishAgain | None = None,
) -> int:
    """Publish the oldest messages, then forget those that arrived. Returns how many.

    `connection` holds the relay's session lock, so nobody overtakes; it is in autocommit,
    so no transaction is open while Kafka answers. A crash before the delete publishes the
    rows again, with the same `ce_id`: consumers must tolerate duplicates. What is refused is
    put among `resting`; what rests there is left alone until its time.
    """
    resting = {} if resting is None else resting
    rows = await _oldest(connection, resting)
    telemetry.OUTBOX_ROWS.set(len(rows))
    if not rows:
        return 0
    failpoints.hit(Failpoint.RELAY_READ)
    arrived, refused = in_order(await _send(rows, publish, publish_again))
    resting |= dict.fromkeys(refused, time.monotonic() + REST_SECONDS)
    failpoints.hit(Failpoint.RELAY_SENT)
    await connection.execute(
        text("DELETE FROM outbox WHERE id = ANY(CAST(:ids AS bigint[]))"), {"ids": arrived}
    )
    return len(arrived)


async def _oldest(connection: AsyncConnection, resting: Resting) -> Sequence[Row[Any]]:
    for place in [place for place, until in resting.items() if until <= time.monotonic()]:
        del resting[place]
    rows = await connection.execute(
        text("""
            SELECT id, event_id, topic, key, headers::text AS headers, payload, raw_key,
                   raw_headers::text AS raw_headers
            FROM outbox WHERE NOT EXISTS (
                SELECT FROM unnest(CAST(:topics AS text[]), CAST(:keys AS text[])) r (topic, key)
                WHERE r.topic = outbox.topic AND (r.key IS NULL OR r.key = outbox.key))
            ORDER BY id LIMIT :rows_max
        """),
        {
            "topics": [topic for topic, _ in resting],
            "keys": [key for _, key in resting],
            "rows_max": ROWS_MAX,
        },
    )
    return rows.all()


async def _send(
    rows: Sequence[Row[Any]], publish: Publish, publish_again: PublishAgain | None
) -> list[Sent]:
    """Queue the rows and wait for what becomes of them; without those of a topic that is shut."""
    queued: list[tuple[Row[Any], asyncio.Future[Any]]] = []
    shut: set[str] = set()
    try:
        async with asyncio.timeout(PUBLISH_TIMEOUT_SECONDS):
            for row in rows:  # One by one: the order.
                if row.topic in shut:
                    continue
                queued.append((row, await _queue(row, publish, publish_again)))
                if isinstance(_outcome(queued[-1][1]), TopicShut):
                    shut.add(row.topic)
            await asyncio.gather(*(future for _, future in queued), return_exceptions=True)
    except TimeoutError:
        # Unknown, not lost: those without an answer stay, and are sent again with the same ids.
        log.warning("relay_timeout", rows=len(rows))
    return [(row, _outcome(future)) for row, future in queued]


async def _queue(
    row: Row[Any], publish: Publish, publish_again: PublishAgain | None
) -> "asyncio.Future[Any]":
    headers = orjson.loads(row.headers)
    if row.raw_headers is None:
        return await publish(
            row.topic, row.key, headers | {"ce_id": str(row.event_id)}, bytes(row.payload)
        )
    assert publish_again is not None  # Who writes such rows can send them.
    came = [(name, value) for name, value in read_headers(row.raw_headers) if name not in headers]
    added = [(name, value.encode()) for name, value in headers.items()]
    return await publish_again(row.topic, row.raw_key, [*came, *added], row.payload)


def write_headers(headers: Sequence[tuple[str, bytes | None]]) -> str:
    """Headers of any bytes as JSON: their order, a name that comes twice and a null are kept."""
    return orjson.dumps(
        [[name, None if value is None else b64encode(value).decode()] for name, value in headers]
    ).decode()


def read_headers(written: str) -> list[tuple[str, bytes | None]]:
    return [
        (name, None if value is None else b64decode(value)) for name, value in orjson.loads(written)
    ]


def _outcome(future: "asyncio.Future[Any]") -> BaseException | None:
    """None: it arrived."""
    if not future.done() or future.cancelled():
        return TimeoutError("no answer yet")
    return future.exception()


def in_order(sent: Sequence[Sent]) -> tuple[list[int], set[tuple[str, str | None]]]:
    """The ids that arrived and are not behind a failed message of the same key; and what Kafka
    refused, keys and whole topics."""
    stuck: set[tuple[str, str]] = set()
    arrived: list[int] = []
    refused: set[tuple[str, str | None]] = set()
    for row, error in sent:
        if error is None:
            if (row.topic, row.key) not in stuck:
                telemetry.MESSAGES_RELAYED.labels(row.topic).inc()
                arrived.append(row.id)
            continue
        stuck.add((row.topic, row.key))
        if not isinstance(error, TimeoutError):
            log.warning("relay_failed", topic=row.topic, key=row.key, error=repr(error))
            refused.add((row.topic, None if isinstance(error, TopicShut) else row.key))
    return arrived, refused
