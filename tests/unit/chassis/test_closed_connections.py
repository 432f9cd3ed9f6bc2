"""Sending on a connection that was closed in this moment."""

import asyncio

import pytest
import uvloop
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.admin import ApiVersionRequest

from services.chassis.closed_connections import tell_of_closed_connections


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def send_on_a_closed_one() -> None:
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        connection = AIOKafkaConnection("127.0.0.1", port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        connection._reader, connection._writer = reader, writer  # noqa: SLF001
        connection._read_task = connection._create_reader_task()  # noqa: SLF001
        writer.transport.abort()
        await asyncio.sleep(0)
        try:
            await connection.send(ApiVersionRequest())
        finally:
            assert not connection.connected()


def test_it_is_a_broken_connection_and_no_error_of_the_program() -> None:
    tell_of_closed_connections()
    with pytest.raises(KafkaConnectionError, match="the handler is closed"):
        uvloop.run(send_on_a_closed_one())
