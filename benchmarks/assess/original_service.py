"""A stand-in of the original: in memory, no drain, and it ends when many write at once, as was measured of it."""

from __future__ import annotations

import json
import os
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

_AT_ONCE = 8  # writers at once that end it


class Original(BaseHTTPRequestHandler):
    """Incidents in a map that nothing guards, CORS for all with credentials, a gauge of requests."""

    protocol_version = "HTTP/1.1"
    incidents: ClassVar[dict[str, Any]] = {}
    writers: ClassVar[int] = 0
    counts: ClassVar[dict[tuple[str, str], int]] = {}

    def do_GET(self) -> None:
        if self.path == "/healthz":
            self.reply(200, {"status": "healthy"})
        elif self.path == "/metrics":
            lines = [
                f'http_requests_total{{method="{m}",path="{p}"}} {n}' for (m, p), n in self.counts.items()
            ]
            self.reply(
                200, "\n".join([*lines, "process_resident_memory_bytes 1", "process_cpu_seconds_total 1", ""])
            )
        elif found := self.incidents.get(self.path.rpartition("/")[2]):
            self.reply(200, found)
        else:
            self.reply(404, {"error": "Not Found"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        Original.writers += 1
        if Original.writers >= _AT_ONCE:
            os._exit(2)  # as "fatal error: concurrent map iteration and map write" does
        try:
            incident = json.loads(body)
            number = str(uuid.uuid4())
            self.incidents[number] = {**incident, "id": number}
            threading.Event().wait(0.002)
            self.reply(201, {"id": number})
        except (ValueError, TypeError):
            self.reply(400, {"error": "Bad Request"})
        finally:
            Original.writers -= 1

    def do_OPTIONS(self) -> None:
        self.reply(204, "")

    def reply(self, status: int, value: Any) -> None:
        body = (value if isinstance(value, str) else json.dumps(value)).encode()
        if self.path != "/metrics":
            key = self.command, self.path
            self.counts[key] = self.counts.get(key, 0) + 1
        self.send_response(status)
        self.send_header("Access-Control-Allow-Origin", self.headers.get("Origin", "*"))
        self.send_header("Access-Control-Allow-Credentials", "true")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """Accept on, and end at once on SIGTERM."""

    request_queue_size = 512
    daemon_threads = True


if __name__ == "__main__":
    Server(("127.0.0.1", int(os.environ["PORT"])), Original).serve_forever()
