"""Dead letters: records that cannot be handled, as they came, with the reason and their place."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from aiokafka import AIOKafkaProducer, ConsumerRecord
from aiokafka.errors import MessageSizeTooLargeError

from contracts.topics import DEAD_LETTER_BYTES_MAX, DEAD_LETTERS
from services.chassis.consumer import UnreadableRecord
from services.chassis.errors import MalformedMessage, Problem, problem_of
from services.chassis.settings import SharedSettings

log = structlog.get_logger()

PARK_TIMEOUT_SECONDS = 10
FRAMING_BYTES = 1024  # What the broker counts and the producer does not.
# Behind the headers that came; the first of them is always there, so that it ends what is told.
_TOLD = ("problem", "origin", "recorded_at", "parked_by", "attempts", "left_at_origin")
_ORIGIN = re.compile(r"([a-zA-Z0-9._-]{1,249})/([0-9]{1,9})/([0-9]{1,18})", re.ASCII)
_PARKED_BY = re.compile(r"([a-z-]{1,50})/([a-zA-Z0-9._-]{1,200})", re.ASCII)
_MILLISECONDS = re.compile(r"[0-9]{1,15}", re.ASCII)
_ATTEMPTS = re.compile(r"[0-9]{1,9}", re.ASCII)  # They fit into an integer of the database.

Header = tuple[str, bytes | None]


@dataclass(frozen=True)
class Letter:
    """A dead letter: the record that was parked, and what is told of it. Topics and groups are
    without the prefix."""

    topic: str
    partition: int
    offset: int
    recorded_at_ms: int  # By the clock of who sent it, here and below; 0 or less: unknown.
    parked_at_ms: int
    service: str | None
    group: str | None
    attempts: int | None
    problem: Problem
    key: bytes | None
    headers: Sequence[Header]
    value: bytes | None
    is_left_at_origin: bool  # Nothing is kept of it but what is told.


class DeadLetters:
    """A producer of its own: FastStream's writes headers of text alone, each name once, and no
    empty body, so what it sends again is not what came."""

    def __init__(self, settings: SharedSettings, service: str) -> None:
        self._settings = settings
        self._service = service
        self._producer: AIOKafkaProducer | None = None

    async def start(self) -> None:
        self._producer = AIOKafkaProducer(
            bootstrap_servers=self._settings.kafka_bootstrap,
            client_id=self._service,
            enable_idempotence=True,
            acks="all",
            max_request_size=DEAD_LETTER_BYTES_MAX - FRAMING_BYTES,
        )
        await self._producer.start()

    async def stop(self) -> None:
        if self._producer is not None:
            await self._producer.stop()

    async def park(
        self, record: ConsumerRecord, error: Exception, group: str, attempts: int
    ) -> None:
        origin = f"{record.topic}/{record.partition}/{record.offset}"
        problem = orjson.dumps(problem_of(error))
        told = [
            ("problem", problem),
            ("origin", origin.encode()),
            # A topic that is made anew has the same places again.
            ("recorded_at", str(record.timestamp).encode()),
            ("parked_by", f"{self._service}/{group}".encode()),
            ("attempts", str(attempts).encode()),
        ]
        left = [*told, ("left_at_origin", b"true")]
        async with asyncio.timeout(PARK_TIMEOUT_SECONDS):
            if isinstance(record, UnreadableRecord):
                await self._park(None, b"", left)
            else:
                try:
                    await self._park(record.key, record.value, [*record.headers, *told])
                except MessageSizeTooLargeError:
                    # A foreign producer's: compressed alone it fits into its topic.
                    await self._park(None, b"", left)
        log.error("message_parked", origin=origin, problem=problem.decode())

    async def _park(
        self, key: bytes | None, value: bytes | None, headers: Sequence[Header]
    ) -> None:
        await (await self.send(self._settings.topic_prefix + DEAD_LETTERS, key, headers, value))

    async def send(
        self, topic: str, key: bytes | None, headers: Sequence[Header], value: bytes | None
    ) -> "asyncio.Future[Any]":
        """Queue a record whatever it is made of."""
        assert self._producer is not None
        if key is None and value is None:  # Kafka takes it, the producer does not.
            value = b""
        sent: asyncio.Future[Any] = await self._producer.send(
            topic, value, key, headers=list(headers)
        )
        return sent


def read_letter(record: ConsumerRecord) -> Letter:
    """Never raises. What is no dead letter of ours is one that was parked where it lies."""
    prefix = record.topic.removesuffix(DEAD_LETTERS)
    headers: Sequence[Header] = tuple(record.headers)
    told = None if isinstance(record, UnreadableRecord) else _told(headers)
    origin = told and _ORIGIN.fullmatch(_text(told, "origin"))
    problem = told and _problem(told)
    if not (told and origin and problem):
        return _no_letter(record)
    by = _PARKED_BY.fullmatch(_text(told, "parked_by"))
    is_left = "left_at_origin" in told
    return Letter(
        topic=origin[1].removeprefix(prefix),
        partition=int(origin[2]),
        offset=int(origin[3]),
        recorded_at_ms=_number(told, "recorded_at", _MILLISECONDS) or 0,
        parked_at_ms=record.timestamp,
        service=by[1] if by else None,
        group=by[2] if by else None,
        attempts=_number(told, "attempts", _ATTEMPTS),
        problem=problem,
        key=None if is_left else record.key,
        headers=() if is_left else headers[: -len(told)],
        value=None if is_left else record.value,
        is_left_at_origin=is_left,
    )


def _no_letter(record: ConsumerRecord) -> Letter:
    is_unreadable = isinstance(record, UnreadableRecord)
    reason = MalformedMessage(
        f"record {record.offset} in partition {record.partition} of {DEAD_LETTERS} is no dead "
        "letter: accepted is one whose last headers are a problem, an origin and more of ours"
    )
    return Letter(
        topic=DEAD_LETTERS,
        partition=record.partition,
        offset=record.offset,
        recorded_at_ms=record.timestamp,
        parked_at_ms=record.timestamp,
        service=None,
        group=None,
        attempts=None,
        problem=problem_of(reason),
        key=record.key,
        headers=() if is_unreadable else tuple(record.headers),
        value=None if is_unreadable else record.value,
        is_left_at_origin=is_unreadable,
    )


def _told(headers: Sequence[Header]) -> Mapping[str, bytes | None] | None:
    """What was added when it was parked. It may bear headers of these names itself: another
    `problem` ends before ours begins."""
    for place in range(len(headers) - 1, max(len(headers) - len(_TOLD), 0) - 1, -1):
        if headers[place][0] not in _TOLD:
            return None
        if headers[place][0] == _TOLD[0]:
            found = dict(headers[place:])
            return found if len(found) == len(headers) - place else None
    return None


def _text(told: Mapping[str, bytes | None], name: str) -> str:
    """Empty where there is none, or none that can be read."""
    return (told.get(name) or b"").decode(errors="replace")


def _number(told: Mapping[str, bytes | None], name: str, accepted: re.Pattern[str]) -> int | None:
    found = _text(told, name)
    return int(found) if accepted.fullmatch(found) else None


def _problem(told: Mapping[str, bytes | None]) -> Problem | None:
    try:
        found = orjson.loads(told["problem"] or b"")
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("title"), str) else None
