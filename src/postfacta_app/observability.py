"""Set up logging, and tracing with OpenTelemetry's SDK."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Link, Status

from postfacta_adapters.otlp import Provider
from postfacta_core import logs
from postfacta_core.telemetry.redaction import redact, redact_text

from .settings import Settings


def configure_logging(settings: Settings) -> None:
    """Log to standard output in one format, with a rate limit for each kind of record."""
    logs.configure(
        format="json" if settings.log_format.upper() == "JSON" else "console",
        level=settings.log_level,
        service="postfacta",
        version=settings.app_version,
        environment=settings.environment,
    )


def configure_tracing(settings: Settings) -> Callable[[], None]:
    """Export spans by OTLP over HTTP if the settings enable it; return a function that flushes them.

    The SDK reads its own `OTEL_*` variables. Spans that cannot be queued or sent are dropped and counted.
    """
    if settings.traces != "otlp":
        return lambda: None
    resource = Resource.create(
        {
            "service.name": "postfacta",
            "service.version": settings.app_version,
            "service.instance.id": logs.instance(),
            "deployment.environment.name": settings.environment,
        }
    )
    provider = Provider(RedactingExporter(OTLPSpanExporter(timeout=5)), resource=resource)
    trace.set_tracer_provider(provider)
    return provider.shutdown


class RedactingExporter(SpanExporter):
    """Removes secrets from all spans before another exporter sends them, outside of requests."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._inner.export([_without_secrets(span) for span in spans])

    def shutdown(self) -> None:
        self._inner.shutdown()


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
