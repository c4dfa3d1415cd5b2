"""A stand-in of the original.

It answers as was recorded of it, keeps incidents in memory, and has the faults that were measured.

It ends at once on SIGTERM, lets any page read with credentials, authenticates no one, logs queries,
counts no request, and ends when many write at once.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import uuid
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar
from urllib.parse import unquote

__all__ = ["FILES", "write_project"]

_AT_ONCE = 8  # writers at once that end it
_MOST = 2**17  # bytes that are read of a body; the first value in it counts
_LIST = "/api/v0/incidents"
_START = "/api/v0/incidents/start"
_FIELDS = {"title": 3, "description": 10, "reporter": 2, "severity": 3}
_PLAIN: Mapping[str, Any] = {
    "/": {"message": "Welcome to the PostFacta API!"},
    "/healthz": {"status": "healthy"},
}
_METRICS = "go_goroutines 9\nprocess_cpu_seconds_total 1\nprocess_resident_memory_bytes 1\n"
# Those of its kind that its repository had.
FILES: Mapping[str, str] = {
    "go.sum": "",
    "main_test.go": "",
    "Dockerfile": "FROM golang AS build\nFROM build AS service\nUSER appuser\n",
    ".github/workflows/main.yaml": "jobs: {test: {steps: [{run: just test}]}}\n",
    ".pre-commit-config.yaml": "",
    "docs/TECHSPEC.md": "",
}


def write_project(folder: Path) -> Path:
    """Write files of the kinds that its repository had."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def _checked(incident: Any) -> dict[str, Any]:
    wrong = [name for name, least in _FIELDS.items() if len(incident.get(name) or "") < least]
    if wrong:
        raise ValueError(f"Validation failed: {', '.join(wrong)}")
    return {name: str(incident[name]) for name in _FIELDS}


class Original(BaseHTTPRequestHandler):
    """Incidents in a map that nothing guards."""

    protocol_version = "HTTP/1.1"
    incidents: ClassVar[dict[str, Any]] = {}
    writers: ClassVar[int] = 0

    def parse_request(self) -> bool:
        """Note when it began."""
        self.began = perf_counter()
        return super().parse_request()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self.reply(200, _METRICS.encode())
        elif path == _LIST:
            self.reply(200, list(self.incidents.values()))
        elif path in _PLAIN:
            self.reply(200, _PLAIN[path])
        else:
            self.miss()

    def do_POST(self) -> None:
        if self.path != _START:
            self.miss()
            return
        Original.writers += 1
        if Original.writers >= _AT_ONCE:
            os._exit(2)  # as "fatal error: concurrent map iteration and map write" does
        try:
            incident = _checked(self.body())
            number = str(uuid.uuid4())
            self.incidents[number] = {**incident, "id": number, "status": "OPEN"}
            threading.Event().wait(0.002)
            self.reply(201, {"id": number, "message": "Incident started successfully"})
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            self.fail(400, str(error)[:200])
        finally:
            Original.writers -= 1

    def do_OPTIONS(self) -> None:
        if "Access-Control-Request-Method" in self.headers:
            self.reply(204, b"")
        else:
            self.miss()

    def miss(self) -> None:
        self.fail(404, f"Endpoint '{unquote(self.path.partition('?')[0])}' does not exist")

    do_HEAD = do_PUT = do_PATCH = do_DELETE = do_TRACE = miss  # noqa: N815 - the names that the server looks for

    def body(self) -> Any:
        """Read the first value of the body; what else comes ends the connection."""
        lengths = self.headers.get_all("Content-Length") or ["0"]
        coding = self.headers.get("Transfer-Encoding", "")
        if len(lengths) > 1 or not lengths[0].isdigit() or coding not in {"", "chunked"}:
            self.close_connection = True
            raise ValueError("Bad Request")
        data = b""
        if coding:
            while len(data) < _MOST and (size := int(self.rfile.readline().split(b";")[0], 16)):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.close_connection = True
        else:
            data = self.rfile.read(min(int(lengths[0]), _MOST))
            self.close_connection = self.close_connection or int(lengths[0]) > _MOST
        text = data.decode("utf-8", "replace").lstrip()
        return json.JSONDecoder(parse_constant=int).raw_decode(text)[0]

    def fail(self, status: int, message: str) -> None:
        self.reply(status, {"message": message, "requestId": str(uuid.uuid4())})

    def reply(self, status: int, value: object) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response_only(status)
        if "Origin" in self.headers:
            self.send_header("Access-Control-Allow-Origin", "*")
            self.send_header("Access-Control-Allow-Credentials", "true")
        kind = "text/plain" if isinstance(value, bytes) else "application/json; charset=utf-8"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        took = 1000 * (perf_counter() - self.began)
        sys.stderr.write(
            f"[GIN] | {status} | {took:.3f}ms | {self.client_address[0]} | {self.command}"
            f' "{self.path}"\n'
        )


class Server(ThreadingHTTPServer):
    """Accept on, and end at once on SIGTERM."""

    request_queue_size = 512
    daemon_threads = True


if __name__ == "__main__":
    Server(("127.0.0.1", int(os.environ["PORT"])), Original).serve_forever()
