"""Dead letters: records that cannot be handled, as they came, with the reason and their place."""

import asyncio
from collections.abc import Sequence

import orjson
import structlog
from aiokafka import AIOKafkaProducer, ConsumerRecord
from aiokafka.errors import MessageSizeTooLargeError

from contracts.topics import DEAD_LETTER_BYTES_MAX, DEAD_LETTERS
from services.chassis.consumer import UnreadableRecord
from services.chassis.errors import problem_of
from services.chassis.settings import SharedSettings

log = structlog.get_logger()

PARK_TIMEOUT_SECONDS = 10
FRAMING_BYTES = 1024  # What the broker counts and the producer does not.


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

    async def park(self, record: ConsumerRecord, error: Exception) -> None:
        origin = f"{record.topic}/{record.partition}/{record.offset}"
        problem = orjson.dumps(problem_of(error))
        told = [("problem", problem), ("origin", origin.encode())]
        left = [*told, ("left_at_origin", b"true")]
        async with asyncio.timeout(PARK_TIMEOUT_SECONDS):
            if isinstance(record, UnreadableRecord):
                await self._send(None, b"", left)
            else:
                try:
                    await self._send(record.key, record.value, [*record.headers, *told])
                except MessageSizeTooLargeError:
                    # A foreign producer's: compressed alone it fits into its topic.
                    await self._send(None, b"", left)
        log.error("message_parked", origin=origin, problem=problem.decode())

    async def _send(
        self, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]
    ) -> None:
        assert self._producer is not None
        if key is None and value is None:  # Kafka takes it, the producer does not.
            value = b""
        topic = self._settings.topic_prefix + DEAD_LETTERS
        await self._producer.send_and_wait(topic, value, key, headers=list(headers))
