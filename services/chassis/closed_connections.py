"""A connection to Kafka that was closed just now, told to aiokafka as it expects to hear it."""

from collections.abc import Awaitable
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError

_send = AIOKafkaConnection.send


def _tell(connection: AIOKafkaConnection, *arguments: object, **options: object) -> Awaitable[Any]:
    """uvloop raises RuntimeError where asyncio raises OSError or nothing. Whoever sends takes that
    for an error of the program: a member whose heartbeat ends so never comes back to its group."""
    try:
        sent: Awaitable[Any] = _send(connection, *arguments, **options)
    except RuntimeError as error:
        connection.close(reason=CloseReason.CONNECTION_BROKEN)
        raise KafkaConnectionError(f"{connection} is closed: {error}") from error
    return sent


def tell_of_closed_connections() -> None:
    """In this process, from now on. aiokafka makes its connections itself: it cannot be handed
    others (aiokafka issue 1038)."""
    AIOKafkaConnection.send = _tell
