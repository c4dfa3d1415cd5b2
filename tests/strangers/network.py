"""A network that loses answers, between a service and its database."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit

__all__ = ["PATIENCE", "LossyNetwork"]

PATIENCE = 60.0


class LossyNetwork:
    """A relay to a server, in threads.

    Attributes:
        delay: Seconds before a connection is made.
        is_down: Whether new connections are ended at once.
        victim: What marks the statements whose answers may be lost.
        losses: The number of next such statements whose answers are lost, with the connection.
    """

    def __init__(self, dsn: str) -> None:
        self._parts = urlsplit(dsn)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self.delay = 0.0
        self.is_down = False
        self.victim = b"victim"
        self.losses = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()

    @property
    def dsn(self) -> str:
        """The address that leads through it."""
        credentials = self._parts.netloc.rpartition("@")[0]
        port = self._listener.getsockname()[1]
        return self._parts._replace(netloc=f"{credentials}@127.0.0.1:{port}").geturl()

    def cut(self) -> None:
        """Break the connections that there are."""
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.is_down:
                    client.close()
                else:
                    threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        time.sleep(self.delay)  # noqa: TID251 - a thread of its own, not a loop
        server = socket.create_connection((self._parts.hostname or "", self._parts.port or 0))
        self._open |= {client, server}
        loses = threading.Event()
        back = threading.Thread(target=self._pump, args=(server, client, loses.is_set), daemon=True)
        back.start()

        def forward(piece: bytes) -> None:
            if self.victim in piece and self.losses > 0:
                self.losses -= 1
                loses.set()

        self._pump(client, server, lambda: False, forward)
        back.join(PATIENCE)
        for connection in (client, server):
            self._open.discard(connection)
            connection.close()

    @staticmethod
    def _pump(
        source: socket.socket,
        sink: socket.socket,
        ends: Callable[[], bool],
        look: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        with suppress(OSError):
            while (piece := source.recv(65536)) and not ends():
                look(piece)
                sink.sendall(piece)
        for connection in (source, sink):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
