"""Send all log lines of a process to one place, in one format: `configure`.

A thread writes the lines, so that no request waits for a slow reader: together, 20 ms after the first, but at once if
one is a warning or worse. What does not fit is dropped, and `log.dropped` says how many.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Collection, Mapping
from typing import Final

from .clock import MONOTONIC
from .events import LogsSuppressed
from .telemetry.logs import ConsoleFormatter, FloodFilter, JsonFormatter, RequestFilter, Values
from .validation import validation

_STDOUT: Final = 1
_COLLECT: Final = 0.02  # Seconds.
_LOOK: Final = 1.0  # Seconds without a line until the suppressed ones are reported.
_MOST_LINES: Final = 10_000
_FLUSH: Final = 2.0  # Seconds.
# uvicorn logs a crash again that `harden` has logged with its request already.
_TWICE: Final = "Exception in ASGI application"
# Servers configure loggers of their own. What they say goes with the rest; `harden` writes the access lines.
_SERVERS: Final = ("uvicorn", "uvicorn.error", "hypercorn.error", "gunicorn.error", "_granian")
_ACCESS: Final = ("uvicorn.access", "hypercorn.access", "gunicorn.access", "granian.access")


def configure(
    *,
    format: str = "json",  # noqa: A002 - the usual word of operators
    level: str = "INFO",
    service: str = "",
    version: str = "",
    environment: str = "",
) -> LineWriter:
    """Send every log record of this process to standard output, each kind at most 200 times a second.

    Call it once, before the server begins to serve; a second call replaces the first. Request and trace ids
    stand on each line of a request. Secrets are `[redacted]`. The servers' own access lines are switched off.
    Lines that are held back or dropped are counted by the process's `asgi.Telemetry`.

    Args:
        format: `json` for one object a line, `console` for text.
        level: The least level that is written, such as `INFO`.
        service: Its name, on each JSON line; so are the next two.
        version: Of the service.
        environment: Where it runs, such as `production`.

    Returns:
        The handler; its `flush` waits until all is written.

    Raises:
        ValueError: If the format or the level is unknown.
    """
    form = validation.one_of("logs.configure(format=)", format, ("json", "console"))
    known = logging.getLevelNamesMapping()
    if validation.text("logs.configure(level=)", level, example="'INFO'").upper() not in known:
        validation.refuse("logs.configure(level=)", level, f"one of {', '.join(known)}", example="'INFO'")
    handler = LineWriter(_STDOUT)
    if form == "json":
        names = {"service": service, "version": version, "environment": environment}
        constant = {name: value for name, value in names.items() if value} | {"instance": instance()}
        handler.setFormatter(JsonFormatter(constant))
    else:
        handler.setFormatter(ConsoleFormatter())
    for name in (*_SERVERS, *_ACCESS):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = name in _SERVERS
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    return handler


def instance() -> str:
    """Name this process among all of the service, as `instance` in log lines and `service.instance.id` in spans."""
    return f"{socket.gethostname()}-{os.getpid()}"


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_TWICE)


class LineWriter(logging.Handler):
    """Queues lines for a thread that writes them to an open file, and ends with the process."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        # Holds back kinds of lines that come too often.
        self.flood: FloodFilter = FloodFilter()
        self.addFilter(self.flood)
        self.addFilter(RequestFilter())
        self._own_filters = len(self.filters)
        self._descriptor = descriptor
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._wake, self._hurry = threading.Event(), threading.Event()
        self._is_awake = False  # To ask the event itself is a call for each line.
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Put a line into the queue, if it fits."""
        if len(self._lines) >= _MOST_LINES:
            self._dropped += 1
            return
        try:
            self._lines.append(self.format(record) + "\n")
        except Exception:  # noqa: BLE001 - what is logged is foreign, and no line is worth a request
            self.handleError(record)
        if record.levelno >= logging.WARNING:
            self._hurry.set()
        if not self._is_awake:
            self._awaken()

    def write_access(self, values: Values, at: float, constant: Mapping[str, object]) -> bool:
        """Put an access line into the queue without a record, and return whether that could be done."""
        formatter = self.formatter
        # A filter or a formatter of the service wants to see a record.
        if type(formatter) is not JsonFormatter or len(self.filters) != self._own_filters:
            return False
        text = formatter.access_line(values, at, constant) if self.level <= logging.INFO else None
        if text is None:
            return False
        if len(self._lines) >= _MOST_LINES:
            self._dropped += 1
            return True
        self._lines.append(text + "\n")
        if not self._is_awake:
            self._awaken()
        return True

    def _awaken(self) -> None:
        self._is_awake = True
        self._wake.set()

    def flush(self) -> None:
        """Wait until all is written, for two seconds at most: the reader may be stuck."""
        self.flood.tell(at_once=True)
        end = MONOTONIC() + _FLUSH
        self._hurry.set()
        self._awaken()
        pause = threading.Event()
        while self._lines and MONOTONIC() < end:
            pause.wait(0.001)

    def _run(self) -> None:
        while True:
            if self._wake.wait(_LOOK):
                self._hurry.wait(_COLLECT)
                self._wake.clear()
                self._is_awake = False
                self._hurry.clear()
                self._write(self._lines.copy())
            self.flood.tell()

    def _write(self, lines: Collection[str]) -> None:
        data = "".join(lines).encode(errors="backslashreplace")
        try:  # By no stream: its lock, held here while the reader is stuck, would keep the process from ending.
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            self._dropped += len(lines)
            return
        finally:
            for _ in lines:
                self._lines.popleft()
        if self._dropped:
            count, self._dropped = self._dropped, 0
            logging.getLogger(__name__).warning("log.dropped", extra={"count": count})
            self.flood.observer(LogsSuppressed("log.dropped", count))
