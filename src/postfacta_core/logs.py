"""Send all log lines of a process to one place, in one format: `configure`.

A thread writes the lines, so that no request waits for a slow reader: together, 20 ms after the
first, but at once if one is a warning or worse. What does not fit is dropped, and `log.dropped`
says how many.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Collection, Mapping
from typing import Final
from weakref import WeakSet

from .clock import MONOTONIC
from .events import LogsSuppressed
from .telemetry.logs import ConsoleFormatter, FloodFilter, JsonFormatter, RequestFilter, Values
from .validation import validation

_STDOUT: Final = 1
_COLLECT: Final = 0.02  # Seconds.
_LOOK: Final = 1.0  # Seconds without a line until the suppressed ones are reported.
_MOST_LINES: Final = 10_000  # That wait to be written: the next are dropped, and counted.
_FLUSH: Final = 2.0  # Seconds.
# uvicorn logs a crash again that `harden` has logged with its request already.
_TWICE: Final = "Exception in ASGI application"
# Servers configure loggers of their own. What they say goes with the rest; `harden` writes the
# access lines.
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
    """Send each log record of this process to standard output, a kind at most 200 times a second.

    Call it once, before the server begins to serve; a second call replaces the first. Request and
    trace ids stand on each line of a request. Secrets are `[redacted]`. The servers' own access
    lines are switched off. Lines that are held back or dropped are counted by the process's
    `asgi.Telemetry`.

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
    levels = logging.getLevelNamesMapping()
    if validation.text("logs.configure(level=)", level, example="'INFO'").upper() not in levels:
        validation.refuse(
            "logs.configure(level=)", level, f"one of {', '.join(levels)}", example="'INFO'"
        )
    handler = LineWriter(_STDOUT)
    if form == "json":
        names = {"service": service, "version": version, "environment": environment}
        constant = {name: value for name, value in names.items() if value} | {
            "instance": instance()
        }
        handler.setFormatter(JsonFormatter(constant))
    else:
        handler.setFormatter(ConsoleFormatter())
    for name in (*_SERVERS, *_ACCESS):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = name in _SERVERS
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    root = logging.getLogger()
    replaced = root.handlers[:]
    root.handlers[:] = [handler]
    for before in replaced:
        if isinstance(before, LineWriter):
            before.flush()
            before.close()
    root.setLevel(level.upper())
    return handler


def instance() -> str:
    """Name this process, as `instance` in log lines and `service.instance.id` in spans."""
    return f"{socket.gethostname()}-{os.getpid()}"


def _is_news(record: logging.LogRecord) -> bool:
    return not (isinstance(record.msg, str) and record.msg.startswith(_TWICE))


class LineWriter(logging.Handler):
    """Queues lines for a thread that writes them to an open file, and ends with the process.

    The thread begins with the first line, in a forked process too: its parent's lines stay with the
    parent.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        # Holds back kinds of lines that come too often.
        self.flood: FloodFilter = FloodFilter()
        self.addFilter(self.flood)
        self.addFilter(RequestFilter())
        self._own_filters = len(self.filters)
        self._descriptor = descriptor
        self._is_closed = self._is_torn = False
        self._begin_anew()
        _writers.add(self)

    def _begin_anew(self) -> None:
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._is_awake = False  # To ask the event itself is a call for each line.
        self._thread: threading.Thread | None = None

    def restart(self) -> None:
        """Begin anew in a forked process, which has none of its parent's threads."""
        self._begin_anew()
        self.flood.restart()
        if isinstance(self.formatter, JsonFormatter):
            self.formatter.replace(instance=instance())

    def emit(self, record: logging.LogRecord) -> None:
        """Put a line into the queue, if it fits."""
        if len(self._lines) >= _MOST_LINES:
            self._dropped += 1
            return
        try:
            text = self.format(record)
        except Exception as error:  # noqa: BLE001 - what is logged is foreign, and no line is worth a request
            text = _broken(record, error)
        self._lines.append(text + "\n")
        if record.levelno >= logging.WARNING:
            self._hurry.set()
        if not self._is_awake:
            self._awaken()

    def write_access(self, values: Values, at: float, constant: Mapping[str, object]) -> bool:
        """Put an access line into the queue without a record; return whether that could be done."""
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
        if self._thread is None or self._is_closed:
            self.acquire()
            try:
                if self._is_closed or not self._has_thread():
                    self._write_rest()
                    return
            finally:
                self.release()
        self._is_awake = True
        self._wake.set()

    def _has_thread(self) -> bool:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="log", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # The interpreter ends.
                return False
            self._thread = thread
        return True

    def _write_rest(self) -> None:
        """Write what came after the thread had ended."""
        if self._thread is not None:
            self._thread.join(_FLUSH)
        if self._thread is None or not self._thread.is_alive():
            self._write(self._lines.copy())

    def flush(self) -> None:
        """Wait until all is written, for two seconds at most: the reader may be stuck."""
        self.flood.tell(at_once=True)
        if not self._lines:
            return
        end = MONOTONIC() + _FLUSH
        self._hurry.set()
        self._awaken()
        pause = threading.Event()
        while self._lines and MONOTONIC() < end:
            pause.wait(0.001)

    def close(self) -> None:
        """End the thread, which writes what there is; `flush` waits for that.

        A later line is written by its caller.
        """
        if not self._is_closed:
            self._is_closed = True
            self._is_awake = False
            self._hurry.set()
            self._wake.set()
            if self._thread is not None and not self._lines:
                self._thread.join(_FLUSH)
        super().close()

    def _run(self) -> None:
        while self._lines or not self._is_closed:
            if self._wake.wait(_LOOK):
                self._hurry.wait(_COLLECT)
                self._wake.clear()
                self._is_awake = False
                self._hurry.clear()
                self._write(self._lines.copy())
            self.flood.tell()

    def _write(self, lines: Collection[str]) -> None:
        data = "".join(lines).encode(errors="backslashreplace")
        try:
            self._put(b"\n" + data if self._is_torn else data)
        except OSError:
            self._dropped += len(lines)
            return
        finally:
            for _ in lines:
                self._lines.popleft()
        if self._dropped:
            count = self._dropped
            self._dropped = 0
            logging.getLogger(__name__).warning("log.dropped", extra={"count": count})
            self.flood.observer(LogsSuppressed("log.dropped", count))

    def _put(self, data: bytes) -> None:
        # By no stream: its lock, held here while the reader is stuck, would keep the process from
        # ending.
        written = 0
        try:
            while written < len(data):
                try:
                    written += os.write(self._descriptor, memoryview(data)[written:])
                except BlockingIOError:
                    self._wait_for_room()
        finally:
            if written:
                self._is_torn = data[written - 1 : written] != b"\n"

    def _wait_for_room(self) -> None:
        room = select.poll()
        room.register(self._descriptor, select.POLLOUT)
        room.poll(_LOOK * 1000)


_writers: Final = WeakSet[LineWriter]()


def _restart_writers() -> None:
    for writer in tuple(_writers):
        writer.restart()


os.register_at_fork(after_in_child=_restart_writers)


def _broken(record: logging.LogRecord, error: Exception) -> str:
    """Return the line in place of one that its formatter could not make."""
    fields = {"template": record.msg, "error_type": type(error).__name__}
    made = {"msg": "log.broken", "name": str(record.name), "levelname": "ERROR"}
    return JsonFormatter().format(logging.makeLogRecord(made | fields))
