"""Make an ASGI service survive deploys, overload, slow clients and failing dependencies.

The layout, from the top down; each floor imports only the floors below it:

* `asgi`: serves. Scope, receive, send; `harden` composes the middlewares.
* `aio`: runs. Tasks, timers, sockets.
* `policy` decides, `telemetry` records. No await, no I/O.
* `errors`, `clock`, `events`, `context`: the ground, words that all the others share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._face import lazy

if TYPE_CHECKING:
    from ._version import __version__ as __version__
    from .aio.breaker import CircuitBreaker
    from .aio.bulkhead import Bulkhead
    from .aio.deadline import current_deadline, time_limit
    from .aio.fallback import Fallback
    from .aio.health import HealthRegistry
    from .aio.hedge import Hedge
    from .aio.lifecycle import Lifecycle
    from .aio.outgoing import Outgoing
    from .aio.pipeline import Pipeline
    from .aio.ratelimit import RateLimiter
    from .aio.retry import Retry
    from .aio.timeout import Timeout
    from .context import RequestContext, current_request
    from .errors import CircuitOpenError, DeadlineExceededError, RejectedError, ResilienceError
    from .events import Mode
    from .policy.breaker import CircuitConfig
    from .policy.deadline import Deadline
    from .policy.lifecycle import DrainLimits
    from .policy.overload import OverloadConfig, OverloadLimiter
    from .policy.retry import Backoff, RetryBudget
    from .policy.waiting import Priority
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "aio.breaker": ("CircuitBreaker",),
            "aio.bulkhead": ("Bulkhead",),
            "aio.deadline": ("current_deadline", "time_limit"),
            "aio.fallback": ("Fallback",),
            "aio.health": ("HealthRegistry",),
            "aio.hedge": ("Hedge",),
            "aio.lifecycle": ("Lifecycle",),
            "aio.outgoing": ("Outgoing",),
            "aio.pipeline": ("Pipeline",),
            "aio.ratelimit": ("RateLimiter",),
            "aio.retry": ("Retry",),
            "aio.timeout": ("Timeout",),
            "context": ("RequestContext", "current_request"),
            "errors": ("CircuitOpenError", "DeadlineExceededError", "RejectedError", "ResilienceError"),
            "events": ("Mode",),
            "policy.breaker": ("CircuitConfig",),
            "policy.deadline": ("Deadline",),
            "policy.lifecycle": ("DrainLimits",),
            "policy.overload": ("OverloadConfig", "OverloadLimiter"),
            "policy.retry": ("Backoff", "RetryBudget"),
            "policy.waiting": ("Priority",),
            "_version": ("__version__",),
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
    "HealthRegistry",
    "Hedge",
    "Lifecycle",
    "Mode",
    "Outgoing",
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
    "time_limit",
]
