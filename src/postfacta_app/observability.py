"""Set up what the process tells the outside: log lines, and spans by OpenTelemetry's SDK.

A thread writes the lines, so that no request waits for whoever reads them: together, 20 ms after the first, but at
once if one is a warning or worse; at the end of the process all that is left. A kill loses the others. What does not
fit is dropped, and `log.dropped` tells how many.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Link, Status
from pydantic_core import PydanticSerializationError, to_json

from postfacta_core.events import LogsSuppressed, Observer
from postfacta_core.otlp import Provider
from postfacta_core.telemetry.failure import failure_fields
from postfacta_core.telemetry.logs import FloodFilter, RequestFilter
from postfacta_core.telemetry.redaction import redact, redact_text

from .settings import Settings

__all__ = [
    "JsonFormatter",
    "LineWriter",
    "RedactingExporter",
    "configure_logging",
    "configure_tracing",
    "instance",
    "watch_lines",
]

# uvicorn tells of a crash again that `harden` has logged already, with its request.
_TWICE = "Exception in ASGI application"
_STDOUT: Final = 1
_COLLECT: Final = 0.02  # Seconds.
_LOOK: Final = 1.0  # Seconds without a line until it is looked whether some were suppressed.
_MOST_LINES: Final = 10_000
_OWN: Final = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime"})


def configure_logging(settings: Settings) -> None:
    """Send every log record of this process to standard output, in one format; no kind of them too often."""
    handler = LineWriter(_STDOUT)
    handler.addFilter(handler.flood)
    handler.addFilter(RequestFilter())
    handler.setFormatter(JsonFormatter(settings) if settings.log_format.upper() == "JSON" else _text())
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)


def watch_lines(observer: Observer) -> None:
    """Tell the observer how many lines are suppressed, if `configure_logging` was called before."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LineWriter):
            handler.flood.observer = observer


def instance() -> str:
    """Name this process among all of the service, as `instance` in log lines and `service.instance.id` in spans."""
    return f"{socket.gethostname()}-{os.getpid()}"


def configure_tracing(settings: Settings) -> Callable[[], None]:
    """Send spans by OTLP over HTTP, if the settings want it; return what flushes them at the end.

    The SDK itself reads where to, and which traces, from its own `OTEL_*` variables. The queue is bounded: what does
    not fit, or cannot be sent, is dropped and counted, and no request waits for it.
    """
    if settings.traces != "otlp":
        return lambda: None
    resource = Resource.create(
        {
            "service.name": "postfacta",
            "service.version": settings.app_version,
            "service.instance.id": instance(),
            "deployment.environment.name": settings.environment,
        }
    )
    provider = Provider(RedactingExporter(OTLPSpanExporter(timeout=5)), resource=resource)
    trace.set_tracer_provider(provider)
    return provider.shutdown


class RedactingExporter(SpanExporter):
    """Takes secrets out of spans, whoever made them, before another exporter sends them; no request waits for it."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send copies without secrets."""
        return self._inner.export([_without_secrets(span) for span in spans])

    def shutdown(self) -> None:
        """End the other one."""
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Let the other one send what it still has."""
        return self._inner.force_flush(timeout_millis)


def _without_secrets(span: ReadableSpan) -> ReadableSpan:
    return ReadableSpan(
        name=redact_text(span.name),
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=_clean(span.attributes),
        events=[Event(redact_text(it.name), _clean(it.attributes), it.timestamp) for it in span.events],
        links=[Link(it.context, _clean(it.attributes)) for it in span.links],
        kind=span.kind,
        status=Status(span.status.status_code, redact_text(span.status.description or "") or None),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _clean(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    return redact(attributes or {})


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_TWICE)


def _text() -> logging.Formatter:
    steps: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        structlog.processors.format_exc_info,
    ]
    last: list[Any] = [_shown, structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty())]
    first = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=steps, processors=[first, *last])


def _shown(_: object, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    hidden = {"color_message", "service"}
    return redact({key: value for key, value in event.items() if value != "" and key not in hidden})


class JsonFormatter(logging.Formatter):
    """Writes all that a record says, its `extra` too, and what runs here."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._here = {
            "version": settings.app_version,
            "environment": settings.environment,
            "instance": instance(),
        }

    def format(self, record: logging.LogRecord) -> str:
        """Write one object, without the line's end."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
        head = {
            "timestamp": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        fields: dict[str, object] = {**head, "logger": record.name, "service": "postfacta", **self._here}
        fields |= {name: value for name, value in vars(record).items() if name not in _OWN}
        if record.exc_info and record.exc_info[1] is not None:
            fields |= failure_fields(record.exc_info[1])
        clean = redact(fields)
        try:
            return to_json(clean).decode()
        except PydanticSerializationError:  # Such as half of a surrogate pair.
            return json.dumps(clean)


class LineWriter(logging.Handler):
    """Queues lines for its thread, which ends with the process; the thread also sees that `flood` tells in time."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.flood = FloodFilter()
        self._descriptor = descriptor
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._wake, self._hurry = threading.Event(), threading.Event()
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
        if not self._wake.is_set():
            self._wake.set()

    def flush(self) -> None:
        """Wait until all is written, for two seconds at most: the reader may be stuck."""
        self.flood.tell(at_once=True)
        end = time.monotonic() + 2.0
        self._hurry.set()
        self._wake.set()
        while self._lines and time.monotonic() < end:
            time.sleep(0.001)  # noqa: TID251 - at the process's end, when no loop runs

    def _run(self) -> None:
        while True:
            if self._wake.wait(_LOOK):
                self._hurry.wait(_COLLECT)
                self._wake.clear()
                self._hurry.clear()
                self._write(self._lines.copy())
            self.flood.tell()

    def _write(self, lines: Collection[str]) -> None:
        data = "".join(lines).encode(errors="backslashreplace")
        try:  # By no stream: its lock, held here while nobody reads, would keep the process from ending.
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
