"""Hold a WebSocket open, and print the code with which the server closed it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)

from postfacta_lab.engine.client import HOST

__all__ = ["ABNORMAL", "hold_websocket"]

# RFC 6455, 7.1.5: what a client notes if the connection ended without a close frame.
ABNORMAL = 1006


async def hold_websocket(port: int, path: str) -> int:
    """Connect, say hello, then wait; return the server's close code."""
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return ABNORMAL
    websocket = WSConnection(ConnectionType.CLIENT)
    try:
        writer.write(websocket.send(Request(host=f"{HOST}:{port}", target=path)))
        while data := await reader.read(65_536):
            websocket.receive_data(data)
            code = _answer(websocket, writer)
            if code is not None:
                return code
    except OSError:
        pass
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    return ABNORMAL


def _answer(websocket: WSConnection, writer: asyncio.StreamWriter) -> int | None:
    for event in websocket.events():
        if isinstance(event, AcceptConnection):
            writer.write(websocket.send(TextMessage(data="hello")))
        elif isinstance(event, Ping):
            writer.write(websocket.send(event.response()))
        elif isinstance(event, CloseConnection):
            writer.write(websocket.send(event.response()))
            return event.code
        elif isinstance(event, RejectConnection):
            return ABNORMAL
    return None
