"""Make an ASGI service survive deploys, overload, slow clients and failing dependencies.

Each folder is a capability, and imports only what stands below it; what decides stands beside what
runs it, in modules with an underscore that await nothing:

* `asgi` serves: `harden` puts all parts around an application.
* `drain` ends a process; `guards` call a function, refuse to, or call it again.
* `limits`: how many, how often. `deadlines`: until when. `health`: how the process is. `telemetry`:
  what was observed.
* `errors`, `clock`, `events`, `context`, `backoff`: the ground, words that all the others share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .face import lazy

if TYPE_CHECKING:
    from ._version import __version__ as __version__
    from .asgi import (
        Cors,
        HardenOptions,
        RateLimit,
        RouteOptions,
        Telemetry,
        harden,
        problem_handler,
    )
    from .backoff import Backoff
    from .context import current_request
    from .deadlines import TransferLimits, current_deadline
    from .drain import DrainLimits
    from .errors import CircuitOpenError, DeadlineExceededError, RejectedError, ResilienceError
    from .guards import (
        Bulkhead,
        CircuitBreaker,
        CircuitConfig,
        Fallback,
        Hedge,
        Pipeline,
        Retry,
        Timeout,
    )
    from .limits import Priority
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "_version": ("__version__",),
            "asgi": (
                "Cors",
                "HardenOptions",
                "RateLimit",
                "RouteOptions",
                "Telemetry",
                "harden",
                "problem_handler",
            ),
            "backoff": ("Backoff",),
            "context": ("current_request",),
            "deadlines": ("TransferLimits", "current_deadline"),
            "drain": ("DrainLimits",),
            "errors": (
                "CircuitOpenError",
                "DeadlineExceededError",
                "RejectedError",
                "ResilienceError",
            ),
            "guards": (
                "Bulkhead",
                "CircuitBreaker",
                "CircuitConfig",
                "Fallback",
                "Hedge",
                "Pipeline",
                "Retry",
                "Timeout",
            ),
            "limits": ("Priority",),
        },
        {
            "Database": "postfacta_postgres",
            "Feed": "postfacta_core.feed",
            "Mode": "postfacta_core.events",
            "Outgoing": "postfacta_adapters.httpx",
            "OverloadConfig": "postfacta_core.limits",
            "RateCounter": "postfacta_core.limits.rate",
            "RateLimiter": "postfacta_core.guards",
            "StreamLimits": "postfacta_core.limits.streams",
            "spawn": "postfacta_core.drain",
            "time_limit": "postfacta_core.deadlines",
        },
    )

__all__ = [
    "Backoff",
    "Bulkhead",
    "CircuitBreaker",
    "CircuitConfig",
    "CircuitOpenError",
    "Cors",
    "DeadlineExceededError",
    "DrainLimits",
    "Fallback",
    "HardenOptions",
    "Hedge",
    "Pipeline",
    "Priority",
    "RateLimit",
    "RejectedError",
    "ResilienceError",
    "Retry",
    "RouteOptions",
    "Telemetry",
    "Timeout",
    "TransferLimits",
    "current_deadline",
    "current_request",
    "harden",
    "problem_handler",
]
