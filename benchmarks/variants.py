"""Wrap one application in each layer by itself, and in all of `harden`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, TypeVar

from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from secure import Secure

from postfacta_core.asgi._concurrency import Shedding
from postfacta_core.asgi._types import ASGIApp
from postfacta_core.asgi.metrics import MetricsEndpoint
from postfacta_core.asgi.middlewares import (
    ContextMiddleware,
    DeadlineMiddleware,
    ErrorMiddleware,
    HealthMiddleware,
    LifecycleMiddleware,
    LoadSheddingMiddleware,
    ResponseHeadersMiddleware,
    TelemetryMiddleware,
    TransferMiddleware,
)
from postfacta_core.asgi.options import HardenOptions
from postfacta_core.asgi.stack import Telemetry, harden
from postfacta_core.deadlines.requests import RunningRequests
from postfacta_core.drain.lifecycle import Lifecycle
from postfacta_core.events import Mode
from postfacta_core.health.registry import HealthRegistry
from postfacta_core.telemetry.exchange import Recorder
from postfacta_core.telemetry.logs import AccessLog
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.telemetry.tracing import Tracing

__all__ = ["sampling", "variants"]

S = TypeVar("S", bound=Shedding)

_LIKE_PEERS: Final = HardenOptions(
    shedding=Mode.OFF,
    rate_limits=["1000000000/minute per client"],
    response_headers=list(Secure.with_default_headers().headers.items()),
)


def variants(bare: ASGIApp) -> Mapping[str, ASGIApp]:
    """Name each way to wrap the application.

    Telemetry stands on the context layer in each of its rows, as it does in `harden`: what it adds
    by itself is the difference to the row of the context. Its recorders come one by one.
    """
    return {
        "context + telemetry, no recorder": _observed(bare),
        "context + telemetry, tracing (no SDK)": _observed(bare, Tracing()),
        "context + telemetry, metrics": _observed(bare, Metrics()),
        "context + telemetry, access log": _observed(bare, AccessLog(service="bench")),
        "response headers": ResponseHeadersMiddleware(bare),
        "errors": ErrorMiddleware(bare),
        "metrics endpoint": MetricsEndpoint(bare, Metrics()),
        "health": HealthMiddleware(bare, HealthRegistry()),
        "lifecycle": LifecycleMiddleware(bare, Lifecycle(running=RunningRequests())),
        "transfer": TransferMiddleware(bare),
        "context": ContextMiddleware(bare),
        "context + deadline": ContextMiddleware(DeadlineMiddleware(bare, _sweeping())),
        "shedding, calm loop": _calm(LoadSheddingMiddleware(bare)),
        "shedding, late loop": LoadSheddingMiddleware(bare),
        "harden, no SDK, no shedding": _hardened(
            bare, Telemetry(), HardenOptions(shedding=Mode.OFF)
        ),
        "harden, SDK at 1 %, no shedding": _hardened(
            bare, Telemetry(tracing=Tracing(sampling())), HardenOptions(shedding=Mode.OFF)
        ),
        # Like for like: the headers and the rate of the peers, and no shedding, which no peer has.
        "harden, rate limit and headers": _hardened(bare, Telemetry(), _LIKE_PEERS),
        "harden, no SDK": _hardened(bare, Telemetry()),
        "harden, SDK at 1 %": _hardened(bare, Telemetry(tracing=Tracing(sampling()))),
    }


def _hardened(bare: ASGIApp, telemetry: Telemetry, policy: HardenOptions | None = None) -> ASGIApp:
    # The peers write all their lines.
    policy = replace(policy or HardenOptions(), access_lines=None)
    app = harden(bare, service="bench", telemetry=telemetry, options=policy)
    _sweep(app.running)
    _calm(app.shedding)
    return app


def _sweeping() -> RunningRequests:
    running = RunningRequests()
    _sweep(running)
    return running


def _sweep(running: RunningRequests) -> None:
    # As if its lifespan ran: else each request would have a timer of its own.
    running.loop = asyncio.get_running_loop()


def _calm(shedding: S) -> S:
    # As if requests had been found to cost next to nothing.
    shedding.is_cheap = True
    return shedding


def _observed(bare: ASGIApp, *recorders: Recorder) -> ASGIApp:
    return ContextMiddleware(TelemetryMiddleware(bare, recorders))


def sampling() -> TracerProvider:
    """Make a provider that records one trace of a hundred, and keeps none."""
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(0.01)), shutdown_on_exit=False)
    # What is recorded goes nowhere: an exporter works in another thread, at its own pace.
    provider.add_span_processor(SpanProcessor())
    return provider
