"""A service that is not PostFacta, on the standard library alone: `billing.py MODE`.

Modes: `alive` answers; `gone` has no such route (404); `failing` answers each third request with
500; `away` sends every client to a page for signing in. The mode may be changed while it runs: `PUT
/mode/NAME`.

On SIGTERM it is unready at once (`/ready`), closes kept connections by word, and ends 3 s later;
`rude` just dies.
"""

from __future__ import annotations

import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import ClassVar


class Billing(BaseHTTPRequestHandler):
    """Answers at once, and reads the bodies that it gets."""

    protocol_version = "HTTP/1.1"
    mode: ClassVar[str] = "alive"
    numbers: ClassVar[count[int]] = count(1)
    ends: ClassVar[bool] = False

    def do_GET(self) -> None:
        self.reply(503 if self.path == "/ready" and Billing.ends else 200)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.reply(202)

    def do_PUT(self) -> None:
        Billing.mode = self.path.removeprefix("/mode/")
        self.reply(204)

    def reply(self, status: int) -> None:
        if self.command != "PUT" and self.path != "/sign-in":
            status = self.troubled(status)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/sign-in")
        body = b"" if status == 204 else b"{}"
        if body:
            self.send_header("Content-Length", "2")
        if Billing.ends:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def troubled(self, status: int) -> int:
        if Billing.mode == "failing":
            return 500 if next(Billing.numbers) % 3 == 0 else status
        return {"gone": 404, "away": 302}.get(Billing.mode, status)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Log nothing."""


class Server(ThreadingHTTPServer):
    """Takes a burst of connections."""

    request_queue_size = 1024
    daemon_threads = True


if __name__ == "__main__":
    Billing.mode = sys.argv[1]
    with Server(("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 0), Billing) as server:

        def end(*_: object) -> None:
            Billing.ends = True
            threading.Timer(3.0, server.shutdown).start()

        if Billing.mode != "rude":
            signal.signal(signal.SIGTERM, end)
        print(server.server_address[1], flush=True)  # noqa: T201 - who started it waits for its port
        server.serve_forever()
