"""Make an ASGI service survive deploys, overload, slow clients and failing dependencies.

Each folder is a capability, and imports only what stands below it; what decides stands beside what runs it, in modules
with an underscore that await nothing:

* `asgi` serves: `harden` composes the middlewares.
* `drain` ends a process; `guards` call a function, refuse to, or call it again.
* `limits`: how many, how often. `deadlines`: until when. `health`: how the process is. `telemetry`: what was observed.
* `errors`, `clock`, `events`, `context`, `backoff`: the ground, words that all the others share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._face import lazy

if TYPE_CHECKING:
    from ._version import __version__ as __version__
    from .backoff import Backoff
    from .context import RequestContext, current_request
    from .deadlines._deadline import Deadline
    from .deadlines.present import current_deadline
    from .deadlines.requests import time_limit
    from .drain._course import DrainLimits
    from .drain.lifecycle import Lifecycle
    from .errors import CircuitOpenError, DeadlineExceededError, RejectedError, ResilienceError
    from .events import Mode
    from .guards._circuit import CircuitConfig
    from .guards.breaker import CircuitBreaker
    from .guards.budget import RetryBudget
    from .guards.bulkhead import Bulkhead
    from .guards.fallback import Fallback
    from .guards.hedge import Hedge
    from .guards.outgoing import Outgoing
    from .guards.pipeline import Pipeline
    from .guards.retry import Retry
    from .guards.timeout import Timeout
    from .health.registry import HealthRegistry
    from .limits._overload import OverloadConfig, OverloadLimiter, Priority
    from .limits.rate import RateLimiter
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "guards.breaker": ("CircuitBreaker",),
            "guards.bulkhead": ("Bulkhead",),
            "deadlines.requests": ("time_limit",),
            "deadlines.present": ("current_deadline",),
            "backoff": ("Backoff",),
            "guards.fallback": ("Fallback",),
            "health.registry": ("HealthRegistry",),
            "guards.hedge": ("Hedge",),
            "drain.lifecycle": ("Lifecycle",),
            "guards.outgoing": ("Outgoing",),
            "guards.pipeline": ("Pipeline",),
            "limits.rate": ("RateLimiter",),
            "guards.retry": ("Retry",),
            "guards.timeout": ("Timeout",),
            "context": ("RequestContext", "current_request"),
            "errors": ("CircuitOpenError", "DeadlineExceededError", "RejectedError", "ResilienceError"),
            "events": ("Mode",),
            "guards._circuit": ("CircuitConfig",),
            "deadlines._deadline": ("Deadline",),
            "drain._course": ("DrainLimits",),
            "limits._overload": ("OverloadConfig", "OverloadLimiter", "Priority"),
            "guards.budget": ("RetryBudget",),
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
