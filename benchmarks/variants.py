"""Wrap one application in each endpoint by itself, and in `harden` with more and fewer parts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, TypeVar

from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from secure import Secure

from postfacta_core.asgi._concurrency import Shedding
from postfacta_core.asgi._rules import UNBOUNDED
from postfacta_core.asgi._types import ASGIApp
from postfacta_core.asgi.health import HealthEndpoint
from postfacta_core.asgi.metrics import MetricsEndpoint
from postfacta_core.asgi.options import HardenOptions
from postfacta_core.asgi.stack import Telemetry, harden
from postfacta_core.deadlines.requests import RunningRequests
from postfacta_core.events import Mode
from postfacta_core.health.registry import HealthRegistry
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.telemetry.tracing import Tracing

__all__ = ["LIKE_PEERS", "hardened", "sampling", "variants"]

S = TypeVar("S", bound=Shedding)

LIKE_PEERS: Final = HardenOptions(
    shedding=Mode.OFF,
    rate_limits=["1000000000/minute per client"],
    response_headers=list(Secure.with_default_headers().headers.items()),
)

_NO_PART: Final = HardenOptions(
    limits=UNBOUNDED,
    request_timeout=None,
    shedding=Mode.OFF,
    response_headers=[],
)


def variants(bare: ASGIApp) -> Mapping[str, ASGIApp]:
    """Name each way to wrap the application."""
    return {
        "metrics endpoint": MetricsEndpoint(bare, Metrics()),
        "health endpoint": HealthEndpoint(bare, HealthRegistry()),
        # What is left where each part that can be switched off is: the id, and records.
        "harden, no part": hardened(bare, Telemetry(), _NO_PART),
        "harden, no SDK, no shedding": hardened(
            bare, Telemetry(), HardenOptions(shedding=Mode.OFF)
        ),
        "harden, SDK at 1 %, no shedding": hardened(
            bare, Telemetry(tracing=Tracing(sampling())), HardenOptions(shedding=Mode.OFF)
        ),
        # Like for like: the headers and the rate of the peers, and no shedding, which no peer has.
        "harden, rate limit and headers": hardened(bare, Telemetry(), LIKE_PEERS),
        "harden, no SDK": hardened(bare, Telemetry()),
        "harden, SDK at 1 %": hardened(bare, Telemetry(tracing=Tracing(sampling()))),
    }


def hardened(bare: ASGIApp, telemetry: Telemetry, policy: HardenOptions | None = None) -> ASGIApp:
    """Wrap the application as if its service ran, was calm, and wrote all lines, as the peers do."""
    policy = replace(policy or HardenOptions(), access_lines=None)
    app = harden(bare, service="bench", telemetry=telemetry, options=policy)
    _sweep(app.running)
    _calm(app.shedding)
    return app


def _sweep(running: RunningRequests) -> None:
    # As if its lifespan ran: else each request would have a timer of its own.
    running.loop = asyncio.get_running_loop()


def _calm(shedding: S) -> S:
    # As if requests had been found to cost next to nothing.
    shedding.is_cheap = True
    return shedding


def sampling() -> TracerProvider:
    """Make a provider that records one trace of a hundred, and keeps none."""
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(0.01)), shutdown_on_exit=False)
    # What is recorded goes nowhere: an exporter works in another thread, at its own pace.
    provider.add_span_processor(SpanProcessor())
    return provider
