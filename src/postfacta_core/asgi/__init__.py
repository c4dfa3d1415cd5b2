"""Middleware in pure ASGI, and `harden`, which composes it."""

from __future__ import annotations

from ._problem import problem_handler, problem_response
from .context import ContextMiddleware
from .errors import ErrorMiddleware
from .headers import ResponseHeadersMiddleware
from .health import HealthMiddleware
from .lifespan import LifespanMiddleware
from .metrics import MetricsEndpoint
from .stack import Hardened, Policy, Telemetry, harden
from .telemetry import RouteProbe, TelemetryMiddleware
from .transfer import TransferMiddleware

__all__ = [
    "ContextMiddleware",
    "ErrorMiddleware",
    "Hardened",
    "HealthMiddleware",
    "LifespanMiddleware",
    "MetricsEndpoint",
    "Policy",
    "ResponseHeadersMiddleware",
    "RouteProbe",
    "Telemetry",
    "TelemetryMiddleware",
    "TransferMiddleware",
    "harden",
    "problem_handler",
    "problem_response",
]
