"""Make an ASGI service survive deploys, overload, slow clients and failing dependencies.

The layout, from the top down; each floor imports only the floors below it:

* `asgi`: serves. Scope, receive, send; `harden` composes the middlewares.
* `aio`: runs. Tasks, timers, sockets.
* `guards` call a function, refuse to, or call it again; `deadlines` say until when.
* `policy` decides, `telemetry` records. No await, no I/O.
* `errors`, `clock`, `events`, `context`, `backoff`: the ground, words that all the others share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._face import lazy

if TYPE_CHECKING:
    from ._version import __version__ as __version__
    from .aio.deadline import time_limit
    from .aio.health import HealthRegistry
    from .aio.lifecycle import Lifecycle
    from .aio.ratelimit import RateLimiter
    from .backoff import Backoff
    from .context import RequestContext, current_request
    from .deadlines.present import current_deadline
    from .errors import CircuitOpenError, DeadlineExceededError, RejectedError, ResilienceError
    from .events import Mode
    from .guards._circuit import CircuitConfig
    from .guards._schedule import RetryBudget
    from .guards.breaker import CircuitBreaker
    from .guards.bulkhead import Bulkhead
    from .guards.fallback import Fallback
    from .guards.hedge import Hedge
    from .guards.outgoing import Outgoing
    from .guards.pipeline import Pipeline
    from .guards.retry import Retry
    from .guards.timeout import Timeout
    from .policy.deadline import Deadline
    from .policy.lifecycle import DrainLimits
    from .policy.overload import OverloadConfig, OverloadLimiter
    from .policy.waiting import Priority
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "guards.breaker": ("CircuitBreaker",),
            "guards.bulkhead": ("Bulkhead",),
            "aio.deadline": ("time_limit",),
            "deadlines.present": ("current_deadline",),
            "backoff": ("Backoff",),
            "guards.fallback": ("Fallback",),
            "aio.health": ("HealthRegistry",),
            "guards.hedge": ("Hedge",),
            "aio.lifecycle": ("Lifecycle",),
            "guards.outgoing": ("Outgoing",),
            "guards.pipeline": ("Pipeline",),
            "aio.ratelimit": ("RateLimiter",),
            "guards.retry": ("Retry",),
            "guards.timeout": ("Timeout",),
            "context": ("RequestContext", "current_request"),
            "errors": ("CircuitOpenError", "DeadlineExceededError", "RejectedError", "ResilienceError"),
            "events": ("Mode",),
            "guards._circuit": ("CircuitConfig",),
            "policy.deadline": ("Deadline",),
            "policy.lifecycle": ("DrainLimits",),
            "policy.overload": ("OverloadConfig", "OverloadLimiter"),
            "guards._schedule": ("RetryBudget",),
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
