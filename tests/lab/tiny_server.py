"""A server that answers at once what a load test asks for, and fails as often as it is set to."""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

_FAIL_EVERY = int(sys.argv[1]) if len(sys.argv) > 1 else 0
_NUMBERS = count(1)


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(200)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self._answer(201)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Log nothing."""

    def _answer(self, status: int) -> None:
        if _FAIL_EVERY and next(_NUMBERS) % _FAIL_EVERY == 0:
            status = 500
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")


class _Server(ThreadingHTTPServer):
    request_queue_size = 1024


if __name__ == "__main__":
    with _Server(("127.0.0.1", 0), _Answers) as server:
        print(server.server_address[1], flush=True)  # noqa: T201 - whoever started it waits for its port
        server.serve_forever()
