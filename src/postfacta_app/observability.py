"""Set up logging, and tracing with OpenTelemetry's SDK."""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource

from postfacta_adapters.otlp import Provider
from postfacta_core import logs

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
    provider = Provider(OTLPSpanExporter(timeout=5), resource=resource)
    trace.set_tracer_provider(provider)
    return provider.shutdown
