"""A receiver of notifications.

It takes what Alertmanager posts, and remembers each alert and when it came.

Each path is a receiver of its own: what is posted to ``/pager`` came to the pager. It runs in
threads of this process, on a port of the loopback address.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self, TypeVar

__all__ = ["Arrival", "Sink"]

_Found = TypeVar("_Found")

_MOST_BYTES = 8_388_608  # An Alertmanager that groups a thousand alerts sends one.


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One alert of one notification.

    Attributes:
        at: When it came, by ``time.monotonic``.
        receiver: The path it was posted to, without the slash.
        status: ``firing`` or ``resolved``.
        labels: Of the alert.
        annotations: Of the alert.
        group: The labels that the notification was grouped by.
    """

    at: float
    receiver: str
    status: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    group: Mapping[str, str]

    @property
    def name(self) -> str:
        """The alert's name."""
        return self.labels.get("alertname", "")


class Sink:
    """The receiver; a context manager, listening inside the block.

    Attributes:
        answer: The status that it answers with; above 299, notifications count as failed and are
            not remembered.
    """

    def __init__(self) -> None:
        self.answer: int = 200
        self._arrived: list[Arrival] = []
        self._posts: list[tuple[float, str]] = []
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, name="sink", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def url(self, receiver: str) -> str:
        """Return the address to post to."""
        return f"http://127.0.0.1:{self._server.server_port}/{receiver}"

    def arrivals(
        self, receiver: str = "", *, name: str = "", status: str = "", after: float = 0.0
    ) -> list[Arrival]:
        """List what came, in order.

        Args:
            receiver: To this one alone.
            name: Alerts of this name alone.
            status: ``firing`` or ``resolved`` alone.
            after: Not before this moment of ``time.monotonic``.
        """
        with self._changed:
            return [
                one
                for one in self._arrived
                if receiver in {"", one.receiver}
                and name in {"", one.name}
                and status in {"", one.status}
                and one.at >= after
            ]

    def posts(self, receiver: str) -> list[float]:
        """List when a receiver was posted to, by ``time.monotonic``.

        One notification may hold many alerts.
        """
        with self._changed:
            return [at for at, to in self._posts if to == receiver]

    def wait_for(
        self,
        receiver: str,
        *,
        name: str = "",
        status: str = "firing",
        after: float = 0.0,
        within: float,
    ) -> Arrival:
        """Wait for an alert to come; the first of those that came already counts.

        Raises:
            TimeoutError: None came in time; the text says what did.
        """

        def found() -> Arrival | None:
            return next(iter(self.arrivals(receiver, name=name, status=status, after=after)), None)

        return self._wait(found, f"{name or 'an alert'} {status} at {receiver}", within)

    def wait_for_post(self, receiver: str, *, after: float = 0.0, within: float) -> float:
        """Wait for a receiver to be posted to, whatever with; return when it was.

        Raises:
            TimeoutError: It was not in time.
        """

        def found() -> float | None:
            return next((at for at in self.posts(receiver) if at >= after), None)

        return self._wait(found, f"a post to {receiver}", within)

    def _wait(self, found: Callable[[], _Found | None], what: str, within: float) -> _Found:
        end = time.monotonic() + within
        with self._changed:
            while (result := found()) is None:
                if not self._changed.wait(end - time.monotonic()) and time.monotonic() >= end:
                    came = sorted(
                        {f"{one.name} {one.status} at {one.receiver}" for one in self._arrived}
                    )
                    raise TimeoutError(
                        f"{what}: not within {within:g} s; what came: {', '.join(came) or 'none'}"
                    )
            return result

    def _take(self, receiver: str, body: Mapping[str, Any]) -> None:
        now = time.monotonic()
        group = body.get("groupLabels", {})
        arrived = [
            Arrival(
                at=now,
                receiver=receiver,
                status=one["status"],
                labels=one["labels"],
                annotations=one.get("annotations", {}),
                group=group,
            )
            for one in body.get("alerts", ())
        ]
        with self._changed:
            self._posts.append((now, receiver))
            self._arrived += arrived
            self._changed.notify_all()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        sink = self

        class Handler(BaseHTTPRequestHandler):
            timeout: ClassVar[float | None] = 10.0

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length) if 0 <= length <= _MOST_BYTES else b""
                status = sink.answer
                if status < 300:
                    try:
                        sink._take(self.path.strip("/"), json.loads(body or b"{}"))
                    except (ValueError, KeyError, TypeError, AttributeError):
                        status = 400
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
                """Log nothing: what came can be queried."""

        return Handler
