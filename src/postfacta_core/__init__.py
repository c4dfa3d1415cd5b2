"""Make an ASGI service survive deploys, overload, slow clients and failing dependencies.

Each folder is a capability, and imports only what stands below it; what decides stands beside what
runs it, in modules with an underscore that await nothing:

* `asgi` serves: `harden` composes the middlewares.
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
    from .asgi import HardenOptions, harden
    from .backoff import Backoff
    from .context import RequestContext, current_request
    from .deadlines import Deadline, current_deadline, time_limit
    from .drain import DrainLimits, Lifecycle
    from .errors import CircuitOpenError, DeadlineExceededError, RejectedError, ResilienceError
    from .events import Mode
    from .guards import (
        Bulkhead,
        CircuitBreaker,
        CircuitConfig,
        Fallback,
        Hedge,
        Pipeline,
        Retry,
        RetryBudget,
        Timeout,
    )
    from .health import HealthRegistry
    from .limits import OverloadConfig, OverloadLimiter, Priority, RateLimiter
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "_version": ("__version__",),
            "asgi": ("HardenOptions", "harden"),
            "backoff": ("Backoff",),
            "context": ("RequestContext", "current_request"),
            "deadlines": ("Deadline", "current_deadline", "time_limit"),
            "drain": ("DrainLimits", "Lifecycle"),
            "errors": (
                "CircuitOpenError",
                "DeadlineExceededError",
                "RejectedError",
                "ResilienceError",
            ),
            "events": ("Mode",),
            "guards": (
                "Bulkhead",
                "CircuitBreaker",
                "CircuitConfig",
                "Fallback",
                "Hedge",
                "Pipeline",
                "Retry",
                "RetryBudget",
                "Timeout",
            ),
            "health": ("HealthRegistry",),
            "limits": ("OverloadConfig", "OverloadLimiter", "Priority", "RateLimiter"),
        },
        {
            "Database": "postfacta_postgres",
            "Outgoing": "postfacta_adapters.httpx",
            "RouteOptions": "postfacta_core.asgi",
            "Telemetry": "postfacta_core.asgi",
        },
    )

__all__ = [
    "Backoff",
    "Bulkhead",
    "CircuitBreaker",
    "CircuitConfig",
    "CircuitOpenError",
    "Deadline",
    "DeadlineExceededError",
    "DrainLimits",
    "Fallback",
    "HardenOptions",
    "HealthRegistry",
    "Hedge",
    "Lifecycle",
    "Mode",
    "OverloadConfig",
    "OverloadLimiter",
    "Pipeline",
    "Priority",
    "RateLimiter",
    "RejectedError",
    "RequestContext",
    "ResilienceError",
    "Retry",
    "RetryBudget",
    "Timeout",
    "current_deadline",
    "current_request",
    "harden",
    "time_limit",
]
