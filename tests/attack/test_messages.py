"""WebSocket messages that no one reads are bounded where the server can bound them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.servers.serving import BIND, serving

pytestmark = pytest.mark.usefixtures("programs")

SIZE = 15_000_000
SOCKETS = 8
UPGRADE = (
    b"GET /idle HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
# RFC 6455: a final binary frame, masked by zeros, with a length of eight bytes.
MESSAGE = b"\x82\xff" + SIZE.to_bytes(8) + bytes(4) + bytes(SIZE)
TOO_BIG = (1009).to_bytes(2)


def megabytes(process: int) -> float:
    """Return the memory of a process."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096 / 1e6


def send_message(port: int, opened: Callable[[socket.socket], object]) -> bytes:
    """Open a WebSocket, send one message as far as it is taken, and return the answer's last bytes."""
    client = socket.create_connection((BIND, port), timeout=30)
    opened(client)
    client.sendall(UPGRADE)
    assert client.recv(4096).startswith(b"HTTP/1.1 101")
    with suppress(ConnectionError):
        client.sendall(MESSAGE)
    with suppress(ConnectionError):
        return client.recv(200)
    return b""


def test_eight_large_messages_that_no_one_reads_are_refused(tmp_path: Path) -> None:
    command = (
        "uvicorn tests.attack.hall:app --port {port} --log-level error --no-access-log "
        "--app-dir ../.. --http postfacta_adapters.uvicorn:BoundedHttp"
    )
    with serving(command, tmp_path / "log") as (port, process), ExitStack() as clients:
        before = megabytes(process.pid)
        answers = [send_message(port, clients.enter_context) for _ in range(SOCKETS)]
        held = megabytes(process.pid) - before
    assert held < SIZE * SOCKETS / 1e6 / 3
    assert sum(TOO_BIG in answer for answer in answers if answer) >= 1
