"""Middleware in pure ASGI, and `harden`, which composes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._face import lazy

if TYPE_CHECKING:
    from ._problem import PROBLEMS, Problem, Render, problem_handler, problem_of, problem_response
    from ._types import ASGIApp, Message, Receive, Scope, Send
    from .concurrency import LoadSheddingMiddleware, aside
    from .context import ContextMiddleware
    from .cors import Cors, CorsMiddleware
    from .deadline import DeadlineMiddleware
    from .errors import ErrorMiddleware
    from .headers import ResponseHeadersMiddleware
    from .health import HealthMiddleware
    from .lifecycle import LifecycleMiddleware
    from .lifespan import LifespanMiddleware
    from .metrics import MetricsEndpoint
    from .operator import OperatorEndpoint
    from .options import HardenOptions
    from .ratelimit import RateLimit, RateLimitMiddleware
    from .stack import Hardened, Telemetry, harden
    from .telemetry import RouteProbe, TelemetryMiddleware
    from .transfer import TransferMiddleware
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "_problem": (
                "PROBLEMS",
                "Problem",
                "Render",
                "problem_handler",
                "problem_of",
                "problem_response",
            ),
            "_types": ("ASGIApp", "Message", "Receive", "Scope", "Send"),
            "concurrency": ("LoadSheddingMiddleware", "aside"),
            "context": ("ContextMiddleware",),
            "cors": ("Cors", "CorsMiddleware"),
            "deadline": ("DeadlineMiddleware",),
            "errors": ("ErrorMiddleware",),
            "headers": ("ResponseHeadersMiddleware",),
            "health": ("HealthMiddleware",),
            "lifecycle": ("LifecycleMiddleware",),
            "lifespan": ("LifespanMiddleware",),
            "metrics": ("MetricsEndpoint",),
            "operator": ("OperatorEndpoint",),
            "ratelimit": ("RateLimit", "RateLimitMiddleware"),
            "options": ("HardenOptions",),
            "stack": ("Hardened", "Telemetry", "harden"),
            "telemetry": ("RouteProbe", "TelemetryMiddleware"),
            "transfer": ("TransferMiddleware",),
        },
    )

__all__ = [
    "PROBLEMS", "ASGIApp", "ContextMiddleware", "Cors", "CorsMiddleware", "DeadlineMiddleware",
    "ErrorMiddleware", "HardenOptions", "Hardened", "HealthMiddleware", "LifecycleMiddleware",
    "LifespanMiddleware", "LoadSheddingMiddleware", "Message", "MetricsEndpoint", "OperatorEndpoint",
    "Problem", "RateLimit", "RateLimitMiddleware", "Receive", "Render", "ResponseHeadersMiddleware",
    "RouteProbe", "Scope", "Send", "Telemetry", "TelemetryMiddleware", "TransferMiddleware", "aside",
    "harden", "problem_handler", "problem_of", "problem_response",
]  # fmt: skip
