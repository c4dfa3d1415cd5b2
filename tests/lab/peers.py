"""Real sockets on both sides of the fault proxy, for its tests."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from itertools import count

import pytest

from postfacta_lab.proxy import Toxiproxy, fault_proxy

__all__ = [
    "IS_OURS",
    "PATIENCE",
    "connect",
    "echo",
    "ending",
    "new_proxy",
    "ours_only",
    "read_all",
    "read_exactly",
    "serve",
    "the_proxy",
]

# Generous: it only bounds what would else last for ever.
PATIENCE = 30.0
_URL = os.environ.get("TOXIPROXY_URL", "")
IS_OURS = not _URL
ours_only = pytest.mark.skipif(
    not IS_OURS, reason="the original behaves otherwise: docs/reference/fault-proxy.md"
)
_NUMBERS = count(1)


@contextmanager
def the_proxy() -> Generator[Toxiproxy]:
    """Give the fault proxy at TOXIPROXY_URL, or else run ours."""
    if _URL:
        yield Toxiproxy(_URL)
    else:
        with fault_proxy() as proxy:
            yield proxy


@contextmanager
def new_proxy(api: Toxiproxy, upstream: str) -> Generator[tuple[str, str]]:
    """Make a proxy for one test; give its name and address."""
    name = f"test-{os.getpid()}-{next(_NUMBERS)}"
    address = api.create(name, upstream)
    try:
        yield name, address
    finally:
        api.delete(name)


@contextmanager
def serve(handle: Callable[[socket.socket], None]) -> Generator[str]:
    """Let a function handle each connection in a thread of its own; give the address."""
    threads: list[threading.Thread] = []
    connections: list[socket.socket] = []

    def run(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            handle(connection)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            threads.append(threading.Thread(target=run, args=(connection,)))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        host, port = listener.getsockname()
        try:
            yield f"{host}:{port}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            acceptor.join(PATIENCE)
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(PATIENCE)


def echo(connection: socket.socket) -> None:
    """Send back what comes."""
    while data := connection.recv(65_536):
        connection.sendall(data)


def connect(address: str) -> socket.socket:
    """Connect as a client that does not wait for ever."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


def read_exactly(connection: socket.socket, size: int) -> bytes:
    """Read this many bytes, or all until the end if there are fewer."""
    got = bytearray()
    while len(got) < size and (data := connection.recv(size - len(got))):
        got += data
    return bytes(got)


def read_all(connection: socket.socket) -> bytes:
    """Read until the end."""
    got = bytearray()
    while data := connection.recv(65_536):
        got += data
    return bytes(got)


def ending(connection: socket.socket) -> str:
    """Read until the connection ends, and tell how."""
    try:
        read_all(connection)
    except ConnectionResetError:
        return "reset"
    return "end"
