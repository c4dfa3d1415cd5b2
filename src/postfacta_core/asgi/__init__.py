"""Middleware in pure ASGI, and `harden`, which composes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..face import lazy

if TYPE_CHECKING:
    from ._concurrency import aside
    from ._cors import Cors
    from ._problem import (
        PROBLEMS,
        REFUSALS,
        Problem,
        Render,
        problem_handler,
        problem_of,
        problem_response,
    )
    from ._ratelimit import RateLimit
    from ._types import ASGIApp, Message, Receive, Scope, Send
    from .middlewares import (
        ContextMiddleware,
        CorsMiddleware,
        DeadlineMiddleware,
        ErrorMiddleware,
        HealthMiddleware,
        LifecycleMiddleware,
        LoadSheddingMiddleware,
        RateLimitMiddleware,
        ResponseHeadersMiddleware,
        TelemetryMiddleware,
        TransferMiddleware,
    )
    from .options import HardenOptions, RouteOptions
    from .stack import Telemetry, harden
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "_concurrency": ("aside",),
            "_cors": ("Cors",),
            "_problem": (
                "PROBLEMS",
                "REFUSALS",
                "Problem",
                "Render",
                "problem_handler",
                "problem_of",
                "problem_response",
            ),
            "_ratelimit": ("RateLimit",),
            "_types": ("ASGIApp", "Message", "Receive", "Scope", "Send"),
            "middlewares": (
                "ContextMiddleware",
                "CorsMiddleware",
                "DeadlineMiddleware",
                "ErrorMiddleware",
                "HealthMiddleware",
                "LifecycleMiddleware",
                "LoadSheddingMiddleware",
                "RateLimitMiddleware",
                "ResponseHeadersMiddleware",
                "TelemetryMiddleware",
                "TransferMiddleware",
            ),
            "options": ("HardenOptions", "RouteOptions"),
            "stack": ("Telemetry", "harden"),
        },
    )

__all__ = [
    "PROBLEMS",
    "REFUSALS",
    "ASGIApp",
    "ContextMiddleware",
    "Cors",
    "CorsMiddleware",
    "DeadlineMiddleware",
    "ErrorMiddleware",
    "HardenOptions",
    "HealthMiddleware",
    "LifecycleMiddleware",
    "LoadSheddingMiddleware",
    "Message",
    "Problem",
    "RateLimit",
    "RateLimitMiddleware",
    "Receive",
    "Render",
    "ResponseHeadersMiddleware",
    "RouteOptions",
    "Scope",
    "Send",
    "Telemetry",
    "TelemetryMiddleware",
    "TransferMiddleware",
    "aside",
    "harden",
    "problem_handler",
    "problem_of",
    "problem_response",
]
