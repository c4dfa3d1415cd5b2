"""The other end of the dead man's switch: page when no ping has come for a while.

    python deploy/bin/deadman.py --port 9199 --page-url-file secrets/pager_url --limit 600

Alertmanager posts the Watchdog alert here every minute or two. If that stays away, Prometheus or
Alertmanager or the way between is broken, and nothing else can say so. Run it where neither of them
runs. It pages by posting what Alertmanager would, `DeadMansSwitch` firing; again each hour while
the silence lasts; and resolved at the next ping.

`GET /` returns how many seconds ago the last ping came. A start counts as a ping. It needs Python
alone.
"""

# ruff: noqa: INP001 - a command, and no package

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

__all__ = ["Switch", "main"]

_MOST_BYTES = 1_048_576
_LABELS = {
    "alertname": "DeadMansSwitch",
    "severity": "page",
    "service": "monitoring",
    "component": "deadman",
}
_ANNOTATIONS = {
    "summary": "Alerting is dead",
    "description": (
        "The Watchdog's ping has stayed away: Prometheus, Alertmanager or the way between is down."
    ),
    "runbook_url": "https://git.example.org/postfacta/src/main/docs/runbooks/Watchdog.md",
}


class Switch:
    """Decides when to page.

    Args:
        limit: Seconds without a ping after which it does.
        repeat: Seconds between two pages of one silence.
        page: Delivers ``firing`` or ``resolved``; False if that failed, then it is tried again at
            the next look.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        limit: float,
        repeat: float,
        page: Callable[[str], bool],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._repeat = repeat
        self._page = page
        self._clock = clock
        self._pinged = clock()
        self._paged: float | None = None

    @property
    def age(self) -> float:
        """Seconds since the last ping."""
        return self._clock() - self._pinged

    def ping(self) -> None:
        """Record a ping."""
        self._pinged = self._clock()

    def look(self) -> None:
        """Page if it is time to; to be called several times a limit."""
        if self.age <= self._limit:
            if self._paged is not None and self._page("resolved"):
                self._paged = None
            return
        now = self._clock()
        if (self._paged is None or now - self._paged >= self._repeat) and self._page("firing"):
            self._paged = now


def _handler(switch: Switch) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout: ClassVar[float | None] = 10.0

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(min(max(length, 0), _MOST_BYTES))
            switch.ping()
            self._answer(b"")

        def do_GET(self) -> None:
            self._answer(f"{switch.age:.1f}\n".encode())

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Log nothing: a line each minute would be noise."""

    return Handler


def _deliver(url: str, status: str) -> bool:
    alert = {"status": status, "labels": _LABELS, "annotations": _ANNOTATIONS}
    body = {
        "version": "4",
        "status": status,
        "groupLabels": {"service": "monitoring"},
        "alerts": [alert],
    }
    request = urllib.request.Request(  # noqa: S310 - main lets http and https pass alone
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10):  # noqa: S310 - see above; above 299 it raises
            return True
    except OSError as error:
        # The reason alone: the address is a secret.
        sys.stderr.write(
            "deadman: the page was not delivered:"
            f" {getattr(error, 'reason', type(error).__name__)}\n"
        )
        return False


def main(argv: Sequence[str] | None = None) -> int:
    """Listen and watch until it is ended; return the exit code."""
    parser = argparse.ArgumentParser("deadman", description="Page when pings stay away.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=9199, help="port to listen on (%(default)s)")
    parser.add_argument(
        "--page-url-file", type=Path, required=True, help="file with the pager's address"
    )
    parser.add_argument(
        "--limit", type=float, default=600.0, help="seconds without a ping (%(default)g)"
    )
    parser.add_argument(
        "--repeat", type=float, default=3600.0, help="seconds between pages (%(default)g)"
    )
    args = parser.parse_args(argv)
    try:
        url = args.page_url_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"--page-url-file: cannot read {args.page_url_file}: {error}")
    if not url.startswith(("http://", "https://")):
        parser.error(f"--page-url-file: {args.page_url_file} holds no address of http or https")
    if not 0 < args.limit <= args.repeat:
        parser.error("--limit must be more than 0, and --repeat no less than it")
    switch = Switch(args.limit, args.repeat, lambda status: _deliver(url, status))
    try:
        server = ThreadingHTTPServer((args.host, args.port), _handler(switch))
    except OSError as error:
        parser.error(f"--port {args.port}: cannot listen: {error.strerror}")
    threading.Thread(target=server.serve_forever, name="pings", daemon=True).start()
    try:
        while True:
            time.sleep(min(5.0, args.limit / 10))  # noqa: TID251 - a process that does nothing else
            switch.look()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
