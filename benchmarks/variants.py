"""Wrap one application in each layer by itself, and in all of `harden`."""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from postfacta_core.aio.health import HealthRegistry
from postfacta_core.asgi._types import ASGIApp
from postfacta_core.asgi.context import ContextMiddleware
from postfacta_core.asgi.errors import ErrorMiddleware
from postfacta_core.asgi.headers import ResponseHeadersMiddleware
from postfacta_core.asgi.health import HealthMiddleware
from postfacta_core.asgi.metrics import MetricsEndpoint
from postfacta_core.asgi.stack import Policy, Telemetry, harden
from postfacta_core.asgi.telemetry import TelemetryMiddleware
from postfacta_core.asgi.transfer import TransferMiddleware
from postfacta_core.telemetry.exchange import Recorder
from postfacta_core.telemetry.logs import AccessLog
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.telemetry.tracing import Tracing

__all__ = ["variants"]


def variants(bare: ASGIApp) -> Mapping[str, ASGIApp]:
    """Name each way to wrap the application.

    Telemetry stands on the context layer in each of its rows, as it does in `harden`: what it adds by itself is
    the difference to the row of the context. Its recorders come one by one.
    """
    return {
        "context": ContextMiddleware(bare),
        "context + telemetry, no recorder": _observed(bare),
        "context + telemetry, tracing (no SDK)": _observed(bare, Tracing()),
        "context + telemetry, metrics": _observed(bare, Metrics()),
        "context + telemetry, access log": _observed(bare, AccessLog(service="bench")),
        "response headers": ResponseHeadersMiddleware(bare, Policy().response_headers),
        "errors": ErrorMiddleware(bare),
        "metrics endpoint": MetricsEndpoint(bare, Metrics()),
        "health": HealthMiddleware(bare, HealthRegistry()),
        "transfer": TransferMiddleware(bare),
        "harden, no SDK": harden(bare, service="bench"),
        "harden, SDK at 1 %": harden(
            bare, service="bench", telemetry=Telemetry(tracing=Tracing(_sampling()))
        ),
    }


def _observed(bare: ASGIApp, *recorders: Recorder) -> ASGIApp:
    return ContextMiddleware(TelemetryMiddleware(bare, recorders))


def _sampling() -> TracerProvider:
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(0.01)), shutdown_on_exit=False)
    # What is recorded goes nowhere: an exporter works in another thread, at its own pace.
    provider.add_span_processor(SpanProcessor())
    return provider
