"""Small services with one odd habit each, named by the first argument.

The port is in the environment.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any, ClassVar

HABIT = sys.argv[1]
DOCUMENT: dict[str, Any] = {
    "paths": {
        "/notes": {
            "post": {
                "requestBody": {
                    "content": {
                        "application/json": {"schema": {"$ref": "#/components/schemas/Note"}}
                    }
                }
            },
            "get": {},
        },
        "/notes/{id}": {"get": {}},
        "/broken": {
            "post": {
                "requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}
            }
        },
    },
    "components": {
        "schemas": {
            "Note": {
                "required": ["text", "kind", "size", "tags", "who"],
                "properties": {
                    "text": {"type": "string"},
                    "kind": {"enum": ["short", "long"]},
                    "size": {"type": "integer", "minimum": 3},
                    "tags": {"type": "array"},
                    "who": {"anyOf": [{"type": "string", "format": "email"}, {"type": "null"}]},
                },
            }
        }
    },
}


class Notes(BaseHTTPRequestHandler):
    """Keeps notes in memory."""

    protocol_version = "HTTP/1.1"
    notes: ClassVar[dict[str, Any]] = {}
    numbers: ClassVar[count[int]] = count(1)

    def do_GET(self) -> None:
        if self.path == "/openapi.json":
            self.reply(200, DOCUMENT)
        elif self.path == "/healthz":
            self.reply(200, {})
        elif note := self.notes.get(self.path.rpartition("/")[2]):
            self.reply(200, note)
        else:
            self.reply(404, {})

    def do_POST(self) -> None:
        note = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
        if self.path == "/broken" or not {"text", "kind", "size", "tags", "who"} <= note.keys():
            self.reply(422, {})
            return
        number = str(next(self.numbers))
        self.notes[number] = {**note, "id": number}
        self.reply(201, self.notes[number])

    def reply(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if HABIT == "drips":
            for byte in body or b"{}":
                self.wfile.write(bytes([byte]))
                threading.Event().wait(1)
        elif HABIT == "prints":
            sys.stdout.write(
                f"{os.environ['CANARY']} {self.headers.get('Authorization')} {'x' * 100_000}\n"
            )
        self.wfile.write(body)


if HABIT == "forks":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
if HABIT == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if HABIT == "mute":
    threading.Event().wait()
ThreadingHTTPServer.request_queue_size = 512
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Notes).serve_forever()
