"""A service that is not PostFacta, on the standard library alone: `billing.py MODE`.

Modes: `alive` answers; `gone` has no such route (404); `failing` answers each third request with 500; `away` sends
everybody to a page for signing in. The mode may be changed while it runs: `PUT /mode/NAME`.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import ClassVar


class Billing(BaseHTTPRequestHandler):
    """Answers at once, and reads the bodies that it gets."""

    protocol_version = "HTTP/1.1"
    mode: ClassVar[str] = "alive"
    numbers: ClassVar[count[int]] = count(1)

    def do_GET(self) -> None:
        self.reply(200)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.reply(202)

    def do_PUT(self) -> None:
        Billing.mode = self.path.removeprefix("/mode/")
        self.reply(204)

    def reply(self, status: int) -> None:
        if self.command != "PUT" and self.path != "/sign-in":
            if Billing.mode == "gone":
                status = 404
            elif Billing.mode == "away":
                status = 302
            elif Billing.mode == "failing" and next(Billing.numbers) % 3 == 0:
                status = 500
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/sign-in")
        if status != 204:
            self.send_header("Content-Length", "2")
        self.end_headers()
        if status != 204:
            self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Takes a burst of connections."""

    request_queue_size = 1024


if __name__ == "__main__":
    Billing.mode = sys.argv[1]
    with Server(("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 0), Billing) as server:
        print(server.server_address[1], flush=True)  # noqa: T201 - who started it waits for its port
        server.serve_forever()
