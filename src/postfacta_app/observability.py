"""Set up what the process tells the outside: log lines by structlog, spans by OpenTelemetry's SDK."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from postfacta_core.telemetry.logs import RequestFilter
from postfacta_core.telemetry.redaction import redact

from .settings import Settings

__all__ = ["configure_logging", "configure_tracing"]

# uvicorn tells of a crash again that `harden` has logged already, with its request.
_TWICE = "Exception in ASGI application"


def configure_logging(settings: Settings) -> None:
    """Send every log record of this process to standard output, in one format."""
    steps: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
    ]
    if settings.log_format.upper() == "JSON":
        steps += [_constants(settings), structlog.processors.format_exc_info]
        last: Any = structlog.processors.JSONRenderer()
    else:
        steps.append(_without_blanks)
        last = structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty())
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(RequestFilter())
    handler.addFilter(lambda record: not record.getMessage().startswith(_TWICE))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=steps,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _redacted, last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)


def configure_tracing(settings: Settings) -> Callable[[], None]:
    """Send spans by OTLP over HTTP, if the settings want it; return what flushes them at the end.

    The SDK itself reads where to, how many and how long from its own `OTEL_*` variables. Its queue is bounded: what
    does not fit, or cannot be sent, is dropped, and no request waits for it.
    """
    if settings.traces != "otlp":
        return lambda: None
    resource = Resource.create(
        {
            "service.name": "postfacta",
            "service.version": settings.app_version,
            "deployment.environment.name": settings.environment,
        }
    )
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=5)))
    trace.set_tracer_provider(provider)
    return provider.shutdown


def _constants(settings: Settings) -> Any:
    fields = {"service": "postfacta", "version": settings.app_version, "environment": settings.environment}

    def add(_: object, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        return {**fields, **event}

    return add


def _without_blanks(_: object, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    return {
        key: value for key, value in event.items() if value != "" and key not in {"color_message", "service"}
    }


def _redacted(_: object, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    return redact(event)
